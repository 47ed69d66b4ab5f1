# Sourced by ./run and ./chat behind packages.sh: builds the core of the keel command and chooses a model.

# The kernel sets that this machine would choose (sdk/backend/cpu/kernel_choice.cpp); empty: all there are. The others are
# half of the library's build.
keel_sets_of_this_machine() {
    local flags
    [ "$(uname -m)" = x86_64 ] && flags=" $(grep -m 1 '^flags' /proc/cpuinfo) " || return 0
    has() {
        local flag
        for flag in "$@"; do [[ $flags == *" $flag "* ]] || return; done
    }
    if has avx512f avx512bw avx512dq avx512vl avx512_vnni; then
        local sets=avx512
        if has avx512_bf16; then sets+=";avx512bf16"; fi
        if has amx_tile amx_int8; then sets+=";amx"; fi
        echo "$sets"
    elif has avx2 fma f16c; then
        if has avx_vnni; then echo "avx2;avxvnni"; else echo avx2; fi
    fi
}

# keel_build_command: sets keel. What the compiler says is shown where it fails.
keel_build_command() {
    if [ "${keel_no_install:-0}" = 1 ]; then
        keel_provide compiler command || return  # one list
    else
        keel_provide compiler && keel_provide command || return
        keel_provide editing || echo "going on: without it, lines are read as the terminal gives them" >&2
    fi
    mkdir -p build
    keel=build/core/keel
    cmake --preset core "-DKEEL_KERNEL_SETS=$(keel_sets_of_this_machine)" "${keel_configure_arguments[@]}" >build/core.log 2>&1 || { cat build/core.log >&2; return 1; }
    [ -x $keel ] || echo "building the library and the core of the command, once: about two minutes on two cores ..." >&2
    local start=$SECONDS
    if [ -t 2 ]; then
        # On a terminal ninja draws one line and rewrites it.
        NINJA_STATUS='[%f of %t, %es] ' cmake --build --preset core --target keel_command >&2 || return
    else
        # Elsewhere a line every 15 s, and at the end of a failure all of them.
        local line next=$((SECONDS + 15))
        while read -r line; do
            echo "$line" >>build/core.log
            [ $SECONDS -lt $next ] || { echo "${line%%Building*}" >&2; next=$((SECONDS + 15)); }
        done < <(NINJA_STATUS='[%f of %t, %es] ' cmake --build --preset core --target keel_command 2>&1)
        [ -x $keel ] && ! grep -q '^FAILED:' build/core.log || { tail -n 60 build/core.log >&2; return 1; }
    fi
    [ $((SECONDS - start)) -lt 5 ] || echo "built in $((SECONDS - start)) s" >&2
}

# keel_choose_model: sets model and real=1; or the bundled one and real=0 where no real one is there or can be fetched.
keel_choose_model() {
    real=1
    model=$(samples/models/get --timeout "${KEEL_FETCH_SECONDS:-120}" smollm2) && return
    real=0
    model=samples/models/books-7m-f16.gguf
}
