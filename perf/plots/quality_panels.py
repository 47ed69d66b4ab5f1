"""What the pictures of quality against bytes share (kv_pareto.py, wproj_quality.py): two panels of one look, reports put together, a command line."""
import argparse
import json
import math
import sys


def same_in(documents, keys):
    """The first report, after all were seen to agree in what makes them comparable."""
    for document in documents:
        for key in keys:
            a, b = document[key], documents[0][key]
            if not (math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) else a == b):
                raise SystemExit(f"the reports differ in {key}: {a} and {b}")
    return dict(documents[0])


def two_panels():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "keel"})
    return pyplot.subplots(1, 2, figsize=(12, 5.4), layout="constrained")


def ticks(text):
    """A tick's label: a format of the number, or "" for none."""
    from matplotlib.ticker import FuncFormatter
    return FuncFormatter(lambda tick, _: text.format(tick))


def dress(panel, title, x_label):
    panel.set_xlabel(x_label)
    panel.set_title(title, fontsize=11, loc="left")
    panel.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
    panel.set_axisbelow(True)


def save(figure, paths):
    for path in paths:
        figure.savefig(path, dpi=100)


def command(description, source, read, markdown, plot, self_test):
    """main() of a script: reports of `source` to a table on stdout and, with --plot, to pictures."""
    if "--self-test" in sys.argv:
        return self_test()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help=f"JSON of {source}")
    parser.add_argument("--plot", nargs="+", default=[], help="pictures to write")
    arguments = parser.parse_args()
    reports = []
    for path in arguments.results:
        with open(path) as file:
            document = json.load(file)
        reports.append(document.get("result", document))  # as the command prints it, or inside a file of perf/results
    report = read(reports)
    print(markdown(report))
    if arguments.plot:
        plot(report, arguments.plot)
