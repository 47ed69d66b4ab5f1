#!/usr/bin/env python3
"""load_times.py KEEL FILE... [--rounds N] [-- OPTIONS]: how long a model takes from its file to a ready engine.

Loads each file in turn, N times over: cold, after the system was asked to forget its pages (posix_fadvise; how much of
them it forgot is shown), and warm, read once before. Medians with the lowest and highest; OPTIONS go to `keel run`.
"""
import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys


def forget(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path):
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def resident(path):
    """The share of the file's pages that the system has in memory."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE,
                                             flags=mmap.MAP_PRIVATE) as view:
        pages = (len(view) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        seen = (ctypes.c_ubyte * pages)()
        first = ctypes.c_char.from_buffer(view)
        refused = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(view)), seen)
        del first
        return None if refused else sum(page & 1 for page in seen) / pages


def load_seconds(keel, path, options):
    run = subprocess.run([keel, "run", path, "-p", "a", "-n", "1", "--json", *options], check=True, capture_output=True)
    return json.loads(run.stdout)["load_seconds"]


def main():
    arguments = sys.argv[1:]
    options = arguments[arguments.index("--") + 1:] if "--" in arguments else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keel")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments[:arguments.index("--")] if "--" in arguments else arguments)
    times = {(path, how): [] for path in args.files for how in ("cold", "warm")}
    left = {path: [] for path in args.files}
    for _ in range(args.rounds):
        for path in args.files:
            forget(path)
            left[path].append(resident(path))
            times[path, "cold"].append(load_seconds(args.keel, path, options))
            read(path)
            times[path, "warm"].append(load_seconds(args.keel, path, options))
    for path in args.files:
        print(f"{os.path.basename(path)}: {os.path.getsize(path)} bytes, {max(left[path]) or 0:.0%} of it in memory when cold")
        for how in ("cold", "warm"):
            t = times[path, how]
            print(f"  {how}: {statistics.median(t):.3f} s ({min(t):.3f} .. {max(t):.3f})")


main()
