// 64-bit FNV-1a with a final avalanche (splitmix64): fingerprints, key lookup, checksums. Not cryptographic.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace keel {

constexpr uint64_t kHashSeed = 0xcbf29ce484222325ull;

// Continues a running (unfinished) hash over `bytes` bytes.
constexpr uint64_t hash_update(uint64_t state, const char* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) state = (state ^ static_cast<uint8_t>(data[i])) * 0x100000001b3ull;
    return state;
}
constexpr uint64_t hash_finish(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}
constexpr uint64_t hash64(const char* data, size_t bytes) {
    return hash_finish(hash_update(kHashSeed, data, bytes));
}
inline uint64_t hash64(const void* data, size_t bytes) {
    return hash64(static_cast<const char*>(data), bytes);
}

// A checksum of many bytes, several bytes to a cycle: four running products over words of 8 bytes, little endian, the
// rest and the length behind them.
inline uint32_t hash_words(const void* data, uint64_t bytes) {
    constexpr uint64_t kFactor = 0x9e3779b97f4a7c15ull;
    const uint8_t* from = static_cast<const uint8_t*>(data);
    uint64_t lane[4] = {kHashSeed, kHashSeed ^ 1, kHashSeed ^ 2, kHashSeed ^ 3};
    const auto take = [&](uint64_t* x, uint64_t word) {
        *x = (*x ^ word) * kFactor;
        *x ^= *x >> 29;
    };
    uint64_t left = bytes;
    for (; left >= 32; left -= 32, from += 32)
        for (int i = 0; i < 4; ++i) {
            uint64_t word;
            memcpy(&word, from + 8 * i, 8);
            take(&lane[i], word);
        }
    for (int i = 0; left; ++i) {
        uint64_t word = 0;
        const uint64_t n = left < 8 ? left : 8;
        memcpy(&word, from, n);
        take(&lane[i], word);
        from += n;
        left -= n;
    }
    uint64_t sum = bytes;
    for (const uint64_t x : lane) take(&sum, x);
    return static_cast<uint32_t>(hash_finish(sum) >> 32);
}

}  // namespace keel
