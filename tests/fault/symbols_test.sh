#!/bin/sh
# Checks that the library needs nothing but what allowed_symbols.txt lists: no heap, no stdio, no C++ runtime, no exits. A
# forbidden call that was linked into an object on purpose must be noticed first.
#   symbols_test.sh LIBRARY ALLOWED_SYMBOLS_TXT NM CXX [LIBRARY_IT_STANDS_ON]
set -eu
library=$1 allowed=$2 nm=$3 cxx=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Names that the objects and archives given need and do not define themselves.
needed() {
    "$nm" -u "$@" 2>/dev/null | awk 'NF == 2 && ($1 == "U" || $1 == "w" || $1 == "v") { print $2 }' | sort -u >"$work/undefined"
    "$nm" --defined-only "$@" 2>/dev/null | awk 'NF == 3 && $2 ~ /[A-Zuvw]/ { print $3 }' | sort -u >"$work/defined"
    comm -23 "$work/undefined" "$work/defined"
}
{
    grep -v '^#' "$allowed" | awk 'NF { print $1 }'
    [ $# -lt 5 ] || "$nm" --defined-only "$5" 2>/dev/null | awk 'NF == 3 && $2 ~ /[A-Z]/ { print $3 }'
} | sort -u >"$work/allowed"

cat >"$work/sin.cpp" <<'SIN'
#include <stdlib.h>
int& once() { static int* value = new int(7); return *value; }
void* sin(unsigned n) { if (n == 3) throw 1; return malloc(n); }
SIN
"$cxx" -std=c++20 -O2 -c "$work/sin.cpp" -o "$work/sin.o"
needed "$library" "$work/sin.o" | comm -23 - "$work/allowed" >"$work/caught"
for name in malloc _Znwm __cxa_throw __cxa_guard_acquire; do
    grep -qx "$name" "$work/caught" || { echo "the check is blind: it did not notice $name"; exit 1; }
done

needed "$library" >"$work/needed"
test -s "$work/defined" || { echo "no symbols in $library"; exit 1; }
comm -23 "$work/needed" "$work/allowed" >"$work/forbidden"
if test -s "$work/forbidden"; then
    echo "forbidden symbols:"
    while read -r name; do
        echo "  $name, needed by $("$nm" -A -u "$library" | awk -v n="$name" '$NF == n { split($1, a, ":"); print a[2] }' | sort -u | tr '\n' ' ')"
    done <"$work/forbidden"
    exit 1
fi
echo "$(wc -l <"$work/needed") outside symbols, all allowed"
