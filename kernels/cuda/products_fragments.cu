// Products of weights in fragments (fragments.cuh) with 8-bit activations, on matrix units (NUMERICS section 2), and
// the laying of fragments. Integers are exact in any order; the sum in f32 is one chain over blocks ascending, so k is
// never split between chains.
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/product_rows.cuh"

namespace keel::cuda {
namespace {

// ---- plain rows to fragments: a warp a block of 16 rows ----
template <WeightType T>
KEEL_GPU void lay(const LayArgs& args) {
    using Shape = FragmentShape<T>;
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    const uint32_t lane = thread_x() % 32, blocks = args.k / kInfo.block_elements;
    const uint32_t at = block_x() * (kFragmentThreads / 32) + thread_x() / 32, first_row = at / blocks * kFragmentRows;
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
            const uint32_t written = block ? written_codes<T>(block, 8 * r + lane % 4 + 4 * (i / 2)) : 0;
            constexpr uint32_t kLowMask = ((1u << Shape::kLowBits) - 1) * 0x01010101u;
            low_bits[i] = written & kLowMask;
            high_bits[i] = (written & ~kLowMask) >> Shape::kLowBits % 8;
        }
        pack_run<Shape::kLowBits>(low_bits, r, low.w);
        if constexpr (Shape::kHighBits) pack_run<Shape::kHighBits>(high_bits, r, high.w);
    }
    store_lane(to, lane, low);
    if constexpr (Shape::kHighBytes == 2) high.w[0] = join_halves(high.w[0]);
    if constexpr (Shape::kHighBytes) store_lane(to + Shape::kHighAt, lane, high);
    if (lane >= kFragmentRows) return;
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
    const uint32_t id = args.ids[block_x()], row = id % kFragmentRows;
    const uint8_t* group = args.w + uint64_t{id - row} * args.w_row_bytes;
    float* y = args.y + block_x() * args.y_token_floats;
    for (uint32_t e = 4 * thread_x(); e < args.k; e += 4 * kEmbedThreads) {
        const uint8_t* block = group + uint64_t{e / kInfo.block_elements} * Shape::kBytes;
        const uint32_t in = e % kInfo.block_elements, word = in / 4 % 8;
        const uint32_t values =
            values_of<T>(written_in_fragment<T>(block, row % 8 * 4 + word % 4, in / 32, word / 4 * 2 + row / 8));
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

// ---- the integers of one block ----
// Of rows g, g, g + 8, g + 8 and tokens 2t, 2t + 1 in turn, for groups of 8 tokens: I and, for types with integer
// minima, M of the contract.
template <uint32_t GROUPS>
struct Integers {
    int32_t i[GROUPS][4], m[GROUPS][4];
};
// `x`: the words of codes of the token that this lane multiplies; sums0, sums1: pairs of sums of tokens 2t and 2t + 1.
// Those of the next group are `stride` words behind.
template <WeightType T, uint32_t GROUPS>
KEEL_GPU Integers<GROUPS> multiply_block(const Fragment<T>& f, const uint32_t* x, const uint32_t* sums0,
                                         const uint32_t* sums1, uint32_t stride, uint32_t lane) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    const uint32_t t = lane % 4;
    Integers<GROUPS> n = {};
    KEEL_UNROLL
    for (uint32_t r = 0; r < FragmentShape<T>::kRuns; ++r) {
        uint32_t a[4];
        values_of_run<T>(f, r, a);
        KEEL_UNROLL
        for (uint32_t group = 0; group < GROUPS; ++group) {
            int32_t *i = n.i[group], *m = n.m[group];
            const uint32_t* codes = x + group * stride + 8 * r + t;
            if constexpr (kInfo.sub_block == 0) {
                mma_s8(i, a, codes[0], codes[4]);
            } else if constexpr (kInfo.sub_block == 32) {
                int32_t q[4] = {};
                mma_s8(q, a, codes[0], codes[4]);
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) i[c] += byte_at(scales4<T>(f.scales[c / 2], r / 4), r) * q[c];
            } else {
                int32_t q[4] = {}, p[4] = {};
                mma_s8(q, a[0], a[1], codes[0]);
                mma_s8(p, a[2], a[3], codes[4]);
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    const uint32_t scales = scales4<T>(f.scales[c / 2], r / 2);
                    i[c] += byte_at(scales, 2 * r) * q[c] + byte_at(scales, 2 * r + 1) * p[c];
                }
            }
            if constexpr (kInfo.sub_block && kInfo.m_at != kernels::kNoField) {
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    const uint32_t sums = (c % 2 ? sums1 : sums0)[group * stride + r];
                    if constexpr (kInfo.sub_block == 32) {
                        // Two sums of 16, and one minimum for both.
                        const uint32_t minimum = minima4<T>(f.scales[c / 2], r / 4) >> 8 * (r % 4) & 255;
                        m[c] = dp2a_lo(sums, minimum * 0x101, m[c]);
                    } else {
                        m[c] = dp2a_lo(sums, minima4<T>(f.scales[c / 2], r / 2) >> 16 * (r % 2), m[c]);
                    }
                }
            }
        }
    }
    return n;
}

// The end of a block's part in the chain of one row and token.
template <WeightType T>
KEEL_GPU float chain(float acc, uint32_t factors, float d_token, int32_t i, int32_t m) {
    acc = fma_f32(mul_f32(d_of<T>(factors), d_token), static_cast<float>(i), acc);
    if constexpr (kWeightTypes[T].m_at != kernels::kNoField) {
        const float minimum = mul_f32(minimum_of(factors), d_token);
        acc = fma_f32(kWeightTypes[T].sub_block ? -minimum : minimum, static_cast<float>(m), acc);
    }
    return acc;
}

// The words of sums of a token.
KEEL_GPU const uint32_t* sums_of(const ProductArgs& args, uint32_t token, uint32_t block_elements) {
    return reinterpret_cast<const uint32_t*>(q8_token(token_of(args, token), args.k, block_elements).sums);
}
// m of the contract for types without integer minima: the sum of 32 activations.
KEEL_GPU int32_t sum_of_pair(uint32_t sums) {
    return static_cast<int16_t>(sums) + static_cast<int16_t>(sums >> 16);
}

// ---- many rows: a warp takes 16, and four warps share the activations, which are copied a chunk ahead ----

// Begins to copy `count` elements, at most CHUNK, from `first` on, kStagedWords for every 256 of a token, TOKENS beside
// one another.
template <uint32_t TOKENS, uint32_t CHUNK>
KEEL_GPU void stage(const ProductArgs& args, uint32_t block_elements, uint32_t first, uint32_t count, uint32_t* to) {
    const uint32_t pieces = CHUNK / 16 + CHUNK / 128;  // of 16 bytes: codes, then sums
    for (uint32_t i = thread_x(); i < args.tokens * pieces; i += kFragmentThreads) {
        const uint32_t token = i / pieces, piece = i % pieces;
        const bool is_codes = piece < CHUNK / 16;
        // The element where the piece begins; planes are rounded up, so that the last one is there as a whole.
        const uint32_t element = is_codes ? piece * 16 : (piece - CHUNK / 16) * 128;
        if (element >= count) continue;
        const uint8_t* x = token_of(args, token);
        const uint8_t* from =
            is_codes ? x + first + element
                     : reinterpret_cast<const uint8_t*>(sums_of(args, token, block_elements)) + (first + element) / 8;
        const uint32_t in = element % 256;
        copy16(to + (element / 256 * TOKENS + token) * kStagedWords + (is_codes ? in / 4 : 64 + in / 32), from);
    }
    copy_commit();
}

template <WeightType T, uint32_t TOKENS>
KEEL_GPU void multiply_rows(const ProductArgs& all) {
    const ProductArgs args = tokens_of_block<TOKENS>(all);
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr uint32_t kElements = kInfo.block_elements, kChunk = chunk_elements(TOKENS);
    constexpr uint32_t kBufferWords = kChunk / 256 * TOKENS * kStagedWords, kGroups = (TOKENS + 7) / 8;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4;
    const uint32_t first_row = args.row_begin + (block_x() * (kFragmentThreads / 32) + thread_x() / 32) * kFragmentRows;
    const bool live = first_row < args.row_end;
    // Of this lane, in every group: the token whose codes it multiplies, and the two whose results it holds. Tokens
    // that are not there are computed from whatever lies in their place, and not stored.
    const uint32_t token = g < TOKENS ? g : 0, token0 = 2 * t < TOKENS ? 2 * t : 0,
                   token1 = 2 * t + 1 < TOKENS ? 2 * t + 1 : 0;
    const uint8_t* w = args.w + (live ? first_row : args.row_begin) * args.w_row_bytes;
    uint32_t* staged = reinterpret_cast<uint32_t*>(shared_memory());

    Fragment<T> next;
    load_fragment<T>(w, lane, next);
    float acc[kGroups][4] = {};  // rows g, g, g + 8, g + 8; tokens 2t, 2t + 1 in turn
    stage<TOKENS, kChunk>(args, kElements, 0, args.k < kChunk ? args.k : kChunk, staged);
    for (uint32_t first = 0, buffer = 0; first < args.k; first += kChunk, buffer ^= 1) {
        const uint32_t rest = args.k - first, count = rest < kChunk ? rest : kChunk;
        if (count < rest) {
            const uint32_t left = rest - count;
            stage<TOKENS, kChunk>(args, kElements, first + count, left < kChunk ? left : kChunk,
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
            const uint32_t* x = staged + buffer * kBufferWords + e / 256 * TOKENS * kStagedWords;
            const uint32_t *sums0 = x + token0 * kStagedWords + 64 + in / 32,
                           *sums1 = x + token1 * kStagedWords + 64 + in / 32;
            Integers<kGroups> n =
                multiply_block<T, kGroups>(f, x + token * kStagedWords + in / 4, sums0, sums1, 8 * kStagedWords, lane);
            KEEL_UNROLL
            for (uint32_t group = 0; group < kGroups; ++group) {
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    const uint32_t of = 8 * group + (c % 2 ? token1 : token0);
                    const float d = q8_token(token_of(args, of < args.tokens ? of : 0), args.k, kElements).d[b];
                    if (!kInfo.sub_block)
                        n.m[group][c] = sum_of_pair((c % 2 ? sums1 : sums0)[group * 8 * kStagedWords]);
                    acc[group][c] = chain<T>(acc[group][c], f.factors[c / 2], d, n.i[group][c], n.m[group][c]);
                }
            }
        }
        sync_block();  // nobody copies over what another warp still reads
    }
    if (!live) return;
    KEEL_UNROLL
    for (uint32_t n = 0; n < 4 * kGroups; ++n) {
        const uint32_t c = n % 4, row = first_row + g + 8 * (c / 2), in_group = 2 * t + c % 2,
                       of = n / 4 * 8 + in_group;
        if (in_group < TOKENS && of < args.tokens && row < args.row_end) store_dot(args, row, of, acc[n / 4][c]);
    }
}

// ---- few rows: the warps share 16, take blocks in turn, leave integers in shared memory; a thread a chain ----
template <WeightType T>
KEEL_GPU void multiply_shared(const ProductArgs& all) {
    const ProductArgs args = tokens_of_block<kFragmentTokens>(all);
    using Shape = FragmentShape<T>;
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr uint32_t kElements = kInfo.block_elements, kBlocks = chunk_elements(kFragmentTokens) / kElements;
    constexpr bool kMinima = kInfo.sub_block && kInfo.m_at != kernels::kNoField;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, blocks = args.k / kElements;
    const uint32_t first_row = args.row_begin + block_x() * kFragmentRows;
    const uint8_t* w = args.w + first_row * args.w_row_bytes;
    int32_t* integers = reinterpret_cast<int32_t*>(shared_memory());  // [kBlocks][I, M][16 rows][8 tokens]
    constexpr uint32_t kOfBlock = (kMinima ? 2 : 1) * 128;
    const uint32_t token = g < args.tokens ? g : 0, token0 = 2 * t < args.tokens ? 2 * t : 0,
                   token1 = 2 * t + 1 < args.tokens ? 2 * t + 1 : 0;
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(token_of(args, token));
    const uint32_t *sums0 = sums_of(args, token0, kElements), *sums1 = sums_of(args, token1, kElements);
    // Of this thread's chain.
    const uint32_t chain_row = thread_x() / 8, chain_token = thread_x() % 8;
    const bool live = chain_token < args.tokens && first_row + chain_row < args.row_end;
    const uint32_t* chain_sums = sums_of(args, live ? chain_token : 0, kElements);
    const float* chain_d = q8_token(token_of(args, live ? chain_token : 0), args.k, kElements).d;
    float acc = 0;
    for (uint32_t first = 0; first < blocks; first += kBlocks) {
        const uint32_t end = blocks - first < kBlocks ? blocks : first + kBlocks;
        for (uint32_t b = first + thread_x() / 32; b < end; b += kFragmentThreads / 32) {
            Fragment<T> f;
            load_fragment<T>(w + uint64_t{b} * Shape::kBytes, lane, f);
            const uint32_t sums_at = b * (kElements / 32);
            const Integers<1> n =
                multiply_block<T, 1>(f, codes + b * (kElements / 4), sums0 + sums_at, sums1 + sums_at, 0, lane);
            int32_t* to = integers + (b - first) * kOfBlock;
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) {
                const uint32_t at = (g + 8 * (c / 2)) * 8 + 2 * t + c % 2;
                to[at] = n.i[0][c];
                if constexpr (kMinima) to[128 + at] = n.m[0][c];
            }
        }
        sync_block();
        if (live)
            for (uint32_t b = first; b < end; ++b) {
                const int32_t* from = integers + (b - first) * kOfBlock + thread_x();
                const int32_t m = kMinima ? from[128] : kInfo.sub_block ? 0 : sum_of_pair(chain_sums[b]);
                const uint32_t factors = load_factors<T>(w + uint64_t{b} * Shape::kBytes, chain_row);
                acc = chain<T>(acc, factors, chain_d[b], *from, m);
            }
        sync_block();
    }
    if (live) store_dot(args, first_row + chain_row, chain_token, acc);
}

}  // namespace

#define KEEL_DEFINE(type, ...)                \
    KEEL_GPU_KERNEL(lay_##type) {             \
        lay<k##type>(args);                   \
    }                                         \
    KEEL_GPU_KERNEL(embed_fragments_##type) { \
        embed_rows<k##type>(args);            \
    }                                         \
    KEEL_GPU_KERNEL(product_rows_1_##type) {  \
        multiply_rows<k##type, 1>(args);      \
    }                                         \
    KEEL_GPU_KERNEL(product_rows_8_##type) {  \
        multiply_rows<k##type, 8>(args);      \
    }                                         \
    KEEL_GPU_KERNEL(product_rows_32_##type) { \
        multiply_rows<k##type, 32>(args);     \
    }                                         \
    KEEL_GPU_KERNEL(product_shared_##type) {  \
        multiply_shared<k##type>(args);       \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE)

}  // namespace keel::cuda
