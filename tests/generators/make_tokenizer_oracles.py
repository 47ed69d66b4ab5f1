#!/usr/bin/env python3
"""Writes tests/data/text: pre-tokens, ids and vocabularies by independent implementations.

    pretokens.txt   where each pre-tokenizer cuts a text: `tokenizers` (Oniguruma) and `regex`, which must agree
    bpe.txt         a byte-level vocabulary trained on the spot, and its ids by `tokenizers`
    spm.txt         a SentencePiece vocabulary without byte tokens, and its ids by `sentencepiece`
    reference.txt   ids of the bundled model's vocabulary by `sentencepiece`

Usage: make_tokenizer_oracles.py        (needs: tokenizers regex sentencepiece protobuf gguf)
Texts and pieces are written in hexadecimal. The random part is seeded; the files are the same every time.
"""
import pathlib
import random
import unicodedata

import regex
import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/text"

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", " \n \n  x", "\t\t x", "x  ", "x \n", "x\n\n\ny", "a\u0085b",
    "Hello world", " Hello  World!", "Hello, world! ", "I'm you're WE'VE he'll it's don't I'd 'tis 'S 'Re 'lL", "''s'' 're're", "'", "''", "x'", "'x",
    "rock'n'roll O'Neil's l'\u00e9t\u00e9", "1", "12", "123", "1234", "1234567890", " 1 22 333 4444 ", "3.14159e-10", "v1.2.3-rc4", "\u00bd \u2167 \u0663\u0664\u0665\u0666 \u00b2\u00b3",
    "abc123def456", "foo_bar+=baz/*qux*/;//x\n\n  return 0;\n}", "if (a<b&&c>d) { x = y ^ z | ~w; }", "$100 +5% ~x `y` ^z <= >= == != |", "....!!!???---___", "a/b//c///\n/",
    "https://example.org/a?b=c&d=e#f", "user@example.com", "\u201cquotes\u201d \u2018single\u2019 \u2014 dash\u2026", "na\u00efve caf\u00e9 F\u00fchrer", "e\u0301 combining a\u0308\u0323b", "\u0301lead \u0301 x\u0301\u0301y",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u30ab\u30bf\u30ab\u30ca", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4", "\u4e2d\u6587 and English \u6df7\u5408123", "\u3000\u3000a\u3000b", "\uff01\uff1f\uff1a\uff5e \u3001\u3002",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0661\u0662\u0663", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 \u0e51\u0e52\u0e53", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041d\u0415\u0429\u041e", "\u0393\u03b5\u03b9\u03b1 \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5", "\U0001f600\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f", "a\U0001f600b \U0001f600", "\u00a0nbsp\u00a0\u00a0x", "\u2003em\u2009thin\u200bzero", "a\u2028b\u2029c",
    "camelCaseWord HTTPServer XMLHttpRequest iOS McDONALD", "\u01c5ungla \u01c4 \u01c6", "\u02b0modifier a\u02b0 A\u02b0B", "AAAa aAAA \u4e00AAAA\u4e00AA", "\u00aa\u00ba \u00b5m \u2126", "\x00\x01\x1b[0m\x7f", "tab\tand\nnewline\r\nmix \t\n", "  leading\n    indent\n\ttab", "trailing   \n   ",
    "word\u00a0\n x", "!\n\n!", "a!\r\nb", " !x", "  !x", "\u00a0!x", "a\u00a0b", "(paren)[brack]{brace}", "#include <x>\n#define Y 1\n", "\U0001d400\U0001d401 math", "\U00010400\U00010428 deseret", "\U0001e900\U0001e922 adlam", "\u10d0\u10d1 \u1c90", "\u2460\u3251", "\u0b95\u0bcd\u0bb7", "x" * 40, "=" * 40, " " * 17 + "x", "9" * 20,
]

POOLS = [
    "abcdefgh", "ABCDEFGH", "0123456789", "    ", " \t", "\n\r\n", ".,;:!?'\"-_/\\", "$+<=>^`|~", "'s't're'VE'Ll", "\u00e9\u00fc\u00df\u00d1", "\u0301\u0308\u0e31\u094d", "\u4e00\u4e2d\u9fa5\uac00\ud7a3\u3042\u30a2",
    "\u0410\u0430\u03a9\u03c9", "\u0661\u00bd\u2167", "\u00a0\u3000\u2003\u0085\u2028", "\U0001f600\u200d\u2764\ufe0f", "\u01c5\u02b0\u00aa", "\uff01\uff5e\u3001\u2018\u2014", "\x00\x1c\x1f\x7f\u200b", "\ue000\U000f0000",
]


def random_texts(count):
    rng = random.Random(7)
    for _ in range(count):
        pools = rng.sample(POOLS, rng.randint(2, 6))
        yield "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 24)))


def wide_texts(count):
    """Characters of every page that Python's Unicode knows: it is the oldest here, so both implementations know them."""
    rng = random.Random(13)
    wide = [chr(c) for c in range(0x80, 0x20000) if unicodedata.category(chr(c))[0] in "LMNPSZ"]
    for _ in range(count):
        yield "".join(rng.choice(wide) if rng.random() < 0.7 else rng.choice(" \n'aA1,") for _ in range(rng.randint(10, 30)))


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + r"+%s|[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + r"*%s|\p{N}%s|"
         r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d"
    "\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124"
    "\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943")
HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
DEEPSEEK3 = (r"""[!"#$%%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+%s|"""
             r"%s|\s+(?!\S)|\s+")
BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
YOUTU = ("[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|"
         "[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+")
NO_SPACES = ("[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
             "\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+")
EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

# tokenizer.ggml.pre -> the patterns of its stages, each cutting the pieces of the one before.
PRE = {
    "gpt-2": [GPT2],
    "llama-bpe": [CL100K % "{1,3}"],
    "qwen2": [CL100K % ""],
    "tekken": [CASED % ("", "", "")],
    "gpt-4o": [CASED % (SUFFIX, SUFFIX, "{1,3}")],
    "smollm": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "deepseek-llm": [r"[\r\n]", r"\s?[" + CASED_LETTERS + "]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$", EAST_ASIAN, r"\p{N}+"],
    "jais-2": [CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" +
               "".join(r"\s{%d}(?!\S)|" % n for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"\s{1,2}(?!\S)|\s{1}"],
    "qwen35": [CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "ufakzeka": [(CL100K % "").removeprefix(CONTRACTION + "|")],
    "laguna": [r"[^\n]+|[\n]+", CL100K % ""],
    "minicpm5": [r"\p{N}{1,3}", CL100K % "+"],
    "exaone-moe": [CONTRACTION + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
    "youtu": [YOUTU, CASED % (SUFFIX, SUFFIX, "")],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", CASED % (SUFFIX, SUFFIX, "{1,3}")],
    "deepseek-v3": [r"\p{N}{1,3}", HAN_KANA, DEEPSEEK3 % (r"[\r\n]*", r"\s*[\r\n]+")],
    "spark2_5": [r"\p{N}{1,3}", HAN_KANA, DEEPSEEK3 % ("", r"[\r\n]"), r"\p{N}"],
    # The first pattern is code in GGUF runtimes: threes of a run of digits, counted from its end.
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", NO_SPACES, DEEPSEEK3 % (r"[\r\n]*", r"\s*[\r\n]+")],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "chameleon": [r"<sentinel:[0-9]+>", r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"],
}
# Cut over fewer of the texts: they share what the others test.
FEWER = ("bailingmoe", "seed-coder", "ufakzeka", "laguna", "minicpm5", "youtu", "spark2_5", "afmoe", "superbpe", "viking", "chameleon")
MORE_TEXTS = [
    "12345abc 1234567 123_ 12\u00bd3456 1234.5678", "\u0661\u0662\u0663\u0664 \u0661\u0662\u0663\u0664x", "<sentinel:12>a<sentinel:x><sentinel:>", "IMGIMGABCDZ IMGIMGABCDEZ IMGIMGZ",
    " " * 70 + "x", "x" + " " * 9, "\t" * 5 + " " * 3 + "x", "a  b   c    d     e", "one two three.four five", "a\u0301 b\u0308c  d e", "O'reilly 'rer L'\u0130stanbul'un", "a/\nb//\n\nc!/", "x!\n\ny",
    "\u3105\u3106\uac00\u3131\uff01\u2026\u201ca\u201d\u3001\u4e2d", "#include\u0301 .foo ,bar `baz` ~x", "(a|b).c,d!e?f\u2026g\u3002h",
]


def cut_by_regex(patterns, text):
    pieces = [text]
    for pattern in patterns:
        # Python's \s has the separators U+001C..1F besides White_Space. Behind a digit \b is what no word character follows.
        for theirs, ours in ((r"\s", r"\p{White_Space}"), (r"\S", r"\P{White_Space}"), (r"\b", r"(?![\p{L}\p{M}\p{N}\p{Pc}])")):
            pattern = pattern.replace(theirs, ours)
        compiled = regex.compile(pattern)
        cut = []
        for piece in pieces:
            at = 0
            for match in compiled.finditer(piece):
                cut += [piece[at:match.start()], match.group()]
                at = match.end()
            cut.append(piece[at:])
        pieces = [p for p in cut if p]
    return pieces


def splits(patterns):
    return [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]


def cut_by_tokenizers(patterns, text):
    sequence = pre_tokenizers.Sequence(splits(patterns))
    return [text[a:b] for _, (a, b) in sequence.pre_tokenize_str(text)]


def hexed(text):
    return text.encode("utf-8").hex()


def write(name, lines):
    (OUT / name).write_text("".join(line + "\n" for line in lines))


def pretokens():
    lines = []
    for i, text in enumerate(TEXTS + MORE_TEXTS + list(random_texts(160)) + list(wide_texts(120))):
        lines.append("text " + hexed(text))
        for name, patterns in PRE.items():
            if name in FEWER and i % 3 and text not in MORE_TEXTS:
                continue
            if name == "tiny_aya" and regex.search(r"\d[\p{Nl}\p{No}]", text):
                continue  # which of these end a word is in no standard
            cut = cut_by_regex(patterns, text)
            other = cut_by_tokenizers(patterns, text)
            assert cut == other, (name, text, cut, other)
            assert "".join(cut) == text
            lines.append(name + "".join(" %d" % len(p.encode("utf-8")) for p in cut))
    write("pretokens.txt", lines)


def byte_level():
    """Merges trained without a pre-tokenizer, so that they reach over every boundary a pre-tokenizer may set."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    corpus = [t for t in TEXTS * 3] + ["the quick brown fox 123 jumps, over\n  the lazy dog's 456!\n"] * 20
    trained.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    state = __import__("json").loads(trained.to_str())["model"]
    vocabulary = sorted(state["vocab"], key=state["vocab"].get)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    # No merges lead here: only ignore_merges finds them.
    vocabulary += [t for t in ("camelCaseWord", "\u0120HTTPServer", "345", "\u0120....", "999") if t not in vocabulary]
    lines = ["token " + hexed(t) for t in vocabulary] + ["merge " + hexed(" ".join(m)) for m in merges]
    texts = TEXTS + list(random_texts(60))
    for name, ignore in (("gpt-2", False), ("llama-bpe", True), ("qwen2", False), ("deepseek-llm", False)):
        model = models.BPE({t: i for i, t in enumerate(vocabulary)}, merges, ignore_merges=ignore)
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            splits(PRE[name]) + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        lines.append("pre " + name)
        lines += ["ids " + hexed(t) + "".join(" %d" % i for i in tokenizer.encode(t).ids) for t in texts]
    write("bpe.txt", lines)


def reference_pieces():
    fields = GGUFReader(ROOT / "samples/models/books-7m-f16.gguf").fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    return list(zip(get("tokens"), get("scores"), get("token_type")))


def processor(pieces, byte_fallback):
    proto = spm_proto.ModelProto()
    for text, score, kind in pieces:
        proto.pieces.add(piece=text, score=score, type=kind)
    proto.trainer_spec.model_type = spm_proto.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = byte_fallback
    proto.trainer_spec.vocab_size = len(pieces)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def sentences():
    # SentencePiece reads NUL as the end of a line of its own.
    return [t for t in TEXTS + list(random_texts(160)) if "\0" not in t] + [
        "the same the same the same", "It was the best of times, it was the worst of times", "indefatigable uncharacteristically",
        "eeeeeeeeeeeeeeee", "1234567890", "\u2581literal mark", " \u2581 "]


def sentencepiece_ids():
    whole = processor(reference_pieces(), True)
    write("reference.txt", ["ids " + hexed(t) + "".join(" %d" % i for i in whole.encode(t)) for t in sentences()])
    some = [p for p in reference_pieces() if p[2] != 6][:700] + [p for p in reference_pieces() if p[2] == 1][-60:]
    some = list(dict.fromkeys(some))
    part = processor(some, False)
    lines = ["token %d %r %s" % (kind, score, hexed(text)) for text, score, kind in some]
    write("spm.txt", lines + ["ids " + hexed(t) + "".join(" %d" % i for i in part.encode(t)) for t in sentences()])


OUT.mkdir(parents=True, exist_ok=True)
pretokens()
byte_level()
sentencepiece_ids()
