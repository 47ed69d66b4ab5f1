#!/usr/bin/env bash
# install_test.sh BUILD_DIR SOURCE_DIR CMAKE: installs into a temporary prefix and uses Keel from there as a C program with
# pkg-config, as a CMake project and as a command.
set -euo pipefail
build=$1 source=$2 cmake=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/moved
model=$source/samples/models/books-7m-f16.gguf
fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# Installed in one place, used from another.
"$cmake" --install "$build" --prefix "$work/prefix" >/dev/null
mv "$work/prefix" "$prefix"
for file in include/keel/keel.h include/keel/keel.hpp lib*/libkeel.a lib*/pkgconfig/keel.pc lib*/cmake/keel/keelConfig.cmake; do
    compgen -G "$prefix/$file" >/dev/null || compgen -G "$prefix/lib/*/${file#lib*/}" >/dev/null || fail "$file is not installed"
done
for place in "$source" "$work"; do
    if grep -rIq "$place" "$prefix/include" "$prefix"/lib*/; then fail "an installed text file names $place"; fi
done

# A C compiler and pkg-config are all a C program needs: no libstdc++.
export PKG_CONFIG_PATH
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name keel.pc)")
if command -v pkg-config >/dev/null; then flags=$(pkg-config --cflags --libs keel); else flags="-I$prefix/include $(dirname "$PKG_CONFIG_PATH")/libkeel.a -lpthread -lm"; fi
expected=
for compiler in gcc clang; do
    command -v $compiler >/dev/null || { echo "$compiler is missing, not tried"; continue; }
    # shellcheck disable=SC2086
    $compiler -std=c11 -O2 -Wall -Wextra -Wpedantic -Werror "$source/samples/hello.c" $flags -o "$work/hello_$compiler"
    if ldd "$work/hello_$compiler" | grep -q -e 'libstdc++' -e 'libc++'; then fail "hello needs a C++ runtime"; fi
    text=$("$work/hello_$compiler" "$model")
    [ "${text#It was a dark night}" != "$text" ] && [ ${#text} -gt 60 ] || fail "hello ($compiler) wrote '$text'"
    [ -z "$expected" ] || [ "$text" = "$expected" ] || fail "hello differs between compilers"
    expected=$text
    echo "hello with $compiler: ok"
done
[ -n "$expected" ] || fail "no C compiler"

# The shared library, where it was built.
if [ -n "$(find "$prefix" -name 'libkeel.so')" ] && command -v pkg-config >/dev/null; then
    # shellcheck disable=SC2046
    cc -std=c11 "$source/samples/hello.c" $(pkg-config --cflags --libs keel_shared) -o "$work/hello_shared"
    text=$(LD_LIBRARY_PATH=$(dirname "$(find "$prefix" -name 'libkeel.so')") "$work/hello_shared" "$model")
    [ "$text" = "$expected" ] || fail "hello with the shared library wrote '$text'"
    readelf -d "$work/hello_shared" | grep -q 'NEEDED.*libkeel.so.2' || fail "hello_shared does not need libkeel.so.2"
    echo "keel_shared: ok"
fi

# keel_pack, where it was built.
if [ -f "$prefix/include/keel/keel_pack.h" ]; then
    printf '%s\n' '#include <keel/keel_pack.h>' 'int main(void) { return keel_pack_inspect(0, 0, 0) == KEEL_E_ARGUMENT && keel_pack_inspect_text(0, 0, 0) == KEEL_E_ARGUMENT ? 0 : 1; }' >"$work/pack.c"
    pack_flags="-I$prefix/include $(find "$prefix" -name libkeel_pack.a) $flags -lzstd"
    if command -v pkg-config >/dev/null; then pack_flags=$(pkg-config --cflags --libs keel_pack); fi
    # shellcheck disable=SC2086
    cc -std=c11 -Wall -Wextra -Wpedantic -Werror "$work/pack.c" $pack_flags -o "$work/pack"
    "$work/pack" || fail "keel_pack"
    echo "keel_pack: ok"
fi

# keel_memory, where it was built.
if [ -n "$(find "$prefix" -name libkeel_memory.a)" ] && command -v pkg-config >/dev/null; then
    printf '%s\n' '#include <keel/keel.h>' 'int main(void) { return keel_memory_default(0, 0) == KEEL_E_ARGUMENT ? 0 : 1; }' >"$work/memory.c"
    # shellcheck disable=SC2046
    cc -std=c11 "$work/memory.c" $(pkg-config --cflags --libs keel_memory) -o "$work/memory" && "$work/memory" || fail "keel_memory"
    echo "keel_memory: ok"
fi

# A CMake project.
"$cmake" -S "$source/tests/install/consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$prefix" -DKEEL_SAMPLES="$source/samples" >"$work/log" 2>&1 &&
    "$cmake" --build "$work/consumer" >>"$work/log" 2>&1 || { cat "$work/log"; fail "find_package(keel)"; }
[ "$("$work/consumer/hello" "$model")" = "$expected" ] || fail "hello through CMake differs"
"$work/consumer/handles" "$model" || fail "keel.hpp through CMake"
echo "find_package(keel): ok"

# The same project without a shared library.
if echo 'int main(void) { return 0; }' | cc -static -x c - -lpthread -lm -o "$work/probe" 2>/dev/null; then
    "$cmake" -S "$source/tests/install/consumer" -B "$work/static" -DCMAKE_TOOLCHAIN_FILE="$source/toolchains/static-glibc.cmake" \
        -DCMAKE_PREFIX_PATH="$prefix" -DKEEL_SAMPLES="$source/samples" >"$work/log" 2>&1 &&
        "$cmake" --build "$work/static" >>"$work/log" 2>&1 || { cat "$work/log"; fail "static-glibc.cmake"; }
    linked=$(LC_ALL=C ldd "$work/static/hello" 2>&1; LC_ALL=C readelf -dW "$work/static/hello") || true
    [[ $linked == *"not a dynamic executable"*"no dynamic section"* ]] || fail "the static hello is not static: $linked"
    [ "$("$work/static/hello" "$model")" = "$expected" ] || fail "the static hello differs"
    echo "static: ok, $(wc -c <"$work/static/hello") bytes"
else
    echo "no static libc (libc6-dev), static linking not tried"
fi

# The command.
if [ -x "$prefix/bin/keel" ]; then
    "$prefix/bin/keel" inspect "$model" --json | grep -q '"architecture": "llama"' || fail "keel inspect"
    echo "keel: ok"
fi
