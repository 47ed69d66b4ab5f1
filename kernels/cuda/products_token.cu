// Products of weights in fragments (fragments.cuh) with the 8-bit activations of one token (NUMERICS section 2). As
// with more tokens (products_fragments.cu), the warps of a block work out the integers of strips side by side and take
// turns at the chain of a sum. What is other: the eight columns of a matrix instruction are not tokens but parts of the
// token's row, whose sums are wanted one by one.
//
// A strip of four blocks of 32 has two parts, of two blocks each. A block of 256 is gone through in steps of two parts,
// a part two sub-blocks side by side: two steps where they are of 32, four where they are of 16. Lane 4g + t ends up
// with row g + 8 (t mod 2) and part t / 2 of each step. Columns 2t and 2t + 1 of a matrix instruction take the two
// blocks or sub-blocks of part t / 2: columns 0 to 3 are part 0's, 4 to 7 part 1's. Codes of part 0 are multiplied by
// zeros in columns of part 1, and the other way round, so that both may add up in the same registers.
#include "kernels/cuda/product_block.cuh"
#include "kernels/cuda/quantize.cuh"
#include "kernels/cuda/strips.cuh"

namespace keel::cuda {
namespace {

// The activations of a block in shared memory, at `planes`: copied, or made there. Weights may be on their way before;
// this waits for what the launch before wrote. All threads of the block call it.
template <uint32_t BLOCK>
KEEL_GPU void take_input(const ProductArgs& args, uint64_t* began, uint8_t* planes) {
    Words4* to = reinterpret_cast<Words4*>(planes);
    const uint32_t pieces = static_cast<uint32_t>(kernels::q8_token_bytes(args.k, BLOCK) / 16);
    wait_for_launch(began);
    if (args.input == ProductInput::kRows)
        for (uint32_t i = thread_x(); i < pieces; i += kStreamThreads) to[i] = static_cast<const Words4*>(args.x)[i];
    else
        each_span<kStreamWarps>(static_cast<const float*>(args.x), args.k, [&](const float v[8], uint32_t span) {
            quantize_span(v, span, planes, args.k, BLOCK);
        });
    sync_block();
    if (args.input != ProductInput::kRows && args.codes && block_x() == 0)
        for (uint32_t i = thread_x(); i < pieces; i += kStreamThreads) reinterpret_cast<Words4*>(args.codes)[i] = to[i];
}

// What is made of a complete row, by the last block to end. Nothing in shared memory is needed any more.
template <WeightType T>
KEEL_GPU void finish_row(const ProductArgs& args, const StripStream<T>& stream) {
    const ProductNorm& after = args.after;
    if (!after.counter) return;
    // A block meets in the barrier of warp 0's turns. So behind the last strip warp 0 has the turn once more, and then
    // all others.
    const uint32_t warp = stream.warp, last_warp = (stream.passes * stream.strips - 1) % kStreamWarps;
    if (last_warp && warp == last_warp) pass_turn(0);
    if (warp) {
        await_turn(warp);
    } else {
        if (last_warp) await_turn(0);
        KEEL_NO_UNROLL
        for (uint32_t to = 1; to < kStreamWarps; ++to) pass_turn(to);
    }
    if (!last_of_blocks(after.counter, stream.passes, after.groups)) return;
    const uint32_t n = args.matrix[0].rows;
    float* factor = reinterpret_cast<float*>(shared_memory());
    each_normed_span<kStreamWarps, true, true>(
        args.y + args.matrix[0].out, after.norm, n, after.eps, factor, factor + 4,
        [&](const float v[8], uint32_t span) { quantize_span(v, span, after.codes, n, after.block); });
}

// A term of the chain: acc = fma(scale, sum, acc).
struct Term {
    float scale, sum;
};
// Terms of a strip for one row. Lanes of part 0 have the first half of them, those of part 1 the others; where there is
// one, both have it.
template <WeightType T>
constexpr uint32_t kTerms = strip_blocks(kWeightTypes[T].block_elements) *
                            (kWeightTypes[T].m_at == kernels::kNoField ? 1 : 2);
template <WeightType T>
constexpr uint32_t kOwnTerms = kTerms<T> == 1 ? 1 : kTerms<T> / 2;

// What a lane is for.
struct TokenLane {
    uint32_t lane, t, row, part;
    uint32_t column;  // which block or sub-block of a step its column takes
    bool lower, odd;  // its column is one of 0 to 3; is odd
    // Codes of a column: those of part 0 and of part 1, one of them zero.
    KEEL_GPU void split(uint32_t b, uint32_t of_part[2]) const {
        of_part[0] = lower ? b : 0;
        of_part[1] = lower ? 0 : b;
    }
    // Of its column's neighbours 2t + e: the sum for the lane's row.
    KEEL_GPU int32_t own(const int32_t sums[4], uint32_t e) const { return t % 2 ? sums[2 + e] : sums[e]; }
};

// A step's sums of part p: those of part 0 are the first ones.
KEEL_GPU void add_part(uint32_t p, int32_t sums[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    if (p == 0)
        mma_s8_from(sums, 0, a, b0, b1);
    else
        mma_s8(sums, a, b0, b1);
}

// Scale bytes of a lane. Scales of most types are worked out a byte at a time (scales4): of each word the half that
// belongs to the lane's part will do.
template <WeightType T>
struct PartScales {
    static constexpr bool kHalves = T != kIQ4_XS;
    static constexpr uint32_t kCount = kScaleBytes<T>.count;
    ScaleRegisters w;
    uint32_t part;
    KEEL_GPU void load(const uint8_t* block, const TokenLane& own) {
        const uint8_t* p = block + FragmentShape<T>::kScalesAt + own.row * kCount;
        part = own.part;
        KEEL_UNROLL
        for (uint32_t i = 0; i < (kCount + 3) / 4; ++i)
            w.w[i] = kHalves ? load16(p + 4 * i + 2 * part) : word_at<kCount>(p, i);
    }
    // Of sub-blocks 4n + 2 part and the one behind it, in the two lower bytes.
    KEEL_GPU uint32_t scales(uint32_t n) const { return scales4<T>(w, n) >> (kHalves ? 0 : 16 * part); }
    KEEL_GPU uint32_t minima(uint32_t n) const { return minima4<T>(w, n); }
};

// Strips of four blocks of 32.
template <WeightType T>
struct TokenStrip32 {
    static constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    static constexpr bool kMinima = kInfo.m_at != kernels::kNoField;
    static constexpr uint32_t kOffset = kInfo.codes.is_signed ? 0 : static_cast<uint32_t>(kInfo.codes.offset);
    Fragment<T> block[4];  // codes alone
    uint32_t factors[2];   // of the lane's blocks

    KEEL_GPU void load(const uint8_t* strip, const TokenLane& own) {
        using Shape = FragmentShape<T>;
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) load_codes<T>(strip + i * Shape::kBytes, own.lane, block[i]);
        KEEL_UNROLL
        for (uint32_t e = 0; e < 2; ++e)
            factors[e] = load_factors<T>(strip + (2 * own.part + e) * Shape::kBytes, own.row);
    }
    KEEL_GPU void multiply(const kernels::Q8Token& x, uint32_t first, uint32_t blocks, const TokenLane& own,
                           Term term[kOwnTerms<T>]) const {
        const Words2 b = reinterpret_cast<const Words2*>(x.q + own.column * 32)[4 * first + own.t];
        uint32_t b0[2], b1[2];
        own.split(b.x, b0);
        own.split(b.y, b1);
        const uint32_t mine = first + 2 * own.part;
        const Words2 d = *reinterpret_cast<const Words2*>(x.d + mine),
                     s = *reinterpret_cast<const Words2*>(x.sums + 2 * mine);
        KEEL_UNROLL
        for (uint32_t e = 0; e < 2; ++e) {
            int32_t sums[4];
            KEEL_UNROLL
            for (uint32_t p = 0; p < 2; ++p) {
                uint32_t a[4];
                // Without their offset, or with it, where sums of activations take it off.
                values_of_run<T, kOffset == 0>(block[2 * p + e], 0, a);
                add_part(p, sums, a, b0[p], b1[p]);
            }
            int32_t i = own.own(sums, e);
            const uint32_t of_block = e ? s.y : s.x;
            if constexpr (kOffset != 0) i = dp2a_lo(of_block, (256 - kOffset) * 0x0101, i);
            const float d_token = f32_from_bits(e ? d.y : d.x);
            Term* to = term + e * (1 + kMinima);
            to[0] = {mul_f32(d_of<T>(factors[e]), d_token), static_cast<float>(i)};
            if constexpr (kMinima)
                to[1] = {mul_f32(minimum_of(factors[e]), d_token), static_cast<float>(dp2a_lo(of_block, 0x0101, 0))};
            // What adds nothing, not even to -0.
            if (mine + e < blocks) continue;
            KEEL_UNROLL
            for (uint32_t m = 0; m < 1 + kMinima; ++m) to[m] = {-0.0f, 0};
        }
    }
};

// Strips of one block of 256.
template <WeightType T>
struct TokenStrip256 {
    static constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    static constexpr bool kMinima = kInfo.m_at != kernels::kNoField;
    static constexpr uint32_t kOffset = kOffsetOfSums<T>;
    Fragment<T> block;  // codes alone
    PartScales<T> scales;
    uint32_t factor;  // d, or of part 1 of types with minima dmin

    KEEL_GPU void load(const uint8_t* strip, const TokenLane& own) {
        using Shape = FragmentShape<T>;
        load_codes<T>(strip, own.lane, block);
        scales.load(strip, own);
        factor = load16(strip + Shape::kFactorsAt + own.row * Shape::kFactorBytes + (kMinima ? 2 * own.part : 0));
    }
    KEEL_GPU void multiply(const kernels::Q8Token& x, uint32_t first, uint32_t, const TokenLane& own,
                           Term term[kOwnTerms<T>]) const {
        int32_t i = 0, m = 0;
        if constexpr (kInfo.sub_block == 32) {
            int32_t upper_runs = 0;  // of runs that share words, the upper ones' share of I, sixteen times as large
            KEEL_UNROLL
            for (uint32_t n = 0; n < 2; ++n) {
                const Words2 b = reinterpret_cast<const Words2*>(x.q + own.column * 32)[32 * first + 16 * n + own.t];
                uint32_t b0[2], b1[2];
                own.split(b.x, b0);
                own.split(b.y, b1);
                const uint32_t pair = scales.scales(n);
                KEEL_UNROLL
                for (uint32_t e = 0; e < 2; ++e) {
                    int32_t sums[4];
                    KEEL_UNROLL
                    for (uint32_t p = 0; p < 2; ++p) {
                        uint32_t a[4];
                        const uint32_t run = 4 * n + 2 * p + e;
                        if constexpr (kPairsOfRuns<T>) {
                            codes_in_place<T>(block, run, a);
                            if (p == 0)
                                mma_u8_first(sums, a, b0[p], b1[p]);
                            else
                                mma_u8(sums, a, b0[p], b1[p]);
                        } else {
                            values_of_run<T>(block, run, a);
                            add_part(p, sums, a, b0[p], b1[p]);
                        }
                    }
                    (kPairsOfRuns<T> && e ? upper_runs : i) += byte_at(pair, e) * own.own(sums, e);
                }
                if constexpr (kMinima) {
                    const Words2 s = reinterpret_cast<const Words2*>(x.sums)[4 * first + 2 * n + own.part];
                    const uint32_t twice = pick_bytes(scales.minima(n), 0, 0x1100);
                    m = dp2a_hi(s.y, twice, dp2a_lo(s.x, twice, m));
                }
            }
            i += upper_runs >> 4;
        } else {
            KEEL_UNROLL
            for (uint32_t n = 0; n < 4; ++n) {
                // A run has two sub-blocks: even columns take the first, odd ones the second.
                const uint32_t b =
                    reinterpret_cast<const uint32_t*>(x.q + own.column * 16)[64 * first + 16 * n + own.t];
                uint32_t b0[2], b1[2];
                own.split(own.odd ? 0 : b, b0);
                own.split(own.odd ? b : 0, b1);
                int32_t sums[4];
                KEEL_UNROLL
                for (uint32_t p = 0; p < 2; ++p) {
                    uint32_t a[4];
                    values_of_run<T, kOffset == 0>(block, 2 * n + p, a);
                    add_part(p, sums, a, b0[p], b1[p]);
                }
                const uint32_t pair = scales.scales(n),
                               s = reinterpret_cast<const uint32_t*>(x.sums)[8 * first + 2 * n + own.part];
                i += byte_at(pair, 0) * own.own(sums, 0) + byte_at(pair, 1) * own.own(sums, 1);
                if constexpr (kMinima) m = dp2a_lo(s, scales.minima(n), m);
                if constexpr (kOffset != 0) m = dp2a_lo(s, pair, m);
            }
            if constexpr (kOffset != 0) i -= static_cast<int32_t>(kOffset) * m;
        }
        // The other part's share: of types with minima, part 0 adds up I and part 1 M.
        const int32_t kept = kMinima && own.part ? m : i, sent = kMinima && !own.part ? m : i;
        const int32_t sum = kept + static_cast<int32_t>(shuffle(static_cast<uint32_t>(sent), own.lane ^ 2));
        const float scale = mul_f32(widen_f16(factor), x.d[first]);
        term[0] = {kMinima && own.part ? -scale : scale, static_cast<float>(sum)};
    }
};
template <WeightType T, bool SUPER = kWeightTypes[T].sub_block != 0>
struct TokenStripOf {
    using Type = TokenStrip32<T>;
};
template <WeightType T>
struct TokenStripOf<T, true> {
    using Type = TokenStrip256<T>;
};

template <WeightType T>
KEEL_GPU void multiply_token(const ProductArgs& args, uint64_t* began) {
    using Strips = StripStream<T>;
    constexpr uint32_t kElements = kWeightTypes[T].block_elements;
    Strips stream(args, token_strips_ahead(args.k, kWeightTypes[T]));
    if (args.input != ProductInput::kRows) stream.prefetch_more();
    const uint32_t lane = stream.lane, warp = stream.warp, next_warp = (warp + 1) % kStreamWarps, gated = stream.gated;
    const TokenLane own = {
        lane,           lane % 4,         lane / 4 + lane % 2 * 8, lane % 4 / 2, lane / 16 * 2 + lane / 4 % 2,
        lane / 16 == 0, lane / 4 % 2 != 0};
    // Sums of rows on their way to each warp, behind them those of a gate, and none.
    float* turns = reinterpret_cast<float*>(shared_memory() + kStreamWarps * stream.ahead * Strips::kBytes);
    uint8_t* planes = reinterpret_cast<uint8_t*>(turns) + kTokenTurnsBytes;
    take_input<kElements>(args, began, planes);
    const kernels::Q8Token x = kernels::q8_token(planes, args.k, kElements);
    turns += own.row;
    float *mine = turns + kGroupRows * warp, *next = turns + kGroupRows * next_warp,
          *of_gate = turns + kGroupRows * kStreamWarps, *none = of_gate + kGroupRows;
    if (warp == 0 && own.part == 0) *none = 0;
    KEEL_NO_UNROLL
    for (StripPlace& at = stream.at; at.pass < stream.passes; at.advance(kStreamWarps, stream.strips)) {
        typename TokenStripOf<T>::Type strip;
        strip.load(stream.arrived(), own);
        stream.replace();
        Term term[kTerms<T>];
        strip.multiply(x, at.strip * Strips::kStrip, stream.blocks, own, term);
        if constexpr (kOwnTerms<T> != kTerms<T>) {
            KEEL_UNROLL
            for (uint32_t i = 0; i < kOwnTerms<T>; ++i) {
                Term& other = term[kOwnTerms<T> + i];
                other.scale = shuffle(term[i].scale, lane ^ 2);
                other.sum = shuffle(term[i].sum, lane ^ 2);
            }
        }
        const float* before = at.strip ? mine : none;
        // All that does not need the turn stands before it: the loop, which never goes round, holds it there.
        do {
            if (at.pass + at.strip) await_turn(warp);
        } while (args.matrices == 0);
        float acc = *before, gate = 0;
        KEEL_UNROLL
        for (uint32_t i = 0; i < kTerms<T>; ++i) acc = fma_f32(term[i].scale, term[i].sum, acc);
        if (own.part == 0) *next = acc;
        if (at.strip + 1 != stream.strips) {
            pass_turn(next_warp);
            continue;
        }
        const bool of_gate_alone = gated && at.pass % 2 == 0;
        if (own.part == 0) {
            if (of_gate_alone)
                *of_gate = acc;
            else if (gated)
                gate = *of_gate;
        }
        if (at.pass + 1 < stream.passes) pass_turn(next_warp);
        if (of_gate_alone || own.part) continue;
        const GroupRows rows = stream.rows_of_pass(at.pass & ~gated);
        const uint32_t row = rows.first_row + own.row;
        float value = with_bias(args.matrix[rows.matrix + gated], row, acc);
        if (gated) value = gated_value(args.gate, with_bias(args.matrix[rows.matrix], row, gate), value);
        store(args, args.matrix[rows.matrix], row, 0, value);
    }
    finish_row(args, stream);
}

}  // namespace

#define KEEL_DEFINE(type, ...)                                      \
    KEEL_GPU_EARLY_KERNEL_OF(product_token_##type, kStreamBlocks) { \
        multiply_token<k##type>(args, began);                       \
    }
KEEL_BLOCK_TYPES(KEEL_DEFINE)
#undef KEEL_DEFINE

}  // namespace keel::cuda
