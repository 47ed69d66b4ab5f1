// KV row codecs (formats: kv_formats.h; arithmetic: NUMERICS section 7): what the CPU's sets and the GPU's kernels have
// in common. In an unnamed namespace: every instruction set compiles its own copy.
//
// Every f32 sum here has the order of a dot product (16 lanes and tree16), so that all copies give the same bytes.
#pragma once
#include <string.h>

#include "kernels/formats/kv_formats.h"
#include "kernels/formats/kv_trellis_tables.h"
#include "kernels/formats/numeric.h"
#include "kernels/formats/rotation.h"

namespace keel::kernels {
namespace {

KEEL_DEVICE inline uint16_t kv_load_u16(const uint8_t* p) {
    return static_cast<uint16_t>(p[0] | p[1] << 8);
}
KEEL_DEVICE inline void kv_store_u16(uint8_t* p, uint16_t v) {
    p[0] = static_cast<uint8_t>(v);
    p[1] = static_cast<uint8_t>(v >> 8);
}

// The sum of a[i] * b[i] as a dot product of section 1.
KEEL_DEVICE inline float kv_dot(const float* a, const float* b, uint32_t n) {
    float lanes[16] = {};
    for (uint32_t i = 0; i < n; i += 16) {
        const uint32_t part = n - i < 16 ? n - i : 16;
        for (uint32_t l = 0; l < part; ++l) lanes[l] = fma_f32(a[i + l], b[i + l], lanes[l]);
    }
    return tree16(lanes);
}

// ---- float rows ----
KEEL_DEVICE inline uint8_t f32_to_fp8(float x) {
    const uint32_t u = f32_bits(x), sign = u >> 24 & 0x80, a = u & 0x7fffffff;
    if (a > 0x7f800000) return static_cast<uint8_t>(sign | 0x7f);
    if (a >= 0x43e80000) return static_cast<uint8_t>(sign | 0x7e);  // 464 and above round past 448
    if (a < 0x3c800000) {                                           // below 2^-6: multiples of 2^-9
        const float steps = mul_f32(f32_from_bits(a), 512.0f);
        return static_cast<uint8_t>(sign | static_cast<uint32_t>(rint_f32(steps)));
    }
    const uint32_t rounded = a + 0x7ffff + (a >> 20 & 1);  // to nearest even at bit 20
    return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}
KEEL_DEVICE inline float fp8_to_f32(uint8_t code) {
    const uint32_t sign = static_cast<uint32_t>(code & 0x80) << 24, a = code & 0x7f;
    if (a == 0x7f) return __builtin_nanf("");
    if (a < 8) return f32_from_bits(sign | f32_bits(static_cast<float>(a) * 0x1p-9f));
    return f32_from_bits(sign | (a + (120u << 3)) << 20);
}

// ---- q8_0, q4_0: blocks of 32 as the weight types of the same name ----
template <int kBits>
KEEL_DEVICE void encode_block32(const float* x, uint32_t head_dim, uint8_t* codes, uint8_t* scales) {
    for (uint32_t b = 0; b < head_dim / kKvBlock; ++b, x += kKvBlock, codes += kKvBlock * kBits / 8) {
        float largest = 0.0f, magnitude = 0.0f;  // the element of largest magnitude, the first of equals
        bool numbers = true;
        for (uint32_t i = 0; i < kKvBlock; ++i) {
            const float a = __builtin_fabsf(x[i]);
            numbers &= a < kInf32;
            if (a > magnitude) magnitude = a, largest = x[i];
        }
        float d = kBits == 8 ? magnitude / 127.0f : largest / -8.0f;
        if (__builtin_fabsf(d) > 65504.0f) d = d < 0 ? -65504.0f : 65504.0f;
        float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        if (!(__builtin_fabsf(inverse) < kInf32)) inverse = 0.0f;
        if (!numbers) d = __builtin_nanf(""), inverse = 0.0f;
        kv_store_u16(scales + 2 * b, f32_to_f16(d));
        int32_t q[kKvBlock];
        for (uint32_t i = 0; i < kKvBlock; ++i) {
            const float v = (numbers ? x[i] : 0.0f) * inverse, limit = kBits == 8 ? 127.0f : 7.0f,
                        low = kBits == 8 ? -127.0f : -8.0f;
            q[i] = static_cast<int32_t>(rint_f32(v > limit ? limit : v < low ? low : v));
        }
        if constexpr (kBits == 8)
            for (uint32_t i = 0; i < kKvBlock; ++i) codes[i] = static_cast<uint8_t>(q[i]);
        else
            for (uint32_t i = 0; i < 16; ++i) codes[i] = static_cast<uint8_t>((q[i] + 8) | (q[i + 16] + 8) << 4);
    }
}
// Integers and scales that are not negative: a negative d changes the sign of its integers instead.
template <int kBits>
KEEL_DEVICE void unpack_block32(const uint8_t* codes, const uint8_t* scales, uint32_t head_dim, int8_t* q,
                                float* scale) {
    for (uint32_t b = 0; b < head_dim / kKvBlock; ++b, q += kKvBlock, codes += kKvBlock * kBits / 8) {
        const uint16_t d = kv_load_u16(scales + 2 * b);
        const int sign = d & 0x8000 ? -1 : 1;
        scale[b] = f16_to_f32(d & 0x7fff);
        for (uint32_t i = 0; i < kKvBlock; ++i) {
            const int v =
                sign * (kBits == 8 ? static_cast<int8_t>(codes[i]) : (codes[i % 16] >> (i < 16 ? 0 : 4) & 15) - 8);
            q[i] = static_cast<int8_t>(v > 127 ? 127 : v);  // -(-128), which no encoder writes
        }
    }
}

// ---- what lattice and trellis rows share ----
// Rows that are zero or so small that no f16 scale shows them, and rows with an element that is no finite number, are
// not coded.
enum class RowKind { kZero, kCoded, kNotFinite };

// A row over its largest magnitude, so that no square overflows, and its root mean square.
struct NormalRow {
    float x[kMaxHeadDim];
    float largest, square;  // square: the sum of x^2
    float rms;
    RowKind kind;
};
KEEL_DEVICE inline RowKind row_kind(bool finite, float largest) {
    return !finite ? RowKind::kNotFinite : largest < 0x1p-60f ? RowKind::kZero : RowKind::kCoded;
}
KEEL_DEVICE inline void normalise_row(const float* row, uint32_t n, NormalRow* out) {
    float largest = 0.0f;
    bool numbers = true;
    for (uint32_t i = 0; i < n; ++i) {
        const float a = __builtin_fabsf(row[i]);
        numbers &= a < kInf32;
        largest = a > largest ? a : largest;
    }
    out->kind = row_kind(numbers, largest);
    if (out->kind != RowKind::kCoded) return;
    const float inverse = 1.0f / largest;
    for (uint32_t i = 0; i < n; ++i) out->x[i] = row[i] * inverse;
    out->largest = largest;
    out->square = kv_dot(out->x, out->x, n);
    out->rms = __builtin_sqrtf(out->square / static_cast<float>(n));
}
// The scale of integers c for row x, f16 range: 0 where the code points away from the row.
KEEL_DEVICE inline float fit_scale(const NormalRow& row, const float* c, uint32_t n, KvScaleMode mode) {
    const float xc = kv_dot(row.x, c, n), cc = kv_dot(c, c, n);
    if (!(xc > 0.0f) || !(cc > 0.0f)) return 0.0f;
    const float s = row.largest * (mode == KvScaleMode::kUnbiased ? row.square / xc : xc / cc);
    return s < 65504.0f ? s : 65504.0f;
}

// ---- e8 ----
// Nominal step over rms for Gaussian elements; a search tries kE8Steps of them around it.
KEEL_TABLE float kE8Step[9] = {0, 0, 0.98f, 0.585f, 0.335f, 0.188f, 0.104f, 0, 0.0305f};
constexpr int kE8Steps = 12;
constexpr float kE8FirstStep = 0.70f, kE8NextStep = 0.06f;

// The nearest lattice point in the box, of both cosets, to one block y (in units of the step): u and the coset. Returns
// the squared error in squared steps. Exact: elements round independently; a wrong parity is mended by moving the one
// element for which that is cheapest.
KEEL_DEVICE inline float nearest_e8(const float* y, int bits, uint8_t* u, int* coset) {
    const float top = static_cast<float>((1 << bits) - 1);
    float best = kInf32;
    for (int c = 0; c < 2; ++c) {
        const float offset = static_cast<float>(1 << (bits - 1)) - 0.25f - (c ? 0.5f : 0.0f);
        float at[8], error[8], cost = 0.0f, cheapest = kInf32;
        uint32_t parity = 0;
        int move = 0;
        float step = 0.0f;
        for (int i = 0; i < 8; ++i) {
            const float v = add_f32(y[i], offset);
            float r = v < 0.0f ? 0.0f : v > top ? top : v;
            r = rint_f32(r);
            at[i] = r;
            error[i] = add_f32(v, -r);
            cost = fma_f32(error[i], error[i], cost);
            parity ^= static_cast<uint32_t>(r) & 1;
        }
        if (parity) {
            for (int i = 0; i < 8; ++i) {
                // (error -+ 1)^2 - error^2 for the moves that stay in the box, the upward one first.
                const float up = at[i] < top ? add_f32(1.0f, -mul_f32(2.0f, error[i])) : kInf32,
                            down = at[i] > 0.0f ? add_f32(1.0f, mul_f32(2.0f, error[i])) : kInf32;
                const float less = up <= down ? up : down;
                if (less < cheapest) cheapest = less, move = i, step = up <= down ? 1.0f : -1.0f;
            }
            for (int i = 0; i < 8; ++i) at[i] = i == move ? add_f32(at[i], step) : at[i];
            cost = add_f32(cost, cheapest);
        }
        if (cost < best) {
            best = cost;
            *coset = c;
            for (int i = 0; i < 8; ++i) u[i] = static_cast<uint8_t>(at[i]);
        }
    }
    return best;
}
KEEL_DEVICE inline int e8_integer(int u, int coset, int bits) {
    return 4 * u - (2 << bits) + 1 + 2 * coset;
}

// Codes a row at a given step. Returns the integers as floats in c.
KEEL_DEVICE inline void code_e8(const float* x, uint32_t n, int bits, float step, uint8_t* u, uint8_t* cosets,
                                float* c) {
    const float inverse = 1.0f / step;
    for (uint32_t b = 0; b < n / 8; ++b) {
        float y[8];
        int coset = 0;
        for (int i = 0; i < 8; ++i) y[i] = x[8 * b + static_cast<uint32_t>(i)] * inverse;
        nearest_e8(y, bits, u + 8 * b, &coset);
        cosets[b] = static_cast<uint8_t>(coset);
        for (int i = 0; i < 8; ++i)
            c[8 * b + static_cast<uint32_t>(i)] =
                static_cast<float>(e8_integer(u[8 * b + static_cast<uint32_t>(i)], coset, bits));
    }
}
KEEL_DEVICE inline void pack_e8(const uint8_t* u, const uint8_t* cosets, uint32_t n, uint32_t bits, uint8_t* codes) {
    for (uint32_t b = 0; b < n / 8; ++b, codes += bits) {
        uint64_t word = 0;
        for (uint32_t i = 0; i < 8; ++i)
            word |= uint64_t{i == 7 ? (u[8 * b + 7] & 0xfeu) | cosets[b] : u[8 * b + i]} << i * bits;
        for (uint32_t i = 0; i < bits; ++i) codes[i] = static_cast<uint8_t>(word >> 8 * i);
    }
}
template <int kBits>
KEEL_DEVICE void unpack_e8_integers(const uint8_t* codes, uint32_t n, int16_t* q) {
    constexpr uint64_t kMask = (1u << kBits) - 1;
    for (uint32_t b = 0; b < n / 8; ++b, codes += kBits, q += 8) {
        uint64_t word = 0;
        for (int i = 0; i < kBits; ++i) word |= uint64_t{codes[i]} << 8 * i;
        int u[8], parity = 0;
        for (int i = 0; i < 8; ++i) u[i] = static_cast<int>(word >> i * kBits & kMask);
        for (int i = 0; i < 7; ++i) parity ^= u[i] & 1;
        // One block at a time: GCC would take several apart together, in up to 15 KB, where nothing waits for it.
        if constexpr (kBits < 8) __asm__("" : "+r"(parity));
        const int coset = u[7] & 1;
        u[7] = (u[7] & ~1) | parity;
        for (int i = 0; i < 8; ++i) q[i] = static_cast<int16_t>(e8_integer(u[i], coset, kBits));
    }
}
// ---- trellis ----
// Viterbi search, from the last element down: state[i] of element i of row x, which is in units of the table; value[s]
// is what state s stands for. Exact minimum of the sum of squared errors; among equals the lowest predecessor and the
// lowest last state.
template <int kBits>
KEEL_DEVICE void search_trellis(const float* x, uint32_t n, const float* value, uint8_t* state) {
    constexpr int kGroups = 256 >> kBits;  // of states that share their predecessors
    constexpr int kWays = 1 << kBits;      // predecessors of a state
    float cost[256], least[kGroups];
    uint8_t from[kMaxHeadDim][kGroups];  // [element][state of the element below >> kBits]: the predecessor's upper bits
    for (int s = 0; s < 256; ++s) {
        const float d = x[n - 1] - value[s];
        cost[s] = d * d;
    }
    for (uint32_t i = n - 1; i-- > 0;) {
        int32_t way[kGroups];
        for (int g = 0; g < kGroups; ++g) least[g] = cost[g], way[g] = 0;
        for (int w = 1; w < kWays; ++w) {
            for (int g = 0; g < kGroups; ++g) {
                const float other = cost[w * kGroups + g];
                way[g] = other < least[g] ? w : way[g];
                least[g] = other < least[g] ? other : least[g];
            }
        }
        for (int g = 0; g < kGroups; ++g) from[i][g] = static_cast<uint8_t>(way[g]);
        for (int g = 0; g < kGroups; ++g) {
            for (int w = 0; w < kWays; ++w) {
                const float d = x[i] - value[g * kWays + w];
                cost[g * kWays + w] = fma_f32(d, d, least[g]);
            }
        }
    }
    int s = 0;
    for (int other = 1; other < 256; ++other) s = cost[other] < cost[s] ? other : s;
    for (uint32_t i = 0; i < n; ++i) {
        state[i] = static_cast<uint8_t>(s);
        if (i + 1 < n) s = from[i][s >> kBits] * kGroups + (s >> kBits);
    }
}
// Codes and start bits of a path.
KEEL_DEVICE inline uint32_t pack_trellis(const uint8_t* state, uint32_t n, uint32_t bits, uint8_t* codes) {
    memset(codes, 0, n * bits / 8);
    for (uint32_t i = 0; i < n; ++i) {
        const uint32_t code = state[i] & ((1u << bits) - 1), at = i * bits;
        codes[at / 8] = static_cast<uint8_t>(codes[at / 8] | code << at % 8);
        if (at % 8 + bits > 8) codes[at / 8 + 1] = static_cast<uint8_t>(codes[at / 8 + 1] | code >> (8 - at % 8));
    }
    return state[n - 1] >> bits;
}
template <int kBits>
KEEL_DEVICE void unpack_trellis(const uint8_t* codes, uint32_t start, uint32_t n, const int8_t* table, int8_t* q) {
    const uint32_t bytes = n * kBits / 8;
    for (uint32_t i = 0; i < n; ++i) {
        const uint32_t at = i * kBits, byte = at / 8;
        const uint32_t next = byte + 1 < bytes ? codes[byte + 1] : start;
        q[i] = table[(codes[byte] | next << 8) >> at % 8 & 255];
    }
}
// s with 8 + kBits bits, rounded to nearest, and the start bits.
KEEL_DEVICE inline uint16_t trellis_field(float s, uint32_t start, uint32_t bits) {
    const uint32_t start_bits = 8 - bits, dropped = start_bits - 1;
    const uint32_t half = f32_to_f16(s), kept = s != s ? 0x7e00u >> dropped : (half + (1u << dropped >> 1)) >> dropped;
    const uint32_t largest = 0x7bffu >> dropped;  // the largest finite one
    return static_cast<uint16_t>((s == s && kept > largest ? largest : kept) << start_bits | start);
}
template <int kBits>
KEEL_DEVICE float trellis_scale(uint16_t field) {
    constexpr uint32_t kStartBits = 8 - kBits;
    return f16_to_f32(static_cast<uint16_t>(field >> kStartBits << (kStartBits - 1)));
}
// ---- by format ----
// Integers of one row and its scales, for formats whose integers fit 8 bits.
template <KvFormat F>
KEEL_DEVICE void kv_unpack_portable(const uint8_t* codes, const uint8_t* scales, uint32_t n, int8_t* q, float* scale) {
    constexpr int kBits = kKvFormats[F].bits;
    if constexpr (kKvFormats[F].family == KvFamily::kBlock32) {
        unpack_block32<kBits>(codes, scales, n, q, scale);
    } else if constexpr (kKvFormats[F].family == KvFamily::kLattice) {
        int16_t wide[kMaxHeadDim];
        unpack_e8_integers<kBits>(codes, n, wide);
        for (uint32_t i = 0; i < n; ++i) q[i] = static_cast<int8_t>(wide[i]);
        *scale = f16_to_f32(kv_load_u16(scales) & 0x7fff);
    } else {
        static_assert(kKvFormats[F].family == KvFamily::kTrellis, "this KV format has no decoder");
        const uint16_t field = kv_load_u16(scales);
        unpack_trellis<kBits>(codes, field & ((1u << (8 - kBits)) - 1), n, kTrellisTables[kBits - 2], q);
        *scale = trellis_scale<kBits>(field);
    }
}

// One copy for all formats.
KEEL_DEVICE __attribute__((noinline, unused)) inline void scale_integers(const int8_t* q, float scale, uint32_t n,
                                                                         float* x) {
    for (uint32_t i = 0; i < n; ++i) x[i] = scale * static_cast<float>(q[i]);
}

template <KvFormat F>
KEEL_DEVICE void kv_decode_portable(const uint8_t* codes, const uint8_t* scales, uint32_t n, float* row) {
    if constexpr (F == kKvF32) {
        memcpy(row, codes, n * sizeof(float));
    } else if constexpr (F == kKvF16) {
        for (uint32_t i = 0; i < n; ++i) row[i] = f16_to_f32(kv_load_u16(codes + 2 * i));
    } else if constexpr (F == kKvFp8) {
        for (uint32_t i = 0; i < n; ++i) row[i] = fp8_to_f32(codes[i]);
    } else if constexpr (F == kKvE8_8) {
        int16_t q[kMaxHeadDim];
        unpack_e8_integers<8>(codes, n, q);
        const float s = f16_to_f32(kv_load_u16(scales) & 0x7fff);
        for (uint32_t i = 0; i < n; ++i) row[i] = s * static_cast<float>(q[i]);
    } else {
        int8_t q[kMaxHeadDim];
        float scale[kMaxKvScales];
        kv_unpack_portable<F>(codes, scales, n, q, scale);
        const uint32_t blocks = kv_scales(F, n), block = kKvFormats[F].family == KvFamily::kBlock32 ? kKvBlock : n;
        for (uint32_t b = 0; b < blocks; ++b) scale_integers(q + b * block, scale[b], block, row + b * block);
    }
}

// Decodes one row of a float format, or of one whose integers do not fit 8 bits: what attention reads as f32.
KEEL_DEVICE inline void kv_decode_row(KvFormat format, const uint8_t* codes, const uint8_t* scales, uint32_t n,
                                      float* row) {
    switch (format) {
#define KEEL_CASE(id, ...)                                                                                     \
    case kKv##id:                                                                                              \
        if constexpr (!kKvFormats[kKv##id].integer) return kv_decode_portable<kKv##id>(codes, scales, n, row); \
        break;
        KEEL_KV_FORMATS(KEEL_CASE)
#undef KEEL_CASE
        default:
            break;
    }
}

}  // namespace
}  // namespace keel::kernels
