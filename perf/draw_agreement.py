#!/usr/bin/env python3
"""How often copies of a model in fewer bits draw its token, beside the most that is possible (`keel eval draws`).

    perf/draw_agreement.py build/release/keel samples/models/books-7m-f16.gguf samples/models/books-val-sample.jsonl --tokens 4096

All matrices of a copy are of one type, rounded without an importance matrix. Needs gguf and numpy. Prints a row of a table for each type.
"""
import argparse
import os
import tempfile

from quantized_projections import run_json, write_quantized


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keel", help="the command")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=4096, help="positions in all")
    parser.add_argument("--types", default="Q8_0,Q4_K")
    parser.add_argument("--temp", type=float, default=0.8)
    o = parser.parse_args()
    import gguf
    print("| copy | positions | same draw | 1 - TV | of it | same argmax |\n|---|---|---|---|---|---|")
    for name in o.types.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, name + ".gguf")
            write_quantized(o.model, path, gguf.GGMLQuantizationType[name], projections_only=False)
            r = run_json(o.keel, "eval", "draws", o.model, path, o.text, "--max-tokens", str(o.tokens), "--temp", str(o.temp), "--json")
        print(f"| {name} | {r['positions']} | {r['same_draw']:.4f} | {r['one_minus_tv']:.4f} | {r['same_draw_of_bound']:.4f} | {r['same_greedy']:.4f} |")


if __name__ == "__main__":
    main()
