#!/usr/bin/env python3
"""Measures Keel end to end and writes perf/results/*.json, one file per figure, with machine, date, commit and command.

    perf/end_to_end.py                      bundled model: speed, latency, perplexity; synthetic 1B: speed, latency
    perf/end_to_end.py --only bundled       the parts whose name contains a text
    perf/end_to_end.py --repeats 9

Run it on a quiet machine: the load before each figure is recorded with it. Then perf/readme_figures.py updates README.md.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUNDLED = "samples/models/books-7m-f16.gguf"


def first_line(path, key):
    try:
        for line in open(path):
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def output(*command):
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine():
    return {
        "cpu": first_line("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": first_line("/proc/meminfo", "MemTotal"),
        "system": platform.system() + " " + platform.machine(),
        "compiler": output("c++", "--version").split("\n")[0],
    }


def figures(keel, repeats, synth_dir):
    """(name, title, models to make first, command) of every figure."""
    bench = [str(keel), "bench"]
    flags = ["--repeats", str(repeats), "--json"]
    big = os.path.join(synth_dir, "synthetic-1b-q4_k_m.gguf")
    make_big = [str(keel), "synth", big, "--shape", "1b", "--mix", "Q4_K_M"]
    yield ("bench_bundled", "bundled 7M, F16", None, bench + [BUNDLED, "--prefill", "512", "--decode", "128", "--steps", "10000"] + flags)
    yield ("bench_bundled_1thread", "bundled 7M, F16, 1 thread", None,
           bench + [BUNDLED, "--prefill", "512", "--decode", "128", "--threads", "1"] + flags)
    yield ("bench_1b", "synthetic 1B, Q4_K_M", make_big,
           bench + [big, "--prefill", "128", "--decode", "32", "--steps", "100", "--position", "128"] + flags)
    yield ("eval_bundled", "bundled 7M, F16, books-val-sample.jsonl", None,
           [str(keel), "eval", "ppl", BUNDLED, "samples/models/books-val-sample.jsonl", "--window", "2048", "--json"])


def shown(command, synth_dir):
    """The command as a reader would type it: no path of this machine."""
    return " ".join(shlex.quote("keel" if i == 0 else word.replace(synth_dir, "$TMPDIR")) for i, word in enumerate(command))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keel", type=pathlib.Path, default=ROOT / "build/release/keel")
    parser.add_argument("--only", default="")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--synth-dir", help="keep synthetic models here (default: a temporary directory)")
    arguments = parser.parse_args()
    results = ROOT / "perf/results"
    results.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        synth_dir = arguments.synth_dir or temporary
        for name, title, make, command in figures(arguments.keel.resolve(), arguments.repeats, synth_dir):
            if arguments.only not in name:
                continue
            if make and not os.path.exists(make[2]):
                subprocess.run(make, check=True, cwd=ROOT)
            load = os.getloadavg()[0]
            print(name, "...", file=sys.stderr)
            run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if run.returncode != 0:
                sys.exit(f"{shown(command, synth_dir)}: exit {run.returncode}\n{run.stderr}")
            result = json.loads(run.stdout)
            if isinstance(result.get("model"), dict):
                result["model"].pop("model_bytes", None)
            document = {
                "figure": name,
                "title": title,
                "date": datetime.date.today().isoformat(),
                "commit": output("git", "rev-parse", "--short=12", "HEAD"),
                "command": shown(command, synth_dir),
                "machine": machine(),
                "load_before": round(load, 2),
                "result": result,
            }
            (results / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
