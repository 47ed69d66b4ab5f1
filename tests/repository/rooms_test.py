#!/usr/bin/env python3
"""rooms_test.py SOURCE_DIR [--show]: which room includes which. No arrow runs back up.

A room may include headers of its own and of those before it in ROOMS; what it may not in spite of that is in NEVER, and
what it may all the same in ALLOWED, with the reason. Tests see everything. --show prints the arrows.
"""
import collections
import pathlib
import re
import sys

ROOMS = """
    include/keel
    platform platform/linux platform/windows platform/cuda
    kernels/formats kernels/cpu kernels/cuda
    sdk/core sdk/format sdk/text sdk/model sdk/kv sdk/draft sdk/backend sdk/plan sdk/backend/cpu sdk/backend/offload sdk/backend/cuda sdk/run sdk/pack
    sdk/tools/common sdk/tools/files sdk/tools/lab/geodesic sdk/tools/lab/codecs sdk/tools/lab/kv sdk/tools/lab/learn sdk/tools/lab/quantize sdk/tools/lab/lowrank sdk/tools/cli
    samples perf tests
""".split()
NEVER = [
    ("kernels/", "include/keel", "kernels know nothing of the library"),
    ("kernels/", "platform", "kernels ask nothing of the operating system"),
    ("kernels/cuda/", "kernels/cpu", "a GPU runs none of them; tests compare the two"),
    ("sdk/tools/", "sdk/plan", "tools see plans through keel.h"),
    ("sdk/tools/", "sdk/backend", "tools see plans through keel.h"),
    ("sdk/tools/", "sdk/run", "tools see engines through keel.h and keel_lab.h"),
    ("sdk/run/", "sdk/backend/cpu", "sessions know backends through backend.h"),
    ("samples/", "sdk/", "samples are what a user may write"),
]
ALLOWED = {
    ("kernels/cuda/device.cuh", "tests"): "compiled for the host, a kernel calls the executor",
}


def room_of(path):
    """The longest room that holds the path; None for a file in no room."""
    rooms = [room for room in ROOMS if path.startswith(room + "/")]
    return max(rooms, key=len) if rooms else None


def refusal(path, included):
    """Why a file may not include another, or None."""
    here, there = room_of(path), room_of(included)
    if there is None:
        return "is in no room of this test"
    if here == there or here == "tests" or (path, there) in ALLOWED:
        return None
    for who, what, why in NEVER:
        if path.startswith(who) and included.startswith(what):
            return why
    return None if ROOMS.index(there) < ROOMS.index(here) else f"runs up from {here} to {there}"


def main():
    root = pathlib.Path(sys.argv[1])
    arrows, failures, used = collections.Counter(), [], set()
    files = [path for top in sorted({room.split("/")[0] for room in ROOMS}) for path in sorted((root / top).rglob("*"))
             if path.suffix in (".c", ".cpp", ".h", ".hpp", ".cu", ".cuh")]
    for file in files:
        path = file.relative_to(root).as_posix()
        if room_of(path) is None:
            failures.append(f"{path} is in no room of this test")
            continue
        for included in re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', file.read_text(errors="replace"), re.M):
            if included.startswith("keel/"):
                included = "include/" + included
            if not (root / included).is_file():
                continue  # of the system, or beside the file
            arrows[room_of(path), room_of(included)] += 1
            used.add((path, room_of(included)))
            why = refusal(path, included)
            if why:
                failures.append(f"{path} includes {included}: {why}")
    failures += [f"nobody needs the exception {pair}" for pair in ALLOWED if pair not in used]
    if "--show" in sys.argv:
        for room in ROOMS:
            there = [f"{to} ({n})" for (who, to), n in sorted(arrows.items(), key=lambda a: ROOMS.index(a[0][1]))
                     if who == room and to != room]
            print(f"{room:24}", ", ".join(there))
    for failure in failures:
        print("FAILED:", failure)
    print(f"{len(files)} files, {len(ROOMS)} rooms, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
