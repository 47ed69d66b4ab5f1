#!/usr/bin/env python3
"""Quality of W_proj caches against the bytes a token moves: a table and a picture from reports of `keel wproj compare`.

    keel wproj compare model.gguf validation.jsonl --calibration calibration.jsonl --ranks 0.25,0.375 --json > wproj.json
    perf/plots/wproj_quality.py wproj.json                                    the table, as Markdown on stdout
    perf/plots/wproj_quality.py wproj.json --plot wproj_quality.png    and the picture (needs matplotlib)
    perf/plots/wproj_quality.py --self-test

Several reports of the same model and text may be given: their entries are put together. A line joins the entries of one family, which differ in
their ranks alone. Bars are 95 % intervals; the square is the dense variant. Points of equal bytes are drawn a
little apart.
"""
from quality_panels import command, dress, same_in, save, ticks, two_panels

SAME = ["model", "text", "documents", "tokens", "dense_nll", "dense_decode_bytes"]
COLOURS = ["#c03030", "#d07a00", "#1060b0", "#1a8a4a", "#7a3fa0", "#5a5a5a", "#0098a6", "#8a6d1a", "#d060a0", "#405060"]
MARKERS = "svoD^<>P"


def read(documents):
    """The first report with the entries of all; a name that comes again with the same groups replaces the earlier one."""
    report = same_in(documents, SAME)
    groups = list(dict.fromkeys(document["groups"] for document in documents if document["groups"]))  # null: of no cache
    entries = {}
    for document in documents:
        for entry in document["entries"]:
            entry = dict(entry)
            if len(groups) > 1 and document["groups"]:
                for key in ("name", "family"):
                    entry[key] = f"{document['groups']}: {entry[key]}"
            entries[entry["name"]] = entry
    report["groups"] = " and ".join(groups)
    report["entries"] = list(entries.values())
    return report


def rate_ratio(entry):
    """Median of the dense variant's time over this one's, round by round; None where decoding was not timed."""
    ratios = sorted(a / b for a, b in zip(entry.get("tokens_per_s", []), entry.get("dense_tokens_per_s", [])))
    return (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2 if ratios else None


def known(value, form):
    return "" if value is None else format(value, form)


def markdown(report):
    lines = [f"{report['model']}, {report['documents']} documents, {report['tokens']:,} scored tokens; projections {report['groups']}; "
             f"dense: PPL {report['dense_ppl']:.3f}, {report['dense_decode_bytes']:,} bytes a token.",
             "", "| cache | records | bytes a token | of dense | delta PPL % | 95 % | KL | top-1 % | decoding, of dense |", "|---|" + "---:|" * 8]
    for e in report["entries"]:
        low, high = e["delta_ppl_percent_95"]
        ratio = rate_ratio(e)
        lines.append(f"| {e['name']} | {e['records']} | {e['decode_bytes']:,} | {100 * e['decode_bytes'] / report['dense_decode_bytes']:.1f} % | {e['delta_ppl_percent']:+.2f} | "
                     f"{low:+.2f} .. {high:+.2f} | {known(e['kl'], '.5f')} | {known(e['top1_percent'], '.1f')} | {known(ratio, '.2f')} |")
    return "\n".join(lines)


def families_of(report):
    """Entries by family in the order of the report, each by bytes."""
    families = {}
    for entry in report["entries"]:
        families.setdefault(entry["family"], []).append(entry)
    return {family: sorted(members, key=lambda e: e["decode_bytes"]) for family, members in families.items()}


def plot(report, paths):
    from matplotlib.ticker import LogLocator, MaxNLocator
    figure, axes = two_panels()
    dense = report["dense_decode_bytes"]
    families = families_of(report)
    for panel, value, interval, label in ((axes[0], "delta_ppl_percent", "delta_ppl_percent_95", "change of perplexity, %"), (axes[1], "kl", None, "mean KL divergence, nats")):
        shown = [e[value] for e in report["entries"] if e[value] is not None and e[value] > 0]
        width = dense - min(e["decode_bytes"] for e in report["entries"])
        for index, (family, members) in enumerate(families.items()):
            members = [e for e in members if e[value] is not None]
            aside = 0.008 * width * (index - (len(families) - 1) / 2)  # so that families of equal bytes do not hide each other
            colour, x, y = COLOURS[index % len(COLOURS)], [(e["decode_bytes"] + aside) / 1e6 for e in members], [e[value] for e in members]
            if interval:
                for size, e in zip(x, members):
                    panel.plot([size] * 2, e[interval], color=colour, linewidth=1.1, alpha=0.6)
            panel.plot(x, y, color=colour, linewidth=1.1, marker=MARKERS[index % len(MARKERS)], markersize=5, markerfacecolor="white", zorder=3, label=family)
            if len(members) > 1 and index == 0:  # shares are those of the same bytes in the other families
                for size, e in zip(x, members):
                    if e["share"]:
                        panel.annotate(f"k/n {e['share']:g}" if "k/n" in e["name"] else f"{e['share']:g} of the bytes", (size, e[value]), xytext=(7, 3), textcoords="offset points", fontsize=7, color="#222222")
        panel.axvline(dense / 1e6, color="#222222", linewidth=0.8, linestyle="--")
        if interval:
            panel.axhline(0, color="#222222", linewidth=0.8)
            panel.plot([dense / 1e6], [0], marker="s", color="#222222", markersize=6, linestyle="none", zorder=4, label="dense")
            least = max(min(shown), 0.1) if shown else 0.1
            if shown and max(shown) > 5 * least:  # linear up to the least, a logarithm beyond
                panel.set_yscale("symlog", linthresh=least, linscale=0.4)
                panel.set_yticks([sign * step * 10.0**power for power in range(-1, 4) for step in (1, 2, 5) for sign in (-1, 1) if step * 10.0**power >= 0.5 * least] + [0])
                panel.set_ylim(min([-0.3 * least] + [e[interval][0] * 1.05 for e in report["entries"]]), 1.1 * max(e[interval][1] for e in report["entries"]))
            panel.yaxis.set_major_formatter(ticks("{:g}"))
        elif shown:
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=14))
            panel.yaxis.set_major_formatter(ticks("{:g}"))
            panel.yaxis.set_minor_formatter(ticks(""))
        panel.annotate("dense", (dense / 1e6, 1), xycoords=("data", "axes fraction"), xytext=(-4, -2), textcoords="offset points", fontsize=7, color="#222222", ha="right", va="top")
        panel.xaxis.set_major_locator(MaxNLocator(8))
        dress(panel, label, "MB a token moves in decoding, as planned")
        second = panel.secondary_xaxis("top", functions=(lambda size: 1e8 * size / dense, lambda percent: percent * dense / 1e8))
        second.xaxis.set_major_locator(MaxNLocator(8))
        second.xaxis.set_major_formatter(ticks("{:g} %"))
    axes[0].legend(fontsize=7, frameon=False, loc="best")
    save(figure, paths)


def self_test():
    def entry(family, share, size, ppl):
        return {"name": f"{family}, k/n = {share}", "family": family, "share": share, "sensitivity_power": 0, "records": 24, "record_bytes": size // 2, "decode_bytes": size,
                "delta_ppl_percent": ppl, "delta_ppl_percent_95": [ppl - 1, ppl + 1], "ppl": 40 + ppl, "kl": ppl / 100, "top1_percent": 90.0}

    def report(groups, *entries):
        return {"model": "m", "text": "t", "tokens": 1024, "documents": 4, "dense_nll": 3.7, "dense_ppl": 40.4, "dense_decode_bytes": 10000, "groups": groups, "entries": list(entries)}

    first, second = entry("a", 0.5, 9000, 2.0), entry("a", 0.25, 8000, 5.0)
    timed = dict(entry("b", 0.5, 9000, 1.0), tokens_per_s=[110, 130, 100, 100], dense_tokens_per_s=[100, 100, 100, 50])
    one = read([report("qkv", first), report("qkv", second, timed)])
    assert [e["decode_bytes"] for e in families_of(one)["a"]] == [8000, 9000] and list(families_of(one)) == ["a", "b"]
    assert abs(rate_ratio(timed) - 1.2) < 1e-12 and rate_ratio(first) is None
    text = markdown(one)
    assert "| b, k/n = 0.5 | 24 | 9,000 | 90.0 % | +1.00 | +0.00 .. +2.00 | 0.01000 | 90.0 | 1.20 |" in text, text
    both = read([report("qkv", first), report("ffn", first)])
    assert list(families_of(both)) == ["qkv: a", "ffn: a"] and both["groups"] == "qkv and ffn"
    alone = read([report("qkv", first), report(None, dict(entry("q", 0.5, 7000, 1.0), kl=None, top1_percent=None))])
    assert alone["groups"] == "qkv" and list(families_of(alone)) == ["a", "q"] and "| +0.00 .. +2.00 |  |  |  |" in markdown(alone), markdown(alone)
    other = report("qkv", first)
    other["dense_nll"] = 3.8
    try:
        read([report("qkv", first), other])
    except SystemExit as error:
        assert "differ in dense_nll" in str(error)
    else:
        raise AssertionError("reports of different references were put together")
    print("ok")


if __name__ == "__main__":
    command(__doc__, "keel wproj compare", read, markdown, plot, self_test)
