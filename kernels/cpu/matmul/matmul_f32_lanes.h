// Matrix products with f32 activations (NUMERICS section 1) over a vector type of float_vector.h. Rows are taken in
// blocks of 16, whose sums are reduced together and stored as vectors. F32, F16 and BF16 are widened in registers at
// every use; quantized types are decoded to f32 once for a group of tokens.
//
// bf16 pairs are f32 in another order (bf16_pairs.h) unless a set multiplies them (matmul_bf16_avx512bf16.cpp).
//
// Few tokens: one register tile after the other over all of k, so that each weight is read once, in order.
// More tokens: a block's rows are taken in panels of some elements, small enough for the first-level cache, and
// multiplied by a group of tokens; the lanes of all these products wait in scratch for the next panel.
#pragma once
#include "kernels/cpu/families.h"
#include "kernels/cpu/vector/float_vector.h"

namespace keel::kernels {
namespace {

constexpr uint32_t kBlockRows = 16;

// The rows that follow a tile are fetched ahead while it is multiplied, so much of each at a time. From memory by
// fetch_far.
constexpr uint32_t kFetchMemoryBytes = 128, kFetchCacheElements = 32;
// From a cache only short rows are: they end before the processor's own prefetcher follows them. Where other cores
// press the weights out of the last-level cache that doubles the rate; where none do it costs a tenth.
constexpr uint32_t kShortRowBytes = 1024;

// Elements of a panel (a whole number of blocks of every type), and tokens whose lanes fit the scratch beside it.
// Decoded panels lie in front of the lanes.
template <bool kDecoded>
struct PanelShape {
    static constexpr uint32_t kElements = kDecoded ? 512 : 1024;
    static constexpr uint64_t kBytes = kDecoded ? kBlockRows * kElements * 4 : 0;
    static constexpr uint32_t kTokens = static_cast<uint32_t>((kMatmulScratchBytes - kBytes) / (kBlockRows * 64));
};

template <class V, WeightType T>
struct LoadOf;
template <class V>
struct LoadOf<V, kF32> {
    using Type = LoadF32<V>;
};
template <class V>
struct LoadOf<V, kF16> {
    using Type = LoadF16<V>;
};
template <class V>
struct LoadOf<V, kBF16> {
    using Type = LoadBF16<V>;
};

KEEL_INLINE const float* token_f32(const MatmulArgs& a, uint32_t c) {
    return reinterpret_cast<const float*>(static_cast<const uint8_t*>(a.x) + c * a.x_token_bytes);
}

// The first `count` of 16 rows of one token: reduced, then as store_dot does it.
template <class V>
KEEL_INLINE void store_block(const MatmulArgs& a, uint32_t row, uint32_t count, uint32_t token,
                             const typename V::F (*lanes)[kParts<V>]) {
    using F = typename V::F;
    float* y = a.y[token] + row;
    const auto finish = [&](F dot, uint32_t i, auto load, auto store) __attribute__((always_inline)) {
        if (a.bias) dot = V::add(dot, load(a.bias + row + i));
        store(y + i, a.accumulate ? V::add(load(y + i), dot) : dot);
    };
    KEEL_UNROLL
    for (int t = 0; t < kParts<V>; ++t) {
        const uint32_t i = static_cast<uint32_t>(t * V::kLanes);
        if (i >= count) break;
        const F dot = V::tree16(lanes + t * V::kLanes);
        if (count - i >= V::kLanes)
            finish(
                dot, i, [](const float* p) __attribute__((always_inline)) { return V::load(p); },
                [](float* p, F v) __attribute__((always_inline)) { V::store(p, v); });
        else
            finish(
                dot, i, [&](const float* p) __attribute__((always_inline)) { return V::load_first(p, count - i); },
                [&](float* p, F v) __attribute__((always_inline)) { V::store_first(p, count - i, v); });
    }
}

// Tokens of a tile of four rows.
template <class V>
constexpr uint32_t kTileTokens = kAccumulators<V> / 4;

// ---- few tokens: no more than one tile has, and the weights of a tile's rows are read once, from end to end ----
// Rows of a tile: as many as there are accumulators for, a power of two. One token takes whole sums, more tokens may
// make a pass for each register of the sum.
template <class V, int C>
constexpr uint32_t direct_rows() {
    const int most = kAccumulators<V> / (C == 1 ? kParts<V> : C);
    return most >= 16 ? 16 : most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

// Rows [row, row + R) of the weights times C tokens; lanes of row r of token c at lanes[c * kBlockRows + r].
template <class V, class Load, int R, int C>
KEEL_INLINE void direct_tile(const MatmulArgs& a, uint32_t row, typename V::F (*lanes)[kParts<V>]) {
    const uint8_t* w = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
    const float* x[C];
    KEEL_UNROLL
    for (int c = 0; c < C; ++c) x[c] = token_f32(a, static_cast<uint32_t>(c));
    KEEL_UNROLL
    for (int c = 0; c < C; ++c) KEEL_UNROLL
    for (int r = 0; r < R; ++r) KEEL_UNROLL
    for (int p = 0; p < kParts<V>; ++p) lanes[c * static_cast<int>(kBlockRows) + r][p] = V::zero();
    const bool fetch = a.from_memory || a.w_row_bytes < kShortRowBytes;
    const uint32_t step = !fetch ? a.k : a.from_memory ? kFetchMemoryBytes / Load::kBytes : kFetchCacheElements;
    for (uint32_t first = 0; first < a.k; first += step) {
        const uint32_t n = a.k - first < step ? a.k - first : step;
        const uint8_t* ahead = w + R * (a.w_row_bytes + uint64_t{first} * Load::kBytes);
        const uint64_t bytes = fetch ? uint64_t{R} * n * Load::kBytes : 0;
        if (a.from_memory)
            fetch_far(ahead, bytes);
        else
            for (uint64_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + i);
        multiply_tile<V, Load, R, C, kBlockRows, true>(w + uint64_t{first} * Load::kBytes, a.w_row_bytes, x, n, lanes);
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) x[c] += n;
    }
}

// a.k is a multiple of 16.
template <class V, class Load, int C, uint32_t kRows = direct_rows<V, C>()>
void direct(const MatmulArgs& a) {
    for (uint32_t row = a.row_begin; row < a.row_end; row += kBlockRows) {
        const uint32_t rows = a.row_end - row < kBlockRows ? a.row_end - row : kBlockRows;
        typename V::F lanes[C * kBlockRows][kParts<V>];
        uint32_t r = 0;
        for (; r + kRows <= rows; r += kRows) direct_tile<V, Load, kRows, C>(a, row + r, lanes + r);
        for (; r < rows; ++r) direct_tile<V, Load, 1, C>(a, row + r, lanes + r);
        for (; r < kBlockRows; ++r)
            for (int c = 0; c < C; ++c)
                for (int p = 0; p < kParts<V>; ++p)
                    lanes[c * static_cast<int>(kBlockRows) + static_cast<int>(r)][p] = V::zero();
        KEEL_KEEP_LOOP
        for (int c = 0; c < C; ++c) store_block<V>(a, row, rows, static_cast<uint32_t>(c), lanes + c * kBlockRows);
    }
}

// All of a, if it has no more tokens than a tile; else false.
template <class V, class Load>
KEEL_INLINE bool direct_tokens(const MatmulArgs& a) {
    if (a.tokens > kTileTokens<V>) return false;
    switch (a.tokens) {
        case 1:
            // Sixteen rows this far apart would compete for the same lines of the first-level cache.
            if constexpr (direct_rows<V, 1>() > 8)
                if (a.w_row_bytes % 2048 == 0) return direct<V, Load, 1, 8>(a), true;
            direct<V, Load, 1>(a);
            break;
        case 2:
            direct<V, Load, 2>(a);
            break;
        case 3:
            direct<V, Load, 3>(a);
            break;
        case 4:
            if constexpr (kTileTokens<V> >= 4) direct<V, Load, 4>(a);
            break;
        case 5:
            if constexpr (kTileTokens<V> >= 5) direct<V, Load, 5>(a);
            break;
        case 6:
            if constexpr (kTileTokens<V> >= 6) direct<V, Load, 6>(a);
            break;
    }
    return true;
}

// ---- any number of tokens, by panels ----
// The lanes of one token and a block of rows.
template <class V>
using BlockLanes = typename V::F[kBlockRows][kParts<V>];

// Where the tokens of a tile begin.
template <class V>
using TileTokens = const float * [kTileTokens<V>];

// A panel's rows times C tokens over k elements, a multiple of 16.
template <class V, class Load, int C>
void multiply_panel(const uint8_t* w, uint64_t w_row_bytes, const float* const* x, uint32_t k, BlockLanes<V>* lanes) {
    constexpr uint32_t kRows = C == 1 ? direct_rows<V, 1>() : 4;
    for (uint32_t r = 0; r < kBlockRows; r += kRows)
        multiply_tile<V, Load, kRows, C, kBlockRows, true>(w + r * w_row_bytes, w_row_bytes, x, k, lanes[0] + r);
}

template <class V, class Load>
KEEL_INLINE void multiply_tokens(const uint8_t* w, uint64_t w_row_bytes, const TileTokens<V>& x, uint32_t tokens,
                                 uint32_t k, BlockLanes<V>* lanes) {
    constexpr uint32_t kMost = kTileTokens<V>;
    switch (tokens) {
        case 1:
            return multiply_panel<V, Load, 1>(w, w_row_bytes, x, k, lanes);
        case 2:
            return multiply_panel<V, Load, 2>(w, w_row_bytes, x, k, lanes);
        case 3:
            return multiply_panel<V, Load, 3>(w, w_row_bytes, x, k, lanes);
        case 4:
            if constexpr (kMost >= 4) return multiply_panel<V, Load, 4>(w, w_row_bytes, x, k, lanes);
            break;
        case 5:
            if constexpr (kMost >= 5) return multiply_panel<V, Load, 5>(w, w_row_bytes, x, k, lanes);
            break;
        case 6:
            if constexpr (kMost >= 6) return multiply_panel<V, Load, 6>(w, w_row_bytes, x, k, lanes);
            break;
    }
}

// How weights become what V multiplies, in memory: f32, or bf16 pairs of which each takes a float's place. One function
// of panels serves all types. decode writes what pads a row, if args.k counts that.
struct Decoder {
    WeightType type;
    uint32_t k;         // elements of a row, without what pads it
    uint32_t elements;  // in a float's place: 1 or 2
    void (*decode)(const void* source, float* to, uint32_t k);
};

// Rows [row, row + rows) of at most a block, tokens [begin, begin + count) of at most a group. Without kDecoded the
// block is whole, k a multiple of 16, and Load is that of the type; with it, LoadF32.
template <class V, class Load, bool kDecoded>
void multiply_group(const MatmulArgs& a, const Decoder& weights, uint32_t row, uint32_t rows, uint32_t begin,
                    uint32_t count) {
    using Shape = PanelShape<kDecoded>;
    constexpr uint32_t kMost = kTileTokens<V>;
    float* decoded = static_cast<float*>(a.scratch);
    BlockLanes<V>* lanes = reinterpret_cast<BlockLanes<V>*>(static_cast<uint8_t*>(a.scratch) + Shape::kBytes);
    // The sums of rows that are not there are computed from zeros and dropped.
    if (kDecoded) memset(decoded + rows * Shape::kElements, 0, (kBlockRows - rows) * Shape::kElements * 4);
    for (uint32_t first = 0; first < a.k; first += Shape::kElements) {
        const bool last = a.k - first <= Shape::kElements;
        const uint32_t n = last ? a.k - first : Shape::kElements, whole = n & ~15u;
        const uint32_t decoded_k = first * weights.elements, left = weights.k - decoded_k, most = n * weights.elements;
        const uint8_t* w =
            static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes + weight_row_bytes(weights.type, decoded_k);
        uint64_t w_row_bytes = a.w_row_bytes;
        // Rows of one panel end before the processor's own prefetcher follows them; longer ones it fetches itself.
        const bool fetch = a.from_memory && begin == 0 && first == 0 && last;
        const uint8_t* ahead = w + kBlockRows * w_row_bytes;
        if constexpr (kDecoded) {
            w_row_bytes = Shape::kElements * 4;
            for (uint32_t r = 0; r < rows; ++r) {
                float* to = decoded + r * Shape::kElements;
                weights.decode(w + r * a.w_row_bytes, to, left < most ? left : most);
                if (n != whole) memset(to + n, 0, (whole + 16 - n) * 4);
            }
            w = static_cast<const uint8_t*>(a.scratch);
        }
        for (uint32_t c = 0; c < count; c += kMost) {
            const uint32_t tile = count - c < kMost ? count - c : kMost;
            TileTokens<V> x;
            for (uint32_t i = 0; i < tile; ++i) x[i] = token_f32(a, begin + c + i) + first;
            BlockLanes<V>* sums = lanes + (first == 0 && last ? 0 : c);
            if (first == 0) memset(sums, 0, tile * sizeof *sums);
            if (fetch) {
                const uint32_t r = kBlockRows * c / count, end = kBlockRows * (c + tile) / count;
                fetch_far(ahead + r * a.w_row_bytes, (end - r) * a.w_row_bytes);
            }
            multiply_tokens<V, Load>(w, w_row_bytes, x, tile, whole, sums);
            if constexpr (kDecoded) {
                if (n != whole) {
                    // The elements behind the last 16: weights are padded with +0, activations with -0, for a product
                    // of -0 leaves every lane as it is.
                    float rest[kMost][16];
                    for (uint32_t i = 0; i < tile; ++i) {
                        for (uint32_t j = 0; j < 16; ++j) rest[i][j] = whole + j < n ? x[i][whole + j] : -0.0f;
                        x[i] = rest[i];
                    }
                    multiply_tokens<V, Load>(w + whole * 4, w_row_bytes, x, tile, 16, sums);
                }
            }
            for (uint32_t i = 0; last && i < tile; ++i) store_block<V>(a, row, rows, begin + c + i, sums[i]);
        }
    }
}

// Groups of like size, in whole tiles.
template <class V, class Load, bool kDecoded>
void multiply_rows(const MatmulArgs& a, const Decoder& weights, uint32_t row, uint32_t rows) {
    constexpr uint32_t kMost = PanelShape<kDecoded>::kTokens / kTileTokens<V> * kTileTokens<V>;
    const uint32_t groups = (a.tokens + kMost - 1) / kMost, even = (a.tokens + groups - 1) / groups;
    const uint32_t step = (even + kTileTokens<V> - 1) / kTileTokens<V> * kTileTokens<V>;
    for (uint32_t c = 0; c < a.tokens; c += step)
        multiply_group<V, Load, kDecoded>(a, weights, row, rows, c, a.tokens - c < step ? a.tokens - c : step);
}

template <class V>
KEEL_ONE_COPY void multiply_decoded(const MatmulArgs& a, Decoder weights, uint32_t row) {
    for (; row < a.row_end; row += kBlockRows)
        multiply_rows<V, LoadF32<V>, true>(a, weights, row,
                                           a.row_end - row < kBlockRows ? a.row_end - row : kBlockRows);
}

template <class V, WeightType T>
KEEL_INLINE void matmul_f32_lanes(const MatmulArgs& a, const Decoder& weights) {
    uint32_t row = a.row_begin;
    if constexpr (T == kF32 || T == kF16 || T == kBF16) {
        using Load = typename LoadOf<V, T>::Type;
        if (a.k % 16 == 0) {
            if (direct_tokens<V, Load>(a)) return;
            for (; row + kBlockRows <= a.row_end; row += kBlockRows)
                multiply_rows<V, Load, false>(a, weights, row, kBlockRows);
        }
    }
    if (row < a.row_end) multiply_decoded<V>(a, weights, row);
}

// k elements rounded by bf16_pair_value, at bf16_pair_place, and zeros up to the next multiple of 32. to may be from.
template <class V>
void order_pairs(const float* from, float* to, uint32_t k) {
    for (uint32_t i = 0; i < k; i += kBf16Block) {
        float block[kBf16Block];
        for (uint32_t j = 0; j < kBf16Block; j += V::kLanes) {
            const uint32_t left = k - i > j ? k - i - j : 0;
            V::store(block + j, left < V::kLanes ? V::load_first(from + i + j, left) : V::load(from + i + j));
        }
        for (float& x : block) x = bf16_pair_value(x);
        for (uint32_t pair = 0; pair < kBf16Block / 2; pair += V::kLanes) {
            typename V::F even, odd;
            V::load_pairs(block + 2 * pair, &even, &odd);
            V::store(to + i + pair, odd);
            V::store(to + i + kBf16Block / 2 + pair, even);
        }
    }
}

KEEL_INLINE MatmulArgs padded_to_blocks(const MatmulArgs& a) {
    MatmulArgs padded = a;
    padded.k = (a.k + kBf16Block - 1) / kBf16Block * kBf16Block;
    return padded;
}

#define KEEL_DEFINE_MATMUL_F32(isa, V)                                                 \
    template <WeightType T>                                                            \
    void matmul_f32_##isa(const MatmulArgs& a) {                                       \
        matmul_f32_lanes<V, T>(a, {T, a.k, 1, dequantize_##isa<T>});                   \
    }                                                                                  \
    void round_bf16_##isa(const float* x, uint32_t begin, uint32_t end, void* token) { \
        order_pairs<V>(x + begin, static_cast<float*>(token) + begin, end - begin);    \
    }                                                                                  \
    template <WeightType T>                                                            \
    void matmul_bf16_##isa(const MatmulArgs& a) {                                      \
        const auto decode = [](const void* source, float* to, uint32_t k) {            \
            dequantize_##isa<T>(source, to, k);                                        \
            order_pairs<V>(to, to, k);                                                 \
        };                                                                             \
        multiply_decoded<V>(padded_to_blocks(a), {T, a.k, 1, decode}, a.row_begin);    \
    }                                                                                  \
    template void matmul_bf16_##isa<kF32>(const MatmulArgs&);                          \
    template void matmul_bf16_##isa<kF16>(const MatmulArgs&);                          \
    template void matmul_bf16_##isa<kBF16>(const MatmulArgs&);

}  // namespace
}  // namespace keel::kernels
