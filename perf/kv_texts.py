#!/usr/bin/env python3
"""kv_texts.py OUT_DIR --judge BOOKS.jsonl --calibrate BOOKS.jsonl: the texts of RESULTS' tables of KV formats on real models.

OUT_DIR gets judge.jsonl, 12 books and 12 files of source code by turns, and calibrate.jsonl, 8 and 8 other ones: documents of the
two files of books in their order, and Python's library and C headers of this system by turns, of 12,000 to 200,000 characters,
in an order that a fixed seed gives. Other systems have other files: figures are compared within one text.
"""
import argparse
import json
import pathlib
import random
import sysconfig

JUDGED, CALIBRATED = 12, 8  # of each kind
SEED = 1


def sources(files):
    texts = [file.read_text(errors="ignore") for file in sorted(files)]
    texts = [text for text in texts if 12000 < len(text) < 200000]
    random.Random(SEED).shuffle(texts)
    return texts


def books(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def write(path, kinds):
    with path.open("w") as out:
        for pair in zip(*kinds):
            for text in pair:
                out.write(json.dumps({"text": text}) + "\n")
    print(f"{path}: {sum(map(len, kinds))} documents")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--judge", type=pathlib.Path, required=True)
    parser.add_argument("--calibrate", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    python = sources(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    headers = sources(pathlib.Path("/usr/include").glob("**/*.h"))
    code = [text for pair in zip(python, headers) for text in pair]
    write(args.out / "judge.jsonl", [books(args.judge)[:JUDGED], code[:JUDGED]])
    write(args.out / "calibrate.jsonl", [books(args.calibrate)[:CALIBRATED], code[JUDGED:JUDGED + CALIBRATED]])


if __name__ == "__main__":
    main()
