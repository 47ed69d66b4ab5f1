#!/usr/bin/env bash
# format_test.sh SOURCE_DIR: every C and C++ file is as .clang-format says, and has no line, of a comment either, beyond
# its 120 columns, but for those of .clang-format-ignore. Nor has anybody run it over Markdown, which it takes for C++.
# Versions of clang-format differ in what they make of one style, so only the one the tree is formatted with counts.
# Exit code 77, which is "skipped" for ctest, where that one is missing.
set -euo pipefail
cd "$1"
version=14
formatter=
for candidate in clang-format-$version clang-format; do
    if command -v $candidate >/dev/null && $candidate --version | grep -q "version $version\\."; then
        formatter=$candidate
        break
    fi
done
if [ -z "$formatter" ]; then
    echo "skipped: clang-format $version is missing (package clang-format-$version)"
    exit 77
fi

ignored=$(grep -v '^#' .clang-format-ignore)
for file in $ignored; do
    [ -f "$file" ] || { echo "FAILED: .clang-format-ignore names $file, which does not exist"; exit 1; }
done
mapfile -t files < <(find include kernels perf platform samples sdk tests -name '*.[ch]' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh' |
    grep -v -x -F -e "$ignored" | sort)
if printf '%s\0' "${files[@]}" | xargs -0 -n 40 -P "$(nproc)" "$formatter" --dry-run -Werror; then
    if long=$(LC_ALL=C.UTF-8 grep -n -E '^.{121}' "${files[@]}"); then
        printf '%s\nFAILED: the lines above have more than 120 columns\n' "$long"
        exit 1
    fi
    if mangled=$(grep -n -m 1 -E '^#[A-Za-z]' $(find . -name '*.md' -not -path './build/*')); then
        printf '%s\nFAILED: a heading without its space; clang-format is for C and C++ only\n' "$mangled"
        exit 1
    fi
    echo "${#files[@]} files: ok"
else
    echo "FAILED: run $formatter -i on the files above"
    exit 1
fi
