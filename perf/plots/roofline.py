#!/usr/bin/env python3
"""Every kernel beside what the machine can do: a table and a picture from one run of keel_kernels_bench.

    build/release/perf/keel_kernels_bench --benchmark_format=json >kernels.json
    perf/plots/roofline.py kernels.json                                   the table, as Markdown on stdout
    perf/plots/roofline.py kernels.json --plot roofline.png  and the picture (needs matplotlib)
    perf/plots/roofline.py --self-test

Ceilings are cases of the same run: stream/memory and stream/cached (bytes per second), peak/fma/ISA and peak/int8/ISA
(operations per second with operands in registers). The 8-bit peak of avx2 sums four products in 16 bits, which 8-bit codes
cannot do. With --benchmark_repetitions every figure is the median.
"""
import argparse
import json
import math
import statistics
import sys

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]
ISAS = ["scalar", "avx2", "avx512", "amx", "neon", "neon_dotprod", "neon_i8mm"]
PRODUCTS = ["matmul_f32", "matmul_q8", "matmul_repacked"]


def read(document):
    """{case name: {"bytes": per second, "operations": per second, "seconds": per iteration of CPU time}}"""
    runs = {}
    for entry in document["benchmarks"]:
        if entry.get("run_type", "iteration") != "iteration" or entry.get("error_occurred"):
            continue
        unit = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[entry["time_unit"]]
        runs.setdefault(entry.get("run_name", entry["name"]), []).append(
            (entry.get("B/s", 0.0), entry.get("op/s", 0.0), entry["cpu_time"] * unit))
    # Aggregates alone (--benchmark_report_aggregates_only) serve as well.
    for entry in document["benchmarks"]:
        if entry.get("aggregate_name") == "median" and entry["run_name"] not in runs:
            unit = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[entry["time_unit"]]
            runs[entry["run_name"]] = [(entry.get("B/s", 0.0), entry.get("op/s", 0.0), entry["cpu_time"] * unit)]
    return {name: dict(zip(("bytes", "operations", "seconds"), (statistics.median(column) for column in zip(*values))))
            for name, values in runs.items()}


class Roofs:
    def __init__(self, cases):
        self.cases = cases
        self.memory, self.cached = (cases.get(f"stream/{kind}", {}).get("bytes", 0.0) for kind in ("memory", "cached"))

    def peak(self, product, isa):
        kind = "fma" if product == "matmul_f32" else "int8"
        return self.cases.get(f"peak/{kind}/{isa}", {}).get("operations", 0.0)

    def product(self, product, type_name, isa, columns, where):
        return self.cases.get(f"{product}/{type_name}/{isa}/columns:{columns}/{where}")

    def isas(self):
        return [isa for isa in ISAS if any(f"/{isa}" in name for name in self.cases)]

    def types(self, product, isa):
        return [t for t in TYPES if any(name.startswith(f"{product}/{t}/{isa}/") for name in self.cases)]

    def compute_bound(self, product, type_name, isa, columns):
        """Whether the arithmetic of so many columns takes longer than reading the weights once, at both ceilings."""
        one, peak = self.product(product, type_name, isa, 1, "memory"), self.peak(product, isa)
        if not one or not peak or not self.memory or not one["bytes"]:
            return False
        return columns * one["operations"] / one["bytes"] > peak / self.memory


# ---- the table ----
def percent(value, ceiling):
    return f" ({100 * value / ceiling:.0f} %)" if ceiling else ""


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)] + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def markdown(roofs):
    lines = [f"Read-only streams, 1 thread: memory {roofs.memory / 1e9:.1f} GB/s, cached {roofs.cached / 1e9:.1f} GB/s."]
    for isa in roofs.isas():
        fma, int8 = roofs.peak("matmul_f32", isa), roofs.peak("matmul_q8", isa)
        if fma or int8:
            lines += [f"Peaks of {isa}: f32 FMA {fma / 1e9:.0f} GFLOP/s, 8-bit products {int8 / 1e9:.0f} GOP/s."]
    lines += [""]
    for isa in roofs.isas():
        rows = []
        for product in PRODUCTS:
            for type_name in roofs.types(product, isa):
                case = lambda columns, where: roofs.product(product, type_name, isa, columns, where)  # noqa: E731
                row = [f"{type_name} {product.removeprefix('matmul_')}"]
                for where, stream in (("memory", roofs.memory), ("cached", roofs.cached)):
                    one = case(1, where)
                    row += [f"{one['bytes'] / 1e9:.1f}{percent(one['bytes'], stream)}" if one else ""]
                one = case(1, "memory")
                row += [f"{one['operations'] / 1e9:.0f}{percent(one['operations'], roofs.peak(product, isa))}" if one else ""]
                for columns in (4, 8):
                    several = case(columns, "memory")
                    mark = "*" if roofs.compute_bound(product, type_name, isa, columns) else ""
                    row += [f"{several['seconds'] / one['seconds']:.2f}{mark}" if one and several else ""]
                many = case(128, "cached")
                row += [f"{many['operations'] / 1e9:.0f}{percent(many['operations'], roofs.peak(product, isa))}" if many else ""]
                rows.append(row)
        if rows:
            lines += [f"#### {isa}: matrix products", ""]
            lines += table(["weights, activations", "1 column, GB/s (of memory)", "cached, GB/s (of cached)", "1 column, GOP/s (of peak)",
                            "4 columns / 1, time", "8 columns / 1, time", "128 columns, GOP/s (of peak)"], rows)
        others = sorted(name for name in roofs.cases if f"/{isa}" in name and name.split("/")[0] not in PRODUCTS + ["peak", "stream"])
        rows = []
        for name in others:
            c = roofs.cases[name]
            # The rows of other kernels lie in the first-level cache, which the cached stream says nothing about.
            stream = 0 if not name.startswith("attention/") else roofs.memory if name.endswith("/memory") else roofs.cached
            rows.append([name.replace(f"/{isa}", ""), f"{c['bytes'] / 1e9:.1f}{percent(c['bytes'], stream)}",
                         f"{c['operations'] / 1e9:.1f}{percent(c['operations'], roofs.peak('matmul_f32', isa))}"])
        if rows:
            lines += [f"#### {isa}: the rest", ""] + table(["kernel", "GB/s (attention: of cached, or of memory)", "G operations/s (of FMA peak)"], rows)
    lines += ["Columns over 1 from memory: a star where the arithmetic alone, at its peak, takes longer than the read stream."]
    return "\n".join(lines)


# ---- the picture ----
COLOURS = {"avx2": "#d07a00", "avx512": "#1060b0", "amx": "#7a3fa0", "neon": "#1a8a4a", "neon_dotprod": "#0f6f8f", "neon_i8mm": "#6b8e23"}
CASES = [(1, "memory", "o"), (4, "memory", "^"), (8, "memory", "s"), (128, "cached", "D")]


def roofline(axes, roofs, title, products, fma):
    """Operations per second over operations per byte, below the two kinds of ceiling."""
    from matplotlib.ticker import FuncFormatter
    axes.set_title(title, fontsize=11, loc="left")
    x = [2 ** (k / 4) for k in range(-8, 45)]
    isas = [isa for isa in roofs.isas() if isa in COLOURS and roofs.peak(products[0], isa)]
    top = max([roofs.peak(products[0], isa) for isa in isas], default=1e12)
    for isa in isas:
        peak = roofs.peak(products[0], isa)
        axes.plot(x, [min(peak, roofs.memory * i) / 1e9 for i in x], color=COLOURS[isa], linewidth=1.2)
        axes.plot(x, [min(peak, roofs.cached * i) / 1e9 for i in x], color=COLOURS[isa], linewidth=0.8, linestyle=":")
        axes.annotate(f"{isa} peak {peak / 1e9:.0f}", (1900, peak / 1e9), xytext=(0, 2), textcoords="offset points", ha="right", va="bottom",
                      fontsize=8, color=COLOURS[isa])
    for isa in isas:
        for columns, where, marker in CASES:
            points = []
            for product in products:
                for type_name in roofs.types(product, isa):
                    c = roofs.product(product, type_name, isa, columns, where)
                    if c and c["bytes"] and c["operations"]:
                        points.append((c["operations"] / c["bytes"], c["operations"] / 1e9))
            if points:
                axes.scatter(*zip(*points), marker=marker, s=18, facecolor="none" if where == "cached" else COLOURS[isa],
                             edgecolor=COLOURS[isa], linewidth=0.8, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.25, 2000)
    axes.set_ylim(5, top / 1e9 * 2)
    axes.set_xlabel("operations per byte moved")
    axes.set_ylabel("GFLOP/s" if fma else "GOP/s")
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)


def name_streams(axes, roofs):
    """Writes the streams along their lines; needs the final layout."""
    for stream, words in ((roofs.memory, "memory"), (roofs.cached, "cached")):
        (x0, y0), (x1, y1) = axes.transData.transform([(0.3, 0.3 * stream / 1e9), (0.6, 0.6 * stream / 1e9)])
        axes.annotate(f"{words} {stream / 1e9:.0f} GB/s", (0.33, 0.33 * stream / 1e9), xytext=(-3, 3), textcoords="offset points", fontsize=8,
                      color="#444444", rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)), rotation_mode="anchor", va="bottom")


def dots(axes, roofs, title, value, products):
    """One row per weight type: percent of a ceiling, a dot for each instruction set and product."""
    axes.set_title(title, fontsize=11, loc="left")
    types = [t for t in TYPES if any(t in roofs.types(product, isa) for product in products for isa in COLOURS)]
    for row, type_name in enumerate(types):
        for isa, colour in COLOURS.items():
            for product in products:
                percent_value = value(product, type_name, isa)
                if percent_value is not None:
                    plain = product != "matmul_repacked"
                    axes.scatter([percent_value], [row], s=26, marker="o" if plain else "D", facecolor=colour if plain else "white",
                                 edgecolor=colour, linewidth=1.2, zorder=3)
    axes.set_yticks(range(len(types)), types, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_xlabel("percent")
    axes.grid(True, axis="both", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def plot(roofs, paths):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot
    from matplotlib.lines import Line2D
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "keel"})
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 9.4), layout="constrained")

    def of_stream(product, type_name, isa):
        c = roofs.product(product, type_name, isa, 1, "memory")
        return 100 * c["bytes"] / roofs.memory if c and roofs.memory else None

    def of_peak(product, type_name, isa):
        c = roofs.product(product, type_name, isa, 128, "cached")
        return 100 * c["operations"] / roofs.peak(product, isa) if c and roofs.peak(product, isa) else None

    roofline(axes[0][0], roofs, "f32 activations", ["matmul_f32"], True)
    roofline(axes[0][1], roofs, "8-bit activations (plain and interleaved)", ["matmul_q8", "matmul_repacked"], False)
    floats = TYPES[:3]
    natural = lambda value: lambda product, t, isa: value(product, t, isa) if (product == "matmul_f32") == (t in floats) else None  # noqa: E731
    dots(axes[1][0], roofs, "1 column, weights in memory: % of the memory stream", natural(of_stream), PRODUCTS)
    dots(axes[1][1], roofs, "128 columns: % of the arithmetic peak", natural(of_peak), PRODUCTS)
    isas = [isa for isa in roofs.isas() if isa in COLOURS]
    handles = [Line2D([], [], color=COLOURS[isa], linewidth=3, label=isa) for isa in isas]
    handles += [Line2D([], [], color="#444444", marker=m, linestyle="", markerfacecolor="none" if w == "cached" else "#444444",
                       label=f"{c} column{'s' if c > 1 else ''}, {w}") for c, w, m in CASES]
    handles += [Line2D([], [], color="#444444", linewidth=1.2, label="memory roof"),
                Line2D([], [], color="#444444", linewidth=0.8, linestyle=":", label="cached roof")]
    axes[0][0].legend(handles=handles, fontsize=8, loc="lower right", frameon=False)
    axes[1][0].legend(handles=[Line2D([], [], color="#444444", marker="o", linestyle="", label="plain"),
                               Line2D([], [], color="#444444", marker="D", linestyle="", markerfacecolor="white", label="interleaved")],
                      fontsize=8, loc="lower left", frameon=False)
    figure.draw_without_rendering()
    for axis in axes[0]:
        name_streams(axis, roofs)
    for path in paths:
        figure.savefig(path, dpi=100)


def self_test():
    def entry(name, seconds, bytes_per_s=0.0, operations=0.0, **more):
        return {"name": name, "run_name": name, "run_type": "iteration", "cpu_time": seconds * 1e9, "time_unit": "ns", "B/s": bytes_per_s,
                "op/s": operations, **more}

    document = {"benchmarks": [
        entry("stream/memory", 1, 40e9), entry("stream/cached", 1, 100e9), entry("peak/int8/avx2", 1, 0, 400e9), entry("peak/fma/avx2", 1, 0, 120e9),
        *[entry("matmul_q8/Q4_K/avx2/columns:1/memory", s, 30e9, 100e9) for s in (1.0, 5.0, 1.0)],
        entry("matmul_q8/Q4_K/avx2/columns:4/memory", 1.25, 20e9, 300e9),
        entry("matmul_q8/Q4_K/avx2/columns:128/cached", 1, 1e9, 300e9),
        entry("add/avx2", 1, 50e9, 12e9),
        {"run_name": "scale/avx2", "name": "scale/avx2_median", "aggregate_name": "median", "run_type": "aggregate", "cpu_time": 1, "time_unit": "ms", "B/s": 5e9}]}
    roofs = Roofs(read(document))
    assert roofs.isas() == ["avx2"] and roofs.types("matmul_q8", "avx2") == ["Q4_K"]
    assert not roofs.compute_bound("matmul_q8", "Q4_K", "avx2", 1) and roofs.compute_bound("matmul_q8", "Q4_K", "avx2", 4)
    text = markdown(roofs)
    assert "| Q4_K q8 | 30.0 (75 %) |  | 100 (25 %) | 1.25* |  | 300 (75 %) |" in text, text
    assert "| add | 50.0 | 12.0 (10 %) |" in text and "| scale | 5.0 |" in text, text
    print("ok")


def main():
    if "--self-test" in sys.argv:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="JSON of keel_kernels_bench")
    parser.add_argument("--plot", nargs="+", default=[], help="pictures to write")
    arguments = parser.parse_args()
    with open(arguments.results) as file:
        roofs = Roofs(read(json.load(file)))
    if not roofs.memory or not roofs.cached:
        sys.exit("the run has no stream/memory and stream/cached: do not filter them out")
    print(markdown(roofs))
    if arguments.plot:
        plot(roofs, arguments.plot)


if __name__ == "__main__":
    main()
