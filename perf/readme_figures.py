#!/usr/bin/env python3
"""Writes the figures of README.md from perf/results/*.json, between the two marker lines.

    perf/readme_figures.py           updates README.md
    perf/readme_figures.py --check   exits 1 when README.md does not show what the results say
"""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def rate(spread):
    return f"{spread['median']:,.0f} ({spread['lowest']:,.0f} .. {spread['highest']:,.0f})"


def duration(us):
    return f"{us / 1000:.2f} ms" if us >= 1000 else f"{us:.0f} us"


def where(document):
    machine = document["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores"


def bench_rows(documents):
    for d in documents:
        r = d["result"]
        prefill, decode, step = r["prefill"][0], r["decode"][0], r["step"]
        cached = "stream_working_set" in r
        fastest = r["stream_working_set" if cached else "stream"]["gb_per_s"]["highest"]
        yield [d["title"], f"{r['kernel_set']}, {r['threads']}", rate(prefill), rate(decode),
               f"{100 * decode['gb_per_s'] / fastest:.0f} % of {'working set' if cached else 'memory'}",
               f"{duration(step['p50_us'])} / {duration(step['p99_us'])} / {duration(step['max_us'])}",
               f"{duration(r['slice']['p50_us'])} / {duration(r['slice']['p99_us'])}" if "slice" in r else "",
               str(r["arena_allocations_after_init"])]


def eval_rows(documents):
    for d in documents:
        r = d["result"]
        yield [d["title"], f"{r['tokens']:,}", f"{r['nll']:.5f}",
               f"{r['ppl']:.3f} ({r['ppl_95'][0]:.2f} .. {r['ppl_95'][1]:.2f})", f"{r['bits_per_byte']:.5f}", r["protocol"]]


def generated():
    documents = [json.loads(path.read_text()) for path in sorted((ROOT / "perf/results").glob("*.json"))]
    benches = [d for d in documents if d.get("figure", "").startswith("bench_")]
    evals = [d for d in documents if d.get("figure", "").startswith("eval_")]
    documents = benches + evals  # other results, such as kernels and peers, have tables of their own
    lines = []
    if benches:
        lines += table(["model", "kernels, threads", "prefill tok/s", "decode tok/s", "decode bandwidth",
                        "token p50 / p99 / max", "2 ms slices p50 / p99", "allocations after init"], bench_rows(benches))
        lines += ["", "Medians (lowest .. highest) over repeats. Bandwidth is relative to the fastest read-only stream of the "
                  "same run: over four times the last-level cache, or, where the model fits the cache, over an equal working set.", ""]
    if evals:
        lines += table(["model and text", "tokens", "NLL", "PPL (95 %)", "bits per byte", "protocol"], eval_rows(evals))
        lines += [""]
    for line in sorted({f"{d['date']}, {where(d)}" for d in documents}):
        loads = [d["load_before"] for d in documents if f"{d['date']}, {where(d)}" == line]
        lines += [f"Measured {line}, other load {min(loads):.1f} .. {max(loads):.1f}; commands and flags in `perf/results/`.", ""]
    return "\n".join(lines).strip() or "No figures yet: run `perf/end_to_end.py`."


def main():
    readme = ROOT / "README.md"
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit("README.md must have each of the two figure markers once")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    expected = f"{before}{BEGIN}\n{generated()}\n{END}{after}"
    if "--check" not in sys.argv:
        readme.write_text(expected)
    elif text != expected:
        sys.exit("README.md does not show the figures of perf/results: run perf/readme_figures.py")


if __name__ == "__main__":
    main()
