// Products of weights in fragments (fragments.cuh) with 8-bit activations of up to eight tokens (NUMERICS section 2): a
// stream of weights. Integers are exact in any order; the sum in f32 is one chain over blocks ascending, so k is never
// split between chains: the warps of a block work out integers side by side, and take turns at the chain.
#include "kernels/cuda/product_block.cuh"
#include "kernels/cuda/strips.cuh"

namespace keel::cuda {
namespace {

// One of four values in registers.
KEEL_GPU float one_of(const float v[4], uint32_t i) {
    return i < 2 ? (i == 0 ? v[0] : v[1]) : (i == 2 ? v[2] : v[3]);
}

// Lane 4g + t has, of rows g, g, g + 8, g + 8 and tokens 2t, 2t + 1 in turn, the integers of a strip, and in its warp's
// turn the sums.
template <WeightType T>
KEEL_GPU void multiply_stream(const ProductArgs& args, uint64_t* began) {
    using Strips = StripStream<T>;
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr bool kShifted = kOffsetOfSums<T> != 0;
    constexpr uint32_t kElements = kInfo.block_elements, kStrip = Strips::kStrip;
    Strips stream(args, Strips::kAhead);
    const uint32_t lane = stream.lane, g = lane / 4, t = lane % 4, warp = stream.warp,
                   next_warp = (warp + 1) % kStreamWarps, blocks = stream.blocks, gated = stream.gated;
    // Sums on their way to each warp, behind them those of a gate, and none.
    Words4 *turns = reinterpret_cast<Words4*>(shared_memory() + kStreamWarps * Strips::kAhead * Strips::kBytes) + lane,
           *mine = turns + 32 * warp, *next = turns + 32 * next_warp, *of_gate = turns + 32 * kStreamWarps,
           *none = of_gate + 32;
    wait_for_launch(began);
    // Planes of the token whose codes are multiplied, and of those whose sums these are.
    const auto token = [&](uint32_t i) {
        return kernels::q8_token(token_of(args, i < args.tokens ? i : 0), args.k, kElements);
    };
    const auto words = [](const void* p) {
        return reinterpret_cast<const uint32_t*>(kept(static_cast<const uint8_t*>(p)));
    };
    const uint32_t *codes = words(token(g).q), *sums16 = words(token(g).sums);
    const uint32_t* scales[2] = {words(token(2 * t).d), words(token(2 * t + 1).d)};
    const uint32_t* minima[2] = {words(token(2 * t).sums), words(token(2 * t + 1).sums)};

    const auto take = [](const Words4& v, float* to) {
        to[0] = f32_from_bits(v.x);
        to[1] = f32_from_bits(v.y);
        to[2] = f32_from_bits(v.z);
        to[3] = f32_from_bits(v.w);
    };
    if (warp == 0) *none = {0, 0, 0, 0};
    KEEL_NO_UNROLL
    for (StripPlace& at = stream.at; at.pass < stream.passes; at.advance(kStreamWarps, stream.strips)) {
        const uint32_t first = at.strip * kStrip;
        const uint8_t* weights = stream.arrived();
        Fragment<T> strip[kStrip];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kStrip; ++i) load_fragment<T>(weights + i * FragmentShape<T>::kBytes, lane, strip[i]);
        stream.replace();
        float d[2][kStrip];
        KEEL_UNROLL
        for (uint32_t n = 0; n < 2; ++n) {
            if constexpr (kStrip == 4) {
                take(*reinterpret_cast<const Words4*>(scales[n] + first), d[n]);
            } else {
                d[n][0] = f32_from_bits(scales[n][first]);
            }
        }
        // A part that adds nothing, not even to -0, where the strip has fewer blocks.
        ChainPart part[kStrip][4];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kStrip; ++i) {
            const uint32_t b = first + i;
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) part[i][c] = {-0.0f, 0, -0.0f, 0};
            if (kStrip > 1 && b >= blocks) continue;
            BlockValues<T> values;
            unpack_block<T, kShifted>(strip[i], lane, values);
            const Integers n = integers_of<T, kShifted>(strip[i], values, codes + b * (kElements / 4),
                                                        sums16 + b * (kElements / 32), lane);
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) {
                int32_t m = n.m[c];
                if constexpr (kInfo.sub_block == 0 && kInfo.m_at != kernels::kNoField)
                    m = sum_of_pair(minima[c % 2][b]);
                part[i][c] = part_of<T>(strip[i].factors[c / 2], d[c % 2][i], n.i[c], m);
            }
        }
        const Words4* before = at.strip ? mine : none;
        // All that does not need the turn stands before it: the loop, which never goes round, holds it there.
        do {
            if (at.pass + at.strip) await_turn(warp);
        } while (args.matrices == 0);
        float acc[4], gate[4] = {};
        take(*before, acc);
        KEEL_UNROLL
        for (uint32_t i = 0; i < kStrip; ++i) {
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) acc[c] = chain<T>(acc[c], part[i][c]);
        }
        const Words4 sums = {f32_bits(acc[0]), f32_bits(acc[1]), f32_bits(acc[2]), f32_bits(acc[3])};
        *next = sums;
        if (at.strip + 1 != stream.strips) {
            pass_turn(next_warp);
            continue;
        }
        const bool of_gate_alone = gated && at.pass % 2 == 0;
        if (of_gate_alone)
            *of_gate = sums;
        else if (gated)
            take(*of_gate, gate);
        if (at.pass + 1 < stream.passes) pass_turn(next_warp);
        if (of_gate_alone) continue;
        const GroupRows rows = stream.rows_of_pass(at.pass & ~gated);
        KEEL_NO_UNROLL
        for (uint32_t c = 0; c < 4; ++c) {
            const uint32_t of_token = 2 * t + c % 2, row = rows.first_row + g + c / 2 * 8;
            if (of_token >= args.tokens) continue;
            float value = with_bias(args.matrix[rows.matrix + gated], row, one_of(acc, c));
            if (gated) value = gated_value(args.gate, with_bias(args.matrix[rows.matrix], row, one_of(gate, c)), value);
            store(args, args.matrix[rows.matrix], row, of_token, value);
        }
    }
}

}  // namespace

#define KEEL_DEFINE(type, ...)                                       \
    KEEL_GPU_EARLY_KERNEL_OF(product_stream_##type, kStreamBlocks) { \
        multiply_stream<k##type>(args, began);                       \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE)
#undef KEEL_DEFINE

}  // namespace keel::cuda
