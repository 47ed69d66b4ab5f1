// Matrix products with f32 activations (NUMERICS section 1).
//
// Up to four columns: F16 and BF16 are widened in registers, and each is read once from memory. More columns, and
// quantized types: four rows are decoded into a tile on the stack, which every column of the group reuses; the products
// are computed in register tiles of four rows by three columns.
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/vector_avx2.h"
#if defined(__AVX2__)

namespace keel::kernels {
namespace {

constexpr uint32_t kTileK = 512;       // elements of a decoded row tile: a whole number of blocks of every type
constexpr uint32_t kPrefetchK = 128;   // elements of each row between two prefetches of as much of the next rows
constexpr uint32_t kColumnGroup = 48;  // columns that share a decoded tile; their lanes lie on the stack (12 KiB)

template <WeightType T>
struct LoadOf;
template <>
struct LoadOf<kF32> : LoadF32 {};
template <>
struct LoadOf<kF16> : LoadF16 {};
template <>
struct LoadOf<kBF16> : LoadBF16 {};

KEEL_INLINE const float* column_f32(const MatmulArgs& a, uint32_t c) {
    return reinterpret_cast<const float*>(static_cast<const uint8_t*>(a.x) + c * a.x_column_bytes);
}

// R rows by C columns over n elements from element `first` of the columns, with the elements behind the last eight.
template <class Load, int R, int C, bool Both>
KEEL_INLINE void tile_and_tail(const uint8_t* w, uint64_t w_row_bytes, const MatmulArgs& a, uint32_t column,
                               uint32_t first, uint32_t n, float (*lanes)[R][16]) {
    const float* x[C];
    KEEL_UNROLL
    for (int c = 0; c < C; ++c) x[c] = column_f32(a, column + static_cast<uint32_t>(c)) + first;
    const uint32_t whole = n & ~7u;
    tile_avx2<Load, R, C, Both>(w, w_row_bytes, x, whole, lanes);
    for (uint32_t i = whole; i < n; ++i)
        for (int r = 0; r < R; ++r) {
            const float weight = Load::load1(w + r * w_row_bytes + uint64_t{i} * Load::kBytes);
            for (int c = 0; c < C; ++c) lanes[c][r][i % 16] = fma_f32(weight, x[c][i], lanes[c][r][i % 16]);
        }
}

template <int R>
KEEL_INLINE void store_rows(const MatmulArgs& a, uint32_t row, uint32_t column, const float (*lanes)[16]) {
    for (int r = 0; r < R; ++r)
        store_dot(a, row + static_cast<uint32_t>(r), column,
                  tree16_avx2(_mm256_loadu_ps(lanes[r]), _mm256_loadu_ps(lanes[r] + 8)));
}

// All of k for R rows and C columns, straight from the weights.
template <class Load, int R, int C>
void direct_rows(const MatmulArgs& a, uint32_t row) {
    float lanes[C][R][16] = {};
    const uint8_t* w = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
    const uint32_t chunk = C == 1 ? kPrefetchK : a.k;
    for (uint32_t first = 0; first < a.k; first += chunk) {
        const uint32_t n = a.k - first < chunk ? a.k - first : chunk;
        if constexpr (C == 1)
            prefetch_lines(w + R * (a.w_row_bytes + uint64_t{first} * Load::kBytes), uint64_t{R} * n * Load::kBytes);
        tile_and_tail<Load, R, C, C == 1>(w + uint64_t{first} * Load::kBytes, a.w_row_bytes, a, 0, first, n, lanes);
    }
    for (int c = 0; c < C; ++c) store_rows<R>(a, row, static_cast<uint32_t>(c), lanes[c]);
}

template <class Load, int C>
void direct(const MatmulArgs& a) {
    constexpr uint32_t kRows = C == 4 ? 2 : 4;
    uint32_t row = a.row_begin;
    for (; row + kRows <= a.row_end; row += kRows) direct_rows<Load, kRows, C>(a, row);
    for (; row < a.row_end; ++row) direct_rows<Load, 1, C>(a, row);
}

// R rows, all columns, by way of decoded tiles.
template <WeightType T, int R>
void tiled_rows(const MatmulArgs& a, uint32_t row) {
    alignas(32) float decoded[T == kF32 ? 1 : R][T == kF32 ? 1 : kTileK];
    alignas(32) float lanes[kColumnGroup][R][16];
    for (uint32_t begin = 0; begin < a.columns; begin += kColumnGroup) {
        const uint32_t count = a.columns - begin < kColumnGroup ? a.columns - begin : kColumnGroup;
        memset(lanes, 0, count * sizeof(lanes[0]));
        for (uint32_t first = 0; first < a.k; first += kTileK) {
            const uint32_t n = a.k - first < kTileK ? a.k - first : kTileK;
            const uint8_t* w = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes + weight_row_bytes(T, first);
            uint64_t w_row_bytes = a.w_row_bytes;
            if constexpr (T != kF32) {
                for (int r = 0; r < R; ++r) dequantize_avx2<T>(w + r * w_row_bytes, decoded[r], n);
                w = reinterpret_cast<const uint8_t*>(decoded);
                w_row_bytes = sizeof(decoded[0]);
            }
            uint32_t c = 0;
            for (; c + 3 <= count; c += 3)
                tile_and_tail<LoadF32, R, 3, false>(w, w_row_bytes, a, begin + c, first, n, lanes + c);
            for (; c < count; ++c)
                tile_and_tail<LoadF32, R, 1, true>(w, w_row_bytes, a, begin + c, first, n, lanes + c);
        }
        for (uint32_t c = 0; c < count; ++c) store_rows<R>(a, row, begin + c, lanes[c]);
    }
}

}  // namespace

template <WeightType T>
void matmul_f32_avx2(const MatmulArgs& a) {
    if constexpr (T == kF32 || T == kF16 || T == kBF16) {
        switch (a.columns) {
            case 1:
                return direct<LoadOf<T>, 1>(a);
            case 2:
                return direct<LoadOf<T>, 2>(a);
            case 3:
                return direct<LoadOf<T>, 3>(a);
            case 4:
                if constexpr (T != kF32) return direct<LoadOf<T>, 4>(a);
        }
    }
    uint32_t row = a.row_begin;
    for (; row + 4 <= a.row_end; row += 4) tiled_rows<T, 4>(a, row);
    for (; row < a.row_end; ++row) tiled_rows<T, 1>(a, row);
}

#define KEEL_INSTANTIATE(T) template void matmul_f32_avx2<T>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
