#!/usr/bin/env python3
"""fetches_test.py LIBKEEL_A: every loop over rows that come from memory asks for what it reads next.

GCC drops calls of a function that only prefetches, as of one without an effect, and no result shows it: attention over f16
then takes up to 1.5 times as long. So the machine code is looked at.
"""
import re
import subprocess
import sys

# The functions with such loops, in the objects of both sets; f32 rows of attention may be a decoded tile, but need not.
READERS = re.compile(r"::(score_queries|add_values|unpack_keys_of|unpack_values_of|multiply_group)<")
OBJECTS = re.compile(r"^(attention|matmul_f32)_(avx2|avx512)\.cpp")


def functions(listing):
    """Pairs (object, function, whether it has a prefetch) of `objdump -dC`."""
    member, name, found = None, None, False
    for line in listing:
        if match := re.match(r"(\S+):\s+file format", line):
            member = match[1]
        elif match := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            if name:
                yield at, name, found
            at, name, found = member, match[1], False
        elif "prefetcht" in line:
            found = True
    if name:
        yield at, name, found


def main():
    run = subprocess.Popen(["objdump", "-dC", "--no-show-raw-insn", sys.argv[1]], stdout=subprocess.PIPE, text=True)
    seen, without = 0, []
    for member, name, found in functions(run.stdout):
        if OBJECTS.match(member) and READERS.search(name) and "KvIntegersAvx512::" not in name:
            seen += 1
            if not found:
                without.append(f"{member}: {name[:150]}")
    if run.wait():
        sys.exit("objdump failed")
    for line in without:
        print("no fetch:", line)
    print(f"{seen - len(without)} of {seen} functions fetch ahead")
    sys.exit(1 if without or seen < 40 else 0)


if __name__ == "__main__":
    main()
