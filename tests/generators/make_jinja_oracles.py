#!/usr/bin/env python3
"""Writes tests/data/chat/rendered.txt, what jinja2, set up as transformers does, makes of the published templates, and
constructs.txt, what it makes of one construct a line ("TEMPLATE RESULT" in hexadecimal, or "refused"; see CONTEXT).

Usage: make_jinja_oracles.py [DIR OUT]        (needs: jinja2)

Without arguments: the templates of tests/data/chat. With them: those of DIR, which need not be committed; compare with
KEEL_CHAT_TEMPLATES=DIR KEEL_CHAT_CASES=OUT keel_unit_tests --gtest_filter='Jinja.PublishedTemplates'.

    conversation ROLE:TEXT:FIELDS ...       counted from 0; texts in hexadecimal ("-": empty, "null": none)
    variables JSON                          likewise
    template NAME                           NAME.jinja beside the file
    case CONVERSATION VARIABLES OPEN RESULT MARKS
        RESULT  hexadecimal, or "refused" where the template raises an error
        MARKS   runs of output bytes, "12s3m1x": scaffold, from a message, not checked

Marks come from a second rendering, in which letters and digits of messages are characters of a private area.
"""
import datetime
import itertools
import json
import pathlib
import sys

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parents[1] / "data/chat"
NOW = datetime.datetime(2025, 3, 4, 15, 16, 17)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather \"now\" of a place\n",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "A caf\u00e9 <town>"},
        "days": {"type": "integer", "enum": [1, 2, 3]}}, "required": ["city"]}}}
CALL = {"tool_calls": [{"id": "call00001", "type": "function",
                        "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}}]}
CALL_TEXT = {"tool_calls": [{"id": "call00001", "type": "function",
                             "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"}}]}
RESULT = {"name": "get_weather", "tool_call_id": "call00001"}

# role, text, further fields
CONVERSATIONS = [
    [("user", "Hello", {})],
    [("user", "  padded \n", {})],
    [("system", "Be brief.", {}), ("user", "Hello", {})],
    [("system", " Be\nbrief. ", {}), ("user", "Hello", {}), ("assistant", " Hi there ", {}), ("user", "Who?\n", {})],
    [("user", "Hello", {}), ("assistant", "Hi", {}), ("user", "More", {}), ("assistant", "Done", {})],
    [("user", "Hello", {}), ("assistant", "<think>\nSo it is.\n</think>\n\nHi", {}), ("user", "More", {})],
    [("user", "Hello", {}), ("assistant", "Hi", {"reasoning_content": "Hm."}), ("user", "More", {})],
    [("user", "Hello", {}), ("user", "again", {})],
    [("assistant", "I begin", {}), ("user", "Hello", {})],
    [("user", "caf\u00e9 \U0001f600 <|im_end|></s>", {})],
    [("user", "Weather?", {}), ("assistant", None, CALL), ("tool", "{\"sun\": true}", RESULT)],
    [("user", "Weather?", {}), ("assistant", "Let me see.", CALL_TEXT), ("tool", "sun", RESULT),
     ("assistant", "Sunny.", {}), ("user", "Thanks", {})],
    [("user", "Weather?", {}), ("assistant", "", CALL), ("tool", "sun", RESULT), ("tool", "rain", RESULT)],
    [],
]
VARIABLES = [{}, {"enable_thinking": False}, {"tools": [WEATHER]}]


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Generation(Extension):
    """The tag of transformers; here it only has a scope."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                            extensions=[Generation, "jinja2.ext.loopcontrols"])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda form: NOW.strftime(form)

PRIVATE = 0xE000


def hide(value):
    """Letters and digits of a JSON value's strings in the private area; not those of keys, and not names tested for."""
    if isinstance(value, str):
        return "".join(chr(PRIVATE + ord(c)) if c.isascii() and c.isalnum() else c for c in value)
    if isinstance(value, dict):
        return {k: v if k in ("type", "role") else hide(v) for k, v in value.items()}
    return [hide(v) for v in value] if isinstance(value, list) else value


def reveal(text):
    return "".join(chr(ord(c) - PRIVATE) if PRIVATE <= ord(c) < PRIVATE + 128 else c for c in text)


def render(template, messages, is_open, variables):
    try:
        return template.render(messages=messages, add_generation_prompt=is_open,
                               **({"tools": None, "documents": None} | TOKENS | variables))
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None


def marks_of(text, hidden, has_json):
    if hidden is None or reveal(hidden) != text:
        return "-"
    scaffold = "x" if has_json else "s"  # keys of JSON are not hidden
    kinds = "".join(("m" if PRIVATE <= ord(h) < PRIVATE + 128 else scaffold if c.isascii() and c.isalnum() else "x")
                    * len(c.encode()) for c, h in zip(text, hidden))
    return "".join(f"{len(list(run))}{kind}" for kind, run in itertools.groupby(kinds)) or "-"


CONTEXT = {
    "d": {"b": 1, "a": "x", "items": [1], "C": None}, "l": [3, 1, 2, 3], "s": " Ab\u00e9c, d\n", "e": [], "n": None, "t": True,
    "p": [{"k": "u", "v": 1}, {"k": "w", "v": 2}, {"v": 3}, {"k": None, "v": {"z": 5}}], "f": 2.5, "w": "one two  one",
    "q": "it's \"so\"\t\\", "j": {"a": [1, -2, 2.5, True, False, None, "\u00e9\u0001\"\\/"], "o": {}, "i": []},
}
CONSTRUCTS = r"""
{{ s }}|{{ s|trim }}|{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip('\n ') }}|{{ s.strip(' Ad\n') }}
{{ s|length }} {{ l|length }} {{ d|length }} {{ nope|length }} {{ ''|count }}
{{ 1 + 2 * 3 - 4 // 3 % 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ -(2 + 1) }} {{ +4 }} {{ 7 // -2 }}
{{ 'a' ~ 1 ~ none ~ true ~ nope ~ f }}
{{ 'a' + 'b' 'c' }}|{{ [1] + [2, 'x'] }}
{{ 'a' + 1 }}
{{ 'a' + nope }}
{{ nope.x }}
{{ nope['x'] }}
{{ n.x }}|{{ n['x'] }}|{{ s.x }}|{{ d.zz }}|{{ d['zz'] }}|{{ l[9] }}|{{ l[-1] }}|{{ l['a'] }}|{{ d.zz is defined }}
{{ d.items is defined }} {{ d['items'] }} {{ d.items() | list | length }} {{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 7) }}
{{ d.items is string }} {{ d.items is mapping }} {{ d.keys() | list }} {{ d.values() | list }}
{{ 1 == true }} {{ 1 == 1.0 if false else 'x' }} {{ 'a' == 'a' }} {{ l == [3, 1, 2, 3] }} {{ d == d }} {{ none == false }} {{ nope == nope }}
{{ 1 < 2 }} {{ 'b' > 'a' }} {{ 'Z' >= 'a' }} {{ 2 <= 2 }} {{ 1 != 2 }} {{ true > false }}
{{ 1 < 'a' }}
{{ n < 1 }}
{{ 'b' in s }} {{ 'x' in s }} {{ 3 in l }} {{ 9 not in l }} {{ 'a' in d }} {{ 'z' in nope }} {{ not 'a' in d }}
{{ 1 in s }}
{{ 1 in 2 }}
{{ t and 'yes' or 'no' }} {{ e or 'empty' }} {{ n and n.x }} {{ not t }} {{ not not e }} {{ 1 and 2 }} {{ 0 or '' }}|
{{ 'a' if t else 'b' }} {{ 'a' if n else 'b' }}{{ 'c' if n }} {{ 1 if 0 else 2 if 0 else 3 }}
{{ s[1:4] }}|{{ s[:-2] }}|{{ s[-3:] }}|{{ s[1] }}|{{ s[4:1] }}|{{ s[99:] }}|{{ s[:] }}|{{ s[-99:2] }}
{{ l[1:] }} {{ l[::-1] }} {{ l[::2] }} {{ l[-2:] }} {{ l[3:0:-1] }} {{ l[:-1] }} {{ e[1:] }} {{ l[5:] }} {{ l[-9:9:3] }}
{{ l[::0] }}
{{ n[1:] }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ i }};{% endfor %}
{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}
{% for i in l if i > 1 %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% else %}none{% endfor %}
{% for i in l if i > 9 %}{{ i }}{% else %}none{% endfor %}|{% for i in nope %}x{% else %}y{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'h\u00e9!' %}[{{ c }}]{% endfor %}
{% for (a, b) in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for i in 5 %}{% endfor %}
{% for i in n %}{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}
{{ range(3) | list }} {{ range(2, 5) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}
{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b='q') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns.c is defined }}
{% set d.x = 1 %}
{% set x %}a{{ 1 }}b{% set y = 5 %}{% endset %}[{{ x }}]{{ y }}{{ x is string }}
{% macro m(a, b=2, c=a) %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=9) }}{{ m(b=7, a=8) }}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}{{ r(2) | length }}{{ r(1) ~ 'x' }}
{% set g = 1 %}{% macro m() %}{{ g }}{% set g = 2 %}{{ g }}{% endmacro %}{{ m() }}{{ g }}{% set g = 3 %}{{ m() }}
{% for i in [1, 2] %}{% macro_in_loop %}{% endfor %}
{% if nope is defined %}a{% elif d is defined and d.a is string %}b{% else %}c{% endif %}
{{ n is none }} {{ nope is undefined }} {{ s is string }} {{ l is iterable }} {{ l is sequence }} {{ d is mapping }} {{ d is iterable }} {{ 1 is number }} {{ t is boolean }} {{ 1 is integer }} {{ t is integer }} {{ f is float }} {{ f is number }} {{ t is true }} {{ 1 is true }} {{ t is false }} {{ s is not string }} {{ 3 is odd }} {{ 3 is even }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 3 is in [3] }} {{ 3 is eq 3 }} {{ 3 is ne(3) }} {{ 3 is gt 2 }}
{{ 1 is number is true }}
{{ nope is string }} {{ nope is iterable }} {{ nope is sequence }} {{ n is iterable }} {{ 5 is iterable }} {{ t is number }} {{ d is sequence }}
{{ 'x' is odd }}
{{ nope | default('z') }} {{ n | default('z') }} {{ n | default('z', true) }} {{ '' | d('y', boolean=true) }} {{ nope | d }}|{{ 0 | default(1, true) }}
{{ 'AbC' | lower }} {{ 'AbC' | upper }} {{ 'abC dE' | capitalize }} {{ 'abC dE-fG' | title }} {{ 'abC dE' .title() }} {{ 'aB'.upper() }} {{ 'aB'.lower() }} {{ 'aBc'.capitalize() }}
{{ w | replace('one', '1') }} {{ w.replace('o', '0', 1) }} {{ w | replace('zz', 'y') }} {{ w.replace(' ', '') }}
{{ l | join(',') }} {{ l | join }} {{ p | join('-', attribute='v') }} {{ ['a', none, 1] | join('|') }} {{ ','.join(['a', 'b']) }} {{ e | join('x') }}|
{{ ','.join([1]) }}
{{ l | first }} {{ l | last }} {{ s | first }} {{ e | first }}|{{ e | last }}|{{ d | first }}
{{ l | list }} {{ 'ab' | list }} {{ d | list }} {{ l | reverse | list }} {{ 'ab' | reverse }} {{ l | unique | list }} {{ ['B', 'a', 'b'] | unique | list }}
{{ l | max }} {{ l | min }} {{ ['b', 'A'] | min }} {{ e | max }}|
{{ d | items | list | length }} {{ nope | items | list }}
{{ {'b': 1, 'A': 2} | dictsort | first | first }} {% for k, v in {'b': 1, 'A': 2, 'c': 0} | dictsort %}{{ k }}{{ v }}{% endfor %}
{{ p | selectattr('k') | list | length }} {{ p | selectattr('k', 'equalto', 'u') | map(attribute='v') | list }} {{ p | rejectattr('k', 'defined') | list }} {{ p | selectattr('k', 'none') | list | length }} {{ p | selectattr('v.z', 'eq', 5) | list | length }} {{ p | selectattr('k', 'in', ['w', 'x']) | map(attribute='v') | join }}
{{ p | selectattr('v.z.y', 'eq', 5) | list | length }}
{{ l | select('odd') | list }} {{ l | reject('odd') | list }} {{ [0, 1, ''] | select | list }} {{ [1, 'a'] | select('string') | list }} {{ l | select('gt', 2) | list }}
{{ ['a', ' b '] | map('trim') | list }} {{ ['a'] | map('upper') | join }} {{ p | map(attribute='k', default='-') | join(',') }} {{ ['a-b'] | map('replace', '-', '+') | join }}
{{ '12' | int }} {{ ' -3 ' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 5 | int }} {{ t | int }} {{ n | int }} {{ -5 | abs }} {{ (-5) | abs }}
{{ 1 | string + 'a' }} {{ n | string }} {{ t | string }} {{ s | safe | trim }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb\n\nc' | indent(2, true) }}|{{ 'a\n\nb' | indent(width=1, blank=true) }}
{{ j | tojson }}|{{ j | tojson(indent=2) }}|{{ q | tojson }}|{{ t | tojson }}|{{ n | tojson }}|{{ 5 | tojson }}|{{ (1, 'a') | tojson }}|{{ j | tojson(separators=(',', ':')) }}|{{ j | tojson(indent=1, separators=(';', '=')) }}
{{ nope | tojson }}
{{ j }}|{{ q }}|{{ [q] }}|{{ [s, "a'b", 'c"d'] }}|{{ [none, true, 1, f] }}|{{ {} }}|{{ [] }}|{{ {'a': {'b': []}} }}
{{ w.split() }} {{ w.split(' ') }} {{ w.split(' ', 1) }} {{ w.split('one')[-1] }} {{ ''.split('x') }} {{ ''.split() }} {{ w.rsplit(' ', 1) }} {{ w.rsplit('o') }}
{{ w.split('') }}
{{ w.startswith('one') }} {{ w.endswith('two') }} {{ w.startswith(('x', 'o')) }} {{ w.endswith('') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.find('c') }} {{ 'h\u00e9c'.find('c') }} {{ 'abc'.find('z') }} {{ w.count('one') }}
{{ w.startswith(1) }}
{{ n.strip() }}
{{ nope.strip() }}
{{ l.split() }}
{{ raise_exception('no') }}
{{ strftime_now('%d %b %Y|%H:%M:%S|%A %B %j') }} {{ strftime_now is defined }} {{ raise_exception is defined }}
{{ 'a\n\t\\\'\"\x41\u00e9\q' }}|{{ "it's" }}|{{ '"' }}
{{ 'x' -}}   y {{- 'z' }}
  {% if t %}  a  {% endif %}   b
  {%- if t -%}  a  {%- endif -%}   b
{%+ if t %} c {% endif +%} d
{# comment #}x{#- comment -#} y {# a\nb #} z
{{ {'a': {'b': 1}}['a'].b }}{{ {'a': {'b': 1}} .a.b }}{{ [[1, 2], [3]][0][1] }}
{{ dict(a=1, b='x') }} {{ dict(a=1).a }} {{ {'a': 1, 'a': 2} }}
{{ (1) }} {{ (1, 2)[1] }} {{ () | length }} {{ (1,) | length }} {{ (1, 2) == [1, 2] }} {{ (1, 2) == (1, 2) }}
{{ nofunction() }}
{{ 5() }}
{{ d.a() }}
{% generation %}{% set x = 1 %}in{{ x }}{% endgeneration %}{{ x }}
{% set x = 'o' %}{% for i in [1, 2] %}{{ x }}{% set x = 'i' %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(l=[]) %}{% for i in [1, 2] %}{% set ns.l = ns.l + [i ~ 'x'] %}{% endfor %}{{ ns.l }}{{ ns.l | join }}
{% set x = 'a' %}{% set x = x + 'b' %}{% set y = x + 'c' %}{% set z = x + 'd' %}{{ x }}{{ y }}{{ z }}
{{ 9223372036854775807 }} {{ 0 - 9223372036854775807 }}
{% for x in [1] %}{{ loop.index }}{% for y in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}{{ loop }}
{{ 'A' 'B' ~ 'C' }} {{ 2 * 3 ~ 'x' }}
{{ 1 + 1 ~ 'x' }}
{{ '1' ~ 1 + 1 }}
{% if not d.zz %}1{% endif %}{% if d.a and not d.zz or e %}2{% endif %}{% if d.b == 1 and d.a in ['x', 'y'] %}3{% endif %}
{{ s | trim | length }} {{ (s | trim)[0] }} {{ s.strip()[0:2] | lower if false else 'k' }} {{ -1 | abs }} {{ -l[1] }}
""".strip("\n").split("\n")

hexed = lambda text: text.encode("utf-8").hex() or "-"
compact = lambda value: hexed(json.dumps(value, ensure_ascii=False)) if value else "-"


def main():
    source, out = (pathlib.Path(a) for a in sys.argv[1:]) if len(sys.argv) > 1 else (HERE, HERE / "rendered.txt")
    lines = []
    for conversation in CONVERSATIONS:
        words = [":".join((r, "null" if t is None else hexed(t), compact(f))) for r, t, f in conversation]
        lines.append(" ".join(["conversation"] + words))
    lines += ["variables " + compact(variables) for variables in VARIABLES]
    for path in sorted(source.glob("*.jinja")):
        try:
            template = environment.from_string(path.read_text())
        except jinja2.exceptions.TemplateSyntaxError as error:
            print(path.name, "is left out:", error)
            continue
        lines.append(f"template {path.stem}")
        for c, v, is_open in itertools.product(range(len(CONVERSATIONS)), range(len(VARIABLES)), (1, 0)):
            conversation, variables = CONVERSATIONS[c], VARIABLES[v]
            if variables and (len(conversation) > 4 or not is_open):
                continue
            messages = [{"role": r, "content": t} | f for r, t, f in conversation]
            hidden = [{"role": r, "content": hide(t)} | hide(f) for r, t, f in conversation]
            text = render(template, messages, bool(is_open), variables)
            has_json = bool(variables) or any(f for _, _, f in conversation)
            result = "refused -" if text is None else (
                hexed(text) + " " + marks_of(text, render(template, hidden, bool(is_open), hide(variables)), has_json))
            lines.append(f"case {c} {v} {is_open} {result}")
    out.write_text("".join(line + "\n" for line in lines))
    if source == HERE:
        results = []
        for construct in CONSTRUCTS:
            construct = construct.replace("\\n", "\n") if construct.startswith(("{%-", "{#")) else construct
            try:
                text = render(environment.from_string(construct), [], True, CONTEXT)
            except jinja2.exceptions.TemplateSyntaxError:
                text = None
            results.append(hexed(construct) + " " + ("refused" if text is None else hexed(text)))
        (HERE / "constructs.txt").write_text(hexed(json.dumps(CONTEXT)) + "".join("\n" + r for r in results) + "\n")


main()
