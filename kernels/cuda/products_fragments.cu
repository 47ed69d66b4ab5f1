// Products of weights in fragments (fragments.h) with 8-bit activations, on matrix units (NUMERICS section 2). Integers
// are exact in any order; the sum in f32 is one chain over blocks ascending, so k is never split between chains.
#include "kernels/cuda/product_rows.cuh"

namespace keel::cuda {
namespace {

// ---- Q4_K, 1 to 8 tokens ----
constexpr uint32_t kSuperblockBytes = 16 * kWeightTypes[kQ4_K].block_bytes;
constexpr uint32_t kPieces = 18;  // of 16 bytes, of a superblock of activations: 16 of codes, 2 of sums

struct Q4kFragment {
    Words4 codes[4];
    Words2 fields;
};
KEEL_GPU Q4kFragment load_q4k(const uint8_t* p, uint32_t lane) {
    Q4kFragment f;
    KEEL_UNROLL
    for (uint32_t g = 0; g < 4; ++g) f.codes[g] = load_once(reinterpret_cast<const Words4*>(p) + 32 * g + lane);
    f.fields = load_once(reinterpret_cast<const Words2*>(p + 2048) + lane);
    return f;
}
// Four fields of 6 bits as bytes.
KEEL_GPU uint32_t spread6(uint32_t v) {
    return (v & 63) | (v & 0xfc0) << 2 | (v & 0x3f000) << 4 | (v & 0xfc0000) << 6;
}

// Begins to copy superblocks [first, first + count) of the activations to shared memory, kStagedWords each, TOKENS
// beside one another. Tokens there are not are copies of the first; nobody reads what comes of them.
template <uint32_t TOKENS>
KEEL_GPU void stage(const ProductArgs& args, uint32_t first, uint32_t count, uint32_t* to) {
    const uint64_t sums_at = round64(args.k) + round64(uint64_t{args.k} / 256 * 4);
    for (uint32_t i = thread_x(); i < count * TOKENS * kPieces; i += kFragmentThreads) {
        const uint32_t piece = i % kPieces, token = i / kPieces % TOKENS, b = i / kPieces / TOKENS;
        const uint64_t at =
            piece < 16 ? (first + b) * 256 + piece * 16 : sums_at + (first + b) * 32 + (piece - 16) * 16;
        copy16(to + (b * TOKENS + token) * kStagedWords + piece * 4,
               token_of(args, token < args.tokens ? token : 0) + at);
    }
    copy_commit();
}

// A warp takes 16 rows, four warps share the activations, which are copied kFragmentChunk superblocks ahead.
template <uint32_t TOKENS>
KEEL_GPU void multiply_q4_k(const ProductArgs& args) {
    constexpr uint32_t kBufferWords = kFragmentChunk * TOKENS * kStagedWords;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, quad = lane & ~3u;
    const uint32_t first_row = args.row_begin + (block_x() * (kFragmentThreads / 32) + thread_x() / 32) * kFragmentRows;
    const bool live = first_row < args.row_end;
    const uint32_t blocks = args.k / 256;
    // Of this lane: the token whose codes it multiplies, and the two whose sums it holds.
    const uint32_t token = g < TOKENS ? g : 0, token0 = 2 * t < TOKENS ? 2 * t : 0,
                   token1 = 2 * t + 1 < TOKENS ? 2 * t + 1 : 0;
    const auto scales_of = [&](uint32_t c) {
        return reinterpret_cast<const float*>(token_of(args, c < args.tokens ? c : 0) + round64(args.k));
    };
    const float *d_token0 = scales_of(token0), *d_token1 = scales_of(token1);
    const uint8_t* w = args.w + (live ? first_row : args.row_begin) * args.w_row_bytes;
    uint32_t* staged = reinterpret_cast<uint32_t*>(shared_memory());

    Q4kFragment next = load_q4k(w, lane);
    float acc[4] = {};  // rows g, g, g + 8, g + 8; tokens 2t, 2t + 1 in turn
    stage<TOKENS>(args, 0, blocks < kFragmentChunk ? blocks : kFragmentChunk, staged);
    for (uint32_t first = 0, buffer = 0; first < blocks; first += kFragmentChunk, buffer ^= 1) {
        const uint32_t end = first + kFragmentChunk < blocks ? first + kFragmentChunk : blocks;
        if (end < blocks) {
            const uint32_t rest = blocks - end;
            stage<TOKENS>(args, end, rest < kFragmentChunk ? rest : kFragmentChunk,
                          staged + (buffer ^ 1) * kBufferWords);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        sync_block();
        for (uint32_t b = first; b < end; ++b) {
            const Q4kFragment f = next;
            if (b + 1 < blocks) next = load_q4k(w + uint64_t{b + 1} * kSuperblockBytes, lane);
            const uint32_t* x = staged + buffer * kBufferWords + (b - first) * TOKENS * kStagedWords;
            const uint32_t *codes = x + token * kStagedWords, *sums0 = x + token0 * kStagedWords + 64,
                           *sums1 = x + token1 * kStagedWords + 64;
            const uint32_t scales = spread6(f.fields.x & 0xffffff),
                           minima = spread6(f.fields.x >> 24 | (f.fields.y & 0xffff) << 8);
            int32_t i[4] = {}, m[4] = {};
            KEEL_UNROLL
            for (uint32_t h = 0; h < 4; ++h) {  // 64 elements: two sub-blocks
                const Words4 c = f.codes[h];
                // Of rows g and g + 8, both sub-blocks each.
                const uint32_t sc = shuffle(scales, quad | h);
                const uint32_t mn = shuffle(minima, quad | h);
                const uint32_t low[4] = {c.x & 0x0f0f0f0f, c.y & 0x0f0f0f0f, c.z & 0x0f0f0f0f, c.w & 0x0f0f0f0f};
                const uint32_t high[4] = {c.x >> 4 & 0x0f0f0f0f, c.y >> 4 & 0x0f0f0f0f, c.z >> 4 & 0x0f0f0f0f,
                                          c.w >> 4 & 0x0f0f0f0f};
                int32_t q[4] = {}, r[4] = {};
                mma_s8(q, low, codes[16 * h + t], codes[16 * h + 4 + t]);
                mma_s8(r, high, codes[16 * h + 8 + t], codes[16 * h + 12 + t]);
                const int32_t sc_g[2] = {int32_t(sc & 255), int32_t(sc >> 8 & 255)};
                const int32_t sc_g8[2] = {int32_t(sc >> 16 & 255), int32_t(sc >> 24)};
                i[0] += sc_g[0] * q[0] + sc_g[1] * r[0];
                i[1] += sc_g[0] * q[1] + sc_g[1] * r[1];
                i[2] += sc_g8[0] * q[2] + sc_g8[1] * r[2];
                i[3] += sc_g8[0] * q[3] + sc_g8[1] * r[3];
                // A sub-block has two sums of 16, and one minimum for both.
                const uint32_t mn_g = (mn & 255) * 0x101 | (mn >> 8 & 255) * 0x1010000;
                const uint32_t mn_g8 = (mn >> 16 & 255) * 0x101 | (mn >> 24) * 0x1010000;
                m[0] = dp2a_hi(sums0[2 * h + 1], mn_g, dp2a_lo(sums0[2 * h], mn_g, m[0]));
                m[1] = dp2a_hi(sums1[2 * h + 1], mn_g, dp2a_lo(sums1[2 * h], mn_g, m[1]));
                m[2] = dp2a_hi(sums0[2 * h + 1], mn_g8, dp2a_lo(sums0[2 * h], mn_g8, m[2]));
                m[3] = dp2a_hi(sums1[2 * h + 1], mn_g8, dp2a_lo(sums1[2 * h], mn_g8, m[3]));
            }
            const uint32_t half = f.fields.y >> 16;
            const float d_g = widen_f16(shuffle(half, quad));
            const float dmin_g = widen_f16(shuffle(half, quad | 1));
            const float d_g8 = widen_f16(shuffle(half, quad | 2));
            const float dmin_g8 = widen_f16(shuffle(half, quad | 3));
            const float d[4] = {mul_f32(d_g, d_token0[b]), mul_f32(d_g, d_token1[b]), mul_f32(d_g8, d_token0[b]),
                                mul_f32(d_g8, d_token1[b])};
            const float dmin[4] = {mul_f32(dmin_g, d_token0[b]), mul_f32(dmin_g, d_token1[b]),
                                   mul_f32(dmin_g8, d_token0[b]), mul_f32(dmin_g8, d_token1[b])};
            KEEL_UNROLL
            for (uint32_t n = 0; n < 4; ++n) {
                acc[n] = fma_f32(d[n], static_cast<float>(i[n]), acc[n]);
                acc[n] = fma_f32(-dmin[n], static_cast<float>(m[n]), acc[n]);
            }
        }
        sync_block();  // nobody copies over what another warp still reads
    }
    if (!live) return;
    KEEL_UNROLL
    for (uint32_t n = 0; n < 4; ++n) {
        const uint32_t row = first_row + g + 8 * (n / 2), c = 2 * t + n % 2;
        if (row < args.row_end && c < args.tokens) store_dot(args, row, c, acc[n]);
    }
}

}  // namespace

KEEL_GPU_KERNEL(q4_k_fragments_1) {
    multiply_q4_k<1>(args);
}
KEEL_GPU_KERNEL(q4_k_fragments_2) {
    multiply_q4_k<2>(args);
}
KEEL_GPU_KERNEL(q4_k_fragments_4) {
    multiply_q4_k<4>(args);
}
KEEL_GPU_KERNEL(q4_k_fragments_8) {
    multiply_q4_k<8>(args);
}

// For matrices with few rows: sixteen chains a block, over integers that four warps left in shared memory.
KEEL_GPU_KERNEL(q8_0_fragments) {
    constexpr uint32_t kBlockBytes = 16 * kWeightTypes[kQ8_0].block_bytes;
    const uint32_t lane = thread_x() % 32, warp = thread_x() / 32, g = lane / 4, t = lane % 4, blocks = args.k / 32;
    const uint32_t first_row = args.row_begin + block_x() * kFragmentRows;
    int32_t* integers = reinterpret_cast<int32_t*>(shared_memory());              // [blocks][16]
    float* scales = reinterpret_cast<float*>(integers + blocks * kFragmentRows);  // [blocks][16], d_w * d_a
    const uint8_t* w = args.w + first_row * args.w_row_bytes;
    const uint32_t* codes = static_cast<const uint32_t*>(args.x);
    const float* d = reinterpret_cast<const float*>(token_of(args, 0) + round64(args.k));
    for (uint32_t b = warp; b < blocks; b += kFragmentThreads / 32) {
        const uint8_t* block = w + uint64_t{b} * kBlockBytes;
        const Words4 c = load_once(reinterpret_cast<const Words4*>(block + 32) + lane);
        const uint32_t a[4] = {c.x, c.y, c.z, c.w};
        int32_t q[4] = {};
        mma_s8(q, a, g == 0 ? codes[b * 8 + t] : 0u, g == 0 ? codes[b * 8 + 4 + t] : 0u);
        if (t == 0) {
            integers[b * kFragmentRows + g] = q[0];
            integers[b * kFragmentRows + g + 8] = q[2];
        }
        if (lane < kFragmentRows)
            scales[b * kFragmentRows + lane] = mul_f32(widen_f16(reinterpret_cast<const uint16_t*>(block)[lane]), d[b]);
    }
    sync_block();
    const uint32_t r = thread_x();
    if (r >= kFragmentRows || first_row + r >= args.row_end) return;
    float acc = 0;
    for (uint32_t b = 0; b < blocks; ++b)
        acc = fma_f32(scales[b * kFragmentRows + r], static_cast<float>(integers[b * kFragmentRows + r]), acc);
    store_dot(args, first_row + r, 0, acc);
}

}  // namespace keel::cuda
