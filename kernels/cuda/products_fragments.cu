// Products of weights in fragments (fragments.cuh) with 8-bit activations of one to eight tokens (NUMERICS section 2):
// a stream of weights. Integers are exact in any order; the sum in f32 is one chain over blocks ascending, so k is
// never split between chains: the warps of a block work out integers side by side, and take turns at the chain.
#include "kernels/cuda/product_block.cuh"
#include "kernels/cuda/product_rows.cuh"
#include "kernels/cuda/quantize.cuh"

namespace keel::cuda {
namespace {

// Strips of weights, counted through: those of a pass, which is one group of one matrix, then those of the next.
struct StripPlace {
    uint32_t pass, strip;
    KEEL_GPU void advance(uint32_t by, uint32_t strips) {
        for (strip += by; strip >= strips; strip -= strips) ++pass;
    }
};

// The activations of a block: rows as they lie in memory, or those it makes for itself, in `planes`. Weights may be on
// their way before; this waits for what the launch before wrote. `factor`: a float of shared memory that is free until
// this returns. All threads of the block call it.
template <uint32_t BLOCK>
KEEL_GPU const uint8_t* take_input(const ProductArgs& args, uint64_t* began, float* factor, uint8_t* planes) {
    if (args.input == ProductInput::kRows) {
        wait_for_launch(began);
        return static_cast<const uint8_t*>(args.x);
    }
    const float* norm = args.input == ProductInput::kNormed ? args.norm : nullptr;
    each_span<kStreamWarps, true>(
        static_cast<const float*>(args.x), norm, args.k, args.eps, factor, [began] { wait_for_launch(began); },
        [&](const float v[8], uint32_t span) { quantize_span<BLOCK>(v, span, planes, args.k); });
    sync_block();
    if (args.codes && block_x() == 0)
        for (uint32_t i = thread_x(); i < kernels::q8_token_bytes(args.k, BLOCK) / 16; i += kStreamThreads)
            reinterpret_cast<Words4*>(args.codes)[i] = reinterpret_cast<const Words4*>(planes)[i];
    return planes;
}

// One of four values in registers.
KEEL_GPU float one_of(const float v[4], uint32_t i) {
    return i < 2 ? (i == 0 ? v[0] : v[1]) : (i == 2 ? v[2] : v[3]);
}

// Lane 4g + t has, of rows g, g, g + 8, g + 8 and tokens 2t, 2t + 1 in turn, the integers of a strip, and in its warp's
// turn the sums.
template <WeightType T>
KEEL_GPU void multiply_stream(const ProductArgs& args, uint64_t* began) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr bool kShifted = kOffsetOfSums<T> != 0;
    constexpr uint32_t kElements = kInfo.block_elements, kStrip = strip_blocks(kElements), kBytes = strip_bytes(kInfo),
                       kAhead = strips_ahead(kInfo);
    const uint32_t ahead = strips_ahead(args, kInfo);
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, warp = thread_x() / 32,
                   next_warp = (warp + 1) % kStreamWarps;
    const uint32_t blocks = args.k / kElements, strips = divide_up(blocks, kStrip),
                   gated = args.gate == ProductGate::kNone ? 0 : 1,
                   passes = divide_up(args.group_end - args.group_begin - block_x(), grid_x()) << gated;
    uint8_t* ring = shared_memory() + warp * ahead * kBytes;
    // Sums on their way to each warp, behind them those of a gate, and none.
    Words4 *turns = reinterpret_cast<Words4*>(shared_memory() + kStreamWarps * ahead * kBytes) + lane,
           *mine = turns + 32 * warp, *next = turns + 32 * next_warp, *of_gate = turns + 32 * kStreamWarps,
           *none = of_gate + 32;

    const auto rows_of_pass = [&](uint32_t pass) {
        GroupRows at = rows_of_group(args, args.group_begin + block_x() + (pass >> gated) * grid_x());
        at.matrix += pass & gated;
        return at;
    };
    const auto weights_of_pass = [&](uint32_t pass) {
        const GroupRows at = rows_of_pass(pass);
        return args.matrix[at.matrix].w + at.first_row * args.w_row_bytes;
    };
    // What this warp brings next, 16 bytes a lane at a time.
    StripPlace coming = {0, 0};
    coming.advance(warp, strips);
    const uint8_t* from = coming.pass < passes ? weights_of_pass(coming.pass) + 16 * lane : nullptr;
    const auto bring = [&](uint8_t* to) {
        if (coming.pass < passes) {
            constexpr uint32_t kPieces = kBytes / 16;
            const uint32_t left = blocks - coming.strip * kStrip,
                           pieces = kStrip == 1 || left >= kStrip ? kPieces : left * kInfo.block_bytes;
            const uint8_t* strip = from + uint64_t{coming.strip} * kBytes;
            KEEL_UNROLL
            for (uint32_t i = 0; i < divide_up(kPieces, 32); ++i)
                if ((kStrip == 1 && 32 * i + 32 <= kPieces) || 32 * i + lane < pieces)
                    copy16(to + 512 * i, strip + 512 * i);
            const uint32_t pass = coming.pass;
            coming.advance(kStreamWarps, strips);
            if (coming.pass != pass && coming.pass < passes) from = weights_of_pass(coming.pass) + 16 * lane;
        }
        copy_commit();
    };
    KEEL_NO_UNROLL
    for (uint32_t i = 0; i < ahead; ++i) bring(ring + i * kBytes + 16 * lane);
    // While the activations are made, memory has nothing else to do.
    if (args.input != ProductInput::kRows && coming.pass < passes)
        for (uint32_t strip = coming.strip, end = strip + 2 * kStreamWarps; strip < strips && strip < end;
             strip += kStreamWarps) {
            const uint64_t at = uint64_t{strip} * kBytes + 128 * lane;
            if (128 * lane < kBytes && at < kGroupRows * args.w_row_bytes) prefetch(from - 16 * lane + at);
        }
    uint8_t* planes = shared_memory() + kStreamWarps * ahead * kBytes + kTurnsBytes;
    const uint8_t* x = take_input<kElements>(args, began, reinterpret_cast<float*>(planes - kTurnsBytes), planes);
    const uint64_t stride = args.input == ProductInput::kRows ? args.x_token_bytes : 0;
    const auto token = [&](uint32_t i) {
        return kernels::q8_token(x + (i < args.tokens ? i : 0) * stride, args.k, kElements);
    };
    const auto words = [](const auto* p) { return reinterpret_cast<const uint32_t*>(p); };
    const kernels::Q8Token multiplied = token(g), of_sums[2] = {token(2 * t), token(2 * t + 1)};

    const auto take = [](const Words4& v, float* to) {
        to[0] = f32_from_bits(v.x);
        to[1] = f32_from_bits(v.y);
        to[2] = f32_from_bits(v.z);
        to[3] = f32_from_bits(v.w);
    };
    if (warp == 0) *none = {0, 0, 0, 0};
    StripPlace at = {0, 0};
    at.advance(warp, strips);
    uint32_t slot = 0;
    KEEL_NO_UNROLL
    for (; at.pass < passes; at.advance(kStreamWarps, strips)) {
        const uint32_t first = at.strip * kStrip;
        if (ahead == kAhead)
            copy_wait<kAhead - 1>();
        else
            copy_wait<0>();
        sync_warp();
        Fragment<T> strip[kStrip];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kStrip; ++i)
            load_fragment<T, false>(ring + slot * kBytes + i * FragmentShape<T>::kBytes, lane, strip[i]);
        sync_warp();  // nobody brings more over what another lane still reads
        bring(ring + slot * kBytes + 16 * lane);
        slot = slot + 1 == ahead ? 0 : slot + 1;
        float d[2][kStrip];
        KEEL_UNROLL
        for (uint32_t n = 0; n < 2; ++n) {
            if constexpr (kStrip == 4) {
                take(*reinterpret_cast<const Words4*>(of_sums[n].d + first), d[n]);
            } else {
                d[n][0] = of_sums[n].d[first];
            }
        }
        // A part that adds nothing, not even to -0, where the strip has fewer blocks.
        ChainPart part[kStrip][4];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kStrip; ++i) {
            const uint32_t b = first + i;
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) part[i][c] = {-0.0f, 0, -0.0f, 0};
            if (b >= blocks) continue;
            BlockValues<T> values;
            unpack_block<T, kShifted>(strip[i], lane, values);
            const Integers n = integers_of<T, kShifted>(strip[i], values, words(multiplied.q) + b * (kElements / 4),
                                                        words(multiplied.sums) + b * (kElements / 32), lane);
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) {
                int32_t m = n.m[c];
                if constexpr (kInfo.sub_block == 0 && kInfo.m_at != kernels::kNoField)
                    m = sum_of_pair(words(of_sums[c % 2].sums)[b]);
                part[i][c] = part_of<T>(strip[i].factors[c / 2], d[c % 2][i], n.i[c], m);
            }
        }
        const bool last = at.strip + 1 == strips, of_first = last && gated && at.pass % 2 == 0,
                   to_store = last && !of_first, more = !last || at.pass + 1 < passes;
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
        if (of_first) *of_gate = sums;
        if (to_store && gated) take(*of_gate, gate);
        if (more) pass_turn(next_warp);
        if (!to_store) continue;
        const GroupRows rows = rows_of_pass(at.pass & ~gated);
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
KEEL_BLOCK_TYPES(KEEL_DEFINE)

}  // namespace keel::cuda
