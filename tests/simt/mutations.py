#!/usr/bin/env python3
"""mutations.py SOURCE_DIR PROGRAM RACE_PROGRAM [--write] [--every N] [--files NAME...]: every line of kernels/cuda that meets, waits, commits or
exchanges is needed: with any one left out, a test fails.

The executor leaves a line's calls out when KEEL_SIMT_MUTATION names it, so nothing is compiled anew. mutations.txt beside
this file lists the lines; one that came or went shows in a comparison with the sources, and --write writes the list.
--every N: only each Nth line of the list; --files: only those of these files.
"""
import concurrent.futures
import os
import pathlib
import re
import resource
import subprocess
import sys

CALL = re.compile(r"\b(sync_block|sync_warp|sync_grid|pass_turn|await_turn|shuffle|ballot|last_of_blocks|take_ticket|raise_count|await_count|copy_commit|copy_wait)\b\s*[(<]")
TESTS = "-Executor.*:RaceChecker.*"  # which have mutations of their own
# Tests that are asked first, by the file that has the line: most lines are caught by those of their own kernels.
FIRST = {"attention.cu": "SimtAttention*", "attention.cuh": "SimtAttention*", "attention_decode.cu": "SimtAttention*",
         "attention_token.cu": "SimtAttention*", "attention_finish.cu": "SimtAttention*",
         "attention_prefill.cuh": "SimtAttention*", "attention_integers.cu": "SimtAttention*", "attention_halves.cu": "SimtAttention*",
         "kv_row.cuh": "SimtAttention*", "kv_append.cu": "SimtAttention*", "kv_append.cuh": "SimtAttention*", "sample.cu": "SimtSample*", "rows.cu": "SimtRows*", "products.cu": "SimtProducts*",
         "products_fragments.cu": "SimtFragments*", "products_token.cu": "SimtFragments*", "strips.cuh": "SimtFragments*",
         "products_prefill.cu": "SimtFragments*"}
SECONDS = 60


def lines_of(source):
    """(file, line number, what is done to it, text) of every mutation."""
    found = []
    for path in sorted((source / "kernels/cuda").glob("*.cu*")):
        if path.name == "device.cuh":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0].strip()
            calls = CALL.findall(code)
            if len(calls) > 1:
                sys.exit(f"FAILED: {path.name}:{number} has {len(calls)} calls, and only one can be left out at a time")
            if calls:
                found.append((path.name, number, "remove", code))
            if calls == ["copy_wait"]:
                found.append((path.name, number, "weaken", code))
    return found


def verdict(programs, mutation):
    """The first program that fails with the mutation, or None."""
    file, number, change, _ = mutation
    # The first failure ends the program: what a test would see of the mutation beyond it tells nothing more.
    environment = dict(os.environ, KEEL_SIMT_MUTATION=f"{file}:{number}:{change}", GTEST_THROW_ON_FAILURE="1")
    environment.pop("GTEST_OUTPUT", None)
    first = [FIRST[file]] if file in FIRST else []
    for tests in first + [TESTS]:
        for name, program in programs:
            try:
                code = subprocess.run([program, f"--gtest_filter={tests}"], env=environment, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, timeout=SECONDS).returncode
            except subprocess.TimeoutExpired:
                code = 1
            if code:
                return name
    return None


def main():
    source, program, race_program = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    mutations = lines_of(source)
    listed = source / "tests/simt/mutations.txt"
    text = "".join(f"{file}: {change} {code}\n" for file, _, change, code in mutations)
    if "--write" in sys.argv:
        listed.write_text(text)
    if listed.read_text() != text:
        print(f"FAILED: {listed} is not what the sources have; write it with --write and look at the difference")
        return 1
    if "--every" in sys.argv:
        mutations = mutations[::int(sys.argv[sys.argv.index("--every") + 1])]
    if "--files" in sys.argv:
        files = sys.argv[sys.argv.index("--files") + 1:]
        mutations = [m for m in mutations if m[0] in files]
    # The race checker sees wrong values as well, and most mutations at once.
    programs = [("races", race_program), ("values", program)]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # programs that end so are many
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        caught = list(pool.map(lambda m: verdict(programs, m), mutations))
    for (file, number, change, code), by in zip(mutations, caught):
        print(f"{file}:{number}: {change} {code}: {'caught by ' + by if by else 'FAILED: no test notices'}")
    print(f"{len(mutations)} mutations, {caught.count('races')} caught under the race checker, {caught.count('values')} by values "
          f"alone, {caught.count(None)} not")
    return 1 if None in caught else 0


if __name__ == "__main__":
    sys.exit(main())
