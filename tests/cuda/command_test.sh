#!/usr/bin/env bash
# command_test.sh KEEL_ON_FAKE KEEL [NVTX_LISTENER]: the keel command with --backend cuda over the fake driver: it writes what the CPU writes, and what
# cannot be is an error that says why.
set -uo pipefail
cuda=$1 plain=$2 listener=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
expect() {  # expect WHAT CONDITION...
    local what=$1
    shift
    "$@" || { echo "FAILED: $what"; cat "$work/err"; failures=$((failures + 1)); }
}
exits() {
    local code=$1
    shift
    "$@" >"$work/out" 2>"$work/err" </dev/null
    [ $? -eq "$code" ]
}
holds() { grep -q -e "$1" "$work/${2:-out}"; }

model=$work/tiny.gguf
expect "a model" exits 0 "$cuda" synth "$model" --shape tiny --mix Q4_K_M
options=(--temp 0.8 -n 6 -c 64 -q --prompt hello)
expect "run on the CPU" exits 0 "$cuda" run "$model" "${options[@]}"
cp "$work/out" "$work/want"
expect "run on the device" exits 0 "$cuda" run "$model" --backend cuda --device 0 "${options[@]}"
expect "with the same text" cmp "$work/out" "$work/want"
expect "JSON" exits 0 "$cuda" run "$model" --backend cuda "${options[@]}" --json
expect "names what computed" holds '"kernel_set": "cuda"'
expect "plan" exits 0 "$cuda" plan "$model" --backend cuda
for region in 'device scratch' 'device weights' 'device kv' pinned; do expect "plan shows $region" holds "^$region  *[1-9]"; done
expect "bench" exits 0 "$cuda" bench "$model" --backend cuda -c 64 --prefill 8 --decode 2 --depth 0 --steps 2 --position 4 -r 1
expect "without a stream of the host's memory" [ "$(grep -c stream "$work/out")" = 0 ]
printf 'hello world, this is a text of some words' >"$work/text"
expect "eval" exits 0 "$cuda" eval ppl "$model" "$work/text" --backend cpu -c 64 --json
grep -v seconds "$work/out" >"$work/want"
expect "eval on the device" exits 0 "$cuda" eval ppl "$model" "$work/text" --backend cuda -c 64 --json
expect "with the same perplexity" cmp <(grep -o '"ppl[^,]*' "$work/out") <(grep -o '"ppl[^,]*' "$work/want")
expect "a model in F16" exits 0 "$cuda" synth "$work/f16.gguf" --shape tiny --mix F16
expect "plan with the device's library" exits 0 "$cuda" plan "$work/f16.gguf" --backend cuda --device-numerics
expect "says which products" holds "FP32 units (few rows"
expect "run with it" exits 0 "$cuda" run "$work/f16.gguf" --backend cuda --device-numerics "${options[@]}"
expect "which the CPU has not" exits 3 "$cuda" run "$work/f16.gguf" --backend cpu --device-numerics "${options[@]}"
if [ -n "$listener" ]; then
    # What a profiler hears: each range is closed, every step has both layers, and bytes add up.
    NVTX_INJECTION64_PATH=$listener NVTX_LISTENER_LOG=$work/ranges "$cuda" run "$model" --backend cuda "${options[@]}" >/dev/null 2>"$work/err"
    heard() { grep -c "^$1" "$work/ranges"; }
    expect "the domain" [ "$(heard 'domain keel')" = 1 ]
    expect "an engine" [ "$(heard 'start engine')" = 1 ]
    expect "steps" [ "$(heard 'start step')" -ge 6 ]
    expect "ranges that end" [ "$(heard start)" = "$(heard end)" ]
    expect "ranges that are left" [ "$(heard push)" = "$(heard pop)" ]
    for range in 'embedding 0' 'layers 0' 'head 0' 'layer 1' 'layer 2'; do
        expect "push $range" [ "$(heard "push $range [1-9]")" = "$(heard 'start step')" ]
    done
    expect "bytes of layers" awk '/^push layers/ {stage += $4} /^push layer / {layer += $4} END {exit !(stage == layer && stage > 0)}' "$work/ranges"
fi
if [ -x "$(command -v python3)" ]; then
    for backend in cpu cuda; do
        expect "profile on $backend" exits 0 "$cuda" profile "$model" --backend $backend --steps 3 --position 40 --json --trace "$work/trace"
        expect "its figures on $backend" python3 - "$work/out" "$work/trace" <<'P'
import json, sys
profile, trace = (json.load(open(path)) for path in sys.argv[1:])
ops = profile["dispatches"]
assert any("attn_q" in op["ops"] for op in ops) and all(op["us"] >= 0 and op["predicted_us"] > 0 for op in ops), ops
assert abs(sum(op["us"] for op in ops) - profile["step_us"]) < 1e-6 and profile["stream_gb_per_s"] > 0
events = [e for e in trace["traceEvents"] if e["tid"] == 2]
assert len(events) == sum(op["count"] for op in ops) and sum(e["args"]["bytes"] for e in events) == sum(op["bytes"] for op in ops)
P
    done
fi
expect "no such device" exits 1 "$cuda" run "$model" --backend cuda --device 7 "${options[@]}"
expect "no such backend" exits 2 "$cuda" run "$model" --backend tpu "${options[@]}"
expect "a device without a backend" exits 2 "$cuda" run "$model" --device 0 "${options[@]}"
if ! "$plain" plan "$model" --backend cuda >"$work/out" 2>"$work/err"; then
    expect "a build without the backend says so" holds 'KEEL_CUDA' err
fi
[ $failures -eq 0 ] && echo ok
exit $((failures > 0))
