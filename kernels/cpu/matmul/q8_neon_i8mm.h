// The matrix unit of NEON with i8mm.
#pragma once
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernels/cpu/matmul/q8_neon_dotprod.h"

namespace keel::kernels {
namespace {

// Panels times tokens, eight at a time. SMMLA multiplies eight elements of two rows with eight of two tokens:
//
//     weights:      | row 0: q[8i..8i+7] | row 2: q[8i..8i+7] |     and rows 1 and 3
//     activations:  | token c           | token c + 1       |
//     sums:         | row 0 c | row 0 c + 1 | row 2 c | row 2 c + 1 |
//
// Panels come to this order in place, once for all tokens; activations 256 elements at a time, once for all panels.
struct NeonMatrixUnit {
    using V = Q8NeonDotprod;
    static constexpr int kTokens = V::kTileTokens, kPairs = kTokens / 2;
    static constexpr uint32_t kElements = 256;  // a whole number of blocks of every type

    template <PanelKind K>
    static uint32_t multiply(const MatmulArgs& a, void* unpacked, uint32_t row, uint32_t rows) {
        auto* panels = static_cast<PanelBlock<V, K>*>(unpacked);
        const uint32_t blocks = a.k / K.elements, groups = (rows + V::kLanes - 1) / V::kLanes;
        for (uint32_t i = 0; i < groups * blocks; ++i)
            for (uint32_t j = 0; j < K.elements / 4; j += 2) {
                const V::I even = panels[i].code[j], odd = panels[i].code[j + 1];
                panels[i].code[j] = vtrn1q_s32(even, odd);
                panels[i].code[j + 1] = vtrn2q_s32(even, odd);
            }
        for (uint32_t c = 0; c < a.tokens; c += kTokens) multiply_tokens<K>(a, panels, row, rows, c);
        return a.tokens;
    }

    template <PanelKind K>
    static void multiply_tokens(const MatmulArgs& a, const PanelBlock<V, K>* panels, uint32_t row, uint32_t rows,
                                uint32_t token) {
        constexpr uint32_t kBlock = K.elements;
        const uint32_t blocks = a.k / kBlock;
        const TokenPlanes x = TokenPlanes::of(a, kBlock);
        uint64_t at[kTokens];
        token_offsets(a, token, kTokens, at);
        V::F acc[V::kMaxPanels][kTokens];
        for (auto& panel : acc)
            for (V::F& f : panel) f = V::zero_floats();
        for (uint32_t first = 0; first < blocks; first += kElements / kBlock) {
            const uint32_t count = blocks - first < kElements / kBlock ? blocks - first : kElements / kBlock;
            int8x16_t pairs[kElements / 8][kPairs];
            for (uint32_t i = 0; i < count * kBlock; i += 16) {
                KEEL_UNROLL
                for (int p = 0; p < kPairs; ++p) {
                    const uint8_t* q = x.q + uint64_t{first} * kBlock + i;
                    const int64x2_t even = vreinterpretq_s64_u8(vld1q_u8(q + at[2 * p])),
                                    odd = vreinterpretq_s64_u8(vld1q_u8(q + at[2 * p + 1]));
                    pairs[i / 8][p] = vreinterpretq_s8_s64(vzip1q_s64(even, odd));
                    pairs[i / 8 + 1][p] = vreinterpretq_s8_s64(vzip2q_s64(even, odd));
                }
            }
            for (uint32_t r = 0; r < rows; r += V::kLanes)
                multiply_blocks<K>(panels + r / V::kLanes * blocks + first, count, pairs, x.d + uint64_t{first} * 4,
                                   x.sums + uint64_t{first} * (kBlock / 8), at, acc[r / V::kLanes]);
        }
        for (uint32_t r = 0; r < rows; r += V::kLanes)
            for (uint32_t c = 0; c < static_cast<uint32_t>(kTokens) && token + c < a.tokens; ++c)
                store_rows<V>(a, row + r, rows - r < V::kLanes ? rows - r : V::kLanes, token + c,
                              acc[r / V::kLanes][c]);
    }

    // acc[c] goes on over `count` blocks of one panel.
    template <PanelKind K>
    __attribute__((noinline)) static void multiply_blocks(const PanelBlock<V, K>* panel, uint32_t count,
                                                          const int8x16_t (*x)[kPairs], const uint8_t* d,
                                                          const uint8_t* sums, const uint64_t* at, V::F* acc) {
        constexpr uint32_t kSub = K.sub ? K.sub : K.elements;
        for (uint32_t b = 0; b < count; ++b, ++panel, d += 4, sums += K.elements / 8) {
            V::I sum[2][kPairs];
            KEEL_UNROLL
            for (int p = 0; p < kPairs; ++p) sum[0][p] = sum[1][p] = V::zero();
            for (uint32_t s = 0; s < K.elements / kSub; ++s, x += kSub / 8) {
                V::I t[2][kPairs];
                KEEL_UNROLL
                for (int p = 0; p < kPairs; ++p) t[0][p] = t[1][p] = V::zero();
                KEEL_UNROLL
                for (uint32_t i = 0; i < kSub / 8; ++i) {
                    const int8x16_t even = V::as8(panel->code[s * (kSub / 4) + 2 * i]),
                                    odd = V::as8(panel->code[s * (kSub / 4) + 2 * i + 1]);
                    KEEL_UNROLL
                    for (int p = 0; p < kPairs; ++p) {
                        t[0][p] = vmmlaq_s32(t[0][p], even, x[i][p]);
                        t[1][p] = vmmlaq_s32(t[1][p], odd, x[i][p]);
                    }
                }
                const V::I scale = K.sub ? panel->factors.scale()[s] : V::set1_32(1), even = vtrn1q_s32(scale, scale),
                           odd = vtrn2q_s32(scale, scale);
                KEEL_UNROLL
                for (int p = 0; p < kPairs; ++p) {
                    sum[0][p] = K.sub ? vmlaq_s32(sum[0][p], t[0][p], even) : t[0][p];
                    sum[1][p] = K.sub ? vmlaq_s32(sum[1][p], t[1][p], odd) : t[1][p];
                }
            }
            V::I all[kTokens];
            KEEL_UNROLL
            for (int c = 0; c < kTokens; ++c) {
                const V::I of_rows =
                    c % 2 ? vtrn2q_s32(sum[0][c / 2], sum[1][c / 2]) : vtrn1q_s32(sum[0][c / 2], sum[1][c / 2]);
                all[c] = vaddq_s32(start_block<V, K>(sums + at[c]), of_rows);
            }
            finish_block<V, K, kTokens, 1>(
                [&](int) KEEL_ALWAYS_INLINE -> const auto& { return panel->factors; }, all, d, sums, at, acc);
        }
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
