#!/usr/bin/env python3
"""What every weight type costs and loses: one table of a model, nearest and calibrated, linear layers, then embeddings too.

    perf/weight_types.py --keel KEEL model.gguf --text test.jsonl --calibration other.jsonl --work DIR [--minutes M]
        [--codes nearest,calibrated,scaled,corrected-8]
    perf/weight_types.py --work DIR --table           prints what was measured so far
    perf/weight_types.py --self-test

Each row is a file of `keel quantize` (linear: all matrices outside layers kept; all: none), scored by `keel eval ppl --against MODEL` and planned by
`keel plan` for the same context. DIR/rows.json holds what was measured: a run that stopped goes on behind it, another keel, model, text or setting is refused.
A correction is a file beside the model's: bytes are those of both. RAM of weights: as an engine holds them by default, copied and interleaved where that is faster. Bits: of a weight of the matrices that were to change.
Rows of a matrix that are not whole blocks of a type take its stand-in, which the first column names with its share of those weights.
"""
import argparse
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
TYPES = ("BF16", "Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q5_K", "Q4_1", "Q4_0", "Q4_K", "IQ4_NL", "IQ4_XS", "Q3_K", "WT3", "Q2_K", "WT2")
SOURCES = ("F32", "F16")  # what there is before anything is lost, and no row
UNCALIBRATED = ("BF16",)  # rounded, not coded
SCOPES = {"linear": "linear layers", "all": "embeddings too"}
CODES = {  # options of `keel quantize` beside --calibrate; None: without it
    "nearest": None, "nearest-scaled": ["--codes", "nearest", "--scaling"], "nearest-corrected-8": ["--codes", "nearest", "--correction", "8"],
    "calibrated": [], "scaled": ["--scaling"], **{f"corrected-{rank}": ["--correction", f"{rank}"] for rank in (4, 8, 16)}}
USUAL_CODES = ("nearest", "calibrated")


def note(text):
    print(f"[{time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr, flush=True)


def run_json(*command):
    run = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {run.returncode}: {run.stderr.strip()[-400:]}")
    return json.loads(run.stdout)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def documents(path):
    """Texts of a file as `keel` reads it: a line's field "text" of .jsonl, else the whole file."""
    content = pathlib.Path(path).read_text()
    return {json.loads(line)["text"] for line in content.splitlines() if line.strip()} if str(path).endswith(".jsonl") else {content}


# ---- arithmetic ----
def in_scope(name, scope):
    return scope == "all" or name.startswith("blk.")


def rules(kind, scope, names):
    """The value of --types: `kind` for matrices of the scope, the others kept."""
    return ",".join([f"{name}=keep" for name in names if not in_scope(name, scope)] + [kind])


def bits(tensors, scope):
    """Bits of a weight of the scope."""
    inside = [t for t in tensors if in_scope(t["name"], scope)]
    return 8 * sum(t["bytes"] for t in inside) / sum(t["rows"] * t["columns"] for t in inside)


def shares(tensors, scope):
    """{type: part of the scope's weights}, the largest first."""
    weights = {}
    for t in tensors:
        if in_scope(t["name"], scope):
            weights[t["to"]] = weights.get(t["to"], 0) + t["rows"] * t["columns"]
    return {kind: n / sum(weights.values()) for kind, n in sorted(weights.items(), key=lambda item: -item[1])}


def wanted(types, scopes, codes, done):
    """(scope, kind, codes) of rows to measure: the cheap ones first."""
    rows = [(scope, kind, how) for how in codes for scope in scopes for kind in types if how == "nearest" or kind not in UNCALIBRATED]
    return [row for row in rows if "/".join(row) not in done]


# ---- what was measured ----
def load(path, setting):
    """{"setting", "source", "rows"} of a file; a new one where there is none. SystemExit where it is of another setting."""
    if not path.exists():
        return {"setting": setting, "source": None, "rows": {}}
    state = json.loads(path.read_text())
    other = [key for key in setting if state["setting"].get(key) != setting[key]]
    if other:
        sys.exit(f"{path} was measured with another {', '.join(other)}: take another --work")
    return state


def save(path, state):
    part = path.with_suffix(".part")
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in state["rows"].items())
    part.write_text(f'{{"setting": {json.dumps(state["setting"])},\n"source": {json.dumps(state["source"])},\n"rows": {{\n{rows}}}}}\n')
    os.replace(part, path)


# ---- measuring ----
def scored(o, path, *flags):
    score = run_json(o.keel, "eval", "ppl", path, o.text, "--documents", o.documents, "--window", o.window, "--threads", o.threads, "--json", *flags)
    score["text"] = os.path.basename(score["text"])
    if "against" in score:
        score["against"]["reference"] = os.path.basename(score["against"]["reference"])
    return score


def planned(keel, path, window, *flags):
    plan = run_json(keel, "plan", path, "--context", window, "--threads", 1, "--no-ops", "--no-map", "--json", *flags)
    return {"ram_bytes": plan["regions"]["weights"]["bytes"], "mapped_bytes": plan["mapped_weight_bytes"], "engine_bytes": plan["total_bytes"],
            "weight_types": plan["model"]["weight_types"]}


def measure(o, scope, kind, how, names):
    path = o.work / f"{scope}-{kind}-{how}.gguf"
    options = CODES[how]
    calibrate = [] if options is None else ["--calibrate", o.calibration, "--calibration-documents", o.calibration_documents, *options]
    correction = path.with_suffix(".lora")
    lora = ["--lora", correction] if "--correction" in calibrate else []
    calibrate += ["--correction-output", correction] if lora else []
    started = time.monotonic()
    made = run_json(o.keel, "quantize", o.model, path, "--types", rules(kind, scope, names), "--threads", o.threads, "--json", *calibrate)
    seconds = time.monotonic() - started
    score = scored(o, path, "--against", o.model, *lora)
    files = [path, *lora[1:]]
    row = {"bits": bits(made["tensors"], scope), "shares": shares(made["tensors"], scope), "file_bytes": sum(file.stat().st_size for file in files),
           "quantized_twice": made["quantized_twice"], "quantize_s": seconds, **planned(o.keel, path, o.window, *lora), "score": score}
    for key in ("scaling", "output_error", "output_error_corrected"):
        values = [t[key] for t in made["tensors"] if key in t and in_scope(t["name"], scope)]
        if values:
            row["mean_" + key] = sum(values) / len(values)
    for file in files:
        file.unlink()
    return row


# ---- the table ----
def percent_of(value, low_high, digits, scale=1):
    low, high = low_high
    return f"{value * scale:+.{digits}f} ({low * scale:.{digits}f} .. {high * scale:.{digits}f})"


def type_cell(kind, parts):
    others = [f"{other} {100 * part:.0f} %" for other, part in parts.items() if other != kind]
    return kind + (f" ({', '.join(others)})" if others and kind in TYPES else "")


def table(state):
    """Markdown lines."""
    setting, source = state["setting"], state["source"]
    score = source["score"]
    yield (f"{os.path.basename(setting['model'])}, {score['documents']} documents, {score['tokens']} tokens scored, window {setting['window']}; calibration "
           f"{setting['calibration_documents']} documents x 512 tokens; kernel set {score['kernel_set']}; intervals: {score['interval']}.")
    if source["quantized_before"]:
        yield (f"{source['quantized_before']} matrices of the source are quantized already ({source['weight_types']}): losses are against it, not against what it was "
               "made from.")
    for scope, title in SCOPES.items():
        rows = [(key.split("/"), row) for key, row in state["rows"].items() if key.startswith(scope + "/")]
        if not rows:
            continue
        yield ""
        yield f"| {title} | codes | bits | file bytes | RAM of weights | PPL | bits per byte | PPL, % | KL, 1/1000 nat | same top-1, % |"
        yield "|---|---|---|---|---|---|---|---|---|---|"
        yield (f"| the source | | {source['bits'][scope]:.3f} | {source['file_bytes']:,} | {source['ram_bytes']:,} | {score['ppl']:.4f} | {score['bits_per_byte']:.5f} "
               "| | | |")
        order = {kind: at for at, kind in enumerate(TYPES)}
        rows.sort(key=lambda item: (order.get(item[0][1], len(TYPES)), item[0][1], list(CODES).index(item[0][2])))
        for (_, kind, how), row in rows:
            own, paired = row["score"], row["score"]["against"]
            kl, top = paired["kl_95"], paired["same_top_95"]
            yield (f"| {type_cell(kind, row['shares'])} | {how} | {row['bits']:.3f} | {row['file_bytes']:,} | {row['ram_bytes']:,} | {own['ppl']:.4f} "
                   f"| {own['bits_per_byte']:.5f} | {percent_of(paired['delta_ppl_percent'], paired['delta_ppl_percent_95'], 3)} "
                   f"| {1000 * paired['kl']:.3f} ({1000 * kl[0]:.3f} .. {1000 * kl[1]:.3f}) "
                   f"| {100 * paired['same_top']:.2f} ({100 * top[0]:.2f} .. {100 * top[1]:.2f}) |")


def self_test():
    import tempfile
    tensors = [{"name": "token_embd.weight", "rows": 8, "columns": 64, "to": "F16", "bytes": 1024},
               {"name": "blk.0.attn_q.weight", "rows": 3, "columns": 256, "to": "WT3", "bytes": 294},
               {"name": "blk.0.ffn_up.weight", "rows": 4, "columns": 64, "to": "IQ4_NL", "bytes": 144}]
    assert bits(tensors, "linear") == 8 * (294 + 144) / 1024 and bits(tensors, "all") == 8 * (1024 + 294 + 144) / 1536
    assert shares(tensors, "linear") == {"WT3": 0.75, "IQ4_NL": 0.25} and list(shares(tensors, "all")) == ["WT3", "F16", "IQ4_NL"]
    assert type_cell("WT3", shares(tensors, "linear")) == "WT3 (IQ4_NL 25 %)" and type_cell("Q4_K", {"Q4_K": 1.0}) == "Q4_K"
    names = ["token_embd.weight", "output.weight", "blk.0.attn_output.weight"]
    assert rules("WT3", "linear", names) == "token_embd.weight=keep,output.weight=keep,WT3" and rules("WT3", "all", names) == "WT3"
    with tempfile.TemporaryDirectory() as folder:
        one, two = pathlib.Path(folder, "one.jsonl"), pathlib.Path(folder, "two.txt")
        one.write_text('{"text": "a"}\n\n{"text": "b", "id": 1}\n')
        two.write_text("b")
        assert documents(one) == {"a", "b"} and documents(one) & documents(two)
    # Every type that a GGUF file may hold has a row or is a source.
    header = (HERE.parent / "kernels/formats/weight_types.h").read_text()
    known = {name for name, number in re.findall(r"X\((\w+),\s*(\w+),", header) if int(number, 0) != 0x1000}
    assert known == set(TYPES) | set(SOURCES), known ^ (set(TYPES) | set(SOURCES))
    # What is done is not done again; no calibrated row of a type without codes.
    rows = wanted(["BF16", "WT3"], ["linear", "all"], USUAL_CODES, {"linear/WT3/nearest": {}})
    assert rows == [("linear", "BF16", "nearest"), ("all", "BF16", "nearest"), ("all", "WT3", "nearest"), ("linear", "WT3", "calibrated"),
                    ("all", "WT3", "calibrated")], rows
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.json"
        setting = {"model": "m.gguf", "model_sha256": "1", "window": 8, "calibration_documents": 2}
        state = load(path, setting)
        assert state["rows"] == {} and not path.exists()
        score = {"documents": 2, "tokens": 10, "kernel_set": "scalar", "interval": "none", "ppl": 2.0, "bits_per_byte": 1.0}
        state["source"] = {"score": score, "bits": {"linear": 16, "all": 16}, "file_bytes": 9, "ram_bytes": 8, "quantized_before": 0}
        against = {"delta_ppl_percent": 1.5, "delta_ppl_percent_95": [-0.5, 3], "kl": 0.002, "kl_95": [0.001, 0.003], "same_top": 0.9, "same_top_95": [0.8, 1]}
        for kind, how in (("WT2", "nearest"), ("WT3", "calibrated"), ("WT3", "nearest")):
            state["rows"][f"linear/{kind}/{how}"] = {"bits": 3.0625, "shares": {kind: 1}, "file_bytes": 1234, "ram_bytes": 1000, "score": {**score, "against": against}}
        save(path, state)
        assert load(path, setting) == state
        try:
            load(path, {**setting, "window": 9})
            raise AssertionError("another window was taken")
        except SystemExit as stop:
            assert "another window" in str(stop)
        lines = list(table(state))
        assert [line.split(" | ")[:2] for line in lines[5:]] == [["| WT3", "nearest"], ["| WT3", "calibrated"], ["| WT2", "nearest"]], lines
        assert lines[5].endswith("| 3.062 | 1,234 | 1,000 | 2.0000 | 1.00000 | +1.500 (-0.500 .. 3.000) | 2.000 (1.000 .. 3.000) | 90.00 (80.00 .. 100.00) |"), lines[5]
        assert not any("embeddings too" in line for line in lines)
    print("ok")


def main():
    if "--self-test" in sys.argv:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--keel", default="build/release/keel")
    parser.add_argument("--text", help="what is scored")
    parser.add_argument("--calibration", help="another text")
    parser.add_argument("--documents", type=int, default=24, help="the first N are scored")
    parser.add_argument("--window", type=int, default=1000, help="tokens of each")
    parser.add_argument("--calibration-documents", type=int, default=60, help="the first N of 512 tokens")
    parser.add_argument("--types", default=",".join(TYPES), help="types or mixtures of `keel quantize`")
    parser.add_argument("--scopes", default=",".join(SCOPES), help="of linear, all")
    parser.add_argument("--codes", default=",".join(USUAL_CODES), help="of " + ", ".join(CODES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin no row later than that")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for rows.json and one model at a time")
    parser.add_argument("--table", action="store_true", help="print what is there, measure nothing")
    o = parser.parse_args()
    o.work.mkdir(parents=True, exist_ok=True)
    path = o.work / "rows.json"
    if o.table and not path.exists():
        sys.exit(f"{path}: nothing was measured yet")
    if not o.table:
        if not (o.model and o.text and o.calibration):
            parser.error("model, --text and --calibration")
        hashes = {"keel_sha256": sha256(o.keel), "model_sha256": sha256(o.model), "text_sha256": sha256(o.text), "calibration_sha256": sha256(o.calibration)}
        if documents(o.text) & documents(o.calibration):
            parser.error("calibrated on documents that are scored")
        state = load(path, {"model": os.path.basename(o.model), **hashes, "documents": o.documents, "window": o.window,
                            "calibration_documents": o.calibration_documents})
        tensors = run_json(o.keel, "quantize", o.model, "/dev/null", "--types", "Q8_0", "--dry-run", "--json")["tensors"]
        names = [t["name"] for t in tensors]
        if not state["source"]:
            before = [{**t, "bytes": t["bytes_before"]} for t in tensors]
            state["source"] = {"bits": {scope: bits(before, scope) for scope in SCOPES}, "file_bytes": os.path.getsize(o.model),
                               "quantized_before": sum(t["from"] not in ("F32", "F16", "BF16") for t in tensors), **planned(o.keel, o.model, o.window),
                               "score": scored(o, o.model)}
            save(path, state)
        started, failed = time.monotonic(), 0
        for row in wanted(o.types.split(","), o.scopes.split(","), o.codes.split(","), state["rows"]):
            if o.minutes and time.monotonic() - started > 60 * o.minutes:
                note("out of time")
                break
            note(" ".join(row))
            try:
                state["rows"]["/".join(row)] = measure(o, *row, names)
            except RuntimeError as error:  # the row is missing and tried again by the next run
                note(error)
                failed += 1
                continue
            save(path, state)
        if failed:
            note(f"{failed} rows failed")
    print("\n".join(table(json.loads(path.read_text()))))


if __name__ == "__main__":
    main()
