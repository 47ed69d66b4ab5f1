#!/usr/bin/env python3
"""Keel beside llama.cpp and ik_llama.cpp: the same files, in one session, in turn.

    perf/peers/compare.py --llama LLAMA_BUILD --ik IK_BUILD --work DIR
    perf/peers/compare.py --llama LLAMA_BUILD model.gguf other.gguf --minutes 10
    perf/peers/compare.py --self-test

How it measures (README.md beside this file says how the peers are built):

* Every engine is tuned first: one flag after the other (threads, repacking, huge pages, flash attention, mmap, micro-batch) is tried
  and the best is kept, for each kind of test by itself. Files of the same weight types share the result, and
  --tuned RESULT.json takes it from an earlier run.
* Then rounds: Keel, llama.cpp, ik_llama.cpp, Keel, llama.cpp, ... Each measures every test once per round. A ratio is taken
  within a round; the table shows the median and the smallest and largest round. --minutes bounds the number of rounds,
  but --least-rounds are always made.
* Prompts up to 512 tokens are run twice and the second run counts; longer ones are run once, after a short one.
  Decode rates are of --decode tokens after `depth` tokens. Tests beyond the context a model was trained for are left out.
* The read-only stream is measured by Keel in every round, before and after its tests and with the same threads. A
  percentage is bytes one step must move (Keel's plan: every weight once, K and V) times the rate of each engine, over
  the fastest stream of the same round.

Markdown goes to stdout, everything else to --output.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "perf"))
from end_to_end import BUNDLED, machine, output  # noqa: E402

SHORT_PROMPT = 512  # tokens


def note(text):
    print(f"[{time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr, flush=True)


def run_json(command):
    """The JSON document a command prints, or None when it failed (with its last words on stderr)."""
    run = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    start = re.search(r"^[\[{]", run.stdout, re.MULTILINE)
    if run.returncode == 0 and start:
        try:
            return json.loads(run.stdout[start.start():])
        except json.JSONDecodeError as error:
            run.stderr += str(error)
    note(f"failed ({run.returncode}): {shlex.join(str(word) for word in command)}\n" + "\n".join(run.stderr.split("\n")[-6:]))
    return None


# A test is ("prefill", tokens) or ("decode", depth). A configuration is a dict of flags; "threads" is always there.
def name_of(test):
    return f"prefill {test[1]}" if test[0] == "prefill" else f"decode at {test[1]}"


def by_config(configs):
    """{test: configuration} as a list of (configuration, tests), each configuration once."""
    groups = {}
    for test, config in configs.items():
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(test)
    return [(json.loads(key), tests) for key, tests in groups.items()]


class Keel:
    name = "keel"

    def __init__(self, binary, threads, flags, decode):
        self.binary, self.flags, self.decode = binary, flags, decode
        self.base = {"threads": threads, "weights": "copy"}
        self.alternatives = {"weights": ["repack"], "threads": fewer(threads)}
        self.version = output(str(binary), "--version").replace("keel ", "")
        commit, changes = output("git", "rev-parse", "--short=12", "HEAD"), output("git", "status", "--porcelain", "-uno")
        self.version += f" ({commit}{', with changes' if changes else ''})"
        self.seen = {}

    def flags_of(self, config):
        return ["--threads", config["threads"], "--weights", config["weights"]] + self.flags

    def measure(self, file, tests, config):
        """{test: tokens per second}. Also keeps, for the percentages: self.seen = what keel bench printed."""
        prompts = [tokens for kind, tokens in tests if kind == "prefill"]
        depths = sorted((tokens for kind, tokens in tests if kind == "decode"), reverse=True)
        # The short prompts first, so that what the longest leaves in the session serves the depths.
        command = [self.binary, "bench", file, "--prefill", ",".join(map(str, sorted(prompts))) or "0", "--steps", 0, "--budget-us", 0,
                   "--repeats", 1, "--decode", self.decode if depths else 0, "--json"]
        if depths:
            command += ["--depth", ",".join(map(str, depths))]
        result = run_json(command + self.flags_of(config))
        if not result:
            return {}
        self.seen = result
        rates = {("prefill", entry["tokens"]): entry["median"] for entry in result["prefill"]}
        rates.update({("decode", entry["depth"]): entry["median"] for entry in result["decode"]})
        return rates

    def sessions_ratio(self, file, config, sessions):
        """Time of a decode step of `sessions` sessions over that of one, at depth 0."""
        result = run_json([self.binary, "bench", file, "--prefill", 0, "--depth", 0, "--decode", self.decode, "--steps", 0, "--repeats",
                           3, "--sessions", sessions, "--json"] + self.flags_of(config))
        if not result:
            return None
        one, several = (next(e for e in result["decode"] if e["sessions"] == n) for n in (1, sessions))
        return sessions * one["median"] / several["median"]


class LlamaBench:
    """llama-bench of llama.cpp or of ik_llama.cpp; which flags it has is read from its --help."""

    def __init__(self, name, build, threads, decode, commit):
        self.name, self.decode, self.commit = name, decode, commit
        self.binary = pathlib.Path(build).resolve() / "bin" / "llama-bench"
        if not self.binary.exists():
            sys.exit(f"no llama-bench under {build}/bin")
        self.help = subprocess.run([self.binary, "--help"], capture_output=True, text=True).stdout
        self.base, self.alternatives = self.dimensions(threads)
        self.version = commit or "unknown"

    def has(self, flag):
        return re.search(rf"(^|[\s,]){re.escape(flag)}[\s,]", self.help) is not None

    def dimensions(self, threads):
        base, alternatives = {"threads": threads}, {}
        if self.has("--repack"):
            base["repack"], alternatives["repack"] = 1, [0]
        if self.has("-rtr"):
            base["rtr"], alternatives["rtr"] = 1, [0]
        if self.has("-thp"):
            base["thp"], alternatives["thp"] = 0, [1]
        base["fa"], alternatives["fa"] = 1, [0]
        base["mmap"], alternatives["mmap"] = 1, [0]
        alternatives["threads"] = fewer(threads)
        base["ubatch"] = 512
        return base, alternatives

    def flags_of(self, config):
        words = {"on": ("on", "off"), "1": ("1", "0")}["on" if re.search(r"--flash-attn <on\|", self.help) else "1"]
        flags = ["-t", config["threads"], "-fa", words[0] if config["fa"] else words[1], "-ub", config["ubatch"]]
        if self.has("--load-mode"):
            flags += ["-lm", "mmap" if config["mmap"] else "none"]
        else:
            flags += ["-mmp", config["mmap"]]
        if "repack" in config:
            flags += ["--repack", config["repack"]]
        if "rtr" in config:
            flags += ["-rtr", config["rtr"]]
        if config.get("thp"):
            flags += ["-thp", 1]
        return flags

    def commands(self, file, tests, config):
        """The command lines that measure the tests."""
        head = [self.binary, "-m", file] + self.flags_of(config) + ["-o", "json"]
        cold = ["--no-warmup"] if self.has("--no-warmup") else ["-w", "0"]
        prompts = sorted(tokens for kind, tokens in tests if kind == "prefill")
        short, long = ([p for p in prompts if (p <= SHORT_PROMPT) == wanted] for wanted in (True, False))
        depths = sorted(tokens for kind, tokens in tests if kind == "decode")
        commands = []
        if short:
            commands.append(head + cold + ["-n", 0, "-r", 2, "-p", ",".join(map(str, short))])
        if long:
            commands.append(head + cold + ["-n", 0, "-r", 1, "-p", ",".join(map(str, [32] + long))])
        if depths and self.has("-d"):
            commands.append(head + ["-p", 0, "-n", self.decode, "-r", 1, "-d", ",".join(map(str, depths))])
        elif depths:
            command = head + ["-p", 0, "-r", 1, "-n", self.decode if 0 in depths else 0]
            for depth in depths:
                command += ["-gp", f"{depth},{self.decode}"] if depth else []
            commands.append(command)
        return commands

    def rates_in(self, entries):
        rates = {}
        for entry in entries:
            if not self.commit and entry.get("build_commit", "unknown") != "unknown":
                self.version = f"{entry['build_commit']} (build {entry.get('build_number', '?')})"
            prompt, generated = entry["n_prompt"], entry["n_gen"]
            nanoseconds = entry["samples_ns"][-1]  # of two runs the first one warmed up
            if generated == 0:
                rates["prefill", prompt] = prompt / nanoseconds * 1e9
            else:
                rates["decode", entry.get("n_depth", 0) or prompt] = generated / nanoseconds * 1e9
        return rates

    def measure(self, file, tests, config):
        rates = {}
        for command in self.commands(file, tests, config):
            rates.update(self.rates_in(run_json(command) or []))
        return {test: rate for test, rate in rates.items() if test in tests}


def fewer(threads):
    """Other thread counts worth trying: half, and all but one."""
    return sorted({threads // 2, threads - 1} - {0, threads})


# ---- tuning ----
def tune(engine, file, tests):
    """The best configuration of each test, found one flag after the other; and every rate seen on the way."""
    prompts = sorted(tokens for kind, tokens in tests if kind == "prefill")
    depths = sorted(tokens for kind, tokens in tests if kind == "decode")
    log = []

    def measure(wanted, config):
        rates = engine.measure(file, wanted, config)
        log.append({"config": config, "rates": {name_of(test): rate for test, rate in rates.items()}})
        return rates

    # Tuned on: the longest of the short prompts, no depth and the longest of the shorter depths.
    probes = [("prefill", max([p for p in prompts if p <= SHORT_PROMPT] or prompts[:1]))] if prompts else []
    probes += [("decode", depth) for depth in sorted({depths[0], max([d for d in depths if d <= SHORT_PROMPT] or depths[:1])})] if depths else []
    best = {test: dict(engine.base) for test in probes}
    rate = dict.fromkeys(probes, 0.0)
    rate.update(measure(probes, engine.base))

    def attempt(wanted, flag, value):
        for config, group in by_config({test: {**best[test], flag: value} for test in wanted}):
            for test, found in measure(group, config).items():
                if found > rate[test]:
                    best[test], rate[test] = config, found

    for flag, values in engine.alternatives.items():
        for value in values:
            attempt(probes, flag, value)
    if "ubatch" in engine.base and prompts:
        attempt(probes[:1], "ubatch", 128)
        longest = ("prefill", prompts[-1])
        if prompts[-1] > SHORT_PROMPT:  # only a long prompt shows what a large micro-batch does
            best[longest] = dict(best[probes[0]])
            rate[longest] = measure([longest], best[longest]).get(longest, 0.0)
            attempt([longest], "ubatch", 2048)

    def nearest(test):
        if test in best:
            return best[test]
        same_kind = [other for other in best if other[0] == test[0]]
        return best[max([o for o in same_kind if o[1] <= test[1]] or [min(same_kind)])]

    return {test: nearest(test) for test in tests}, log


# ---- rounds ----
def spread(values):
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)} if values else None


def shown_command(command):
    return shlex.join([pathlib.Path(str(w)).name if os.sep in str(w) else str(w) for w in command])


class File:
    def __init__(self, path, keel):
        self.path = pathlib.Path(path)
        info = run_json([keel, "inspect", path, "--json"])
        if not info:
            sys.exit(f"{path}: keel inspect failed")
        self.info = info.get("model", info)
        self.bytes = self.info["file_bytes"]

    def tests(self, prompts, depths, decode):
        most = self.info["train_context_tokens"] or 1 << 30
        return [("prefill", n) for n in prompts if n <= most] + [("decode", d) for d in depths if d + decode <= most]


def one_round(engines, file, configs, arguments):
    """Every engine once. -> (rates, bytes per step by depth, fastest stream in GB/s, sessions ratio)"""
    rates, step_bytes, streams, cached, sessions, kernel_set = {}, {}, [], False, None, "?"
    for engine in engines:
        rates[engine.name] = {}
        for config, tests in by_config(configs[engine.name]):
            rates[engine.name].update(engine.measure(file.path, tests, config))
            if isinstance(engine, Keel) and engine.seen:
                seen = engine.seen
                step_bytes.update({entry["depth"]: entry["bytes_per_step"] for entry in seen["decode"]})
                cached = "stream_working_set" in seen
                if seen["decode"]:
                    streams.append(seen["stream_working_set" if cached else "stream"]["gb_per_s"])
                kernel_set = seen["kernel_set"]
        if isinstance(engine, Keel) and arguments.sessions > 1:
            decode = [test for test in configs["keel"] if test[0] == "decode"]
            if decode:
                sessions = engine.sessions_ratio(file.path, configs["keel"][min(decode)], arguments.sessions)
    stream = max((s["highest"] for s in streams), default=None)
    return {"rates": rates, "step_bytes": step_bytes, "stream_gb_per_s": stream, "cached": cached, "sessions_ratio": sessions,
            "kernel_set": kernel_set, "load": round(os.getloadavg()[0], 2)}


def summary(rounds, tests, engines, file):
    """Per test and engine: rates, ratio of Keel to it, percent of the stream; spreads over rounds."""
    rows = []
    for test in tests:
        row = {"test": name_of(test), "engines": {}}
        for engine in engines:
            values = [r["rates"][engine][test] for r in rounds if test in r["rates"].get(engine, {})]
            ratios = [r["rates"]["keel"][test] / r["rates"][engine][test] for r in rounds
                      if test in r["rates"].get(engine, {}) and test in r["rates"]["keel"]]
            cell = {"tokens_per_s": spread(values), "samples": values}
            if engine != "keel":
                cell["keel_ratio"] = spread(ratios)
            if test[0] == "decode":
                cell["percent_of_stream"] = spread([100 * r["rates"][engine][test] * r["step_bytes"][test[1]] / r["stream_gb_per_s"] / 1e9
                                                    for r in rounds if test in r["rates"].get(engine, {}) and test[1] in r["step_bytes"]])
            row["engines"][engine] = cell
        rows.append(row)
    return {
        "file": file.path.name,
        "weight_types": file.info["weight_types"],
        "file_bytes": file.bytes,
        "cache_resident": rounds[0]["cached"],
        "kernel_set": rounds[0]["kernel_set"],
        "rounds": len(rounds),
        "stream_gb_per_s": spread([r["stream_gb_per_s"] for r in rounds if r["stream_gb_per_s"]]),
        "sessions_ratio": spread([r["sessions_ratio"] for r in rounds if r["sessions_ratio"]]),
        "load": spread([r["load"] for r in rounds]),
        "tests": rows,
    }


# ---- the table ----
def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def with_range(s, form=number):
    return f"{form(s['median'])} ({form(s['lowest'])} .. {form(s['highest'])})" if s else "failed"


def markdown(document):
    engines = list(document["versions"])
    peers = [engine for engine in engines if engine != "keel"]
    lines = [f"{document['date']}, {document['machine']['cpu']}, {document['machine']['cores']} cores, {document['machine']['compiler']}", ""]
    lines += [f"* {engine}: {version}" for engine, version in document["versions"].items()] + [""]
    for result in document["results"]:
        size = result["file_bytes"] / 2 ** 20
        lines += [f"### {result['file']}", "",
                  f"{result['weight_types']}, {size:,.0f} MiB, {'cache-resident' if result['cache_resident'] else 'beyond the caches'}; Keel's kernels: "
                  f"{result['kernel_set']}; {result['rounds']} rounds, load {with_range(result['load'], '{:.1f}'.format)}."]
        if result["stream_gb_per_s"]:
            lines += [f"Read stream{' over an equal working set' if result['cache_resident'] else ''}: {with_range(result['stream_gb_per_s'], '{:.1f}'.format)} GB/s."]
        if result["sessions_ratio"]:
            lines += [f"A decode step of {document['sessions']} sessions takes {with_range(result['sessions_ratio'], '{:.2f}'.format)} times that of one."]
        lines += ["", "| tokens per second | " + " | ".join(engines) + " | " + " | ".join(f"keel / {peer}" for peer in peers) +
                  " | % of the stream: " + ", ".join(engines) + " |", "|---|" + "---|" * (len(engines) + len(peers) + 1)]
        for row in result["tests"]:
            cells = [row["test"]] + [with_range(row["engines"][engine]["tokens_per_s"]) for engine in engines]
            cells += [with_range(row["engines"][peer]["keel_ratio"], "{:.2f}".format) for peer in peers]
            percents = [row["engines"][engine].get("percent_of_stream") for engine in engines]
            cells += [", ".join(f"{p['median']:.0f}" if p else "-" for p in percents) if any(percents) else ""]
            lines += ["| " + " | ".join(cells) + " |"]
        lines += ["", "Flags used (best of the sweep):", ""]
        for engine in engines:
            for used in result["flags"][engine]:
                lines += [f"* {engine} `{used['flags']}`: {', '.join(used['tests'])}"]
        lines += [""]
    return "\n".join(lines)


# ---- the whole run ----
def models(arguments):
    """Files named on the command line, or the shapes, made by keel synth where they are missing."""
    if arguments.files:
        return arguments.files
    paths = []
    for shape in arguments.shapes.split(","):
        if shape == "bundled":
            paths.append(ROOT / BUNDLED)
            continue
        for mix in arguments.mixes.split(","):
            path = pathlib.Path(arguments.work) / f"synthetic-{shape}-{mix.lower()}.gguf"
            if not path.exists():
                note(f"writing {path.name}")
                subprocess.run([arguments.keel, "synth", path, "--shape", shape, "--mix", mix], check=True, stdout=subprocess.DEVNULL)
            paths.append(path)
    return paths


def compare(arguments):
    threads = arguments.threads or len(os.sched_getaffinity(0))
    engines = [Keel(arguments.keel, threads, shlex.split(arguments.keel_flags), arguments.decode)]
    if arguments.llama:
        engines.append(LlamaBench("llama.cpp", arguments.llama, threads, arguments.decode, arguments.llama_commit))
    if arguments.ik:
        engines.append(LlamaBench("ik_llama.cpp", arguments.ik, threads, arguments.decode, arguments.ik_commit))
    names = [engine.name for engine in engines]
    start = time.monotonic()
    deadline = start + 60 * arguments.minutes
    files = [File(path, arguments.keel) for path in models(arguments)]
    numbers = lambda text: [int(word) for word in text.split(",") if word]  # noqa: E731
    tests_of = {file: file.tests(numbers(arguments.prefill), numbers(arguments.depth), arguments.decode) for file in files}

    tuned = {}  # (engine, weight types) -> {"configs": {test name: configuration}, "log": [...]}
    if arguments.tuned:
        tuned = {(t["engine"], t["key"]): t for t in json.loads(pathlib.Path(arguments.tuned).read_text())["tuning"]}

    document = {"figure": "compare", "date": datetime.date.today().isoformat(), "machine": machine(), "sessions": arguments.sessions,
                "command": shown_command(sys.argv), "versions": {}, "results": [], "rounds": [], "tuning": []}
    for index, file in enumerate(files):
        tests = tests_of[file]
        configs = {}
        for engine in engines:
            # A file that fits the caches is another regime: what is best for large files of its types says nothing about it.
            key = f"{file.info['weight_types']}{' small' if file.bytes < 256 << 20 else ''}"
            known = tuned.get((engine.name, key))
            if not known or any(name_of(test) not in known["configs"] for test in tests):
                note(f"tuning {engine.name} on {file.path.name}")
                found, log = tune(engine, file.path, tests)
                known = {"engine": engine.name, "key": key, "file": file.path.name, "log": log,
                         "configs": {name_of(test): config for test, config in found.items()}}
                tuned[engine.name, key] = known
            if known not in document["tuning"]:
                document["tuning"].append(known)
            configs[engine.name] = {test: known["configs"][name_of(test)] for test in tests}
        if arguments.tune_only:
            continue
        # This file's share of the time left: by size, as both reading and computing are.
        share = (deadline - time.monotonic()) * (file.bytes + (64 << 20)) / sum(f.bytes + (64 << 20) for f in files[index:])
        rounds, began = [], time.monotonic()
        while len(rounds) < arguments.rounds:
            spent = time.monotonic() - began
            if len(rounds) >= arguments.least_rounds and spent * (len(rounds) + 1) / len(rounds) > share:
                break
            note(f"{file.path.name}, round {len(rounds) + 1}")
            rounds.append(one_round(engines, file, configs, arguments))
        result = summary(rounds, tests, names, file)
        result["flags"] = {engine.name: [{"flags": shlex.join(map(str, engine.flags_of(config))), "tests": [name_of(test) for test in group]}
                                         for config, group in by_config(configs[engine.name])] for engine in engines}
        document["results"].append(result)
        document["rounds"].append({"file": file.path.name, "rounds": [
            {**r, "rates": {engine: {name_of(test): rate for test, rate in rates.items()} for engine, rates in r["rates"].items()}}
            for r in rounds]})
    document["versions"] = {engine.name: engine.version for engine in engines}
    document["minutes"] = round((time.monotonic() - start) / 60, 1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    print(markdown(document))
    note(f"{document['minutes']} minutes")


# ---- without any engine ----
def self_test():
    class Fake:
        """Faster with b = 1, a = 0 best for decoding only, and a large micro-batch for a long prompt."""
        name, base, alternatives = "fake", {"a": 1, "b": 0, "ubatch": 512}, {"a": [0], "b": [1]}

        def measure(self, file, tests, config):
            gain = {"prefill": lambda n: 10 + 3 * config["a"] + config["b"] + (n > 512) * config["ubatch"] / 1e3,
                    "decode": lambda n: 10 - 3 * config["a"] + config["b"]}
            return {test: gain[test[0]](test[1]) for test in tests}

    tests = [("prefill", 128), ("prefill", 512), ("prefill", 2048), ("decode", 0), ("decode", 2048)]
    configs, log = tune(Fake(), "file", tests)
    assert configs["prefill", 128] == {"a": 1, "b": 1, "ubatch": 512}, configs
    assert configs["prefill", 2048] == {"a": 1, "b": 1, "ubatch": 2048}, configs
    assert configs["decode", 2048] == configs["decode", 0] == {"a": 0, "b": 1, "ubatch": 512}, configs
    assert len(by_config(configs)) == 3 and len(log) > 3
    assert fewer(2) == [1] and fewer(1) == [] and fewer(8) == [4, 7]

    peer = LlamaBench.__new__(LlamaBench)
    peer.binary, peer.decode, peer.commit, peer.version = "llama-bench", 32, None, "unknown"
    peer.help = "  -d, --n-depth <n>\n  -fa, --flash-attn <on|off|auto>\n  -lm, --load-mode <x>\n  --repack <0|1>\n  --no-warmup \n"
    base, _ = peer.dimensions(2)
    lines = [shlex.join(map(str, c)) for c in peer.commands("m.gguf", tests, base)]
    flags = "-m m.gguf -t 2 -fa on -ub 512 -lm mmap --repack 1 -o json"
    assert lines == [f"llama-bench {flags} --no-warmup -n 0 -r 2 -p 128,512", f"llama-bench {flags} --no-warmup -n 0 -r 1 -p 32,2048",
                     f"llama-bench {flags} -p 0 -n 32 -r 1 -d 0,2048"], lines
    assert peer.rates_in([{"build_commit": "abc", "n_prompt": 128, "n_gen": 0, "n_depth": 0, "samples_ns": [9, 128e7]},
                          {"n_prompt": 0, "n_gen": 32, "n_depth": 2048, "samples_ns": [32e8]}]) == {("prefill", 128): 100.0, ("decode", 2048): 10.0}
    assert peer.version.startswith("abc")
    peer.help = "  -fa, --flash-attn <0|1>\n  -mmp, --mmap <0|1>\n  -gp <pp,tg>\n  -rtr, --run-time-repack <0|1>\n  -w, --warmup <0|1>\n"
    base, alternatives = peer.dimensions(2)
    assert "rtr" in alternatives and "repack" not in base
    lines = [shlex.join(map(str, c)) for c in peer.commands("m.gguf", tests[3:], base)]
    assert lines == ["llama-bench -m m.gguf -t 2 -fa 1 -ub 512 -mmp 1 -rtr 1 -o json -p 0 -r 1 -n 32 -gp 2048,32"], lines
    assert peer.rates_in([{"n_prompt": 2048, "n_gen": 32, "test": "tg32@pp2048", "samples_ns": [16e8]}]) == {("decode", 2048): 20.0}

    class Model:
        path, bytes, info = pathlib.Path("m.gguf"), 1 << 20, {"weight_types": "Q8_0"}

    rounds = [{"rates": {"keel": {tests[3]: 10.0 * k}, "x": {tests[3]: 8.0}}, "step_bytes": {0: 1e9}, "stream_gb_per_s": 40.0, "cached": False,
               "sessions_ratio": 1.2, "kernel_set": "avx2", "load": 0.5} for k in (1, 2, 3)]
    result = summary(rounds, [tests[3]], ["keel", "x"], Model)
    cells = result["tests"][0]["engines"]
    assert cells["x"]["keel_ratio"] == {"median": 2.5, "lowest": 1.25, "highest": 3.75}
    assert cells["keel"]["percent_of_stream"]["median"] == 50 and cells["x"]["percent_of_stream"]["median"] == 20
    result["flags"] = {"keel": [], "x": [{"flags": "-t 2", "tests": ["decode at 0"]}]}
    text = markdown({"date": "d", "machine": {"cpu": "c", "cores": 2, "compiler": "g"}, "versions": {"keel": "1", "x": "2"}, "sessions": 4, "results": [result]})
    assert "| decode at 0 | 20.0 (10.0 .. 30.0) | 8.0 (8.0 .. 8.0) | 2.50 (1.25 .. 3.75) | 50, 20 |" in text, text
    print("ok")


def main():
    if "--self-test" in sys.argv:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="GGUF files (default: --shapes)")
    parser.add_argument("--keel", type=pathlib.Path, default=ROOT / "build/release/keel")
    parser.add_argument("--keel-flags", default="", help="more flags for every keel bench")
    parser.add_argument("--llama", help="build directory of llama.cpp, with bin/llama-bench")
    parser.add_argument("--llama-commit", help="what to print as its version, where its own is wrong")
    parser.add_argument("--ik", help="build directory of ik_llama.cpp")
    parser.add_argument("--ik-commit")
    parser.add_argument("--shapes", default="bundled,smollm2-135m,1b", help="'bundled' or shapes of keel synth (default: %(default)s)")
    parser.add_argument("--mixes", default="Q8_0,Q4_K_M")
    parser.add_argument("--work", help="where synthetic models are kept (default: a temporary directory)")
    parser.add_argument("--prefill", default="128,512,2048")
    parser.add_argument("--depth", default="0,512,2048")
    parser.add_argument("--decode", type=int, default=32, help="tokens decoded per measurement")
    parser.add_argument("--sessions", type=int, default=4, help="Keel alone: a step of so many sessions against one (1: not measured)")
    parser.add_argument("--threads", type=int, help="most threads (default: usable cores)")
    parser.add_argument("--rounds", type=int, default=15, help="most rounds per file")
    parser.add_argument("--least-rounds", type=int, default=3, help="fewest, whatever --minutes says")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--tuned", help="take the tuning from this result")
    parser.add_argument("--tune-only", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "perf/results/compare.json")
    arguments = parser.parse_args()
    arguments.keel = arguments.keel.resolve()
    arguments.files = [path.resolve() for path in arguments.files]
    with tempfile.TemporaryDirectory() as temporary:
        arguments.work = str(pathlib.Path(arguments.work or temporary).resolve())
        pathlib.Path(arguments.work).mkdir(parents=True, exist_ok=True)
        compare(arguments)


if __name__ == "__main__":
    main()
