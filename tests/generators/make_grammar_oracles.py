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
import re

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
VALUES = ["x", "", "abc", "abcd", "\u00e9\"\\\n", "x y", 0, 1, -5, 120, 1.5, -0.25, 1e30, True, False, None, [], ["a"], ["a", "b"],
          ["a", "b", "a"], [1, 2.5], [[1], {"q": None}], {}, {"b": [1, 2]}, {"k": "ab"}, {"v": 1, "l": None}]
# Schema, the same with its allOf merged by hand (or None), values to try.
NUMBERS = sorted({n + d for n in (0, 5, 9, 10, 99, 100, 255, 1000, 12345, 999999, 10 ** 12) for d in (-1, 0, 1)} |
                 {-n for n in (0, 1, 2, 5, 9, 10, 11, 99, 100, 101, 1000, 12345)}) + \
    [0.5, -0.5, 0.25, 0.999, 1.5, 4.75, 5.25, 9.5, 10.125, 99.5, -0.001, -9.75, -10.5, 100.25, 5.0, 10.0, 0.0, -10.0]
PIECES = ["a", "b", "c", "x", "Z", "0", "7", "42", "-", "_", ".", " ", "\"", "\\", "/", "\n", "\t", "\x01", "\u00e9", "\u4e2d", "\U0001f600",
          "@", "ab", "abc", "2024-01-31", "a@b.cd", "(", ")", "{", "}", "+", "*", "?", "^", "$", "|"]
PATTERNS = [r"^[a-z]+$", r"^\d{4}-\d{2}-\d{2}$", r"ab", r"^a|c$", r"^(a|b)*x?$", r"^[^a-c\s]{2,3}$", r"^.{3}$", r"^[\w.]+@[\w.]+\.\w{2,}$", r"^$",
            r"\\|\"", r"^[\x20-\x7e]*$", r"^(?:ab|c)+?$", r"^\u00e9[\u4e00-\u9fff]?", r"^\S+$", r"^\D+\W$", r"^(?:[0-9]|-){1,}$",
            r"^\(\)\{\}\+\*\?\^\|$", r"^[-+]?[0-9]+$", r"^[\t\n\x01]+$"]
bounds = lambda **k: {{"low": "minimum", "high": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}[n]: v for n, v in k.items()}
BOUNDS = [bounds(low=0), bounds(high=0), bounds(low=1, high=100), bounds(above=-10, below=10), bounds(low=-12345, high=-10), bounds(low=5, high=5),
          bounds(above=9, high=12345), bounds(low=100), bounds(below=1000), bounds(above=0), bounds(low=-1, below=256),
          bounds(above=999, high=10 ** 11), bounds(low=3, above=3, high=99, below=100)]
EXTRA = [({"type": kind, **b}, None, NUMBERS) for kind in ("integer", "number") for b in BOUNDS] + \
    [({"type": "integer", "minimum": 2.5, "exclusiveMaximum": 10.5}, None, NUMBERS), ({"type": "integer", "minimum": -2.5, "maximum": -0.5}, None, NUMBERS)] + \
    [({"type": ["null", "integer"], "maximum": 7}, None, NUMBERS + [None, "x"])] + \
    [({"type": "string", "pattern": p}, None, "strings") for p in PATTERNS] + [({"pattern": "^[ab]+$", "type": ["string", "null"]}, None, "strings")] + [
        ({"type": "string", "enum": ["a", "b"]}, None, VALUES), ({"const": 5, "type": "integer"}, None, VALUES + [5]),
        ({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}}]},
         {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}, None),
        ({"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"], "allOf": [{"$ref": "#/$defs/base"}],
          "$defs": {"base": {"type": "object", "properties": {"v": {"type": "integer", "minimum": 0}}, "required": ["v"]}}},
         {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "minimum": 0}}, "required": ["k", "v"]}, None),
        ({"allOf": [{"type": "string", "maxLength": 3}], "description": "one"}, {"type": "string"}, VALUES),
        ({"oneOf": [{"type": "object", "properties": {"t": {"const": "p"}, "x": {"type": "integer"}}, "required": ["t"]},
                    {"type": "object", "properties": {"t": {"enum": ["q", "r"]}, "y": {"type": "string"}}, "required": ["t"]}, {"type": "null"}]},
         None, [{"t": "p"}, {"t": "q"}, {"t": "r", "y": "x"}, {"t": "p", "x": 1}, {"t": "p", "x": "1"}, {"t": "q", "x": 1}, {"x": 1}, None, {}, "p"]),
    ]
REFUSED_SCHEMAS = ['{"type": "string", "pattern": "(?=a)"}', '{"type": "string", "pattern": "a", "maxLength": 3}', '{"type": "string", "pattern": "(a)\\\\1"}',
                   '{"type": "string", "pattern": "\\\\bx"}', '{"type": "string", "pattern": "(^a)"}', '{"type": "string", "pattern": "[a"}',
                   '{"type": "string", "pattern": "(a*)*"}', '{"type": "string", "pattern": "a)"}', '{"type": "string", "pattern": "*"}', '{"pattern": 3}',
                   '{"type": "string", "pattern": "\\\\p{L}"}', '{"type": "number", "minimum": 0.5}', '{"type": "integer", "minimum": 5, "maximum": 4}',
                   '{"type": "integer", "minimum": 1e3}', '{"type": "integer", "maximum": 1234567890123456}', '{"type": "integer", "multipleOf": 2}',
                   '{"type": "integer", "enum": ["a"]}', '{"anyOf": [{"type": "null"}], "minimum": 3}', '{"$ref": "#/$defs/a", "type": "null", "$defs": {"a": {}}}',
                   '{"const": 1, "maximum": 3}', '{"oneOf": [{"type": "integer"}, {"type": "number"}]}', '{"oneOf": [{}, {"type": "null"}]}',
                   '{"allOf": [{"type": "string"}, {"maxLength": 3}]}', '{"allOf": [{"properties": {"a": {}}}, {"properties": {"a": {}}}]}',
                   '{"allOf": [{"properties": {"a": {}}, "additionalProperties": false}, {"properties": {"b": {}}}]}',
                   '{"allOf": [{"properties": {"a": {}}}, {"anyOf": [{}]}]}', '{"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}',
                   '{"type": "object", "minProperties": 1}', '{"type": "array", "uniqueItems": true}', '{"not": {}}', '{"type": "what"}', '{"enum": []}',
                   '{"$ref": "#/$defs/none"}', '{"$ref": "other.json"}', '{"type": "object"', '[1]', '{"a" 1}', 'false',
                   '{"properties": {"a": {}}, "required": ["b"]}', '{"$ref": "#"}', '{"type": "string"} x',
                   '{"properties": {"a": {}}, "additionalProperties": {"type": "null"}}', '[' * 100]


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
for schema, merged, values in EXTRA:
    validator = jsonschema.Draft202012Validator(schema)
    lines.append("schema " + hexed(json.dumps(schema)))
    values_are_strings = values == "strings"
    if values_are_strings:
        # A $ of Python also matches in front of a last line end; JSON Schema's does not.
        values = [s for s in sorted(strings_of(PIECES[:20])) + ["".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9))) for _ in range(600)] + PIECES
                  if not s.endswith("\n")] + ["ab" * n for n in range(4)] + ["()" + "{}" + "+*?^|"]
    good, bad = set(), set()
    for value in values or documents(merged):
        # Whole numbers have no fraction where they must be whole, and bounded ones no exponent.
        text = json.dumps(value, ensure_ascii=False)
        if schema.get("type") != "number" and isinstance(value, float) and value == int(value) or "e+" in text:
            continue
        # Python's \\w, \\d and \\s are of all of Unicode unless told otherwise; JSON Schema's are not.
        matches = re.search(schema["pattern"], value, re.ASCII) if values_are_strings else validator.is_valid(value)
        (good if matches and in_order(value, merged or schema, schema) else bad).add(text)
    pick = lambda s, n: rng.sample(sorted(s), min(n, len(s)))
    lines += ["yes " + hexed(s) for s in pick(good, 60)] + ["no " + hexed(s) for s in pick(bad, 60)]
lines += ["bad schema " + hexed(text) for text in REFUSED_SCHEMAS]
OUT.parent.mkdir(exist_ok=True)
OUT.write_text("".join(line + "\n" for line in lines))
