#!/usr/bin/env python3
"""prompts.py SOURCE_DIR: writes prompts.json beside itself: 60 chat questions, 60 texts to be given back with small
changes, 60 functions to be edited. Texts are of the bundled books sample, functions of Keel's own sources as they were
when this was run; the file is committed, so that figures stay comparable."""
import json
import pathlib
import re
import sys

TOPICS = ["volcanoes", "the moon", "bread", "chess", "photosynthesis", "bicycles", "the Roman Empire", "glass", "bees",
          "compilers", "rain", "violins", "vaccines", "maps", "coffee", "tides", "paper", "earthquakes", "lighthouses", "salt"]
FORMS = ["Explain {} to a ten-year-old in a few sentences.", "Write a short story that has to do with {}.",
         "What are three things most people do not know about {}? Answer as a list."]
COPY = ["Copy the following text exactly, but write every number as digits:\n\n{}",
        "Correct spelling and punctuation where needed and give the whole text back:\n\n{}",
        "Give back this text, and replace every name by the letter X:\n\n{}"]
CODE = ["Add a comment above this function and give back the whole function:\n\n{}",
        "Rename the variable or parameter with the shortest name to something clear. Give back the whole function:\n\n{}",
        "Add a check of the arguments to this function and give it back whole:\n\n{}"]


def passages(root):
    """Paragraph-sized pieces of the books sample that begin and end with a sentence."""
    for line in (root / "samples/models/books-val-sample.jsonl").read_text().splitlines():
        text = re.sub(r"\s+", " ", json.loads(line)["text"])
        sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", text)
        piece = ""
        for sentence in sentences[1:-1]:
            piece = f"{piece} {sentence}".strip()
            if len(piece) > 380:
                if len(piece) < 620:
                    yield piece
                piece = ""


def functions(root):
    """Short Python functions, then short C++ ones."""
    for path in sorted(root.glob("**/*.py")):
        for match in re.finditer(r"^def .*?(?=^\S|\Z)", path.read_text(), re.S | re.M):
            if 250 < len(match[0].strip()) < 650:
                yield match[0].strip()
    for path in sorted((root / "sdk").glob("*/*.cpp")):
        for match in re.finditer(r"^[a-z]\w+[ *][^;{}()\n]*\([^;{}]*\) (?:const )?\{\n(?:    .*\n|\n)*\}\n", path.read_text(), re.M):
            if 250 < len(match[0].strip()) < 650:
                yield match[0].strip()


def spread(items, count):
    """`count` of the items, evenly spread over them."""
    items = list(items)
    return [items[i * len(items) // count] for i in range(count)]


def main():
    root = pathlib.Path(sys.argv[1])
    prompts = {
        "chat": [form.format(topic) for topic in TOPICS for form in FORMS],
        "copy": [COPY[i % 3].format(text) for i, text in enumerate(spread(passages(root), 60))],
        "code": [CODE[i % 3].format(text) for i, text in enumerate(spread(functions(root), 60))],
    }
    assert all(len(set(of)) == 60 for of in prompts.values())
    pathlib.Path(__file__).with_name("prompts.json").write_text(json.dumps(prompts, indent=0, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
