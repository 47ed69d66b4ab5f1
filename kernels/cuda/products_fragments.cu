// Products of weights in fragments (fragments.cuh) with 8-bit activations, on matrix units (NUMERICS section 2).
// Integers are exact in any order; the sum in f32 is one chain over blocks ascending, so k is never split between
// chains.
#include "kernels/cuda/product_block.cuh"
#include "kernels/cuda/product_rows.cuh"
#include "kernels/cuda/quantize.cuh"

namespace keel::cuda {
namespace {

template <WeightType T>
constexpr uint32_t kStrip = strip_blocks(kWeightTypes[T].block_elements);

// Blocks b, b + 1, ... of the `blocks` of a group, as many as there are.
template <WeightType T>
KEEL_GPU void load_strip(const uint8_t* w, uint32_t lane, uint32_t b, uint32_t blocks, Fragment<T>* strip) {
    KEEL_UNROLL
    for (uint32_t i = 0; i < kStrip<T>; ++i)
        if (b + i < blocks) load_fragment<T>(w + uint64_t{b + i} * FragmentShape<T>::kBytes, lane, strip[i]);
}

// ---- activations of a block, as a whole ----
// The planes of `tokens` tokens from `first` on into shared memory, input_stride apart; behind them, for kNormed, the
// row itself. `scratch`: a float of shared memory that is free until this returns. All threads of the block call it.
template <uint32_t ELEMENTS, uint32_t SUB_BLOCK>
KEEL_GPU void take_input(const ProductArgs& args, uint32_t first, uint32_t tokens, float* scratch, uint8_t* planes) {
    constexpr uint32_t kRuns = ELEMENTS / 32;
    const uint32_t k = args.k, bytes = static_cast<uint32_t>(q8_token_bytes(k, ELEMENTS)), pieces = bytes / 16,
                   stride = input_stride(k, ELEMENTS, SUB_BLOCK), warp = thread_x() / 32;
    if (args.input == ProductInput::kRows) {
        for (uint32_t i = thread_x(); i < tokens * pieces; i += kFragmentThreads)
            copy16(planes + i / pieces * stride + i % pieces * 16,
                   token_of(args, first + i / pieces) + i % pieces * 16);
        copy_commit();
        copy_wait<0>();
        sync_block();
        return;
    }
    const float *x = static_cast<const float*>(args.x), *norm = nullptr;
    float r = 0;
    if (args.input == ProductInput::kNormed) {
        float* row = reinterpret_cast<float*>(planes + tokens * stride);
        for (uint32_t i = thread_x(); i < k / 4; i += kFragmentThreads) copy16(row + 4 * i, x + 4 * i);
        copy_commit();
        copy_wait<0>();
        sync_block();
        if (warp == 0) {
            r = rms_factor(row, k, args.eps);
            if (thread_x() == 0) *scratch = r;
        }
        sync_block();
        r = *scratch;
        x = row;
        norm = args.norm;
    }
    const auto load = [x, norm, r](uint32_t i) { return norm ? mul_f32(mul_f32(x[i], r), norm[i]) : x[i]; };
    for (uint32_t b = warp; b < k / ELEMENTS; b += kFragmentWarps) quantize_block<kRuns>(load, b, planes, k);
    sync_block();
    if (args.codes && block_x() == 0)
        for (uint32_t i = thread_x(); i < pieces; i += kFragmentThreads)
            reinterpret_cast<Words4*>(args.codes)[i] = reinterpret_cast<const Words4*>(planes)[i];
}

// ---- many rows, one token: a warp takes 16 ----
template <WeightType T>
KEEL_GPU void multiply_token(const ProductArgs& args) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr uint32_t kElements = kInfo.block_elements;
    const uint32_t lane = thread_x() % 32, g = lane / 4, warp = thread_x() / 32, blocks = args.k / kElements;
    const WarpRows at = rows_of_warp(args);
    const ProductMatrix& matrix = args.matrix[at.matrix];
    const uint8_t* w = matrix.w + at.first_row * args.w_row_bytes;
    // The first weights are on their way while the activations are made ready.
    Fragment<T> next[kStrip<T>];
    load_strip<T>(w, lane, 0, blocks, next);
    float* exchanged = reinterpret_cast<float*>(shared_memory());
    uint8_t* planes = shared_memory() + kTokenHeadBytes;
    take_input<kElements, kInfo.sub_block>(args, block_y(), 1, exchanged, planes);
    const kernels::Q8Token x = kernels::q8_token(planes, args.k, kElements);
    const uint32_t *codes = reinterpret_cast<const uint32_t*>(x.q), *sums = reinterpret_cast<const uint32_t*>(x.sums);

    float acc[2] = {};  // of rows g and g + 8, the same in four lanes
    for (uint32_t first = 0; first < blocks; first += kStrip<T>) {
        Fragment<T> strip[kStrip<T>];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kStrip<T>; ++i) strip[i] = next[i];
        load_strip<T>(w, lane, first + kStrip<T>, blocks, next);
        KEEL_UNROLL
        for (uint32_t i = 0; i < kStrip<T>; ++i) {
            const uint32_t b = first + i;
            if (b >= blocks) continue;
            const uint32_t* s = sums + b * (kElements / 32);
            BlockValues<T> values;
            unpack_block<T>(strip[i], lane, values);
            const Integers n = integers_of<T, 1>(strip[i], values, codes + b * (kElements / 4), s, lane);
            const int32_t sum = kInfo.sub_block ? 0 : sum_of_pair(*s);
            KEEL_UNROLL
            for (uint32_t half = 0; half < 2; ++half)
                acc[half] = chain<T>(acc[half], strip[i].factors[half], x.d[b], n.i[2 * half],
                                     kInfo.sub_block ? n.m[2 * half] : sum);
        }
    }
    float* of_warp = exchanged + warp * kGroupRows;
    if (lane % 4 == 0) of_warp[g] = acc[0], of_warp[g + 8] = acc[1];
    sync_block();
    const bool gated = args.gate != ProductGate::kNone;
    if (!at.live || lane >= kGroupRows || (gated && warp % 2)) return;
    const uint32_t row = at.first_row + lane;
    float value = with_bias(matrix, row, of_warp[lane]);
    if (gated) value = gated_value(args.gate, value, with_bias(args.matrix[1], row, of_warp[kGroupRows + lane]));
    store(args, matrix, row, block_y(), value);
}

// ---- few rows, up to eight tokens: the warps share 16, take strips in turn and leave the integers in shared
// memory, of two rounds in turn; a thread a chain ----
template <WeightType T>
KEEL_GPU void multiply_shared(const ProductArgs& args) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr uint32_t kElements = kInfo.block_elements, kRound = kFragmentWarps * kStrip<T>;
    constexpr bool kMinima = kInfo.sub_block && kInfo.m_at != kernels::kNoField;
    constexpr uint32_t kBlockWords = shared_words(kMinima ? 2 : 1), kFactorsAt = kBlockWords - kGroupRows;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, blocks = args.k / kElements,
                   mine = thread_x() / 32 * kStrip<T>;
    const uint32_t first_token = block_y() * kSharedTokens, rest = args.tokens - first_token,
                   tokens = rest < kSharedTokens ? rest : kSharedTokens;
    const GroupRows at = rows_of_group(args, args.group_begin + block_x());
    uint32_t* integers = reinterpret_cast<uint32_t*>(shared_memory());  // [2][kRound][I, M][16 rows][8 tokens], factors
    uint8_t* planes = shared_memory() + 2 * kRound * kBlockWords * 4;
    const uint32_t stride = input_stride(args.k, kElements, kInfo.sub_block);
    const auto token_planes = [&](uint32_t token) {
        return kernels::q8_token(planes + (token < tokens ? token : 0) * stride, args.k, kElements);
    };
    const auto words = [](const auto* p) { return reinterpret_cast<const uint32_t*>(p); };
    const kernels::Q8Token x = token_planes(g);
    const uint32_t *codes = words(x.q), *sums = words(x.sums);
    const uint32_t chain_row = thread_x() / kSharedTokens, chain_token = thread_x() % kSharedTokens;
    const kernels::Q8Token chain_x = token_planes(chain_token);

    const uint32_t passes = args.gate == ProductGate::kNone ? 1 : 2;
    float value = 0, gate = 0;
    uint32_t buffer = 0;
    for (uint32_t pass = 0; pass < passes; ++pass) {
        const ProductMatrix& matrix = args.matrix[at.matrix + pass];
        const uint8_t* w = matrix.w + at.first_row * args.w_row_bytes;
        Fragment<T> next[kStrip<T>];
        load_strip<T>(w, lane, mine, blocks, next);
        if (pass == 0)
            take_input<kElements, kInfo.sub_block>(args, first_token, tokens, reinterpret_cast<float*>(integers),
                                                   planes);
        float acc = 0;
        for (uint32_t first = 0; first < blocks; first += kRound, buffer ^= 1) {
            uint32_t* round = integers + buffer * kRound * kBlockWords;
            Fragment<T> strip[kStrip<T>];
            KEEL_UNROLL
            for (uint32_t i = 0; i < kStrip<T>; ++i) strip[i] = next[i];
            load_strip<T>(w, lane, first + kRound + mine, blocks, next);
            KEEL_UNROLL
            for (uint32_t i = 0; i < kStrip<T>; ++i) {
                const uint32_t b = first + mine + i;
                if (b >= blocks) continue;
                BlockValues<T> values;
                unpack_block<T>(strip[i], lane, values);
                const Integers n =
                    integers_of<T>(strip[i], values, codes + b * (kElements / 4), sums + b * (kElements / 32), lane);
                uint32_t* to = round + (mine + i) * kBlockWords;
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    uint32_t* cell = to + (g + 8 * (c / 2)) * kSharedTokens + 2 * t + c % 2;
                    *cell = static_cast<uint32_t>(n.i[c]);
                    if constexpr (kMinima) cell[kGroupRows * kSharedTokens] = static_cast<uint32_t>(n.m[c]);
                }
                if (t < 2) to[kFactorsAt + g + 8 * t] = t == 0 ? strip[i].factors[0] : strip[i].factors[1];
            }
            sync_block();
            for (uint32_t b = first; b < blocks && b < first + kRound; ++b) {
                const uint32_t* from = round + (b - first) * kBlockWords;
                const int32_t m = kMinima ? static_cast<int32_t>(from[kGroupRows * kSharedTokens + thread_x()])
                                  : kInfo.sub_block ? 0
                                                    : sum_of_pair(words(chain_x.sums)[b]);
                acc = chain<T>(acc, from[kFactorsAt + chain_row], chain_x.d[b], static_cast<int32_t>(from[thread_x()]),
                               m);
            }
        }
        gate = value;
        value = with_bias(matrix, at.first_row + chain_row, acc);
    }
    if (passes == 2) value = gated_value(args.gate, gate, value);
    if (chain_token < tokens)
        store(args, args.matrix[at.matrix], at.first_row + chain_row, first_token + chain_token, value);
}

// ---- many rows and tokens: a warp takes 16 rows, and four warps share the activations, copied a chunk ahead ----

// Begins to copy `count` elements, at most CHUNK, from `first` on, kStagedWords for every 256 of a token, TOKENS beside
// one another: codes, sums and scales.
template <uint32_t TOKENS, uint32_t CHUNK, WeightType T>
KEEL_GPU void stage(const ProductArgs& args, uint32_t first_token, uint32_t tokens, uint32_t first, uint32_t count,
                    uint32_t* to) {
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
KEEL_GPU void multiply_rows(const ProductArgs& args) {
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
    stage<TOKENS, kChunk, T>(args, first_token, tokens, 0, args.k < kChunk ? args.k : kChunk, staged);
    for (uint32_t first = 0, buffer = 0; first < args.k; first += kChunk, buffer ^= 1) {
        const uint32_t rest = args.k - first, count = rest < kChunk ? rest : kChunk;
        if (count < rest) {
            const uint32_t behind = rest - count;
            stage<TOKENS, kChunk, T>(args, first_token, tokens, first + count, behind < kChunk ? behind : kChunk,
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

#define KEEL_DEFINE(type, ...)               \
    KEEL_GPU_KERNEL(product_token_##type) {  \
        multiply_token<k##type>(args);       \
    }                                        \
    KEEL_GPU_KERNEL(product_shared_##type) { \
        multiply_shared<k##type>(args);      \
    }                                        \
    KEEL_GPU_KERNEL(product_rows_8_##type) { \
        multiply_rows<k##type, 8>(args);     \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE)

}  // namespace keel::cuda
