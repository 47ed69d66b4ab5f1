#!/usr/bin/env python3
"""Writes tests/data/gguf/expected.json: what another reader (the gguf package) finds in GGUF files that tests have.

    make_gguf_expectations.py SHARED_DIR

Per file: version, alignment, data_offset; values as [key, type, element type, count, offset, bytes, crc32 of the bytes,
scalar or null]; tensors as [name, dims, type, offset, bytes]. Paths begin with "shared/" for optional data.
"""
import json
import sys
import zlib
from pathlib import Path

from gguf import GGUFReader, GGUFValueType

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = [
    "samples/models/books-7m-f16.gguf",
    "tests/data/architectures/gemma2.gguf",
    "tests/data/architectures/phi3-longrope.gguf",
    "tests/data/architectures/qwen3.gguf",
    "tests/data/architectures/smollm2-q8_0.gguf",
    "shared/conformance/models/llama-gqa-q2_k.gguf",
    "shared/conformance/models/llama-gqa-q3_k_m.gguf",
    "shared/conformance/models/llama-gqa-q4_k_m.gguf",
    "shared/conformance/models/llama-gqa-iq4_xs.gguf",
    "shared/conformance/models/llama-gqa-q5_1.gguf",
    "shared/conformance/models/qwen2-bias-tied-f16.gguf",
    "shared/conformance/tokenizers/gpt-2.gguf",
    "shared/conformance/tokenizers/llama-spm.gguf",
]


def describe_value(data, field):
    kind = field.types[0]
    prefix = 3  # key length, key, type
    element, count, scalar = 0, 1, None
    if kind == GGUFValueType.STRING:
        prefix = 4
        count = int(field.parts[3][0])
        scalar = bytes(field.parts[-1]).decode() if count < 200 else None
    elif kind == GGUFValueType.ARRAY:
        prefix = 5
        element, count = int(field.parts[3][0]), int(field.parts[4][0])
    else:
        scalar = field.parts[-1][0].item()
    offset = field.offset + sum(int(p.nbytes) for p in field.parts[:prefix])
    size = sum(int(p.nbytes) for p in field.parts[prefix:])
    return [field.name, int(kind), element, count, offset, size, zlib.crc32(data[offset:offset + size]), scalar]


def describe(path):
    data = path.read_bytes()
    reader = GGUFReader(path)
    values = [describe_value(data, f) for n, f in reader.fields.items() if not n.startswith("GGUF.")]
    tensors = [[t.name, [int(d) for d in t.shape], int(t.tensor_type), int(t.data_offset), int(t.n_bytes)]
               for t in reader.tensors]
    return {"version": int(reader.fields["GGUF.version"].parts[-1][0]), "alignment": reader.alignment,
            "data_offset": reader.data_offset if tensors else None, "values": values, "tensors": tensors}


def main():
    out = {}
    for name in FILES:
        path = Path(sys.argv[1]) / name.removeprefix("shared/") if name.startswith("shared/") else ROOT / name
        out[name] = describe(path)
    lines = []
    for name, file in out.items():
        head = {k: v for k, v in file.items() if k not in ("values", "tensors")}
        rows = {k: "[\n" + ",\n".join("   " + json.dumps(r) for r in file[k]) + "]" for k in ("values", "tensors")}
        lines.append(f' {json.dumps(name)}: {{"head": {json.dumps(head)},\n  "values": {rows["values"]},\n'
                     f'  "tensors": {rows["tensors"]}}}')
    target = ROOT / "tests/data/gguf/expected.json"
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
