// Rows of the KV formats as attention reads them (NUMERICS section 5): eight integers in two words, or eight floats.
// What a format means is said in kernels/formats/kv_formats.h; kv_codecs.h reads it an element at a time.
#pragma once
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/device.cuh"
#include "kernels/formats/kv_codecs.h"

namespace keel::cuda {
namespace {

struct KvRow {
    const uint8_t *codes, *scales;
};

// Calls body.operator()<F>() for a format that is kv_coded_as itself, if it is one of integers or not as INTEGER says:
// the one switch of attention, over what is small beside what is done with the elements.
template <bool INTEGER, class Body>
KEEL_GPU void for_read_format(KvFormat coded, const Body& body) {
    switch (coded) {
#define KEEL_CASE(id, ...)                                                                       \
    case kKv##id:                                                                                \
        if constexpr (kv_coded_as(kKv##id) == kKv##id && kKvFormats[kKv##id].integer == INTEGER) \
            body.template operator()<kKv##id>();                                                 \
        break;
        KEEL_KV_FORMATS(KEEL_CASE)
#undef KEEL_CASE
        default:
            break;
    }
}

// T of global memory at p, which is aligned for it.
template <class T>
KEEL_GPU T load(const uint8_t* p) {
    return *reinterpret_cast<const T*>(in_global(p));
}
// BYTES bytes at p, the first in the lowest bits; what lies above them is undefined. Loads whole words, up to seven
// bytes behind: codes of integers have scales behind them.
template <uint32_t BYTES>
KEEL_GPU uint64_t load_bytes(const uint8_t* p) {
    const uint32_t skipped = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p) & 3);
    p -= skipped;
    const uint64_t low = load<uint32_t>(p) | uint64_t{load<uint32_t>(p + 4)} << 32;
    if constexpr (BYTES <= 5) return low >> 8 * skipped;
    const uint64_t high = load<uint32_t>(p + 8);
    return skipped ? low >> 8 * skipped | high << (64 - 8 * skipped) : low;
}

// Four fields of kBits bits, the lowest first, a byte each; what lies above them does not matter.
template <int kBits>
KEEL_GPU uint32_t spread4(uint32_t x) {
    constexpr uint32_t kOne = (1u << kBits) - 1, kTwo = (1u << 2 * kBits) - 1;
    x = (x & kTwo) | (x << (16 - 2 * kBits) & kTwo << 16);
    return (x & kOne * 0x00010001u) | (x << (8 - kBits) & kOne * 0x01000100u);
}
// Eight fields.
template <int kBits>
KEEL_GPU Words2 spread8(uint64_t x) {
    if constexpr (kBits == 4) {
        const uint32_t even = static_cast<uint32_t>(x) & 0x0f0f0f0fu, odd = static_cast<uint32_t>(x) >> 4 & 0x0f0f0f0fu;
        return {pick_bytes(even, odd, 0x5140), pick_bytes(even, odd, 0x7362)};
    }
    return {spread4<kBits>(static_cast<uint32_t>(x)), spread4<kBits>(static_cast<uint32_t>(x >> 4 * kBits))};
}

// ---- tables of the trellis formats ----
// Up to four bits: 16-bit entries, by 8 + b bits of a row the integers of two elements. With more bits such a table is
// too large: the 256 integers, once in every bank.
constexpr int kMostPairBits = 4;
// By all `threads` of a block. `to` has kTrellisTableBytes.
KEEL_GPU void fill_trellis_table(uint32_t bits, uint8_t* to, uint32_t threads = kAttentionThreads) {
    const int8_t* value = kTrellisTables[bits - 2];
    const bool pairs = bits <= kMostPairBits;
    static_assert(kTrellisTableBytes == 2 * 256 << kMostPairBits);
    for (uint32_t i = thread_x(); i >> (pairs ? bits : kMostPairBits) < 256; i += threads) {
        const uint32_t first = pairs ? i : i / 64 * 4 + i % 2 * 2, second = pairs ? i >> bits : first + 1;
        reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(static_cast<uint8_t>(value[first & 255]) |
                                                                   static_cast<uint8_t>(value[second & 255]) << 8);
    }
}

template <int kBits>
KEEL_GPU Words2 trellis_words(uint64_t window, const uint8_t* table) {
    uint32_t word[2] = {};
    if constexpr (kBits <= kMostPairBits) {
        KEEL_UNROLL
        for (uint32_t e = 0; e < 8; e += 2) {
            const uint32_t entry = static_cast<uint32_t>(window >> e * kBits) & ((256u << kBits) - 1);
            word[e / 4] |= uint32_t{reinterpret_cast<const uint16_t*>(table)[entry]} << e % 4 * 8;
        }
    } else {
        const uint8_t* bank = table + thread_x() % 32 * 4;
        KEEL_UNROLL
        for (uint32_t e = 0; e < 8; ++e) {
            const uint32_t state = static_cast<uint32_t>(window >> e * kBits) & 255;
            word[e / 4] |= uint32_t{bank[state / 4 * 128 + state % 4]} << e % 4 * 8;
        }
    }
    return {word[0], word[1]};
}

// ---- integers ----
// 0x80 added to each byte turns one that is not negative into a signed one: the formats' integers are worked out above
// it, so that nothing is carried from byte to byte.
constexpr uint32_t kBytes = 0x01010101u, kSigns = 0x80808080u;

// -q of each byte, but 127 for -128, which no encoder writes.
KEEL_GPU uint32_t negate_bytes(uint32_t q) {
    uint32_t out = 0;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 32; i += 8) {
        const int32_t v = -static_cast<int8_t>(q >> i);
        out |= (static_cast<uint32_t>(v > 127 ? 127 : v) & 255) << i;
    }
    return out;
}

// Elements [8 b, 8 b + 8) of a row of n, of a format of integers. `table`: fill_trellis_table of the format's bits.
template <KvFormat F>
KEEL_GPU Words2 unpack_words(const KvRow& row, uint32_t n, uint32_t b, const uint8_t* table) {
    constexpr int kBits = kKvFormats[F].bits;
    constexpr KvFamily kFamily = kKvFormats[F].family;
    static_assert(kKvFormats[F].integer);
    if constexpr (kFamily == KvFamily::kBlock32) {
        const bool negative = load<uint8_t>(row.scales + b / 4 * 2 + 1) & 0x80;
        if constexpr (kBits == 8) {
            const Words2 q = load<Words2>(row.codes + 8 * b);
            return negative ? Words2{negate_bytes(q.x), negate_bytes(q.y)} : q;
        } else {  // byte i of a block has elements i and i + 16
            const Words2 codes = load<Words2>(row.codes + b / 4 * 16 + b % 2 * 8);
            const uint32_t shift = b % 4 / 2 * 4, x = codes.x >> shift & 15 * kBytes,
                           y = codes.y >> shift & 15 * kBytes;
            return negative ? Words2{(kSigns + 8 * kBytes - x) ^ kSigns, (kSigns + 8 * kBytes - y) ^ kSigns}
                            : Words2{(kSigns - 8 * kBytes + x) ^ kSigns, (kSigns - 8 * kBytes + y) ^ kSigns};
        }
    } else if constexpr (kFamily == KvFamily::kLattice) {
        const uint8_t* p = row.codes + b * kBits;
        const uint64_t codes = kBits == 4 ? load<uint32_t>(p) : kBits == 2 ? load<uint16_t>(p) : load_bytes<kBits>(p);
        const auto [low, high] = spread8<kBits>(codes);
        // The lowest bit of the last element has the coset, and is the parity of the others.
        const uint32_t coset = high >> 24 & 1, bits = (low ^ high) & kBytes;
        const uint32_t parity = (bits * kBytes >> 24 & 1) ^ coset;
        const uint32_t from = kSigns + (2 * coset + 1) * kBytes - (2u << kBits) * kBytes;
        const uint32_t last = (high & ~(1u << 24)) | parity << 24;
        return {(4 * low + from) ^ kSigns, (4 * last + from) ^ kSigns};
    } else {
        static_assert(kFamily == KvFamily::kTrellis);
        // The window of the last element reaches into the next block, or the start bits.
        const uint8_t* p = row.codes + b * kBits;
        uint64_t window = kBits == 4   ? load<uint32_t>(p) | uint64_t{load<uint8_t>(p + 4)} << 32
                          : kBits == 2 ? load<uint16_t>(p) | uint64_t{load<uint8_t>(p + 2)} << 16
                                       : load_bytes<kBits + 1>(p);
        if (b == n / 8 - 1) {
            const uint64_t start = load<uint16_t>(row.scales) & ((1u << (8 - kBits)) - 1);
            window = (window & ((uint64_t{1} << 8 * kBits) - 1)) | start << 8 * kBits;
        }
        return trellis_words<kBits>(window, table);
    }
}

// The same of two rows.
KEEL_GPU void unpack_rows(KvFormat coded, const KvRow row[2], uint32_t n, uint32_t b, const uint8_t* table,
                          Words2 out[2]) {
    for_read_format<true>(coded, [&]<KvFormat F>() {
        KEEL_UNROLL
        for (uint32_t i = 0; i < 2; ++i) out[i] = unpack_words<F>(row[i], n, b, table);
    });
}

// The scale in a field of the scale plane: of formats of integers it is never negative.
KEEL_GPU float scale_of_field(KvFormat format, uint32_t field) {
    const KvFormatInfo& info = kKvFormats[format];
    if (info.family == KvFamily::kTrellis) field = field >> (8 - info.bits) << (7 - info.bits);
    return widen_f16(field & 0x7fff);
}

// ---- floats ----
KEEL_GPU void widen_words(const Words4& w, float* y) {
    const uint32_t word[4] = {w.x, w.y, w.z, w.w};
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
        y[2 * i] = widen_f16(word[i] & 0xffff);
        y[2 * i + 1] = widen_f16(word[i] >> 16);
    }
}
// Elements [8 b, 8 b + 8) of a row of a format that is read as f32.
template <KvFormat F>
KEEL_GPU void decode8_as(const KvRow& row, uint32_t b, float* y) {
    static_assert(!kKvFormats[F].integer);
    if constexpr (F == kKvF32) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < 2; ++i) {
            const Words4 w = load<Words4>(row.codes + 32 * b + 16 * i);
            const uint32_t word[4] = {w.x, w.y, w.z, w.w};
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) y[4 * i + e] = f32_from_bits(word[e]);
        }
    } else if constexpr (F == kKvF16) {
        widen_words(load<Words4>(row.codes + 16 * b), y);
    } else if constexpr (F == kKvFp8) {
        KEEL_UNROLL
        for (uint32_t e = 0; e < 8; ++e) y[e] = fp8_to_f32(load<uint8_t>(row.codes + 8 * b + e));
    } else {
        int16_t q[8];
        unpack_e8_integers<8>(row.codes + 8 * b, 8, q);
        const float s = widen_f16(kv_load_u16(row.scales) & 0x7fff);
        KEEL_UNROLL
        for (uint32_t e = 0; e < 8; ++e) y[e] = mul_f32(s, static_cast<float>(q[e]));
    }
}

KEEL_GPU void decode8(KvFormat coded, const KvRow& row, uint32_t b, float* y) {
    for_read_format<false>(coded, [&]<KvFormat F>() { decode8_as<F>(row, b, y); });
}

}  // namespace
}  // namespace keel::cuda
