#!/usr/bin/env bash
# packages_test.sh SOURCE_DIR: what ./run and ./check do about missing packages, with an apt-get that is made up.
set -uo pipefail
cd "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
expect() {  # expect WHAT COMMAND...
    local what=$1
    shift
    "$@" || { echo "FAILED: $what"; cat "$work/out"; failures=$((failures + 1)); }
}
gives() {  # gives CODE COMMAND...: the exit code; what it says lies in $work/out
    local code=$1 got
    shift
    rm -f "$work/apt.log"
    "$@" >"$work/out" 2>&1 </dev/null
    got=$?
    [ $got -eq "$code" ] || { echo "exit code $got instead of $code: $*"; false; }
}
says() { grep -q -e "$1" "$work/out"; }
asked() { grep -q -e "$1" "$work/apt.log" 2>/dev/null; }
never_asked() { [ ! -e "$work/apt.log" ]; }

# A machine with nothing but what the scripts themselves use: no compiler, no CMake, no Ninja.
mkdir "$work/bin"
for tool in bash cat cut dirname env grep id mkdir mktemp nproc rm sed tail uname; do ln -s "$(command -v $tool)" "$work/bin/"; done
printf '%s\n' '#!/usr/bin/env bash' 'exec "$@"' >"$work/bin/sudo"
cat >"$work/bin/apt-get" <<EOF
#!/usr/bin/env bash
echo "\$*" >>"$work/apt.log"
[ -e "$work/apt_works" ] || { echo "E: no such archive" >&2; exit 100; }
EOF
chmod +x "$work/bin/sudo" "$work/bin/apt-get"
bare() { env PATH="$work/bin" "$@"; }
# provide [--no-install]: the functions alone, over a group of two packages, one of them missing.
provide() {
    bare bash -c '. .ci/packages.sh; keel_no_install='"${1:-0}"'
        keel_packages_made_up=("here | true | is there" "made-up-dev | false | a reason of two | bars")
        keel_provide made_up'
}

for script in ./run ./chat "./check --fast" "./check"; do
    # shellcheck disable=SC2086
    expect "$script --no-install refuses" gives 3 bare $script --no-install
    expect "$script --no-install asks nothing of apt-get" never_asked
    expect "$script --no-install says what is missing" says '^  ninja-build  *runs the build$'
    case $script in
        ./check*) expect "$script --no-install names libraries too" says '^  libgtest-dev  *tests (GoogleTest)$' ;;
        *) expect "$script needs nothing of the tests" eval '! says "gtest\|benchmark\|eigen"' ;;
    esac
    # shellcheck disable=SC2086
    expect "$script fails with apt-get" gives 1 bare $script
    expect "$script says first what it installs" says '^  cmake  *configures the build$'
    expect "$script shows the errors of apt-get" says '^E: no such archive$'
done
expect "stages that are not wanted need no packages" gives 3 bare ./check --no-install --only asan
expect "no package of stage qemu" eval '! says qemu-user'

expect "a missing package is refused" gives 3 provide 1
expect "only what is missing is listed" eval "! says '^  here '"
expect "apt-get was not called" never_asked
expect "apt-get that fails" gives 1 provide
expect "once more with fresh lists" asked '^update '
touch "$work/apt_works"
expect "apt-get that works" gives 0 provide
expect "it installs what is missing" asked '^install .* made-up-dev$'
expect "after saying why" says '^  made-up-dev  *a reason'
expect "without its chatter" eval "! says 'E:'"
rm "$work/bin/apt-get"
expect "no apt-get" gives 1 provide
expect "says so" says 'no apt-get here'

[ $failures -eq 0 ] && echo "packages: ok"
exit $((failures > 0))
