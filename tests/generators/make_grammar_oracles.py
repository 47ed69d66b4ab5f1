#!/usr/bin/env python3
"""Writes tests/data/grammar/cases.txt: which strings grammars accept, by the module regex and by jsonschema.

Usage: make_grammar_oracles.py        (needs: regex, jsonschema)

    gbnf TEXT | schema TEXT      in hexadecimal
    yes STRING | no STRING       likewise ("-": empty)

Every GBNF stands beside an expression written for it by hand; strings are given, or made of pieces and mutated. A string
belongs to a schema when it is JSON that jsonschema validates, with the properties in the schema's order, required ones
first; such strings are written compact, as json.dumps writes them, or with a space behind : and ,.
"""
import itertools
import json
import pathlib
import random

import jsonschema
import regex

OUT = pathlib.Path(__file__).resolve().parents[1] / "data/grammar/cases.txt"
rng = random.Random(12)

# GBNF, expression, pieces that strings are made of
GRAMMARS = [
    ('root ::= "yes" | "no"', r"yes|no", ["yes", "no", "y", "n", "o", "es"]),
    ('root ::= [a-c]+ [^a-c\\n]?', r"[a-c]+[^a-c\n]?", ["a", "b", "c", "d", "\n", "\u00e9", "\u20ac", "\U0001f600", "-"]),
    ('root ::= x{2,4} y{0,1} z{2}\nx ::= "ab"\ny ::= "-"\nz ::= [0-9]', r"(ab){2,4}-?[0-9]{2}", ["ab", "a", "-", "1", "99"]),
    ('root ::= x{3,}\nx ::= "a" | "bb"', r"(a|bb){3,}", ["a", "bb", "b"]),
    ('root ::= x{,2} "!"\nx ::= "a"', r"a{0,2}!", ["a", "!"]),
    ('# sums\nroot ::= term ("+" term)*   # of products\nterm ::= factor ("*" factor)*\nfactor ::= [0-9]+ | "(" root ")"',
     r"(?<r>(?<t>(?<f>[0-9]+|\((?&r)\))(\*(?&f))*)(\+(?&t))*)", ["1", "23", "+", "*", "(", ")", "(1)"]),
    ('root ::= ws object\nobject ::= "{" ws ( pair ( "," ws pair )* )? "}" ws\npair ::= string ":" ws value\n'
     'value ::= object | string | num | "true" ws | "[" ws (value ("," ws value)*)? "]" ws\n'
     'string ::= "\\"" ( [^"\\\\\\x00-\\x1F] | "\\\\" ["\\\\/bfnrt] )* "\\"" ws\nnum ::= "-"? [0-9]+ ws\nws ::= [ \\t\\n]*',
     r'(?(DEFINE)(?<w>[ \t\n]*+)(?<s>"([^"\\\x00-\x1f]|\\["\\/bfnrt])*"(?&w))(?<n>-?[0-9]+(?&w))'
     r'(?<o>\{(?&w)((?&p)(,(?&w)(?&p))*)?\}(?&w))(?<p>(?&s):(?&w)(?&v))'
     r'(?<v>(?&o)|(?&s)|(?&n)|true(?&w)|\[(?&w)((?&v)(,(?&w)(?&v))*)?\](?&w)))(?&w)(?&o)',
     ["{", "}", "[", "]", ",", ":", '"a"', '"\u00e9\\n"', "12", "-3", "true", " ", "\n", '"', '{"a":1}', '{"b":[{},"c"]}']),
    ('root ::= "\\"" [^"]* "\\"" | "a" "b"? "c"*', r'"[^"]*"|ab?c*', ['"', "a", "b", "c", "\u4e2d"]),
    ('root ::= . . "x"', r"(?s:..x)", ["x", "\u00e9", "\U0001f600", "\n", "a"]),
    ('root ::= [\\u4e00-\\u9fff]+ ("\\u3002" | "\\x21")', "[\u4e00-\u9fff]+(\u3002|!)", ["\u4e00", "\u9fff", "\u9fa5", "\u3002", "!", "\u3400", "a"]),
    ('root ::= a | b\na ::= "x" a | "x"\nb ::= "x" b "y" | "z"', r"x+|(?<b>x(?&b)y|z)", ["x", "y", "z", "xx"]),
    ('root ::= (("a" | "b") "c" |\n "d")+ ', r"((a|b)c|d)+", ["a", "b", "c", "d", "ac"]),
    ('root ::= [-a\\]\\\\] [a-]', r"[\-a\]\\][a\-]", ["-", "a", "]", "\\", "b"]),
]
REFUSED = ['root ::= root "a" | "b"', 'root ::= ("a"?)*', 'root ::= a\na ::= b "x"\nb ::= a?', 'root ::= x', 'root ::= "a',
           'x ::= "a"', 'root ::= [b-a]', 'root ::= "a"{5,2}', 'root ::= "a"{99999}', 'root ::= ("a"', 'root := "a"', '',
           'root ::= "a" )', 'root ::= "\\q"', 'root ::= "a"\nroot ::= "b"', 'root ::= "' + "a" * 9000 + '"']

SCHEMAS = [
    {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
                                      "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2}},
     "required": ["name", "age"]},
    {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "boolean"}, "c": {"type": "number"}}},
    {"type": "object", "properties": {"z": {"const": 1}, "y": {"const": "x y"}, "x": {"type": ["string", "null"]}}, "required": ["x"]},
    {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string", "minLength": 1, "maxLength": 3}},
                                "required": ["k"], "additionalProperties": False}, "maxItems": 3},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
        "v": {"type": "integer"}, "l": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}}, "required": ["v", "l"]}}},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"enum": ["a", 1, None, {"b": [1, 2]}, True]},
    {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}], "description": "either", "title": "t"},
    {"type": "array", "minItems": 2},
    {},
]
REFUSED_SCHEMAS = ['{"type": "string", "pattern": "a"}', '{"type": "integer", "minimum": 3}', '{"type": "what"}', '{"enum": []}',
                   '{"$ref": "#/$defs/none"}', '{"$ref": "other.json"}', '{"type": "object"', '[1]', '{"a" 1}', 'false',
                   '{"properties": {"a": {}}, "required": ["b"]}', '{"allOf": [{}]}', '{"$ref": "#"}', '{"type": "string"} x',
                   '{"properties": {"a": {}}, "additionalProperties": true}', '[' * 100]
VALUES = ["x", "", "abc", "abcd", "\u00e9\"\\\n", "x y", 0, 1, -5, 120, 1.5, -0.25, 1e30, True, False, None, [], ["a"], ["a", "b"],
          ["a", "b", "a"], [1, 2.5], [[1], {"q": None}], {}, {"b": [1, 2]}, {"k": "ab"}, {"v": 1, "l": None}]


def mutated(text):
    at = rng.randrange(len(text) + 1)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1:]
    if kind == 1:
        return text[:at] + rng.choice('ab"{}[],:1 \\x\u00e9') + text[at:]
    return text[:at] + text[at:][::-1] if rng.randrange(2) else text[:at]


def strings_of(pieces):
    out = {""}
    for n in range(1, 4):
        out.update("".join(t) for t in itertools.product(pieces, repeat=n) if n < 3 or rng.random() < 0.05)
    for _ in range(400):
        out.add("".join(rng.choice(pieces) for _ in range(rng.randrange(3, 12))))
    return out


def documents(schema):
    keys = list(schema.get("properties", {"k": 0, "q": 0})) + ["other"]
    out = list(VALUES)
    for _ in range(300):
        chosen = [k for k in keys if rng.random() < 0.7]
        out.append({k: rng.choice(VALUES) for k in chosen})
        good = {}
        required = [k for k in keys if k in schema.get("required", [])]
        for k in required + [k for k in keys if k not in required]:
            fitting = [v for v in VALUES if k in schema.get("properties", {}) and
                       jsonschema.Draft202012Validator(schema["properties"][k]).is_valid(v)] if "$ref" not in schema else VALUES
            if fitting and (k in required or rng.random() < 0.5):
                good[k] = rng.choice(fitting)
        out.append(good)
        out.append([rng.choice(VALUES) for _ in range(rng.randrange(4))])
    inner = None
    for i in range(6):
        inner = {"v": i, "l": inner}
        out.append(inner)
    return out


def in_order(value, schema, root):
    """Whether every object has its properties in the order in which they are accepted, and no others."""
    if schema is True or "enum" in schema or "const" in schema:
        return True
    if "$ref" in schema:
        return in_order(value, root["$defs"]["tree"], root)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return any(jsonschema.Draft202012Validator({**s, "$defs": root.get("$defs", {})}).is_valid(value) and
                       in_order(value, s, root) for s in schema[key])
    if isinstance(value, dict) and "properties" in schema:
        required = [k for k in schema["properties"] if k in schema.get("required", [])]
        order = required + [k for k in schema["properties"] if k not in required]
        places = [order.index(k) if k in order else -1 for k in value]
        return -1 not in places and places == sorted(places) and all(
            in_order(v, schema["properties"][k], root) for k, v in value.items())
    if isinstance(value, list) and "items" in schema:
        return all(in_order(v, schema["items"], root) for v in value)
    return True


def plain(text):
    """JSON that the grammar spells: no exponents beyond three digits, no other white space than json.dumps writes."""
    return all(ord(c) >= 0x20 and c != "\x7f" for c in text)


hexed = lambda text: text.encode("utf-8").hex() or "-"
lines = []
for text, expression, pieces in GRAMMARS:
    matcher = regex.compile(expression)
    lines.append("gbnf " + hexed(text))
    found = strings_of(pieces)
    good = [s for s in sorted(found) if matcher.fullmatch(s)]
    found.update(mutated(rng.choice(good)) for _ in range(150))
    found = sorted(found)
    rng.shuffle(found)
    good = [s for s in found if matcher.fullmatch(s)][:120]
    lines += ["yes " + hexed(s) for s in good] + ["no " + hexed(s) for s in found if not matcher.fullmatch(s)][:160]
lines += ["bad " + "gbnf " + hexed(text) for text in REFUSED]
for schema in SCHEMAS:
    validator = jsonschema.Draft202012Validator(schema)
    lines.append("schema " + hexed(json.dumps(schema)))
    good, bad = set(), set()
    for document in documents(schema):
        fits = validator.is_valid(document) and in_order(document, schema, schema)
        for separators in ((",", ":"), (", ", ": ")):
            text = json.dumps(document, ensure_ascii=bool(rng.randrange(2)), separators=separators)
            if "e+" not in text:
                (good if fits else bad).add(text)
    for text in sorted(good):
        for broken in (mutated(text), text[:-1]):
            try:
                json.loads(broken)
            except ValueError:
                bad.add(broken)
    pick = lambda s, n: rng.sample(sorted(s), min(n, len(s)))
    lines += ["yes " + hexed(s) for s in pick(good, 100)] + ["no " + hexed(s) for s in pick(bad, 130)]
lines += ["bad schema " + hexed(text) for text in REFUSED_SCHEMAS]
OUT.parent.mkdir(exist_ok=True)
OUT.write_text("".join(line + "\n" for line in lines))
