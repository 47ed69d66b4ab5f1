// Plain rows into fragments (fragments.cuh) while weights are uploaded, and single rows out of them.
#include "kernels/cuda/fragments.cuh"

namespace keel::cuda {
namespace {

// ---- plain rows to fragments: a warp a block of 16 rows ----
template <WeightType T>
KEEL_GPU void lay(const LayArgs& args) {
    using Shape = FragmentShape<T>;
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    const uint32_t lane = thread_x() % 32, blocks = args.k / kInfo.block_elements;
    const uint32_t at = block_x() * kFragmentWarps + thread_x() / 32, first_row = at / blocks * kGroupRows;
    if (first_row >= args.rows) return;  // the whole warp
    // Null: there is no such row.
    const auto block_of = [&](uint32_t row) -> const uint8_t* {
        if (first_row + row >= args.rows) return nullptr;
        return args.plain + (first_row + row) * args.w_row_bytes + uint64_t{at % blocks} * kInfo.block_bytes;
    };
    uint8_t* to = args.fragments + uint64_t{at} * Shape::kBytes;
    LaneWords<Shape::kLowBytes> low;
    LaneWords<Shape::kHighBytes> high;
    KEEL_UNROLL
    for (uint32_t r = 0; r < Shape::kRuns; ++r) {
        uint32_t low_bits[4], high_bits[4];
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            const uint8_t* block = block_of(lane / 4 + 8 * (i % 2));
            const uint32_t written = block ? written_codes<T>(block, 8 * r + word_of_run<T>(lane % 4, i / 2)) : 0;
            constexpr uint32_t kLowMask = ((1u << Shape::kLowBits) - 1) * 0x01010101u;
            low_bits[i] = written & kLowMask;
            high_bits[i] = (written & ~kLowMask) >> Shape::kLowBits % 8;
        }
        pack_run<Shape::kLowBits, kPairsOfRuns<T>>(low_bits, r, low.w);
        if constexpr (Shape::kHighBits) pack_run<Shape::kHighBits>(high_bits, r, high.w);
    }
    store_lane(to, lane, low);
    if constexpr (Shape::kHighBytes == 2) high.w[0] = join_halves(high.w[0]);
    if constexpr (Shape::kHighBytes) store_lane(to + Shape::kHighAt, lane, high);
    if (lane >= kGroupRows) return;
    const uint8_t* block = block_of(lane);
    if constexpr (kInfo.sub_block != 0) {
        uint8_t* scales = to + Shape::kScalesAt + lane * kScaleBytes<T>.count;
        for (uint32_t i = 0; i < kScaleBytes<T>.count; ++i) scales[i] = block ? block[kScaleBytes<T>.at + i] : 0;
    }
    uint8_t* factors = to + Shape::kFactorsAt + lane * Shape::kFactorBytes;
    for (uint32_t i = 0; i < Shape::kFactorBytes; ++i) factors[i] = block ? block[kInfo.d_at + i] : 0;
}

// ---- one row out of fragments, decoded: a thread a word of four elements ----
template <WeightType T>
KEEL_GPU void embed_rows(const EmbedArgs& args) {
    using Shape = FragmentShape<T>;
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    const uint32_t id = args.ids[block_x()], row = id % kGroupRows;
    const uint8_t* group = args.w + uint64_t{id - row} * args.w_row_bytes;
    float* y = args.y + block_x() * args.y_token_floats;
    for (uint32_t e = 4 * thread_x(); e < args.k; e += 4 * kEmbedThreads) {
        const uint8_t* block = group + uint64_t{e / kInfo.block_elements} * Shape::kBytes;
        const uint32_t in = e % kInfo.block_elements;
        const WordPlace word = place_of_word<T>(in / 4 % 8);
        const uint32_t values =
            values_of<T>(written_in_fragment<T>(block, row % 8 * 4 + word.t, in / 32, 2 * word.upper + row / 8));
        float scale = d_of<T>(load_factors<T>(block, row)), minimum = 0;
        if constexpr (kInfo.m_at != kernels::kNoField) minimum = minimum_of(load_factors<T>(block, row));
        if constexpr (kInfo.sub_block != 0) {
            const uint32_t j = in / kInfo.sub_block;
            const ScalesInMemory scales = {block + Shape::kScalesAt + row * kScaleBytes<T>.count};
            scale = mul_f32(scale, static_cast<float>(byte_at(scales4<T>(scales, j / 4), j)));
            if constexpr (kInfo.m_at != kernels::kNoField)
                minimum = -mul_f32(minimum, static_cast<float>(byte_at(minima4<T>(scales, j / 4), j)));
        }
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            float v = mul_f32(scale, static_cast<float>(byte_at(values, i)));
            if constexpr (kInfo.m_at != kernels::kNoField) v = add_f32(v, minimum);
            y[e + i] = args.scale == 1.0f ? v : mul_f32(v, args.scale);
        }
    }
}

}  // namespace

#define KEEL_DEFINE(type, ...)                \
    KEEL_GPU_KERNEL(lay_##type) {             \
        lay<k##type>(args);                   \
    }                                         \
    KEEL_GPU_KERNEL(embed_fragments_##type) { \
        embed_rows<k##type>(args);            \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE)
#undef KEEL_DEFINE

}  // namespace keel::cuda
