#!/usr/bin/env python3
"""kv_texts.py OUT_DIR --judge BOOKS.jsonl --calibrate BOOKS.jsonl [--chat CHAT.jsonl] [--least N]: the texts of RESULTS'
tables of KV formats on real models.

OUT_DIR gets judge.jsonl, 12 books, 12 files of source code and, with --chat, 12 chat logs by turns, and calibrate.jsonl, 8 other
books and 8 other files. Documents of one title or source of a file follow each other as one document, so that every
document is a source of its own; they are taken in their order. Source code is Python's library and C headers of this
system by turns, of 12,000 to 200,000 characters, in an order that a fixed seed gives; the files of calibrate.jsonl are
the same with and without --least, and none is judged that is among them, or twice. Other systems have other files: figures are compared within one text.
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


def documents(path):
    joined = {}
    for number, line in enumerate(path.read_text().splitlines()):
        row = json.loads(line)
        joined.setdefault(row.get("source") or row.get("title") or number, []).append(row["text"])
    return ["\n\n".join(texts) for texts in joined.values()]


def write(path, count, kinds):
    texts = {kind: texts[:count] for kind, texts in kinds.items()}
    for kind, of_kind in texts.items():
        if len(of_kind) < count:
            raise SystemExit(f"{path}: {len(of_kind)} of {count} documents of {kind}")
    with path.open("w") as out:
        for i in range(count):
            for kind, of_kind in texts.items():
                out.write(json.dumps({"kind": kind, "source": f"{kind} {i}", "text": of_kind[i]}) + "\n")
    print(f"{path}: {count} documents of each of {', '.join(kinds)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--judge", type=pathlib.Path, required=True)
    parser.add_argument("--calibrate", type=pathlib.Path, required=True)
    parser.add_argument("--chat", type=pathlib.Path, help="chat logs, a field \"text\" a line")
    parser.add_argument("--least", type=int, default=0, help="characters of a document of judge.jsonl")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    python = sources(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    headers = sources(pathlib.Path("/usr/include").glob("**/*.h"))
    code = [text for pair in zip(python, headers) for text in pair]
    calibrating = code[JUDGED:JUDGED + CALIBRATED]
    others = [text for text in dict.fromkeys(code) if text not in calibrating]
    judged = {"book": documents(args.judge), "code": others}
    if args.chat:
        judged["chat"] = documents(args.chat)
    judged = {kind: [text for text in texts if len(text) >= args.least] for kind, texts in judged.items()}
    write(args.out / "judge.jsonl", JUDGED, judged)
    write(args.out / "calibrate.jsonl", CALIBRATED, {"book": documents(args.calibrate), "code": calibrating})


if __name__ == "__main__":
    main()
