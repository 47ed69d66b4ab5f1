// One row of a head in shared memory, element i in lane i % 32, worked on by a warp: rotation, and coding in the KV
// formats (NUMERICS section 7). What one lane does of it is the code of the CPU (kernels/formats/kv_codecs.h).
#pragma once
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/warp.cuh"
#include "kernels/formats/kv_codecs.h"

namespace keel::cuda {
namespace {

// The sum of a[i] * b[i] in the order of NUMERICS section 1. Every lane gets it.
KEEL_GPU float dot_warp(const float* a, const float* b, uint32_t n) {
    float chain = 0;
    for (uint32_t i = thread_x() % 16; i < n; i += 16) chain = fma_f32(a[i], b[i], chain);
    return tree16(chain);
}

// x is in shared memory.
KEEL_GPU void hadamard_warp(float* x, uint32_t n) {
    const uint32_t lane = thread_x() % 32, block = kv_rotation_block(n);
    KEEL_NO_UNROLL
    for (uint32_t stride = 1; stride < block; stride *= 2) {
        sync_warp();
        for (uint32_t i = lane; i < n / 2; i += 32) {
            const uint32_t at = 2 * i - (i & (stride - 1));
            const float a = x[at], b = x[at + stride];
            x[at] = add_f32(a, b);
            x[at + stride] = add_f32(a, -b);
        }
    }
    sync_warp();
    const float norm = 1.0f / __builtin_sqrtf(static_cast<float>(block));
    for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(x[i], norm);
}
KEEL_GPU void rotate_warp(float* x, uint32_t n) {
    for (uint32_t i = thread_x() % 32; i < n; i += 32) x[i] = mul_f32(x[i], rotation_sign(i));
    hadamard_warp(x, n);
}
KEEL_GPU void unrotate_warp(float* x, uint32_t n) {
    hadamard_warp(x, n);
    for (uint32_t i = thread_x() % 32; i < n; i += 32) x[i] = mul_f32(x[i], rotation_sign(i));
}

// ---- coding ----
struct WarpRow {
    float largest, square, rms;
    RowKind kind;
};
// As normalise_row, in place.
KEEL_GPU WarpRow normalise_warp(float* x, uint32_t n) {
    const uint32_t lane = thread_x() % 32;
    WarpRow row = {};
    bool numbers = true;
    for (uint32_t i = lane; i < n; i += 32) {
        const float a = __builtin_fabsf(x[i]);
        numbers &= a < kInf32;
        row.largest = a > row.largest ? a : row.largest;
    }
    KEEL_UNROLL
    for (uint32_t step = 16; step; step /= 2) {
        const float other = shuffle(row.largest, lane ^ step);
        row.largest = other > row.largest ? other : row.largest;
    }
    row.kind = row_kind(ballot(numbers) == ~0u, row.largest);
    if (row.kind != RowKind::kCoded) return row;
    const float inverse = 1.0f / row.largest;
    for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(x[i], inverse);
    sync_warp();
    row.square = dot_warp(x, x, n);
    row.rms = __builtin_sqrtf(row.square / static_cast<float>(n));
    return row;
}
// The scale of a row, of its products with its integers.
KEEL_GPU float fit_scale(const WarpRow& row, float xc, float cc, KvScaleMode mode) {
    if (!(xc > 0.0f) || !(cc > 0.0f)) return 0.0f;
    const float s = mul_f32(row.largest, mode == KvScaleMode::kUnbiased ? row.square / xc : xc / cc);
    return s < 65504.0f ? s : 65504.0f;
}

// Of a row that is not coded: codes of zeros behind a scale that says why.
KEEL_GPU void encode_nothing(uint32_t code_bytes, uint16_t scale, uint8_t* codes, uint8_t* scales) {
    const uint32_t lane = thread_x() % 32;
    for (uint32_t i = lane; i < code_bytes; i += 32) codes[i] = 0;
    if (lane == 0) kv_store_u16(scales, scale);
}

// A lane an element of a block of 32: calls put(block, integer, scale as f16).
template <int kBits, class Put>
KEEL_GPU void quantize_block32_warp(const float* x, uint32_t n, const Put& put) {
    const uint32_t lane = thread_x() % 32;
    for (uint32_t b = 0; b < n / kKvBlock; ++b, x += kKvBlock) {
        const float mine = x[lane];
        // The element of largest magnitude, the first of equals.
        float magnitude = __builtin_fabsf(mine);
        const bool numbers = ballot(magnitude < kInf32) == ~0u;
        if (!(magnitude < kInf32)) magnitude = 0.0f;  // then nothing is made of it
        uint32_t at = lane;
        KEEL_UNROLL
        for (uint32_t step = 16; step; step /= 2) {
            const float other = shuffle(magnitude, lane ^ step);
            const uint32_t other_at = shuffle(at, lane ^ step);
            if (other > magnitude || (other == magnitude && other_at < at)) magnitude = other, at = other_at;
        }
        const float there = shuffle(mine, at), largest = magnitude > 0.0f ? there : 0.0f;
        float d = kBits == 8 ? magnitude / 127.0f : largest / -8.0f;
        if (__builtin_fabsf(d) > 65504.0f) d = d < 0 ? -65504.0f : 65504.0f;
        float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        if (!(__builtin_fabsf(inverse) < kInf32)) inverse = 0.0f;
        if (!numbers) d = __builtin_nanf(""), inverse = 0.0f;
        const float v = mul_f32(numbers ? mine : 0.0f, inverse), limit = kBits == 8 ? 127.0f : 7.0f,
                    low = kBits == 8 ? -127.0f : -8.0f;
        put(b, static_cast<int32_t>(rint_f32(v > limit ? limit : v < low ? low : v)), f32_to_f16(d));
    }
}
template <int kBits>
KEEL_GPU void encode_block32_warp(const float* x, uint32_t n, uint8_t* codes, uint8_t* scales) {
    const uint32_t lane = thread_x() % 32;
    quantize_block32_warp<kBits>(x, n, [&](uint32_t b, int32_t q, uint16_t d) {
        if (lane == 0) kv_store_u16(scales + 2 * b, d);
        uint8_t* block = codes + b * (kKvBlock * kBits / 8);
        if constexpr (kBits == 8) {
            block[lane] = static_cast<uint8_t>(q);
        } else {
            const uint32_t high = shuffle(static_cast<uint32_t>(q + 8), lane + 16);
            if (lane < 16) block[lane] = static_cast<uint8_t>(static_cast<uint32_t>(q + 8) | high << 4);
        }
    });
}

// Rows of a lattice, by all threads of a block: every half-warp tries a step, as long as there are some, a lane a block
// of 8 or every sixteenth one.
static_assert(kAppendThreads / 16 == kE8Steps && kE8Steps % 2 == 0);
KEEL_GPU void encode_e8(float* x, uint32_t n, int bits, KvScaleMode mode, uint8_t* codes, uint8_t* scales) {
    const LatticeRoom at = lattice_room(n);
    const uint32_t step = thread_x() / 16, lane = thread_x() % 16;
    float* fits = reinterpret_cast<float*>(shared_memory() + at.fits);  // [steps][fit, xc, cc], then the row
    WarpRow* row = reinterpret_cast<WarpRow*>(fits + 3 * kE8Steps);
    float* c = reinterpret_cast<float*>(shared_memory() + at.c) + step * n;
    uint8_t *u = shared_memory() + at.u, *cosets = shared_memory() + at.cosets;
    if (thread_x() < 32) {
        const WarpRow own = normalise_warp(x, n);
        if (thread_x() == 0) *row = own;
    }
    sync_block();
    if (row->kind != RowKind::kCoded) {
        if (thread_x() < 32)
            encode_nothing(n * static_cast<uint32_t>(bits) / 8, row->kind == RowKind::kNotFinite ? 0x7e00 : 0, codes,
                           scales);
        return;
    }
    if (step < kE8Steps) {
        const float factor = fma_f32(static_cast<float>(step), kE8NextStep, kE8FirstStep);
        const float inverse = 1.0f / mul_f32(mul_f32(row->rms, kE8Step[bits]), factor);
        KEEL_NO_UNROLL
        for (uint32_t b = lane; b < n / 8; b += 16) {
            float y[8];
            uint8_t own[8];
            int coset = 0;
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e) y[e] = mul_f32(x[8 * b + e], inverse);
            nearest_e8(y, bits, own, &coset);
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e) {
                u[step * n + 8 * b + e] = own[e];
                c[8 * b + e] = static_cast<float>(e8_integer(own[e], coset, bits));
            }
            cosets[step * (n / 8) + b] = static_cast<uint8_t>(coset);
        }
        sync_warp();
        const float xc = dot_warp(x, c, n), cc = dot_warp(c, c, n);
        if (lane == 0) {
            fits[3 * step] = xc > 0.0f ? mul_f32(xc, xc) / cc : 0.0f;
            fits[3 * step + 1] = xc;
            fits[3 * step + 2] = cc;
        }
    }
    sync_block();
    uint32_t kept = 0;
    for (uint32_t i = 1; i < kE8Steps; ++i)
        if (fits[3 * i] > fits[3 * kept]) kept = i;
    static_assert(kMaxHeadDim / 8 <= kAppendThreads);
    if (const uint32_t b = thread_x(); b < n / 8)
        pack_e8(u + kept * n + 8 * b, cosets + kept * (n / 8) + b, 8, static_cast<uint32_t>(bits),
                codes + b * static_cast<uint32_t>(bits));
    if (thread_x() == 0)
        kv_store_u16(scales, f32_to_f16(fit_scale(*row, fits[3 * kept + 1], fits[3 * kept + 2], mode)));
}

// Viterbi search as search_trellis: lane l has states 32 i + l. Group g of states with common predecessors are those
// with s >> kBits == g; its predecessors are the states with s % kGroups == g.
template <int kBits>
KEEL_GPU void search_trellis_warp(const float* x, uint32_t n, const int8_t* table, uint8_t* from, uint8_t* state) {
    constexpr uint32_t kGroups = 256u >> kBits;
    const uint32_t lane = thread_x() % 32;
    float value[8], cost[8];
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) {
        value[i] = static_cast<float>(table[32 * i + lane]);
        const float d = add_f32(x[n - 1], -value[i]);
        cost[i] = mul_f32(d, d);
    }
    for (uint32_t element = n - 1; element-- > 0;) {
        // Least costs of the groups: group l + 32 j in lane l, or one group in several lanes.
        constexpr uint32_t kMine = kGroups > 32 ? kGroups / 32 : 1;
        float least[8];
        uint32_t way[8];
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i) {
            least[i] = cost[i];
            way[i] = (32 * i + lane) / kGroups;  // ascends with i
        }
        KEEL_UNROLL
        for (uint32_t step = kMine; step < 8; step *= 2) {
            KEEL_UNROLL
            for (uint32_t i = 0; i < 8; ++i)
                if (i / step % 2 == 0 && i % step < kMine && least[i + step] < least[i])
                    least[i] = least[i + step], way[i] = way[i + step];
        }
        if constexpr (kGroups < 32) {
            KEEL_UNROLL
            for (uint32_t step = kGroups; step < 32; step *= 2) {
                const float other = shuffle(least[0], lane ^ step);
                const uint32_t other_way = shuffle(way[0], lane ^ step);
                if (other < least[0] || (other == least[0] && other_way < way[0])) least[0] = other, way[0] = other_way;
            }
        }
        KEEL_UNROLL
        for (uint32_t j = 0; j < kMine; ++j)
            if (lane < kGroups) from[element * kGroups + 32 * j + lane] = static_cast<uint8_t>(way[j]);
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i) {
            const uint32_t group = (32 * i + lane) >> kBits;
            const float d = add_f32(x[element], -value[i]), before = shuffle(least[(32 * i >> kBits) / 32], group % 32);
            cost[i] = fma_f32(d, d, before);
        }
    }
    float least = cost[0];
    uint32_t last = lane;
    KEEL_UNROLL
    for (uint32_t i = 1; i < 8; ++i)
        if (cost[i] < least) least = cost[i], last = 32 * i + lane;
    KEEL_UNROLL
    for (uint32_t step = 16; step; step /= 2) {
        const float other = shuffle(least, lane ^ step);
        const uint32_t other_last = shuffle(last, lane ^ step);
        if (other < least || (other == least && other_last < last)) least = other, last = other_last;
    }
    sync_warp();  // `from` is complete
    if (lane == 0) {
        uint32_t s = last;
        for (uint32_t i = 0; i < n; ++i) {
            state[i] = static_cast<uint8_t>(s);
            if (i + 1 < n) s = from[i * kGroups + (s >> kBits)] * kGroups + (s >> kBits);
        }
    }
    sync_warp();
}

template <int kBits>
KEEL_GPU void encode_trellis_warp(float* x, uint32_t n, KvScaleMode mode, uint8_t* codes, uint8_t* scales) {
    const uint32_t lane = thread_x() % 32;
    const WarpRow row = normalise_warp(x, n);
    if (row.kind != RowKind::kCoded) {
        const float scale = row.kind == RowKind::kNotFinite ? __builtin_nanf("") : 0.0f;
        return encode_nothing(n * kBits / 8, trellis_field(scale, 0, kBits), codes, scales);
    }
    const int8_t* table = kTrellisTables[kBits - 2];
    const float units = kTrellisUnit[kBits - 2] / row.rms;
    const TrellisRoom at = trellis_room(n);
    float *scaled = reinterpret_cast<float*>(shared_memory() + at.scaled), *c = scaled;
    uint8_t *state = shared_memory() + at.states, *from = shared_memory() + at.from;
    for (uint32_t i = lane; i < n; i += 32) scaled[i] = mul_f32(x[i], units);
    sync_warp();
    search_trellis_warp<kBits>(scaled, n, table, from, state);
    for (uint32_t i = lane; i < n; i += 32) c[i] = static_cast<float>(table[state[i]]);
    sync_warp();
    // Eight elements are kBits whole bytes.
    for (uint32_t i = lane; i < n / 8; i += 32) pack_trellis(state + 8 * i, 8, kBits, codes + i * kBits);
    const float s = fit_scale(row, dot_warp(x, c, n), dot_warp(c, c, n), mode);
    if (lane == 0) kv_store_u16(scales, trellis_field(s, static_cast<uint32_t>(state[n - 1]) >> kBits, kBits));
}

KEEL_GPU void encode_f16(const float* x, uint32_t n, uint8_t* codes) {
    for (uint32_t i = thread_x() % 32; i < n; i += 32) kv_store_u16(codes + 2 * i, f32_to_f16(x[i]));
}

// Codes the row that lies at the beginning of shared memory and is spent. All threads of the block call it, and have
// not met since the first warp wrote the row. It is called, so that it takes no registers of what stands beside it.
KEEL_GPU_CALLED void encode_row(KvFormat format, uint32_t n, KvScaleMode mode, uint8_t* codes, uint8_t* scales) {
    const KvFormatInfo& info = kKvFormats[format];
    float* x = reinterpret_cast<float*>(shared_memory());
    if (info.family == KvFamily::kLattice) return encode_e8(x, n, info.bits, mode, codes, scales);
    if (thread_x() >= 32) return;
    if (info.family == KvFamily::kBlock32)
        return info.bits == 8 ? encode_block32_warp<8>(x, n, codes, scales)
                              : encode_block32_warp<4>(x, n, codes, scales);
    if (info.family == KvFamily::kTrellis) switch (info.bits) {
            case 2:
                return encode_trellis_warp<2>(x, n, mode, codes, scales);
            case 3:
                return encode_trellis_warp<3>(x, n, mode, codes, scales);
            case 4:
                return encode_trellis_warp<4>(x, n, mode, codes, scales);
            case 5:
                return encode_trellis_warp<5>(x, n, mode, codes, scales);
            default:
                return encode_trellis_warp<6>(x, n, mode, codes, scales);
        }
    if (info.bits == 16) return encode_f16(x, n, codes);
    for (uint32_t i = thread_x(); i < n; i += 32) {
        if (info.bits == 32)
            reinterpret_cast<float*>(codes)[i] = x[i];
        else
            codes[i] = f32_to_fp8(x[i]);
    }
}

}  // namespace
}  // namespace keel::cuda
