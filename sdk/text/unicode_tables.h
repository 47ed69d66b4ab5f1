// Classes of code points, as the patterns of pre-tokenizers need them: general categories, and the property
// White_Space.
#pragma once
#include <stdint.h>

namespace keel {

enum CharClass : uint32_t {
    kClassOther = 0,  // controls, formats, unassigned and private code points
    kClassLu,
    kClassLl,
    kClassLt,
    kClassLm,
    kClassLo,  // letters: upper, lower, title, modifier, other
    kClassM,
    kClassN,
    kClassP,
    kClassS,     // marks, numbers, punctuation, symbols
    kClassSpace  // White_Space, which holds all of Z
};

// Two levels: page of a code point, then two classes per byte, the even code point in the low half. Code points past
// the last page are classed as its last.
constexpr uint32_t kUnicodePageCodes = 128;
constexpr uint32_t kUnicodePages = 7173;
constexpr uint32_t kUnicodeDistinctPages = 246;
extern const uint8_t kUnicodePage[kUnicodePages];
extern const uint8_t kUnicodeClass[kUnicodeDistinctPages][kUnicodePageCodes / 2];

inline uint32_t char_class(uint32_t code) {
    const uint32_t page = code / kUnicodePageCodes;
    const uint8_t pair =
        kUnicodeClass[kUnicodePage[page < kUnicodePages ? page : kUnicodePages - 1]][code % kUnicodePageCodes / 2];
    return code & 1 ? pair >> 4 : pair & 15;
}

}  // namespace keel
