// Matrix products with f32 activations (NUMERICS section 1) over a vector type of float_vector.h. Rows are taken in
// blocks of 16, whose sums are reduced together and stored as vectors.
//
// Few columns of F32, F16 and BF16: weights are widened in registers, and each is read once from memory.
// More columns, and quantized types: a panel of the block's rows by kPanelK elements is decoded to f32 and used by up to
// kGroupColumns columns, in register tiles; the lanes of all these products wait in scratch for the next panel.
#pragma once
#include "kernels/cpu/dequantize_impl.h"
#include "kernels/cpu/float_vector.h"
#include "kernels/cpu/kernel_sets.h"

namespace keel::kernels {
namespace {

constexpr uint32_t kBlockRows = 16;
constexpr uint32_t kPanelK = 512;        // a whole number of blocks of every type
constexpr uint32_t kGroupColumns = 160;  // panel and lanes fill the scratch
constexpr uint32_t kPrefetchK = 128;     // elements of each row between two prefetches of as much of the next rows
static_assert(kBlockRows * (kPanelK * 4 + kGroupColumns * 64) <= kMatmulScratchBytes);

template <class V, WeightType T>
struct LoadOf;
template <class V>
struct LoadOf<V, kF32> : LoadF32<V> {};
template <class V>
struct LoadOf<V, kF16> : LoadF16<V> {};
template <class V>
struct LoadOf<V, kBF16> : LoadBF16<V> {};

KEEL_INLINE const float* column_f32(const MatmulArgs& a, uint32_t c) {
    return reinterpret_cast<const float*>(static_cast<const uint8_t*>(a.x) + c * a.x_column_bytes);
}

// The first `count` of 16 rows of one column: reduced, then as store_dot does it.
template <class V>
KEEL_INLINE void store_block(const MatmulArgs& a, uint32_t row, uint32_t count, uint32_t column,
                             const typename V::F (*lanes)[kParts<V>]) {
    using F = typename V::F;
    float* y = a.y[column] + row;
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
            finish(dot, i, [](const float* p) __attribute__((always_inline)) { return V::load(p); },
                   [](float* p, F v) __attribute__((always_inline)) { V::store(p, v); });
        else
            finish(dot, i, [&](const float* p) __attribute__((always_inline)) { return V::load_first(p, count - i); },
                   [&](float* p, F v) __attribute__((always_inline)) { V::store_first(p, count - i, v); });
    }
}

// ---- few columns, straight from the weights ----
// Columns that fit the registers together with at least two rows.
template <class V>
constexpr int kDirectColumns = V::kRegisters >= 32 ? 8 : 4;
// Rows of a tile: as many as there are accumulators for, a power of two. One column takes whole sums, so that every
// weight is touched once; more columns may make a pass over each register of the sum.
template <class V, int C>
constexpr int direct_rows() {
    const int most = kAccumulators<V> / (C == 1 ? kParts<V> : C);
    return most >= 16 ? 16 : most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

// Rows [row, row + R) of the weights times C columns, R lanes of every column from lanes + r on.
template <class V, class Load, int R, int C>
KEEL_INLINE void direct_tile(const MatmulArgs& a, const float* const* x, uint32_t row,
                             typename V::F (*lanes)[kParts<V>]) {
    const uint8_t* w = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
    multiply_tile<V, Load, R, C, kBlockRows, false>(w, a.w_row_bytes, x, a.k, lanes);
}

// a.k is a multiple of 16.
template <class V, class Load, int C>
void direct(const MatmulArgs& a) {
    constexpr int kRows = direct_rows<V, C>();
    const float* x[C];
    KEEL_UNROLL
    for (int c = 0; c < C; ++c) x[c] = column_f32(a, static_cast<uint32_t>(c));
    uint32_t row = a.row_begin;
    for (; row + kBlockRows <= a.row_end; row += kBlockRows) {
        typename V::F lanes[C * kBlockRows][kParts<V>];
        KEEL_UNROLL
        for (int r = 0; r < static_cast<int>(kBlockRows); r += kRows)
            direct_tile<V, Load, kRows, C>(a, x, row + static_cast<uint32_t>(r), lanes + r);
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) store_block<V>(a, row, kBlockRows, static_cast<uint32_t>(c), lanes + c * kBlockRows);
    }
    if (row == a.row_end) return;
    typename V::F lanes[C * kBlockRows][kParts<V>] = {};
    for (uint32_t r = row; r < a.row_end; ++r) direct_tile<V, Load, 1, C>(a, x, r, lanes + (r - row));
    for (int c = 0; c < C; ++c) store_block<V>(a, row, a.row_end - row, static_cast<uint32_t>(c), lanes + c * kBlockRows);
}

// ---- any number of columns, by way of decoded panels ----
template <class V>
using BlockLanes = typename V::F[kBlockRows][kParts<V>];

// All rows of a panel times C columns over k elements, a multiple of 16.
template <class V, int C>
void multiply_panel(const float* panel, const float* const* x, uint32_t k, BlockLanes<V>* lanes) {
    constexpr int kRows = C == 1 ? direct_rows<V, 1>() : 4;
    for (uint32_t r = 0; r < kBlockRows; r += kRows)
        multiply_tile<V, LoadF32<V>, kRows, C, kBlockRows, true>(reinterpret_cast<const uint8_t*>(panel + r * kPanelK),
                                                                 kPanelK * 4, x, k, lanes[0] + r);
}
// The widest tile of four rows.
template <class V>
constexpr uint32_t kTileColumns = kAccumulators<V> / 4;

template <class V>
KEEL_INLINE void multiply_columns(const float* panel, const float* const* x, uint32_t columns, uint32_t k,
                                  BlockLanes<V>* lanes) {
    switch (columns) {
        case 1: return multiply_panel<V, 1>(panel, x, k, lanes);
        case 2: return multiply_panel<V, 2>(panel, x, k, lanes);
        case 3: return multiply_panel<V, 3>(panel, x, k, lanes);
        case 4: if constexpr (kTileColumns<V> >= 4) return multiply_panel<V, 4>(panel, x, k, lanes); break;
        case 5: if constexpr (kTileColumns<V> >= 5) return multiply_panel<V, 5>(panel, x, k, lanes); break;
        case 6: if constexpr (kTileColumns<V> >= 6) return multiply_panel<V, 6>(panel, x, k, lanes); break;
    }
}

template <class V, WeightType T>
void by_panels(const MatmulArgs& a) {
    float* panel = static_cast<float*>(a.scratch);
    BlockLanes<V>* lanes = reinterpret_cast<BlockLanes<V>*>(panel + kBlockRows * kPanelK);
    for (uint32_t row = a.row_begin; row < a.row_end; row += kBlockRows) {
        const uint32_t rows = a.row_end - row < kBlockRows ? a.row_end - row : kBlockRows;
        // The lanes of rows that are not there are computed from what the panel holds and dropped.
        memset(panel + rows * kPanelK, 0, (kBlockRows - rows) * kPanelK * 4);
        for (uint32_t group = 0; group < a.columns; group += kGroupColumns) {
            const uint32_t count = a.columns - group < kGroupColumns ? a.columns - group : kGroupColumns;
            memset(lanes, 0, count * sizeof(lanes[0]));
            for (uint32_t first = 0; first < a.k; first += kPanelK) {
                const uint32_t n = a.k - first < kPanelK ? a.k - first : kPanelK, whole = n & ~15u;
                const uint8_t* w = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes + weight_row_bytes(T, first);
                for (uint32_t r = 0; r < rows; ++r) {
                    dequantize_lanes<V, T>(w + r * a.w_row_bytes, panel + r * kPanelK, n);
                    if (n != whole) memset(panel + r * kPanelK + n, 0, (whole + 16 - n) * 4);
                }
                for (uint32_t c = 0; c < count; c += kTileColumns<V>) {
                    const uint32_t tile = count - c < kTileColumns<V> ? count - c : kTileColumns<V>;
                    const float* x[kTileColumns<V>];
                    for (uint32_t i = 0; i < tile; ++i) x[i] = column_f32(a, group + c + i) + first;
                    multiply_columns<V>(panel, x, tile, whole, lanes + c);
                    if (n == whole) continue;
                    // The elements behind the last 16: weights are padded with +0, activations with -0, for a product
                    // of -0 leaves every lane as it is.
                    float rest[kTileColumns<V>][16];
                    for (uint32_t i = 0; i < tile; ++i) {
                        for (uint32_t j = 0; j < 16; ++j) rest[i][j] = whole + j < n ? x[i][whole + j] : -0.0f;
                        x[i] = rest[i];
                    }
                    multiply_columns<V>(panel + whole, x, tile, 16, lanes + c);
                }
            }
            for (uint32_t c = 0; c < count; ++c) store_block<V>(a, row, rows, group + c, lanes[c]);
        }
    }
}

template <class V, WeightType T>
KEEL_INLINE void matmul_f32_lanes(const MatmulArgs& a) {
    if constexpr (T == kF32 || T == kF16 || T == kBF16) {
        using Load = LoadOf<V, T>;
        if (a.k % 16 == 0) switch (a.columns) {
            case 1: return direct<V, Load, 1>(a);
            case 2: return direct<V, Load, 2>(a);
            case 3: return direct<V, Load, 3>(a);
            case 4: return direct<V, Load, 4>(a);
            case 5: if constexpr (kDirectColumns<V> >= 5) return direct<V, Load, 5>(a); break;
            case 6: if constexpr (kDirectColumns<V> >= 6) return direct<V, Load, 6>(a); break;
            case 7: if constexpr (kDirectColumns<V> >= 7) return direct<V, Load, 7>(a); break;
            case 8: if constexpr (kDirectColumns<V> >= 8) return direct<V, Load, 8>(a); break;
        }
    }
    by_panels<V, T>(a);
}

#define KEEL_DEFINE_MATMUL_F32(isa, V)            \
    template <WeightType T>                       \
    void matmul_f32_##isa(const MatmulArgs& a) {  \
        matmul_f32_lanes<V, T>(a);                \
    }

}  // namespace
}  // namespace keel::kernels
