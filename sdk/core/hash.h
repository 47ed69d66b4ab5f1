// 64-bit FNV-1a with a final avalanche (splitmix64): fingerprints, key lookup, checksums. Not cryptographic.
#pragma once
#include <stddef.h>
#include <stdint.h>

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

}  // namespace keel
