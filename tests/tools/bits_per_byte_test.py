#!/usr/bin/env python3
"""bits_per_byte_test.py KEEL: `keel eval ppl` against an implementation of its own, from the bytes of the text to the
printed figures: a GGUF writer, a SentencePiece-style tokenizer, a model whose logits are exact, softmax, the protocol,
and the bytes. They agree to 1e-9. And what `keel run` and `keel chat` write for a model of case operators.

The model: embedding rows of +1 and -1, so that their RMS norm is themselves; one layer of zeros; output rows of
multiples of 1/16. Logits are exact in f32, and depend on the newest token alone."""
import json
import math
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

KEEL = sys.argv[1]
DIM = 64
failures = []


def expect(condition, what):
    if not condition:
        failures.append(what)


class Model:
    def __init__(self, seed, zero=False, more_pieces=()):
        r = random.Random(seed)
        self.pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        self.scores = [0.0] * len(self.pieces)
        self.types = [2, 3, 3] + [6] * 256
        for i, piece in enumerate(["\u2581", "t", "h", "e", "th", "the", "\u2581the", "\u00e9", *more_pieces]):
            self.pieces.append(piece)
            self.scores.append(-1.0 - i)
            self.types.append(1)
        self.ids = {p: i for i, p in enumerate(self.pieces)}
        n = len(self.pieces)
        self.embedding = [[r.choice((-1, 1)) for _ in range(DIM)] for _ in range(n)]
        self.output = [[0 if zero else r.randrange(-6, 7) / 16 for _ in range(DIM)] for _ in range(n)]
        self.cache = {}

    def tokenize(self, text):
        """Best-scoring neighbours are joined, the leftmost first; what is no piece becomes its bytes."""
        parts = list("\u2581" + text.replace(" ", "\u2581")) if text else []
        while True:
            best = None
            for i in range(len(parts) - 1):
                joined = self.ids.get(parts[i] + parts[i + 1])
                if joined is not None and (best is None or self.scores[joined] > self.scores[best[1]]):
                    best = (i, joined)
            if best is None:
                break
            parts[best[0]:best[0] + 2] = [self.pieces[best[1]]]
        ids = []
        for part in parts:
            ids += [self.ids[part]] if part in self.ids else [3 + b for b in part.encode()]
        return ids

    def decoded(self, ids):
        """Bytes, without the space in front of the text."""
        out = b"".join(bytes([i - 3]) if 3 <= i < 259 else self.pieces[i].replace("\u2581", " ").encode() for i in ids)
        return out[1:] if out.startswith(b" ") else out

    def log_probabilities(self, last):
        if last not in self.cache:
            x = self.embedding[last]
            logits = [sum(a * b for a, b in zip(x, row)) for row in self.output]
            top = max(logits)
            log_sum = top + math.log(math.fsum(math.exp(z - top) for z in logits))
            self.cache[last] = [z - log_sum for z in logits]
        return self.cache[last]

    def write(self, path):
        n, blobs = len(self.pieces), []

        def text(s):
            b = s.encode()
            return struct.pack("<Q", len(b)) + b

        def array(kind, items):
            head = struct.pack("<IQ", kind, len(items))
            if kind == 8:
                return head + b"".join(text(s) for s in items)
            return head + struct.pack(f"<{len(items)}{'f' if kind == 6 else 'i'}", *items)
        values = [("general.architecture", 8, text("llama")), ("general.name", 8, text("bigram"))]
        for key, value in (("block_count", 1), ("embedding_length", DIM), ("feed_forward_length", DIM),
                           ("attention.head_count", 1), ("attention.head_count_kv", 1), ("context_length", 4096),
                           ("rope.dimension_count", DIM)):
            values.append(("llama." + key, 4, struct.pack("<I", value)))
        values += [("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-20)),
                   ("tokenizer.ggml.model", 8, text("llama")), ("tokenizer.ggml.tokens", 9, array(8, self.pieces)),
                   ("tokenizer.ggml.scores", 9, array(6, self.scores)),
                   ("tokenizer.ggml.token_type", 9, array(5, self.types)),
                   ("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)),
                   ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2)),
                   ("tokenizer.ggml.add_space_prefix", 7, b"\x01")]
        ones, square = [1.0] * DIM, [0.0] * (DIM * DIM)
        tensors = [("token_embd.weight", (DIM, n), sum(self.embedding, [])), ("output_norm.weight", (DIM,), ones),
                   ("output.weight", (DIM, n), sum(self.output, []))]
        tensors += [(f"blk.0.{k}_norm.weight", (DIM,), ones) for k in ("attn", "ffn")]
        tensors += [(f"blk.0.{k}.weight", (DIM, DIM), square)
                    for k in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")]
        out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
        out += b"".join(text(k) + struct.pack("<I", kind) + data for k, kind, data in values)
        offset = 0
        for name, dims, data in tensors:
            blobs.append(struct.pack(f"<{len(data)}f", *data))
            out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset)
            offset += len(blobs[-1])  # all of them multiples of 32
        path.write_bytes(out + b"\0" * (-len(out) % 32) + b"".join(blobs))


CAPS = {"title": "\ue001", "capitals": "\ue002", "next": "\ue003", "escape": "\ue004"}


def lower_case(text):
    """Words in lower case behind operators."""
    def word(match):
        w = match.group()
        if w in CAPS.values():
            return CAPS["escape"] + w
        if len(w) > 1 and w.isupper():
            return CAPS["capitals"] + w.lower()
        first = CAPS["title"] if w[0].isupper() else ""
        return first + w[0].lower() + re.sub("[A-Z]", lambda c: CAPS["next"] + c.group().lower(), w[1:])
    return re.sub("[A-Za-z]+|[\ue001-\ue004]", word, text)


def as_written(read):
    """The text behind bytes in lower case; what is cut off stays away."""
    def word(match):
        mark, w = match.groups()
        w = re.sub("\ue003([a-z])", lambda c: c.group(1).upper(), w)
        return w.upper() if mark == CAPS["capitals"] else w[:1].upper() + w[1:] if mark else w
    parts = re.split("\ue004(.)", read.decode(errors="surrogateescape"))
    parts[::2] = [re.sub("([\ue001\ue002]?)([a-z](?:\ue003?[a-z])*)", word, p) for p in parts[::2]]
    parts[-1] = parts[-1].rstrip("".join(CAPS.values()))
    return "".join(parts).encode(errors="surrogateescape")


def score(model, reference, text, window, stride, operators=False):
    """[(nll, reference nll, kl, same top)] of the scored tokens, and the bytes they stand for."""
    written = as_written if operators else lambda read: read
    ids = [1] + model.tokenize(lower_case(text) if operators else text)
    limit = len(ids) if stride else min(len(ids), window + 1)
    rows, begin, scored = [], 0, 1
    while scored < limit:
        end = min(limit, begin + window + 1)
        for target in range(scored, end):
            last = 1 if target - 1 == begin else ids[target - 1]
            p = model.log_probabilities(last)
            row = [-p[ids[target]]]
            if reference:
                q = reference.log_probabilities(last)
                row += [-q[ids[target]], math.fsum(math.exp(a) * (a - b) for a, b in zip(q, p)),
                        q.index(max(q)) == p.index(max(p))]
            rows.append(row)
        scored, begin = end, begin + (stride or window)
    raw, back = text.encode(), written(model.decoded(ids[1:]))
    if scored == len(ids):
        return rows, len(raw), back != raw
    cut = len(written(model.decoded(ids[1:scored])))
    return rows, cut if back == raw else round(len(raw) * cut / len(back)), back != raw


def keel(code, *arguments):
    done = subprocess.run([KEEL, "eval", "ppl", *map(str, arguments), "--json"], capture_output=True, text=True)
    expect(done.returncode == code, f"exit {done.returncode} instead of {code}: {arguments}\n{done.stderr}")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def near(a, b, what):
    expect(isinstance(a, (int, float)) and abs(a - b) <= 1e-9 * max(1, abs(b)), f"{what}: {a}, not {b}")


TEXTS = ["the then the e", "caf\u00e9 \U0001f600 e\u0301 the\r\n\tthe  the", "", "\u00a0t\u2581he \u2581", "h",
         " ".join(random.Random(5).choice(["the", "he", "t", "\u00e9", "x"]) for _ in range(90))]


def check(report, model, reference, window, stride, texts=TEXTS, operators=False):
    documents = [score(model, reference, text, window, stride, operators) for text in texts]
    rows = [row for d in documents for row in d[0]]
    data, bits = sum(d[1] for d in documents), math.fsum(r[0] for r in rows) / math.log(2)
    expect(report["tokens"] == len(rows) and report["bytes"] == data,
           f"{report['tokens']} tokens, {report['bytes']} bytes, not {len(rows)}, {data}")
    expect(report["lossy_documents"] == sum(d[2] for d in documents) == 1, f"{report['lossy_documents']} lossy")
    near(report["bits_per_byte"], bits / data, "bits per byte")
    near(report["uniform_bits_per_byte"], len(rows) * math.log2(len(model.pieces)) / data, "uniform")
    for own, d in zip(report["per_document"], documents):
        near(own["nll_sum"], math.fsum(r[0] for r in d[0]), "NLL of a document")
        expect((own["bytes"], own["lossy"]) == (d[1], d[2]), f"document: {own}, not {d[1:]}")
    if not reference:
        return
    against = report["against"]
    expect(against["by_token"], "compared by token")
    for key, column in (("nll", 0), ("bits_per_byte", 0)):
        scale = len(rows) if key == "nll" else data * math.log(2)
        near(against[key]["delta"], math.fsum(r[0] - r[1] for r in rows) / scale, "difference in " + key)
        near(against[key]["reference"], math.fsum(r[1] for r in rows) / scale, key + " of the reference")
    # Keel keeps the reference's probabilities in f32.
    kl = math.fsum(r[2] for r in rows) / len(rows)
    expect(abs(against["kl"] - kl) < 1e-6 * kl, f"KL {against['kl']}, not {kl}")
    near(against["same_top"], sum(r[3] for r in rows) / len(rows), "same top-1")


def written_with_case_operators(work):
    """A model that writes one token behind each: its prompts are encoded, what it writes is decoded, wherever it begins."""
    model = Model(8, more_pieces=(*CAPS.values(), "ab"))
    comma, new_line = 3 + ord(","), 3 + ord("\n")
    title, the, space, capitals, th, e, accented, t, then, h = (model.ids[p] for p in (
        CAPS["title"], "the", "\u2581", CAPS["capitals"], "th", "e", "\u00e9", "t", CAPS["next"], "h"))
    circle = [title, the, comma, space, capitals, th, e, accented, t, then, h, new_line]
    for one, behind in zip(circle, circle[1:] + circle[:1]):
        model.output[behind] = [2 * x for x in model.embedding[one]]
    model.embedding[model.ids["ab"]] = model.embedding[new_line]
    path = work / "writes"
    model.write(path)
    (work / "lines.jinja").write_text("{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}")

    def command(verb, *words, stdin=""):
        words = [KEEL, verb, path, "--threads", "1", "--temp", "0", "--repeat-penalty", "1", "--json", *words]
        run = subprocess.run([str(w) for w in words], input=stdin, capture_output=True, text=True)
        expect(run.returncode == 0, f"{verb}: exit {run.returncode}: {run.stderr}")
        return [json.loads(line) for line in run.stdout.splitlines()] if verb == "chat" else json.loads(run.stdout)
    for prompt, tokens, text, malformed in (
            ("The", 12, ", THE\u00e9tH\nThe", 0), ("The", 3, ", ", 0), ("TH", 2, "E\u00e9", 0), ("th", 2, "e\u00e9", 0),
            ("T", 3, "H\n", 0), ("ab", 3, "the,", 1)):
        report = command("run", "--case-operators", "-p", prompt, "-n", tokens)
        expect(report["text"] == text, f"behind {prompt}: {report['text']!r}, not {text!r}")
        expect(report["case_operators"] == {"lossy_prompt": False, "malformed": malformed}, f"{prompt}: {report['case_operators']}")
        expect(report["heap_allocations_after_init"] in (0, None), f"{prompt}: allocations")
    plain = command("run", "-p", lower_case("The"), "-n", 12)
    expect(plain["text"] == lower_case(", THE\u00e9tH\nThe"), f"as it is written: {plain['text']!r}")
    expect(command("run", "--case-operators", "-p", "T\u2581h", "-n", 1)["case_operators"]["lossy_prompt"], "a lossy prompt")
    stopped = command("run", "--case-operators", "-p", "The", "--stop", "THE", "-n", 30)
    expect((stopped["text"], stopped["stop"]) == (", ", "stop string"), f"stopped: {stopped['text']!r}")
    turns = command("chat", "--case-operators", "--template", work / "lines.jinja", "-n", 7, stdin="T\u2581h\nAb\n")
    expect([turn["assistant"] for turn in turns] == ["The, THE"] * 2, f"a chat: {[turn['assistant'] for turn in turns]}")
    expect([turn["case_operators"]["lossy_message"] for turn in turns] == [True, False], "a lossy message")
    expect(turns[1]["user"] == "Ab", "the user's own words")
    expect(turns[1]["prompt_tokens"] == 5, "the session has what the model wrote")


with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    one, other, flat, wide = Model(1), Model(2), Model(3, zero=True), Model(4, more_pieces=("he", "\u2581t"))
    for name, m in (("one", one), ("other", other), ("flat", flat), ("wide", wide)):
        m.write(work / name)
    text = work / "text.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    base = [work / "one", text, "--per-document", "--threads", 1]
    for window, stride in ((16, 0), (16, 7), (32, 32)):
        shape = ["--window", window] + (["--stride", stride] if stride else [])
        check(keel(0, *base, *shape), one, None, window, stride)
        check(keel(0, *base, *shape, "--against", work / "other"), one, other, window, stride)
    # The same words as they might be written, and the operators themselves, read in lower case.
    cased = ["The THEN the E, hETheHe", "I \ue002 A\ue003the Th\u00c9", "\u00a0T\u2581He \u2581", "H",
             " ".join(random.Random(6).choice(["The", "HE", "t", "\u00e9T", "hE"]) for _ in range(60))]
    cased_text, operators = work / "cased.jsonl", Model(7, more_pieces=tuple(CAPS.values()))
    operators.write(work / "operators")
    cased_text.write_text("".join(json.dumps({"text": t}) + "\n" for t in cased))
    for window, stride in ((16, 0), (16, 7), (32, 32)):
        shape = ["--window", window] + (["--stride", stride] if stride else [])
        check(keel(0, work / "operators", cased_text, "--per-document", "--threads", 1, "--case-operators", *shape), operators, None,
              window, stride, cased, True)
    written_with_case_operators(work)
    uniform = keel(0, work / "flat", text, "--window", 16, "--stride", 16)
    near(uniform["bits_per_byte"], uniform["uniform_bits_per_byte"], "a uniform model")
    # Of other tokens, and a report: bits per byte of whole documents.
    report = keel(0, work / "other", text, "--per-document", "--window", 32, "--stride", 32)
    (work / "report.json").write_text(json.dumps(report))
    with_report = keel(0, *base, "--window", 32, "--stride", 32, "--against", work / "report.json")
    with_model = keel(0, *base, "--window", 32, "--stride", 32, "--against", work / "other")
    near(with_report["against"]["bits_per_byte"]["delta"], with_model["against"]["bits_per_byte"]["delta"], "a report")
    expect(with_model["against"]["bits_per_byte"]["delta_95"][0] < with_model["against"]["bits_per_byte"]["delta_95"][1],
           "an interval")
    wider = keel(0, *base, "--window", 32, "--stride", 32, "--against", work / "wide")
    documents = [(score(one, None, t, 32, 32), score(wide, None, t, 32, 32)) for t in TEXTS]
    delta = math.fsum(r[0] for a, b in documents for r in a[0]) - math.fsum(r[0] for a, b in documents for r in b[0])
    near(wider["against"]["bits_per_byte"]["delta"], delta / math.log(2) / sum(a[1] for a, b in documents),
         "another vocabulary")
    expect(not wider["against"]["by_token"], "not by token")
    keel(2, *base, "--window", 32, "--against", work / "wide")
    keel(3, *base, "--window", 32, "--against", text)
    (work / "report.json").write_text(json.dumps({"per_document": report["per_document"][1:]}))
    keel(2, *base, "--window", 32, "--stride", 32, "--against", work / "report.json")
for failure in failures:
    print("FAILED:", failure)
print(f"{len(failures)} failures")
sys.exit(1 if failures else 0)
