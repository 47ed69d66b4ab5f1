# Sourced by ./run, ./chat and ./check: what of the packages below is missing is installed through apt, after saying what and why.
# keel_no_install=1 refuses instead: the same list, and exit code 3.

# Package | probe that succeeds where it is there | what for. The groups are those of keel_provide.
keel_packages_compiler=(
    "g++ | command -v g++ | compiles Keel (C++20)"
    "cmake | command -v cmake | configures the build"
    "ninja-build | command -v ninja | runs the build"
)
keel_packages_command=(
    "libcli11-dev | keel_has_header CLI/CLI.hpp | command lines of the keel command"
    "nlohmann-json3-dev | keel_has_header nlohmann/json.hpp | JSON that the tools read and write"
)
keel_packages_editing=(
    "libedit-dev | keel_has_header histedit.h | line editing and history in keel chat"
)
keel_packages_libraries=(
    "libmimalloc-dev | keel_has_header mimalloc.h | keel_memory_default(), memory for those who bring none"
    "libzstd-dev | keel_has_header zstd.h | packed W_proj caches, text of packs"
    "libeigen3-dev | keel_has_header eigen3/signature_of_eigen3_matrix_library | solvers of W_proj caches"
    "libgtest-dev | keel_has_header gtest/gtest.h | tests (GoogleTest)"
    "libbenchmark-dev | keel_has_header benchmark/benchmark.h | measurements of kernels in perf/"
)
keel_packages_products=(
    "libopenblas-serial-dev | compgen -G /usr/lib/*/openblas-serial/libopenblas.so | products of keel quantize, four times as fast"
)
keel_packages_format=(
    "clang-format-14 | keel_has_formatter | test format of ./check: the tree is formatted by this version"
)
keel_packages_bindings=(
    "python3-pycparser | keel_has_pycparser | test bindings of ./check: reads keel.h to write its signatures for other languages"
)
keel_packages_fuzz=(
    "clang | command -v clang++ | stage fuzz of ./check: libFuzzer is clang's"
    "libclang-rt-14-dev | compgen -G /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer* | stage fuzz of ./check: libFuzzer itself"
)
keel_packages_qemu=(
    "g++-aarch64-linux-gnu | command -v aarch64-linux-gnu-g++ | stage qemu of ./check: compiles for 64-bit ARM"
    "qemu-user | command -v qemu-aarch64 | stage qemu of ./check: runs what was compiled for 64-bit ARM"
)

keel_packages_windows=(
    "clang | command -v clang++ | stage windows of ./check: compiles for Windows"
    "lld | command -v ld.lld | stage windows of ./check: links for Windows"
    "g++-mingw-w64-x86-64-posix | compgen -G /usr/lib/gcc/x86_64-w64-mingw32/*-posix | stage windows of ./check: headers and libraries of mingw-w64"
    "wine64 | keel_wine | stage windows of ./check: runs what was compiled for Windows"
)

keel_wine() { command -v wine64 || { [ -x /usr/lib/wine/wine64 ] && echo /usr/lib/wine/wine64; }; }
keel_wineserver() { command -v wineserver || compgen -G '/usr/lib/wine/wineserver*' | head -n 1; }
keel_has_header() { printf '#include <%s>\n' "$1" | g++ -std=c++17 -E -x c++ - -o /dev/null; }
keel_has_pycparser() { python3 -c 'import pycparser'; }
keel_has_formatter() { command -v clang-format-14 || clang-format --version | grep -q 'version 14\.'; }

# keel_provide GROUP...: installs what is missing of the groups, or returns 3 where nothing may be installed.
keel_provide() {
    local group rows row package probe purpose missing=() list=
    for group in "$@"; do
        rows="keel_packages_$group[@]"
        for row in "${!rows}"; do
            IFS='|' read -r package probe purpose <<<"$row"
            package=${package// /}
            # A command and its words; without set -f the pattern that compgen is to expand would be expanded here.
            if (set -f; $probe) >/dev/null 2>&1; then continue; fi
            missing+=("$package")
            list+=$(printf '\n  %-22s %s' "$package" "${purpose# }")
        done
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "${keel_no_install:-0}" = 1 ]; then
        echo "missing packages, not installed because of --no-install:$list" >&2
        return 3
    fi
    echo "installing through apt-get (--no-install refuses instead):$list" >&2
    keel_apt_install "${missing[@]}"
}

# Quiet unless it fails twice, the second time with fresh lists of packages: then with everything that apt said.
keel_apt_install() {
    local as_root=() log
    if ! command -v apt-get >/dev/null; then
        echo "there is no apt-get here: please install these packages by hand" >&2
        return 1
    fi
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@")
    log=$(mktemp)
    if "${install[@]}" >"$log" 2>&1 || { "${as_root[@]}" apt-get update -qq >>"$log" 2>&1 && "${install[@]}" >>"$log" 2>&1; }; then
        rm -f "$log"
        return 0
    fi
    cat "$log" >&2
    rm -f "$log"
    echo "apt-get could not install: $*" >&2
    return 1
}

# keel_provide_toolchain [GROUP...]: what every build needs, and then GROUPs that can be done without.
keel_provide_toolchain() {
    if [ "${keel_no_install:-0}" = 1 ]; then
        keel_provide compiler command libraries "$@"  # one list
        return
    fi
    # The compiler first: it looks for the headers.
    keel_provide compiler && keel_provide command libraries || return
    [ $# -eq 0 ] || keel_provide "$@" || echo "going on: what needs them says so and is skipped" >&2
}

# Extra arguments for the configuration: ccache where it is there anyway.
keel_configure_arguments=()
if command -v ccache >/dev/null; then
    keel_configure_arguments=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
