#!/usr/bin/env python3
"""What quantizing a model's projections alone costs and saves, beside which W_proj caches have to stand: a report as `keel wproj compare` writes one.

    perf/quantized_projections.py build/release/keel model.gguf validation.jsonl --tokens 1024 > quantized.json
    perf/plots/wproj_quality.py wproj.json quantized.json --plot both.png
    perf/quantized_projections.py --self-test

Projections of attention and feed-forward are rounded by the gguf package (as llama.cpp does without an importance matrix), the rest is copied.
Needs gguf and numpy. Intervals: paired bootstrap over documents. KL and agreement are not measured (null).
"""
import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile


def q4_k(values):
    """Rows of whole blocks of 256 as Q4_K, which the gguf package only reads: 32 numbers between their least and largest, none of them above 0 or below it."""
    import numpy
    x = values.reshape(-1, 8, 32)
    least = numpy.minimum(x.min(axis=2), 0)
    scale = (numpy.maximum(x.max(axis=2), 0) - least) / 15

    def six_bits(wanted):  # integers, and what one of them is worth
        unit = (wanted.max(axis=1) / 63).astype(numpy.float16)
        return numpy.rint(wanted / numpy.maximum(unit.astype(numpy.float32), 1e-30)[:, None]).clip(0, 63).astype(numpy.uint8), unit

    s, d = six_bits(scale)
    m, d_least = six_bits(-least)
    step = (d.astype(numpy.float32)[:, None] * s)[:, :, None]
    offset = (d_least.astype(numpy.float32)[:, None] * m)[:, :, None]
    codes = numpy.rint((x + offset) / numpy.where(step == 0, 1, step)).clip(0, 15).astype(numpy.uint8)
    packed = numpy.concatenate([s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, s[:, 4:] & 15 | (m[:, 4:] & 15) << 4], axis=1)
    nibbles = (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(-1, 128)
    blocks = numpy.concatenate([d.view(numpy.uint8).reshape(-1, 2), d_least.view(numpy.uint8).reshape(-1, 2), packed, nibbles], axis=1)
    return blocks.reshape(values.shape[0], -1)


def write_quantized(source, target, kind, projections_only=True):
    """The model with its projections, or all of its matrices, in `kind`; bytes of them before and after."""
    import gguf
    import numpy
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        inner = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    before = after = 0
    for tensor in reader.tensors:
        data, stored = tensor.data, tensor.tensor_type
        if len(tensor.shape) == 2 and (not projections_only or "attn_" in tensor.name or "ffn_" in tensor.name):
            values = gguf.quants.dequantize(data, stored).astype(numpy.float32)
            before += data.nbytes
            data, stored = q4_k(values) if kind == gguf.GGMLQuantizationType.Q4_K else gguf.quants.quantize(values, kind), kind
            after += data.nbytes
        writer.add_tensor(tensor.name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return before, after


def run_json(*command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def paired(dense, other, draws=4000):
    """Change of perplexity in percent and its 95 % interval over documents."""
    changes = [(b["nll_sum"] - a["nll_sum"], a["tokens"]) for a, b in zip(dense, other)]
    draw = random.Random(1)

    def percent(documents):
        return 100 * math.expm1(sum(change for change, _ in documents) / sum(tokens for _, tokens in documents))

    drawn = sorted(percent(draw.choices(changes, k=len(changes))) for _ in range(draws))
    return percent(changes), [drawn[round(0.025 * (draws - 1))], drawn[round(0.975 * (draws - 1))]]


def self_test():
    dense = [{"nll_sum": 40.0, "tokens": 10}, {"nll_sum": 90.0, "tokens": 30}, {"nll_sum": 10.0, "tokens": 5}]

    def moved(by):  # nats a token, of every document
        return [{"nll_sum": d["nll_sum"] + x * d["tokens"]} for d, x in zip(dense, by)]

    assert paired(dense, moved([0, 0, 0])) == (0, [0, 0])
    even, interval = paired(dense, moved([math.log(1.01)] * 3))
    assert abs(even - 1) < 1e-9 and max(abs(x - 1) for x in interval) < 1e-9
    uneven, (low, high) = paired(dense, moved([0.0, math.log(1.02), 0.0]))
    assert abs(uneven - 100 * (1.02 ** (30 / 45) - 1)) < 1e-9 and low == 0 < uneven < high and abs(high - 2) < 1e-9, (uneven, low, high)
    print("ok")


def main():
    if "--self-test" in sys.argv:
        return self_test()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keel", help="the command")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=1024, help="scored in every document")
    parser.add_argument("--types", default="Q8_0,Q5_0,Q4_0")
    parser.add_argument("--keep", help="folder to leave the quantized models in, TYPE.gguf")
    o = parser.parse_args()
    import gguf

    def evaluate(path):
        return run_json(o.keel, "eval", "ppl", path, o.text, "--window", str(o.tokens), "--context", str(o.tokens), "--per-document", "--json")

    def decode_bytes(path):
        return run_json(o.keel, "plan", path, "--context", str(o.tokens), "--json")["decode_bytes"]

    dense = evaluate(o.model)
    report = {"model": o.model, "text": o.text, "tokens": dense["tokens"], "documents": dense["documents"], "dense_nll": dense["nll"], "dense_ppl": dense["ppl"],
              "dense_decode_bytes": decode_bytes(o.model), "groups": None, "entries": []}
    for name in o.types.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(o.keep or folder, name + ".gguf")
            before, after = write_quantized(o.model, path, gguf.GGMLQuantizationType[name])
            other = evaluate(path)
            change, interval = paired(dense["per_document"], other["per_document"])
            report["entries"].append({"name": f"{name}, no low rank", "family": "quantized, no low rank", "share": after / before, "sensitivity_power": 0, "records": 0,
                                      "record_bytes": after, "decode_bytes": decode_bytes(path), "delta_ppl_percent": change, "delta_ppl_percent_95": interval,
                                      "ppl": other["ppl"], "kl": None, "top1_percent": None})
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
