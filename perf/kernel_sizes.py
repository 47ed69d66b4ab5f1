#!/usr/bin/env python3
"""kernel_sizes.py [LIBKEEL_A]: bytes of code (section .text of the objects) of each kernel set and of the rest, as a table for
perf/RESULTS.md. "With it" is what a library of scalar, the sets before it, and the set has."""
import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Files of VBMI belong to the set that uses them.
SETS = {"scalar": "scalar", "avx2": "avx2", "avxvnni": "avxvnni", "avx512": "avx512", "avx512vbmi": "avx512", "amx": "amx",
        "neon": "neon", "neon_dotprod": "neon_dotprod", "neon_i8mm": "neon_i8mm"}
FILE = re.compile(r"\w+?_(" + "|".join(SETS) + r")\.cpp\.o")


def sizes(text):
    """Text bytes by set, from the output of `size`."""
    by_set = collections.Counter()
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 6 or words[5] == "(TOTALS)":
            continue
        found = FILE.match(words[5])
        by_set[SETS[found.group(1)] if found else "rest"] += int(words[0])
    return by_set


def table(by_set):
    rows = ["| part | code, KB | with it, KB |", "|---|---|---|"]
    total = 0
    for name in ["rest"] + [s for s in dict.fromkeys(SETS.values()) if by_set[s]]:
        total += by_set[name]
        rows.append(f"| {'everything but kernels' if name == 'rest' else name} | {by_set[name] / 1000:.0f} | {total / 1000:.0f} |")
    return "\n".join(rows)


def self_test():
    found = sizes("  text data bss dec hex filename\n10 0 0 10 a matmul_q8_avx512.cpp.o (ex l.a)\n"
                  "5 0 0 5 5 attention_avx512vbmi.cpp.o (ex l.a)\n3 0 0 3 3 matmul_q8_neon_i8mm.cpp.o (ex l.a)\n7 0 0 7 7 engine.cpp.o (ex l.a)\n25 0 0 25 19 (TOTALS)\n")
    assert found == {"avx512": 15, "neon_i8mm": 3, "rest": 7}, found
    assert table(found).splitlines()[-1] == "| neon_i8mm | 0 | 0 |"


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    library = sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/release/libkeel.a"
    print(table(sizes(subprocess.run(["size", "-t", library], check=True, capture_output=True, text=True).stdout)))
