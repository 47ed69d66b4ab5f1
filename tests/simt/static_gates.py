#!/usr/bin/env python3
"""static_gates.py SOURCE_DIR [--nvcc NVCC] [--arch 89 ...] [--show]: what the machine code of GPU kernels must be like, shown
without a GPU.

Every kernels/cuda/*.cu is compiled twice, with --fmad=false as it is built, and with --fmad=true. For each kernel:
  * both have as many additions, multiplications and fused ones: nothing is fused that numeric.h does not fuse, which no
    test on a CPU could see
  * nothing is spilled to local memory, and it takes no more registers than REGISTERS
Exit code 77, which is "skipped" for ctest, where there is no nvcc. --show prints registers and bytes of code.
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

REGISTERS = 255  # of a thread: two blocks of 128 threads on a multiprocessor
# Additions, multiplications and fused ones in f32 and f64, by the lowest nine bits of an instruction of 16 bytes.
ARITHMETIC = {0x20: "FMUL", 0x21: "FADD", 0x23: "FFMA", 0x28: "DMUL", 0x29: "DADD", 0x2B: "DFMA"}


def code_of(cubin):
    """{kernel: machine code}: the sections .text.KERNEL of an ELF file."""
    data = cubin.read_bytes()
    table, = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    text = sections[names][4]

    def name(section):
        start = text + section[0]
        return data[start:data.index(0, start)].decode()

    return {name(s)[6:]: data[s[4]:s[4] + s[5]] for s in sections if name(s).startswith(".text.")}


def arithmetic_of(code):
    """How many instructions of each kind of ARITHMETIC."""
    kinds = (word & 0x1FF for word, _ in struct.iter_unpack("<QQ", code))
    return collections.Counter(ARITHMETIC[kind] for kind in kinds if kind in ARITHMETIC)


def compile_one(nvcc, source, root, arch, fmad, folder):
    """(machine code, what ptxas says, error)"""
    cubin = pathlib.Path(folder) / f"{source.stem}.{arch}.{fmad}.cubin"
    run = subprocess.run([nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", f"--fmad={fmad}", f"-I{root}", "-cubin", "-o", cubin,
                          source, "--ptxas-options=-v"], capture_output=True, text=True)
    if run.returncode:
        return {}, "", run.stdout + run.stderr
    return code_of(cubin), run.stdout + run.stderr, None


def figures_of(text):
    """{kernel: (registers, bytes spilled)} from ptxas -v."""
    figures = {}
    for part in re.split(r"Compiling entry function '", text)[1:]:
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        registers = re.search(r"Used (\d+) registers", part)
        figures[part.split("'")[0]] = (int(registers.group(1)), spilled)
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    parser.add_argument("--arch", nargs="*", default=["89"])
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if not os.access(options.nvcc, os.X_OK):
        print("skipped: nvcc is missing")
        return 77
    sources = sorted((options.source / "kernels/cuda").glob("*.cu"))
    failures, kernels = [], 0
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(source, arch, fmad): pool.submit(compile_one, options.nvcc, source, options.source, arch, fmad, folder)
                for source in sources for arch in options.arch for fmad in ("false", "true")}
        for source in sources:
            for arch in options.arch:
                (code, text, error), (fused, _, error2) = (jobs[source, arch, fmad].result() for fmad in ("false", "true"))
                where = f"{source.name}, sm_{arch}"
                if error or error2:
                    failures.append(f"{where}: {error or error2}")
                    continue
                kernels += len(code)
                figures = figures_of(text)
                if sorted(figures) != sorted(code):
                    failures.append(f"{where}: ptxas names other kernels than the file has")
                for kernel, (registers, spilled) in sorted(figures.items()):
                    if options.show:
                        print(f"sm_{arch} {kernel:32} {registers:4} registers {len(code[kernel]):7} bytes")
                    if arithmetic_of(code[kernel]) != arithmetic_of(fused.get(kernel, b"")):
                        failures.append(f"{where}: {kernel} is other code with --fmad=true: use mul_f32 and add_f32")
                    if spilled:
                        failures.append(f"{where}: {kernel} spills {spilled} bytes")
                    if registers > REGISTERS:
                        failures.append(f"{where}: {kernel} takes {registers} registers, {REGISTERS} at most")
    for failure in failures:
        print("FAILED:", failure)
    print(f"{kernels} kernels, {len(failures)} failures")
    return 1 if failures or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
