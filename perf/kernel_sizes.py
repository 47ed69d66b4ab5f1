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
SETS = {"scalar": "scalar", "avx2": "avx2", "avxvnni": "avxvnni", "avx512": "avx512", "avx512vbmi": "avx512", "amx": "amx", "neon": "neon"}


def sizes(text):
    """Text bytes by set, from the output of `size`."""
    by_set = collections.Counter()
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 6 or words[5] == "(TOTALS)":
            continue
        found = re.match(r"\w+?_(\w+)\.cpp\.o", words[5])
        name = found.group(1).split("_")[-1] if found else ""
        by_set[SETS.get(name, "rest")] += int(words[0])
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
                  "5 0 0 5 5 attention_avx512vbmi.cpp.o (ex l.a)\n7 0 0 7 7 engine.cpp.o (ex l.a)\n22 0 0 22 16 (TOTALS)\n")
    assert found == {"avx512": 15, "rest": 7}, found
    assert table(found).splitlines()[-1] == "| avx512 | 0 | 0 |"


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    library = sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/release/libkeel.a"
    print(table(sizes(subprocess.run(["size", "-t", library], check=True, capture_output=True, text=True).stdout)))
