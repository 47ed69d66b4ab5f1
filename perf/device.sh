#!/usr/bin/env bash
# perf/device.sh OUT: everything that only a GPU can show, in one command of at most nine minutes, without a network.
#   build       the programs below for this machine's GPU (3 minutes at most), or those that --pack made elsewhere
#   wrappers    each intrinsic of kernels/cuda/device.cuh against what the executor of tests/simt says of it
#   kernels     every kernel == the CPU's scalar set, by the tests of tests/simt, launched by the driver
#   memcheck, racecheck, synccheck   of compute-sanitizer, over the same tests. racecheck does not know turns (bar.arrive): it
#               reports product_token and product_stream, which the race checker of tests/simt covers
#   golden      every row of tests/golden/hashes.txt, computed by the CUDA backend
#   split       the same rows of architectures and sessions with all but the first layer on the CPU
#   graphs      the same with decode steps as graphs
#   timings     perf/device_timings.cpp: memory, launches, decode and prefill of made-up models
#   peers       PyTorch's own kernels in the same run, where python3 has it
# Tests run beside one another, what is timed runs alone. A part that fails or lacks something does not stop the others. OUT gets log.txt, table.txt and device.json. Exit code 1 when
# a test failed, 2 when nothing could be run, else 0.
#
# perf/device.sh --pack [ARCHITECTURES]: builds the programs (default "80;89;90") into build/device_pack, for a machine that
# has no GoogleTest, nlohmann-json or nvcc. Carry the tree and that folder.
# perf/device.sh --programs FOLDER OUT: with the programs of this folder.
# --only PARTS: of the parts above only these, as in --only "kernels golden timings". Behind -- stand options of device_timings.
# perf/device.sh --dry FOLDER OUT: with those that run on the fake driver, on small shapes, as ./check does.
set -uo pipefail
here=$PWD
cd "$(dirname "$0")/.."
root=$PWD

build_programs() {  # build_programs FOLDER ARCHITECTURES
    local generator=() missing=()
    for tool in cmake g++; do command -v $tool >/dev/null || missing+=("$tool"); done
    command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || missing+=(nvcc)
    if command -v ninja >/dev/null; then generator=(-G Ninja); elif ! command -v make >/dev/null; then missing+=("ninja or make"); fi
    for header in gtest/gtest.h:GoogleTest nlohmann/json.hpp:nlohmann-json; do
        echo "#include <${header%%:*}>" | g++ -std=c++17 -E -x c++ - -o /dev/null 2>/dev/null || missing+=("${header##*:}")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        (IFS=,; echo "missing to build here: ${missing[*]}; perf/device.sh --pack elsewhere does without them")
        return 1
    fi
    cmake "${generator[@]}" -S . -B "$1" -DCMAKE_BUILD_TYPE=Release -DKEEL_CUDA=ON "-DKEEL_CUDA_ARCHITECTURES=$2" -DKEEL_CUDA_PTX= \
        -DKEEL_BUILD_PERF=OFF -DKEEL_BUILD_SAMPLES=OFF -DKEEL_INSTALL=OFF &&
        cmake --build "$1" -j "$(nproc)" --target "${programs[@]}"
}
programs=(keel_device_tests keel_device_golden_tests keel_device_timings)

dry=0 folder= out= only= timings_options=()
while [ $# -gt 0 ]; do
    case $1 in
        --pack)
            pack=build/device_pack
            build_programs build/device "${2:-80;89;90}" || exit 2
            mkdir -p $pack
            for program in "${programs[@]}"; do strip -o $pack/$program build/device/tests/cuda/$program || exit 2; done
            # Libraries that the other machine may lack: all but glibc's.
            for program in "${programs[@]}"; do ldd $pack/$program; done | awk '$3 ~ /^\// && $1 !~ /^lib(c|m|dl|pthread)\.so/ {print $3}' |
                sort -u | xargs -r cp -L -t $pack
            git rev-parse HEAD >$pack/commit 2>/dev/null || echo unknown >$pack/commit
            du -sh $pack
            exit 0 ;;
        --programs) folder=$(cd "$here" && realpath -m "$2"); shift ;;
        --only) only=$2; shift ;;
        --) shift; timings_options=("$@"); set -- ;;
        --dry) dry=1 folder=$(cd "$here" && realpath -m "$2"); shift ;;
        -*) sed -n '2,23p' "$0" | cut -c3-; exit 2 ;;
        *) out=$(cd "$here" && realpath -m "$1") ;;
    esac
    [ $# -eq 0 ] || shift
done
[ -n "$out" ] || { sed -n '2,23p' "$0" | cut -c3-; exit 2; }
mkdir -p "$out" || exit 2
log=$out/log.txt
: >"$log"
export KEEL_SOURCE_DIR=$root

seconds_of_all=540 failed=0 ran=0
parts_json=
wanted() { [ -z "$only" ] || [[ " $only " == *" $1 "* ]]; }
# begin NAME SECONDS COMMAND...: runs it beside what else was begun. end: waits for all of them, says and keeps how they went.
begun=()
begin() {
    local name=$1 limit=$2
    shift 2
    wanted "$name" || return 0
    local left=$((seconds_of_all - SECONDS))
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -le 0 ]; then
        say "$name" "left out: no time"
        return
    fi
    begun+=("$name")
    {
        local start=$SECONDS code=0
        printf '==== %s: %s\n' "$name" "$*" >"$out/$name.part"
        timeout --kill-after=5 "$limit" "$@" >>"$out/$name.part" 2>&1 || code=$?
        echo "$code $((SECONDS - start)) $limit" >"$out/$name.end"
    } &
}
end() {
    local name code seconds limit state
    wait
    for name in "${begun[@]}"; do
        read -r code seconds limit <"$out/$name.end"
        cat "$out/$name.part" >>"$log"
        rm -f "$out/$name.part" "$out/$name.end"
        state=passed ran=1
        [ "$code" -eq 0 ] || state="FAILED with $code" failed=1
        [ "$code" -ne 124 ] || state="FAILED: over $limit s"
        say "$name" "$state" "$seconds"
    done
    begun=()
}
part() { begin "$@" && end; }
say() {  # say NAME STATE [SECONDS]
    printf '%-10s %s%s\n' "$1" "$2" "${3:+, $3 s}" | tee -a "$log"
    parts_json+="${parts_json:+,}{\"part\":\"$1\",\"state\":\"$2\",\"seconds\":${3:-0}}"
}

facts() {
    date -u '+%Y-%m-%d %H:%M UTC'
    git log -1 --format='commit %H' 2>/dev/null || echo "commit unknown"
    uname -srm
    grep -m1 'model name' /proc/cpuinfo
    for tool in nvidia-smi nvcc compute-sanitizer cmake g++ python3; do
        printf '%-17s %s\n' $tool "$(command -v $tool || echo missing)"
    done
    nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv,noheader 2>/dev/null
    nvcc --version 2>/dev/null | tail -n 1
}
facts | tee -a "$log"

# ---- programs ----
suffix=
if [ $dry = 1 ]; then
    suffix=_on_fake
elif [ -z "$folder" ]; then
    architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
    if [ -x build/device_pack/keel_device_timings ]; then
        folder=$root/build/device_pack
        say build "packed at $(cat build/device_pack/commit)"
    else
        export -f build_programs
        export programs_list="${programs[*]}"
        only="${only:+build $only}"
        part build 180 bash -c 'programs=($programs_list); build_programs build/device "$0"' "${architecture:-90}"
        folder=$root/build/device/tests/cuda
    fi
fi
export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}  # packed libraries
tests=$folder/keel_device_tests$suffix golden=$folder/keel_device_golden_tests$suffix timings=$folder/keel_device_timings$suffix
if [ ! -x "$tests" ] && [ ! -x "$golden" ] && [ ! -x "$timings" ]; then
    say programs "FAILED: there are none in ${folder:-build/device}"
    exit 2
fi

# ---- tests ----
# Golden rows, several processes at once: most of their time is the host's.
golden_shards() {
    local shards=$1 i pids=() code=0
    for ((i = 0; i < shards; ++i)); do
        GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i "$golden" --gtest_brief=1 "--gtest_filter=$2" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || code=1; done
    return $code
}
export -f golden_shards
export golden
sanitized='Simt*:All/Wrappers.*/copies:All/Wrappers.*/*meets'
# A dry run's limits only end what hangs: a busy machine takes many times as long as an idle one.
if [ $dry = 1 ]; then
    begin wrappers 200 "$tests" --gtest_brief=1 --gtest_filter='*Wrapper*'
    begin kernels 200 "$tests" --gtest_brief=1 --gtest_filter='Simt*'
    begin golden 200 bash -c 'golden_shards 1 "*architecture_llama_linear"'
else
    begin wrappers 60 env KEEL_DEVICE_ROUNDS=200 "$tests" --gtest_brief=1 --gtest_filter='*Wrapper*'
    begin kernels 120 "$tests" --gtest_brief=1 --gtest_filter='Simt*'
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    for tool in memcheck racecheck synccheck; do
        if [ -n "$sanitizer" ]; then
            begin $tool 150 env KEEL_DEVICE_ROUNDS=1 "$sanitizer" --tool $tool --error-exitcode 9 "$tests" --gtest_brief=1 --gtest_filter="$sanitized"
        elif wanted $tool; then
            say $tool "left out: compute-sanitizer is missing"
        fi
    done
    begin golden 150 bash -c 'golden_shards 8 "-GoldenTable.*"'
    begin split 150 env KEEL_CUDA_LAYERS=1 bash -c 'golden_shards 4 "*architecture*:*session*"'
    begin graphs 150 env KEEL_CUDA_GRAPHS=1 bash -c 'golden_shards 4 "*architecture*:*session*"'
fi
end

# ---- timings ----
timings_json=$out/timings.json
rm -f "$timings_json"
if [ $dry = 1 ]; then
    part timings 200 "$timings" --small --json "$timings_json" "${timings_options[@]}"
else
    left=$((seconds_of_all - SECONDS - 40))
    part timings $((left + 20)) "$timings" --seconds $left --json "$timings_json" "${timings_options[@]}"
    if python3 -c 'import torch' 2>/dev/null; then
        part peers 30 python3 perf/peers/torch_kernels.py "$out/peers.json"
    elif wanted peers; then
        say peers "left out: python3 has no torch"
    fi
fi
sed -n '/^==== timings/,$p' "$log" >"$out/table.txt"
{
    printf '{"parts":[%s],"timings":' "$parts_json"
    cat "$timings_json" 2>/dev/null || echo null
    printf ',"peers":'
    cat "$out/peers.json" 2>/dev/null || echo null
    echo '}'
} >"$out/device.json"
rm -f "$timings_json" "$out/peers.json"
cat "$out/table.txt"
[ $ran = 1 ] || exit 2
exit $failed
