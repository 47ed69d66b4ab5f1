#!/usr/bin/env python3
"""How long single decode steps take: a histogram per run of `keel bench --json`, percentiles marked.

    taskset -c 1 build/release/keel bench samples/models/books-7m-f16.gguf --threads 1 --prefill 0 --decode 0 \\
        --position 256 --steps 10000 --json >latency.json
    perf/plots/latency.py latency.json --plot latency.png    one panel per file (needs matplotlib)
    perf/plots/latency.py --self-test

A Markdown table of the same figures goes to stdout.
"""
import argparse
import json
import sys

MARKS = [("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us"), ("p99.9", "p99_9_us"), ("max", "max_us")]


def read(path):
    with open(path) as file:
        document = json.load(file)
    result = document.get("result", document)  # as keel bench prints it, or inside a file of perf/results
    if "histogram" not in result.get("step", {}):
        sys.exit(f"{path}: no histogram of steps; write it with keel bench --steps N --json")
    return result


def title(result):
    model = result["model"]
    threads = result["threads"]
    return (f"{model['name']}, {model['weight_types']}, {result['kernel_set']}, {threads} thread{'s' if threads > 1 else ''}, "
            f"position {result['step']['position']:,}")


def interruptions(result):
    i = result["step"].get("interruptions")
    if not i:
        return ""
    return (f"{i['voluntary_switches']:,} voluntary and {i['involuntary_switches']:,} involuntary context switches, "
            f"{i['minor_faults']:,} minor and {i['major_faults']:,} major page faults")


def duration(us):
    return f"{us / 1000:.2f} ms" if us >= 1000 else f"{us:.0f} us" if us >= 100 else f"{us:.1f} us"


def markdown(results):
    lines = ["| run | steps | " + " | ".join(name for name, _ in MARKS) + " | during the run |", "|---|" + "---:|" * (len(MARKS) + 1) + "---|"]
    for result in results:
        step = result["step"]
        lines += [f"| {title(result)} | {step['samples']:,} | " + " | ".join(duration(step[key]) for _, key in MARKS) + f" | {interruptions(result)} |"]
    return "\n".join(lines)


def plot(results, paths):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator
    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "keel"})
    figure, axes = pyplot.subplots(len(results), 1, figsize=(10, 0.6 + 3.6 * len(results)), squeeze=False, layout="constrained")
    for (panel,), result in zip(axes, results):
        step = result["step"]
        bins = step["histogram"]["low_us_and_count"]
        width = 2 ** (1 / step["histogram"]["bins_per_octave"])
        panel.bar([low for low, _ in bins], [count for _, count in bins], width=[low * (width - 1) for low, _ in bins], align="edge",
                  color="#1060b0", linewidth=0)
        panel.set_xscale("log")
        panel.set_yscale("log")
        low, high = bins[0][0], bins[-1][0] * width
        margin = (high / low) ** 0.04
        panel.set_xlim(low / margin, high * margin)
        highest = max(count for _, count in bins)
        panel.set_ylim(0.7, highest * 12)
        for index, (name, key) in enumerate(MARKS):
            panel.axvline(step[key], ymax=0.97, color="#c03030", linewidth=0.9)
            # Each label on a line of its own, to the left of its mark where the right edge is near.
            right = step[key] > (low * high) ** 0.5 and step[key] > high / (high / low) ** 0.25
            panel.annotate(f"{name} {duration(step[key])}", (step[key], highest * 8 / 1.75 ** index), xytext=(-4 if right else 4, 0),
                           textcoords="offset points", fontsize=9, color="#c03030", ha="right" if right else "left", va="center",
                           bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85})
        panel.set_title(title(result), fontsize=11, loc="left")
        panel.set_xlabel("time of one decode step, us   (" + f"{step['samples']:,} steps" + (f"; {interruptions(result)}" if interruptions(result) else "") + ")",
                         fontsize=9)
        panel.set_ylabel("steps per bin")
        subs = (1, 2, 5) if high / low > 30 else (1, 1.5, 2, 3, 4, 5, 7) if high / low > 3 else tuple(1 + k / 10 for k in range(90))
        panel.xaxis.set_major_locator(LogLocator(subs=subs, numticks=14))
        panel.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.grid(True, which="major", axis="y", color="#e4e4e4", linewidth=0.6)
        panel.set_axisbelow(True)
    for path in paths:
        figure.savefig(path, dpi=100)


def self_test():
    result = {"model": {"name": "m", "weight_types": "F16"}, "kernel_set": "avx2", "threads": 1,
              "step": {"p50_us": 99.5, "p90_us": 120, "p99_us": 999, "p99_9_us": 1500, "max_us": 20000, "samples": 10000, "position": 256,
                       "interruptions": {"voluntary_switches": 0, "involuntary_switches": 12, "minor_faults": 0, "major_faults": 0}}}
    text = markdown([result])
    assert "| m, F16, avx2, 1 thread, position 256 | 10,000 | 99.5 us | 120 us | 999 us | 1.50 ms | 20.00 ms |" in text, text
    assert "0 voluntary and 12 involuntary" in text
    print("ok")


def main():
    if "--self-test" in sys.argv:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="JSON of keel bench")
    parser.add_argument("--plot", nargs="+", default=[], help="pictures to write")
    arguments = parser.parse_args()
    results = [read(path) for path in arguments.results]
    print(markdown(results))
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
