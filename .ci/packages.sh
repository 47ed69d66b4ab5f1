# Sourced by ./run and ./check: installs what is missing through apt, and only that.

# keel_need PACKAGE PROBE...: remembers PACKAGE when PROBE fails.
keel_missing=()
keel_need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || keel_missing+=("$package")
}
keel_has_header() { printf '#include <%s>\n' "$1" | g++ -std=c++17 -E -x c++ - -o /dev/null; }

keel_install_missing() {
    [ ${#keel_missing[@]} -eq 0 ] && return 0
    echo "installing: ${keel_missing[*]}" >&2
    if ! command -v apt-get >/dev/null; then
        echo "no apt-get here: please install these packages by hand" >&2
        return 1
    fi
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${keel_missing[@]}" >/dev/null ||
        { "${as_root[@]}" apt-get update -qq &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${keel_missing[@]}" >/dev/null; }
    keel_missing=()
}

keel_install_toolchain() {
    keel_need g++ command -v g++
    keel_need cmake command -v cmake
    keel_need ninja-build command -v ninja
    keel_install_missing  # the compiler first: it looks for the headers
    keel_need libcli11-dev keel_has_header CLI/CLI.hpp
    keel_need nlohmann-json3-dev keel_has_header nlohmann/json.hpp
    keel_need libmimalloc-dev keel_has_header mimalloc.h
    keel_need libzstd-dev keel_has_header zstd.h
    keel_need libeigen3-dev keel_has_header eigen3/signature_of_eigen3_matrix_library
    keel_need libgtest-dev keel_has_header gtest/gtest.h
    keel_need libbenchmark-dev keel_has_header benchmark/benchmark.h
    keel_install_missing
}

# Extra arguments for the configuration: ccache where it is there anyway.
keel_configure_arguments=()
if command -v ccache >/dev/null; then
    keel_configure_arguments=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
