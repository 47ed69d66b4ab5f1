#!/usr/bin/env python3
"""kernel_sizes.py [LIBKEEL_A] [--at-most KB]: bytes of code (section .text of the objects) of each kernel set and of the rest, as a
table for perf/RESULTS.md. "With it" is what a library of scalar, the sets before it, and the set has. --at-most: fails where a library
of PROMISED has more than so many KB."""
import argparse
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
# What a library of these sets has is what is promised to be small.
PROMISED = ("rest", "scalar", "avx2", "avx512")
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


def over(by_set, most_kb):
    """What is wrong with a library of PROMISED, of which at most most_kb are allowed; empty: nothing."""
    if missing := [s for s in PROMISED if not by_set[s]]:
        return f"no code of {', '.join(missing)}: nothing to compare"
    kb = sum(by_set[s] for s in PROMISED) / 1000
    return f"{' + '.join(PROMISED)}: {kb:.0f} KB of code, {most_kb:.0f} are allowed" if kb > most_kb else ""


def self_test():
    found = sizes("matmul_q8_avx512.cpp.o   (ex l.a):\nsection size addr\n.text 10 0\n.rodata 90 0\n.text.unlikely 1 0\nTotal 101\n\n"
                  "attention_avx512vbmi.cpp.o   (ex l.a):\n.text 5 0\n\nmatmul_q8_neon_i8mm.cpp.o   (ex l.a):\n.text 3 0\n\n"
                  "engine.cpp.o   (ex l.a):\n.text 0 0\n.text.f 7 0\n.eh_frame 30 0\n")
    assert found == {"avx512": 16, "neon_i8mm": 3, "rest": 7}, found
    assert table(found).splitlines()[-1] == "| neon_i8mm | 0 | 0 |"
    sizes_of = collections.Counter(rest=900, scalar=100, avx2=500, avx512=500, amx=9000)
    assert over(sizes_of, 2) == "" and over(sizes_of, 1.9)
    assert "no code of scalar, avx2" in over(found, 1)


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("archive", nargs="?", default=ROOT / "build/release/libkeel.a")
    arguments.add_argument("--at-most", type=float, metavar="KB")
    arguments = arguments.parse_args()
    found = sizes(subprocess.run(["size", "-A", arguments.archive], check=True, capture_output=True, text=True).stdout)
    print(table(found))
    sys.exit((over(found, arguments.at_most) if arguments.at_most else "") or 0)
