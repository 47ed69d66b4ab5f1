#!/usr/bin/env bash
# device_script_test.sh SOURCE_DIR PROGRAMS WORK: perf/device.sh on the fake driver. It passes and leaves its files; one part that
# fails makes it fail, and the parts behind it run nevertheless.
set -uo pipefail
source=$1 programs=$2 work=$3
rm -rf "$work"
mkdir -p "$work/stubs"
fail() { echo "FAILED: $*"; exit 1; }

"$source/perf/device.sh" --dry "$programs" "$work/out" || fail "the dry run"
for file in log.txt table.txt device.json; do [ -s "$work/out/$file" ] || fail "$file is missing"; done
grep -q 'tok/s' "$work/out/table.txt" || fail "the table has no timings"
python3 - "$work/out/device.json" <<'P' || fail "device.json"
import json, sys
document = json.load(open(sys.argv[1]))
assert [p["part"] for p in document["parts"]] == ["wrappers", "kernels", "golden", "timings"], document["parts"]
assert len(document["timings"]["steps"]) > 5 and "failed" not in document["timings"]
P

for name in keel_device_tests_on_fake keel_device_golden_tests_on_fake keel_device_timings_on_fake; do
    printf '#!/bin/sh\necho ran >>"%s/ran"\nexit 0\n' "$work" >"$work/stubs/$name"
    chmod +x "$work/stubs/$name"
done
"$source/perf/device.sh" --dry "$work/stubs" "$work/stubbed" >/dev/null || fail "programs that pass"
[ "$(wc -l <"$work/ran")" = 4 ] || fail "not every part ran"
printf '#!/bin/sh\nexit 1\n' >"$work/stubs/keel_device_tests_on_fake"
"$source/perf/device.sh" --dry "$work/stubs" "$work/stubbed" >/dev/null && fail "a failed test went unnoticed"
[ "$(wc -l <"$work/ran")" = 6 ] || fail "a failed part stopped those behind it"
"$source/perf/device.sh" --dry "$work/nowhere" "$work/stubbed" >/dev/null
[ $? = 2 ] || fail "programs that are not there"
echo ok
