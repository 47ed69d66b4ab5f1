#!/usr/bin/env python3
"""Quality of KV formats against their bytes: a table and a picture from reports of `keel eval kv`.

    keel eval kv model.gguf validation.jsonl --formats f16,tcq-3,tcq-4,... --output kv.json
    perf/plots/kv_pareto.py kv.json                                   the table, as Markdown on stdout
    perf/plots/kv_pareto.py kv.json --plot kv_pareto.png    and the picture (needs matplotlib)
    perf/plots/kv_pareto.py --self-test

Several reports of the same text, context and reference may be given: their formats are put together. Bars are 95 % intervals. A
format is on the frontier when none of fewer bytes has a smaller upper end of its interval (in the KL panel: a smaller KL).
"""
from quality_panels import command, dress, same_in, save, ticks, two_panels

SAME = ["model", "text", "reference", "context_tokens", "documents", "tokens", "f16_bytes_per_token"]
COLOURS = ["#1060b0", "#d07a00", "#1a8a4a", "#7a3fa0", "#c03030", "#5a5a5a", "#0098a6", "#8a6d1a", "#d060a0", "#405060"]


def read(documents):
    """The first report with the formats of all; a name that comes again replaces the earlier one."""
    report = same_in(documents, SAME)
    formats = {}
    for document in documents:
        for entry in document["formats"]:
            formats[entry["name"]] = entry
    report["formats"] = sorted(formats.values(), key=lambda entry: -entry["bytes_per_token"])
    return report


def frontier(formats, badness=lambda entry: entry["delta_ppl_percent_95"][1]):
    """Names of the formats that no smaller one beats."""
    best, names = float("inf"), set()
    for entry in sorted(formats, key=lambda entry: (entry["bytes_per_token"], badness(entry))):
        if badness(entry) < best:
            best = badness(entry)
            names.add(entry["name"])
    return names


def markdown(report):
    lines = [f"{report['model']}, {report['documents']} documents, {report['tokens']:,} scored tokens, context {report['context_tokens']:,}"
             f"{' (beyond the ' + format(report['train_context_tokens'], ',') + ' of training)' if report['extrapolated'] else ''}; "
             f"reference {report['reference']}, PPL {report['reference_ppl']:.3f}; f16: {report['f16_bytes_per_token']:,.0f} bytes a token.",
             "", "| format | bytes a token | ratio | delta PPL % | 95 % | KL mean | KL p99 | top-1 % |", "|---|" + "---:|" * 7]
    on = frontier(report["formats"])
    for e in report["formats"]:
        low, high = e["delta_ppl_percent_95"]
        mark = "**" if e["name"] in on else ""
        lines.append(f"| {mark}{e['name']}{mark} | {e['bytes_per_token']:.0f} | {e['ratio']:.2f} | {e['delta_ppl_percent']:+.2f} | {low:+.2f} .. {high:+.2f} | "
                     f"{e['kl_mean']:.5f} | {e['kl_p99']:.4f} | {e['same_top_percent']:.1f} |")
    return "\n".join(lines + ["", "Bold: on the frontier."])


def label_of(entry):
    """The format, or the stem of the profile that chose it."""
    name, _, profile = entry["name"].partition("@")
    return profile.rsplit("/", 1)[-1].removesuffix(".kvp") if name == "profile" and profile else name


def plot(report, paths):
    import numpy
    from matplotlib.ticker import LogLocator
    figure, axes = two_panels()
    formats = [e for e in report["formats"] if e["name"] != report["reference"]]
    families = list(dict.fromkeys(e["family"] for e in formats))

    def ratio_of(size):
        return report["f16_bytes_per_token"] / numpy.maximum(size, 1e-9)

    least = 0.02  # the axis is linear below: differences that small are not told apart
    for panel, value, interval, label in ((axes[0], "delta_ppl_percent", "delta_ppl_percent_95", "change of perplexity, %"),
                                          (axes[1], "kl_mean", None, "mean KL divergence, nats")):
        for index, family in enumerate(families):
            colour = COLOURS[index % len(COLOURS)]
            members = [e for e in formats if e["family"] == family]
            x, y = [e["bytes_per_token"] for e in members], [e[value] for e in members]
            if interval:
                for e in members:
                    panel.plot([e["bytes_per_token"]] * 2, e[interval], color=colour, linewidth=0.9, alpha=0.7)
            panel.plot(x, y, color=colour, linewidth=0.6, linestyle=":", alpha=0.6)
            native = members[0]["native"]
            panel.scatter(x, y, s=26, marker=("oPX" if native else "D^s")[index // len(COLOURS) % 3], facecolor=colour if native else "white", edgecolor=colour, linewidth=1.1, zorder=3, label=family)
        on = frontier(formats) if interval else frontier(formats, lambda e: e["kl_mean"])
        edge = sorted((e for e in formats if e["name"] in on), key=lambda e: e["bytes_per_token"])
        panel.plot([e["bytes_per_token"] for e in edge], [e[value] for e in edge], color="#222222", linewidth=1.0, zorder=2)
        for k, e in enumerate(edge):
            panel.annotate(label_of(e), (e["bytes_per_token"], e[value]), xytext=(5, 7 if k % 2 else -11), textcoords="offset points", fontsize=7, color="#222222")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7), numticks=14))
        panel.xaxis.set_minor_formatter(ticks(""))
        panel.xaxis.set_major_formatter(ticks("{:,.0f}"))
        if interval:
            panel.set_yscale("symlog", linthresh=least)
            panel.set_ylim(bottom=-2 * least)
            panel.yaxis.set_major_formatter(ticks("{:g}"))
            for threshold in (0.5, 1, 2):
                panel.axhline(threshold, color="#c03030", linewidth=0.5, linestyle="--")
        else:
            panel.set_yscale("log")
        dress(panel, label, "bytes a token" + (", as planned for the context; published codecs: what they encoded" if interval else ""))
        low, high = panel.get_xlim()
        second = panel.secondary_xaxis("top", functions=(ratio_of, ratio_of))  # its own inverse
        second.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 7, 8), numticks=16))
        second.xaxis.set_major_formatter(ticks("{:g}x"))
        second.xaxis.set_minor_formatter(ticks(""))
        panel.set_xlim(low, high)
    axes[1].legend(fontsize=7, frameon=False, ncols=2, loc="best")
    save(figure, paths)


def self_test():
    def entry(name, size, ppl, half):
        return {"name": name, "family": name.split("-")[0], "native": True, "bytes_per_token": size, "ratio": 4096 / size, "delta_ppl_percent": ppl,
                "delta_ppl_percent_95": [ppl - half, ppl + half], "kl_mean": ppl / 100, "kl_p99": ppl / 10, "same_top_percent": 95.0}

    def report(*formats):
        return {"model": "m", "text": "t", "reference": "f16", "context_tokens": 4096, "train_context_tokens": 2048, "extrapolated": True, "documents": 2,
                "tokens": 8192, "f16_bytes_per_token": 4096.0, "reference_ppl": 40.0, "formats": list(formats)}

    both = read([report(entry("tcq-3", 832, 0.3, 0.1), entry("tcq-2", 576, 1.7, 0.4)), report(entry("e8-3", 840, 0.5, 0.1), entry("tcq-2", 576, 1.6, 0.4))])
    assert [e["name"] for e in both["formats"]] == ["e8-3", "tcq-3", "tcq-2"] and both["formats"][2]["delta_ppl_percent"] == 1.6
    assert frontier(both["formats"]) == {"tcq-3", "tcq-2"}
    text = markdown(both)
    assert "| **tcq-2** | 576 | 7.11 | +1.60 | +1.20 .. +2.00 | 0.01600 | 0.1600 | 95.0 |" in text and "| e8-3 |" in text, text
    assert "(beyond the 2,048 of training)" in text
    assert label_of({"name": "profile@a/b5.2.kvp"}) == "b5.2" and label_of({"name": "tcq-3@p.kvp"}) == "tcq-3"
    other = report(entry("x", 1, 1, 1))
    other["text"] = "u"
    try:
        read([both, other])
    except SystemExit as error:
        assert "differ in text" in str(error)
    else:
        raise AssertionError("reports of different texts were put together")
    print("ok")


if __name__ == "__main__":
    command(__doc__, "keel eval kv", read, markdown, plot, self_test)
