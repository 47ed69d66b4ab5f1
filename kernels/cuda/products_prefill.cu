// Products of weights in fragments (fragments.cuh) with 8-bit activations, of many tokens: a prompt's (NUMERICS section
// 2). As products_fragments.cu, a warp for 64 tokens.
#include "kernels/cuda/product_block.cuh"
#include "kernels/cuda/product_rows.cuh"

namespace keel::cuda {
namespace {

// ---- many rows and tokens: a warp takes 16 rows, and four warps share the activations, copied a chunk ahead ----

// Begins to copy `count` elements, at most CHUNK, from `first` on, kStagedWords for every 256 of a token, TOKENS beside
// one another: codes, sums and scales.
template <uint32_t TOKENS, uint32_t CHUNK, WeightType T>
KEEL_GPU void stage_prompt(const ProductArgs& args, uint32_t first_token, uint32_t tokens, uint32_t first,
                           uint32_t count, uint32_t* to) {
    constexpr uint32_t kElements = kWeightTypes[T].block_elements, kWords = staged_words(kWeightTypes[T].sub_block);
    // Of 16 bytes. Those of sums and scales are of 128 elements each; planes are rounded up, so that the last one is
    // there as a whole. Blocks of 256 have one scale, behind the pieces.
    constexpr uint32_t kCodes = CHUNK / 16, kSums = CHUNK / 128, kPieces = kCodes + (kElements == 32 ? 2 : 1) * kSums,
                       kScales = kElements == 32 ? 0 : CHUNK / 256;
    for (uint32_t i = thread_x(); i < tokens * (kPieces + kScales); i += kFragmentThreads) {
        const uint32_t token = i / (kPieces + kScales), piece = i % (kPieces + kScales);
        const kernels::Q8Token x = q8_token(token_of(args, first_token + token), args.k, kElements);
        const auto place = [&](uint32_t element, uint32_t word) {
            return to + (element / 256 * TOKENS + token) * kWords + word;
        };
        if (piece >= kPieces) {
            const uint32_t element = (piece - kPieces) * 256;
            if (element < count) copy4(place(element, kStagedScales), x.d + (first + element) / 256);
            continue;
        }
        const uint32_t plane = piece < kCodes ? 0 : piece < kCodes + kSums ? 1 : 2;
        const uint32_t element = plane == 0 ? piece * 16 : (piece - kCodes) % kSums * 128, in = element % 256;
        if (element >= count) continue;
        if (plane == 0)
            copy16(place(element, in / 4), x.q + first + element);
        else if (plane == 1)
            copy16(place(element, kStagedSums + in / 32), x.sums + (first + element) / 16);
        else
            copy16(place(element, kStagedScales + in / 32), x.d + (first + element) / 32);
    }
    copy_commit();
}

template <WeightType T, uint32_t TOKENS>
KEEL_GPU void multiply_prompt(const ProductArgs& args) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr uint32_t kElements = kInfo.block_elements, kChunk = chunk_elements(TOKENS);
    constexpr uint32_t kWords = staged_words(kInfo.sub_block), kBufferWords = kChunk / 256 * TOKENS * kWords,
                       kGroups = TOKENS / 8;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, warp = thread_x() / 32;
    const uint32_t first_token = block_y() * TOKENS, left = args.tokens - first_token,
                   tokens = left < TOKENS ? left : TOKENS;
    const WarpRows at = rows_of_warp(args);
    const ProductMatrix& matrix = args.matrix[at.matrix];
    const uint8_t* w = matrix.w + at.first_row * args.w_row_bytes;
    uint32_t* staged = reinterpret_cast<uint32_t*>(shared_memory());
    // In every group of eight tokens this lane multiplies the codes of token g and holds the results of 2t and 2t + 1.
    // Tokens that are not there are computed from whatever lies in their place, and not stored.
    Fragment<T> next;
    load_fragment<T>(w, lane, next);
    float acc[kGroups][4] = {};  // rows g, g, g + 8, g + 8; tokens 2t, 2t + 1 in turn
    stage_prompt<TOKENS, kChunk, T>(args, first_token, tokens, 0, args.k < kChunk ? args.k : kChunk, staged);
    for (uint32_t first = 0, buffer = 0; first < args.k; first += kChunk, buffer ^= 1) {
        const uint32_t rest = args.k - first, count = rest < kChunk ? rest : kChunk;
        if (count < rest) {
            const uint32_t behind = rest - count;
            stage_prompt<TOKENS, kChunk, T>(args, first_token, tokens, first + count, behind < kChunk ? behind : kChunk,
                                            staged + (buffer ^ 1) * kBufferWords);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        sync_block();
        for (uint32_t e = 0; e < count; e += kElements) {
            const Fragment<T> f = next;
            const uint32_t b = (first + e) / kElements, in = e % 256;
            if (first + e + kElements < args.k)
                load_fragment<T>(w + uint64_t{b + 1} * FragmentShape<T>::kBytes, lane, next);
            BlockValues<T> values;
            unpack_block<T>(f, lane, values);
            const uint32_t* block = staged + buffer * kBufferWords + e / 256 * TOKENS * kWords;
            KEEL_UNROLL
            for (uint32_t group = 0; group < kGroups; ++group) {
                const uint32_t *x = block + (8 * group + g) * kWords,
                               *of_results = block + (8 * group + 2 * t) * kWords;
                const Integers n = integers_of<T>(f, values, x + in / 4, x + kStagedSums + in / 32, lane);
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    const uint32_t* of_result = of_results + c % 2 * kWords + in / 32;
                    const float d = f32_from_bits(of_result[kStagedScales]);
                    const int32_t m = kInfo.sub_block ? n.m[c] : sum_of_pair(of_result[kStagedSums]);
                    acc[group][c] = chain<T>(acc[group][c], f.factors[c / 2], d, n.i[c], m);
                }
            }
        }
        sync_block();  // nobody copies over what another warp still reads
    }
    // Through shared memory, so that what becomes of a sum stands here once and rows lie side by side.
    float* results = reinterpret_cast<float*>(staged);
    const auto result_of = [results](uint32_t of_warp, uint32_t row, uint32_t token) -> float& {
        return results[((of_warp * kGroups + token / 8) * 4 + row / 8 * 2 + token % 2) * 32 + row % 8 * 4 +
                       token % 8 / 2];
    };
    KEEL_UNROLL
    for (uint32_t n = 0; n < 4 * kGroups; ++n)
        result_of(warp, g + 8 * (n % 4 / 2), n / 4 * 8 + 2 * t + n % 2) = acc[n / 4][n % 4];
    sync_block();
    if (!at.live) return;
    const bool gated = args.gate != ProductGate::kNone;
    const uint32_t in_group = lane % kGroupRows, row = at.first_row + in_group;
    for (uint32_t token = lane / kGroupRows + (gated ? 2 * (warp % 2) : 0); token < tokens; token += gated ? 4 : 2) {
        const uint32_t of_warp = gated ? warp / 2 * 2 : warp;
        float value = with_bias(args.matrix[gated ? 0 : at.matrix], row, result_of(of_warp, in_group, token));
        if (gated)
            value =
                gated_value(args.gate, value, with_bias(args.matrix[1], row, result_of(of_warp + 1, in_group, token)));
        store(args, args.matrix[gated ? 0 : at.matrix], row, first_token + token, value);
    }
}

}  // namespace

#define KEEL_DEFINE_PREFILL(type, ...)        \
    KEEL_GPU_KERNEL(product_rows_64_##type) { \
        multiply_prompt<k##type, 64>(args);   \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE_PREFILL)

}  // namespace keel::cuda
