#!/usr/bin/env bash
# subproject_test.sh SOURCE_DIR CMAKE HELLO: Keel as a part of another project, with GCC and link-time optimization and with
# clang: hello.c writes what it writes in Keel's own build, and nothing of Keel is installed. What cannot be configured says
# so. KEEL_OLDEST_CMAKE may name a cmake of the version that CMakeLists.txt declares, which then does it all.
set -euo pipefail
source=$1 cmake=${KEEL_OLDEST_CMAKE:-$2} hello=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$source/samples/models/books-7m-f16.gguf
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
expected=$("$hello" "$model")

refused() {  # refused TEXT ARGUMENTS...
    local text=$1
    shift
    ! "$cmake" -S "$source" -B "$work/refused" -G Ninja -DKEEL_BUILD_TESTS=OFF "$@" >"$work/log" 2>&1 || fail "configured with $*"
    tr -s '\n ' ' ' <"$work/log" | grep -q -- "$text" || { cat "$work/log"; fail "no word of: $text"; }
    rm -rf "$work/refused"
}
refused 'Keel runs on Linux and Windows; for Haiku there is no directory' -DCMAKE_SYSTEM_NAME=Haiku
refused '"sse2" is none of the sets' '-DKEEL_KERNEL_SETS=scalar;sse2'
gcc_mingw=x86_64-w64-mingw32-g++-posix
if command -v $gcc_mingw >/dev/null; then
    refused 'GCC bug 54412' -DCMAKE_SYSTEM_NAME=Windows -DCMAKE_C_COMPILER=${gcc_mingw/g++/gcc} -DCMAKE_CXX_COMPILER=$gcc_mingw
fi
echo "refusals: ok"

build() {  # build NAME ARGUMENTS...
    local name=$1
    shift
    command -v "${name%%_*}" >/dev/null || { echo "$name is missing, not tried"; return 0; }
    "$cmake" -S "$source/tests/install/subproject" -B "$work/$name" -G Ninja -DKEEL_SOURCE="$source" -DCMAKE_BUILD_TYPE= "$@" >"$work/log" 2>&1 &&
        "$cmake" --build "$work/$name" >>"$work/log" 2>&1 || { tail -n 40 "$work/log"; fail "$name"; }
    [ "$("$work/$name/hello" "$model")" = "$expected" ] || fail "hello of $name differs"
    "$cmake" --install "$work/$name" --prefix "$work/$name-prefix" >/dev/null
    [ "$(cd "$work/$name-prefix" && find . -type f)" = ./bin/hello ] || fail "something of Keel was installed"
    echo "$name: ok"
}
# The build type is empty, so the flags of an optimized build are the project's own. Files with instructions of their own are in the build that
# inlines across files; clang compiles all of them in stage fuzz, and AVX2's without sanitizers in stage windows.
set=avx2
[ "$(uname -m)" = x86_64 ] || set=neon
build gcc_lto -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=ON -DCMAKE_CXX_FLAGS=-O1 "-DSETS=scalar;$set"
build clang -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_FLAGS=-O1 -DSETS=scalar
