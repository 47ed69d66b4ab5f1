#!/usr/bin/env python3
"""static_gates.py SOURCE_DIR ARCHITECTURE...: what the machine code of the GPU kernels must be, without a GPU.

No kernel spills registers, and each fits its block's registers. The machine code is the same with and without --fmad: no
multiply-add is fused that the source did not fuse, which no test on a CPU can see. Prints registers and stack of every kernel.
"""
import concurrent.futures
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

NVCC = os.environ.get("NVCC", "nvcc")
REGISTERS_OF_A_PROCESSOR = 65536


def sections(path):
    """Machine code by kernel: the .text.* sections of an ELF file."""
    data = path.read_bytes()
    offset, = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + i * size) for i in range(count)]
    names_at = headers[names_index][4]
    code = {}
    for name, _, _, _, at, length in headers:
        text = data[names_at + name:data.index(b"\0", names_at + name)].decode()
        if text.startswith(".text."):
            code[text[6:]] = data[at:at + length]
    return code


def compile_one(source, root, architecture, fused, folder):
    out = folder / f"{source.stem}-{architecture}-{fused}.cubin"
    command = [NVCC, "-std=c++20", "-O3", f"--fmad={fused}", f"-I{root}", f"-arch=sm_{architecture}", "-cubin",
               "--ptxas-options=-v", "-o", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"FAILED: {' '.join(command)}\n{done.stderr}")
    return out, done.stderr


def kernels(report):
    """(name, registers, stack, spilled bytes) of each kernel of a report of ptxas."""
    for part in re.split(r"Compiling entry function '", report)[1:]:
        stack, stores, loads = map(int, re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        yield part.split("'")[0], int(re.search(r"Used (\d+) registers", part).group(1)), stack, stores + loads


def threads_of(root):
    """Most threads of a block, by kernel: launch bounds as the PTX has them would do, but the list is at hand."""
    text = (root / "kernels/cuda/args.h").read_text() + (root / "kernels/cuda/attention_args.h").read_text()
    return max(int(n) for n in re.findall(r"k\w*Threads = (\d+)", text))


def main():
    root, architectures = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    sources = sorted((root / "kernels/cuda").glob("*.cu"))
    if any("use_fast_math" in path.read_text() for path in [root / "CMakeLists.txt", *(root / "cmake").glob("*")]):
        sys.exit("FAILED: fast math is asked for")
    most_threads, failures = threads_of(root), 0
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(s, a, f): pool.submit(compile_one, s, root, a, f, pathlib.Path(folder))
                for s in sources for a in architectures for f in ("false", "true")}
        for source in sources:
            for architecture in architectures:
                plain, report = jobs[source, architecture, "false"].result()
                fused, _ = jobs[source, architecture, "true"].result()
                for name, registers, stack, spilled in kernels(report):
                    wrong = []
                    if spilled:
                        wrong.append(f"spills {spilled} bytes")
                    if registers * most_threads > REGISTERS_OF_A_PROCESSOR:
                        wrong.append("too many registers")
                    if sections(plain)[name] != sections(fused)[name]:
                        wrong.append("a multiply-add is fused that the source does not fuse")
                    failures += bool(wrong)
                    print(f"sm_{architecture} {name}: {registers} registers, {stack} bytes of stack"
                          + (f"  FAILED: {', '.join(wrong)}" if wrong else ""))
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
