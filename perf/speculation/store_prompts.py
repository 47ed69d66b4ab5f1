#!/usr/bin/env python3
"""store_prompts.py SOURCE_DIR OUT_DIR [--count N] [--parts N] [--texts FILE.jsonl ...]: prompts to fill a record store
with, of the three kinds of prompts.json but other ones, and those of prompts.json as queries.

OUT_DIR gets queries-chat.jsonl, queries-copy.jsonl, queries-code.jsonl, and --count (default 6,000) prompts in --parts
(default 12) files store-00.jsonl, store-01.jsonl ..., shuffled with a fixed seed, so that the first files of any number
are a store of the same mixture: chat questions over topics that share no word with the queries' 20, copy and edit tasks
over passages of the books sample (and of --texts) that share no sentence with the queries', and functions of this
repository, of Python's library and of C++ headers of the system that have other names than the queries'. A part is
captured by itself, so what was stopped goes on with the next one; at a temperature each part is another sample:

    keel capture trace MODEL OUT_DIR/store-00.jsonl --generate 128 --sessions 16 --output 00.trace [--temperature 0.8]
"""
import argparse
import json
import pathlib
import random
import re
import sysconfig

import prompts

TOPICS = """the sun; gravity; black holes; comets; satellites; rockets; the water cycle; clouds; snow; thunderstorms; deserts;
rainforests; rivers; waterfalls; caves; glaciers; islands; mountains; soil; fossils; dinosaurs; whales; sharks; dolphins;
octopuses; spiders; ants; butterflies; owls; penguins; eagles; wolves; bears; elephants; lions; horses; cats; dogs;
rabbits; frogs; snakes; turtles; mushrooms; oak trees; roses; grass; wheat; rice; potatoes; tomatoes; apples; bananas;
oranges; grapes; olives; onions; garlic; pepper; sugar; honey; chocolate; cheese; butter; milk; eggs; soup; pizza; pasta;
tea; juice; wine; beer; vinegar; the human heart; lungs; the brain; bones; muscles; skin; blood; sleep; dreams; memory;
eyesight; hearing; taste; smell; teeth; hair; viruses; bacteria; antibiotics; surgery; exercise; yoga; running; swimming;
football; basketball; tennis; baseball; cycling races; skiing; boxing; climbing; sailing; rowing; fishing; hiking; camping;
gardening; cooking; knitting; sewing; pottery; painting; drawing; photography; cinema; theatre; opera; ballet; jazz; rock
music; the piano; guitars; drums; flutes; trumpets; choirs; poetry; novels; fairy tales; myths; comics; newspapers; radio;
television; telephones; the internet; email; computers; keyboards; robots; batteries; electricity; magnets; light bulbs;
lasers; mirrors; lenses; telescopes; microscopes; clocks; calendars; compasses; the wheel; steam engines; trains; cars;
buses; ships; submarines; airplanes; helicopters; balloons; bridges; tunnels; roads; canals; dams; windmills; solar panels;
nuclear power; oil; coal; wood; steel; iron; copper; gold; silver; diamonds; plastic; rubber; leather; cotton; wool; silk;
cement; bricks; castles; pyramids; cathedrals; skyscrapers; libraries; museums; schools; universities; hospitals; markets;
banks; money; taxes; trade; insurance; advertising; farming; fire; ice; steam; sound; light; colour; heat; time; numbers;
zero; fractions; geometry; algebra; probability; statistics; prime numbers; logic; puzzles; riddles; jokes; board games;
card games; dice; video games; toys; kites; origami; magic tricks; circuses; festivals; weddings; birthdays; holidays;
New Year; Halloween; ancient Egypt; ancient Greece; the Vikings; the Middle Ages; knights; pirates; explorers; the Silk
Road; the Renaissance; the French Revolution; the printing press; the Industrial Revolution; democracy; monarchies;
elections; constitutions; courts; laws; human rights; newspapers and truth; diplomacy; treaties; flags; borders; passports;
languages; alphabets; writing; grammar; translation; sign language; Morse code; codes and ciphers; spies; detectives;
courage; kindness; honesty; friendship; patience; curiosity; happiness; anger; fear; boredom; loneliness; gratitude;
forgiveness; ambition; habits; laziness; teamwork; leadership; creativity; dancing; singing; shadows; rainbows; sunsets;
spring; autumn; winter; summer; the seasons; midnight; the North Pole; the equator; the ocean floor; coral reefs; Mars;
Jupiter; Saturn; the Milky Way; galaxies; atoms; molecules; oxygen; hydrogen; carbon; acids; crystals; evolution; genes;
cells; extinct animals; migration; camouflage; hibernation; pollution; recycling; climate; deforestation; electric cars;
databases; programming; algorithms; sorting; encryption; passwords; search engines; spreadsheets; open source software;
artificial intelligence; shoes; hats; umbrellas; buttons; pockets; scissors; pencils; candles; soap; perfume; pillows;
chairs; tables; doors; windows; stairs; elevators; kitchens; gardens; parks; zoos; farms; villages; cities; traffic;
maths homework; job interviews; public speaking; saving money; moving house; learning to drive; keeping a diary"""
CHAT = ["Explain {} in a few sentences.", "Explain {} to a beginner.", "What are five interesting facts about {}?",
        "Why do people care about {}?", "Write a short story about {}.", "Write a poem about {}.",
        "What are the advantages and disadvantages of {}?", "How would you describe {} to somebody who has never heard of it?",
        "Give me a short history of {}.", "What is the most common misunderstanding about {}?",
        "Write a dialogue between two friends who talk about {}.", "What should a child know about {}?"]
COPY = ["Copy this text:\n\n{}", "Repeat the following text word for word:\n\n{}",
        "Rewrite this text in capital letters:\n\n{}", "Fix the errors in this text and give it back:\n\n{}",
        "Give this text back with every comma left out:\n\n{}", "Write this text again, one sentence a line:\n\n{}",
        "Change this text from the past to the present tense:\n\n{}", "Give back this text without the names:\n\n{}"]
CODE = ["Write a comment for this function and repeat it:\n\n{}", "Give this function another name and write it again:\n\n{}",
        "Repeat this function exactly:\n\n{}", "Add error handling to this function and write all of it:\n\n{}",
        "Rename a variable of this function and give the function back:\n\n{}", "Explain what this function does:\n\n{}",
        "Make this function shorter and write it out:\n\n{}"]
SHARES = {"chat": 0.4, "copy": 0.3, "code": 0.3}
SEED = 14


def words(text):
    """Words of a text, singular and lower case, without the shortest."""
    return {word.rstrip("s") for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 2} - {"the", "and"}


def chat():
    queries = set().union(*map(words, prompts.TOPICS))
    topics = [" ".join(topic.split()) for topic in TOPICS.split(";")]
    return [form.format(topic) for topic in topics if not words(topic) & queries for form in CHAT]


def sentences(text):
    return [s for s in re.split(r"(?<=[.!?]) (?=[A-Z'\"])", re.sub(r"\s+", " ", text)) if s]


def passages(files, queries):
    """Pieces of three lengths that have no sentence of the queries'."""
    taken = {s for query in queries for s in sentences(query)}
    for file in files:
        for line in file.read_text().splitlines():
            parts = sentences(json.loads(line)["text"])[1:-1]
            for least in (160, 280, 400):
                piece = []
                for sentence in parts:
                    if sentence in taken or len(sentence) > 2 * least:
                        piece = []
                        continue
                    piece.append(sentence)
                    if sum(map(len, piece)) >= least:
                        yield " ".join(piece)
                        piece = []


def functions(root, queries):
    """Functions of Python files and C++ files, as prompts.py cuts them, under other names than the queries'."""
    name_of = lambda text: re.search(r"(\w+)\(", text)[1]
    taken = {name_of(query) for query in queries if re.search(r"\w+\(", query)}
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    python = sorted(root.glob("**/*.py")) + sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py"))
    cpp = sorted(root.glob("sdk/**/*.cpp")) + sorted(root.glob("kernels/**/*.cpp"))
    headers = [p for p in sorted(pathlib.Path("/usr/include").glob("c++/*/bits/*.h"))]
    found = []
    for files, pattern in ((python, r"^( *)def .*?(?=^\1\S|^\S|\Z)"),
                           (cpp + headers, r"^ *[a-zA-Z_][^;{}()\n]*\n? *\w+\([^;{}]*\) *(?:const )?\n? *\{\n.*?^ *\}\n")):
        for path in files:
            if "build" in path.parts or "test" in path.parts or "site-packages" in path.parts:
                continue
            for match in re.finditer(pattern, path.read_text(errors="ignore"), re.S | re.M):
                text = "\n".join(line.rstrip().expandtabs() for line in match[0].strip("\n").splitlines())
                indent = len(text) - len(text.lstrip())
                text = "\n".join(line[min(indent, len(line) - len(line.lstrip())):] for line in text.splitlines())
                if 150 < len(text) < 650 and re.search(r"\w+\(", text) and name_of(text) not in taken:
                    found.append(text)
    return list(dict.fromkeys(found))


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--parts", type=int, default=12)
    parser.add_argument("--texts", type=pathlib.Path, nargs="*", default=[])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    queries = json.loads((args.source / "perf/speculation/prompts.json").read_text())
    for kind, texts in queries.items():
        write(args.out / f"queries-{kind}.jsonl", texts)
    books = [args.source / "samples/models/books-val-sample.jsonl"] + args.texts
    shuffle = random.Random(SEED)
    body = lambda query: query.split("\n\n", 1)[-1]
    kinds = {"chat": chat(),
             "copy": [form.format(text) for text in passages(books, map(body, queries["copy"])) for form in COPY],
             "code": [shuffle.choice(CODE).format(text) for text in functions(args.source, map(body, queries["code"]))]}
    chosen = []
    for kind, texts in kinds.items():
        shuffle.shuffle(texts)
        wanted = round(SHARES[kind] * args.count)
        chosen += texts[:wanted]
        print(f"{kind}: {min(wanted, len(texts))} of {len(texts)} prompts")
    shuffle.shuffle(chosen)
    for part in range(args.parts):
        write(args.out / f"store-{part:02}.jsonl", chosen[part::args.parts])


if __name__ == "__main__":
    main()
