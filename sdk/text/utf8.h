// UTF-8, strictly: overlong forms, surrogates, code points past U+10FFFF and stray bytes are not characters.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel {

// A byte that belongs to no character reads as one element of its own, kInvalidByte + byte: above every code point.
constexpr uint32_t kInvalidByte = 0x110000;
constexpr uint32_t kSpaceMark = 0x2581;  // how SentencePiece spells a space

struct Utf8Char {
    uint32_t code;   // code point, or kInvalidByte + byte
    uint32_t bytes;  // 1..4
};

// Bytes a character beginning with `lead` has; 0 when no character begins so.
constexpr uint32_t utf8_length(uint8_t lead) {
    return lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

// True when `n` bytes at p, fewer than utf8_length(p[0]), may still become a character.
constexpr bool utf8_may_continue(const uint8_t* p, size_t n) {
    if (n >= 2) {
        const uint8_t low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
        const uint8_t high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
        if (p[1] < low || p[1] > high) return false;
    }
    for (size_t i = 2; i < n; ++i)
        if ((p[i] & 0xc0) != 0x80) return false;
    return n >= 1 && utf8_length(p[0]) != 0;
}

// Reads the element at p; `available` is at least 1.
constexpr Utf8Char utf8_decode(const uint8_t* p, size_t available) {
    if (p[0] < 0x80) return {p[0], 1};
    const uint32_t n = utf8_length(p[0]);
    if (n == 0 || n > available || !utf8_may_continue(p, n)) return {kInvalidByte + p[0], 1};
    uint32_t code = p[0] & (0x7fu >> n);
    for (uint32_t i = 1; i < n; ++i) code = code << 6 | (p[i] & 0x3f);
    return {code, n};
}

// Writes a code point; returns its bytes, at most 4.
constexpr uint32_t utf8_encode(uint32_t code, char* dst) {
    if (code < 0x80) {
        dst[0] = static_cast<char>(code);
        return 1;
    }
    const uint32_t bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (uint32_t i = bytes - 1; i > 0; --i, code >>= 6) dst[i] = static_cast<char>(0x80 | (code & 0x3f));
    dst[0] = static_cast<char>((0xf00u >> bytes & 0xff) | code);
    return bytes;
}

inline Utf8Char utf8_decode(const char* p, size_t available) {
    return utf8_decode(reinterpret_cast<const uint8_t*>(p), available);
}

// Reads the element that ends at p + bytes; `bytes` is at least 1.
inline Utf8Char utf8_decode_last(const char* p, size_t bytes) {
    for (uint32_t n = 2; n <= 4 && n <= bytes; ++n) {
        const Utf8Char c = utf8_decode(p + bytes - n, n);
        if (c.bytes == n) return c;
    }
    return utf8_decode(p + bytes - 1, 1);
}

}  // namespace keel
