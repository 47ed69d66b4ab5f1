#!/usr/bin/env python3
"""Writes unicode_tables.cpp: the class of every code point in two levels of tables, equal pages stored once.

Usage: generate_unicode_tables.py > unicode_tables.cpp
Uses the package unicodedata2 (a newer or older Unicode for any Python) when installed, else Python's own unicodedata. The
committed file was made with unicodedata2 15.1.0.
"""
try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

PAGE = 128
CLASSES = {"Lu": 1, "Ll": 2, "Lt": 3, "Lm": 4, "Lo": 5, "M": 6, "N": 7, "P": 8, "S": 9}
SPACE = 10
# The property White_Space: all of category Z, and these controls.
WHITE_CONTROLS = {9, 10, 11, 12, 13, 0x85}


def char_class(code):
    category = unicodedata.category(chr(code))
    if category[0] == "Z" or code in WHITE_CONTROLS:
        return SPACE
    return CLASSES.get(category, CLASSES.get(category[0], 0))


def rows(values, per_line, form):
    for i in range(0, len(values), per_line):
        yield "    " + " ".join(form % v + "," for v in values[i:i + per_line])


pages, index = {}, []
for first in range(0, 0x110000, PAGE):
    page = tuple(char_class(first + i) | char_class(first + i + 1) << 4 for i in range(0, PAGE, 2))
    index.append(pages.setdefault(page, len(pages)))
assert len(pages) <= 256
while index[-1] == index[-2]:  # the tail is one class; unicode_tables.h knows where the index ends
    index.pop()

print(f"// Made by generate_unicode_tables.py from Unicode {unicodedata.unidata_version}. Do not edit.")
print('#include "sdk/text/unicode_tables.h"\n')
print("namespace keel {\n\n// clang-format off")
print(f"static_assert(kUnicodePages == {len(index)} && kUnicodeDistinctPages == {len(pages)});")
print("const uint8_t kUnicodePage[kUnicodePages] = {")
print("\n".join(rows(index, 23, "%d")))
print("};\n")
print("const uint8_t kUnicodeClass[kUnicodeDistinctPages][kUnicodePageCodes / 2] = {")
for page in pages:
    print("    {\n" + "\n".join(rows(page, 16, "%d")) + "\n    },")
print("};\n")
print("}  // namespace keel")
