#!/usr/bin/env python3
"""Paired timings of two builds of the keel command: is one slower than the other?

    perf/paired.py --before old/keel --after build/release/keel MODEL... [--rounds 9] [--json paired.json]

In every round both commands measure the same figures one right after the other, in swapped order from round to round, so that what
disturbs the machine for longer than a run disturbs both. Each pair gives a ratio of times, after / before: above 1, the second build is slower.
Printed are the median ratio of all rounds with the lowest and the highest, and its 95 % interval (of order statistics; from 6 rounds on).
Exits with 1 when a median is above --limit. Models: the bundled one, and for instance
    keel synth smollm2-135m.gguf --shape smollm2-135m --mix Q8_0
    keel synth 1b.gguf --shape 1b --mix Q4_K_M
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys


def bench(keel, model, options):
    """Figures of one run of `keel bench`: name -> tokens per second, and what the run says of itself."""
    command = [keel, "bench", model, "--prefill", str(options.prefill), "--decode", str(options.decode), "--depth", str(options.depth),
               "--repeats", str(options.repeats), "--steps", "0", "--budget-us", "0", "--stream-mib", "16", "--json"]
    if options.threads:
        command += ["--threads", str(options.threads)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {run.returncode}\n{run.stderr}")
    result = json.loads(run.stdout)
    figures = {f"prefill {p['tokens']}": p["median"] for p in result["prefill"]}
    figures |= {f"decode {d['tokens']} at {d['depth']}": d["median"] for d in result["decode"]}
    return figures, {key: result[key] for key in ("version", "kernel_set", "threads", "weights", "activation", "k_format", "v_format")}


def median_interval(values):
    """Distribution-free interval of the median that holds with at least 95 %; None where there are too few values."""
    n, tail, k = len(values), 0.0, 0
    while tail + math.comb(n, k) / 2 ** n <= 0.025:
        tail += math.comb(n, k) / 2 ** n
        k += 1
    return [sorted(values)[k - 1], sorted(values)[n - k]] if k else None


def summary(before, after):
    """Of the rates of both builds, round by round."""
    ratios = [b / a for b, a in zip(before, after)]
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios), "interval_95": median_interval(ratios),
            "before_tok_s": statistics.median(before), "after_tok_s": statistics.median(after), "ratios": ratios, "before": before, "after": after}


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:78}\r", end="", file=sys.stderr, flush=True)


def self_test():
    same = summary([100.0, 50.0, 80.0], [100.0, 50.0, 80.0])
    assert (same["ratio"], same["lowest"], same["highest"], same["interval_95"]) == (1, 1, 1, None)
    slower = summary([100.0] * 6, [80.0, 100.0, 50.0, 80.0, 80.0, 200.0])
    assert (slower["ratio"], slower["lowest"], slower["highest"], slower["interval_95"]) == (1.25, 0.5, 2, [0.5, 2])
    assert median_interval(list(range(9))) == [1, 7] and median_interval(list(range(5))) is None
    print("ok")


def main():
    if "--self-test" in sys.argv:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="the keel command of the older build")
    parser.add_argument("--after", required=True, help="of the newer one")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prefill", type=int, default=128, help="tokens of the prompt (default 128)")
    parser.add_argument("--decode", type=int, default=32, help="decoded tokens (default 32)")
    parser.add_argument("--depth", type=int, default=128, help="tokens before the decoded ones (default 128)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats inside a run, of which the median counts (default 3)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--limit", type=float, default=1.02, help="largest median ratio that is no failure (default 1.02)")
    parser.add_argument("--json", metavar="FILE", help="all ratios and rates")
    options = parser.parse_args()
    commands = {"before": options.before, "after": options.after}
    report = {"options": {key: getattr(options, key) for key in ("rounds", "prefill", "decode", "depth", "repeats", "threads", "limit")},
              "load_before": os.getloadavg()[0], "builds": {}, "models": {}}
    worst = 0.0
    print(f"{'':44} {'after / before':>14}  {'lowest .. highest':>17}  {'95 % of median':>15}  {'tok/s before':>12} {'after':>9}")
    for model in options.models:
        rates = {}  # figure -> build -> one rate a round
        for number in range(options.rounds):
            for build in ("before", "after") if number % 2 == 0 else ("after", "before"):
                progress(f"{os.path.basename(model)}: round {number + 1} of {options.rounds}, {build}")
                figures, report["builds"][build] = bench(commands[build], model, options)
                for figure, rate in figures.items():
                    rates.setdefault(figure, {"before": [], "after": []})[build].append(rate)
        progress("")
        entry = report["models"][os.path.basename(model)] = {figure: summary(**both) for figure, both in rates.items()}
        for figure, s in entry.items():
            interval = "{:.3f} .. {:.3f}".format(*s["interval_95"]) if s["interval_95"] else "-"
            print(f"{os.path.basename(model) + ', ' + figure:44} {s['ratio']:14.3f}  {s['lowest']:7.3f} .. {s['highest']:5.3f}  {interval:>15}  "
                  f"{s['before_tok_s']:12.1f} {s['after_tok_s']:9.1f}", flush=True)
            worst = max(worst, s["ratio"])
    report["load_after"] = os.getloadavg()[0]
    if options.json:
        with open(options.json, "w") as out:
            json.dump(report, out, indent=1)
            out.write("\n")
    if worst > options.limit:
        sys.exit(f"slowest median: {worst:.3f}, limit {options.limit}")


if __name__ == "__main__":
    main()
