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
SETS = {"scalar": "scalar", "avx2": "avx2", "avxvnni": "avxvnni", "avx512": "avx512", "avx512vbmi": "avx512",
        "avx512bf16": "avx512bf16", "amx": "amx",
        "neon": "neon", "neon_dotprod": "neon_dotprod", "neon_i8mm": "neon_i8mm"}
OBJECT = re.compile(r"(\S+)\s+\(ex .*\):")
FILE = re.compile(r"\w+?_(" + "|".join(SETS) + r")\.cpp\.o")


def sizes(text):
    """Bytes of code by set, from the output of `size -A`: sections .text*, not constants and tables for unwinding."""
    by_set, name = collections.Counter(), "rest"
    for line in text.splitlines():
        words = line.split()
        if found := OBJECT.match(line):
            kernels = FILE.match(found.group(1))
            name = SETS[kernels.group(1)] if kernels else "rest"
        elif len(words) == 3 and words[0].startswith(".text"):
            by_set[name] += int(words[1])
    return by_set


def table(by_set):
    rows = ["| part | code, KB | with it, KB |", "|---|---|---|"]
    total = 0
    for name in ["rest"] + [s for s in dict.fromkeys(SETS.values()) if by_set[s]]:
        total += by_set[name]
        rows.append(f"| {'everything but kernels' if name == 'rest' else name} | {by_set[name] / 1000:.0f} | {total / 1000:.0f} |")
    return "\n".join(rows)


def self_test():
    found = sizes("matmul_q8_avx512.cpp.o   (ex l.a):\nsection size addr\n.text 10 0\n.rodata 90 0\n.text.unlikely 1 0\nTotal 101\n\n"
                  "attention_avx512vbmi.cpp.o   (ex l.a):\n.text 5 0\n\nmatmul_q8_neon_i8mm.cpp.o   (ex l.a):\n.text 3 0\n\n"
                  "engine.cpp.o   (ex l.a):\n.text 0 0\n.text.f 7 0\n.eh_frame 30 0\n")
    assert found == {"avx512": 16, "neon_i8mm": 3, "rest": 7}, found
    assert table(found).splitlines()[-1] == "| neon_i8mm | 0 | 0 |"


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    library = sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/release/libkeel.a"
    print(table(sizes(subprocess.run(["size", "-A", library], check=True, capture_output=True, text=True).stdout)))
