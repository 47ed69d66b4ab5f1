// Q8_0 in groups of eight rows. One group of one 32-element block, 8 x 34 bytes as before:
//
//     d of row 0..7, f16 | 8 runs of 32 bytes; run j: elements 4j..4j+3 of row 0, of row 1, ..., of row 7
//
// Four activations broadcast against a run give four products per row with the row as the lane, so the sums of a block need
// no reduction across lanes: eight multiply-adds, one conversion and one fma per block and eight rows. The integer sums are
// exact, and the fma is NUMERICS section 2's, so the bits are those of the plain layout.
//
// Bytes moved: the group's blocks once for every kColumns columns, 36 bytes of activations per block and column.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/vector_avx2.h"

namespace keel::kernels {
namespace {

constexpr uint32_t kBlock = 32, kBlockBytes = 34, kGroupBytes = kRepackRows * kBlockBytes, kScaleBytes = kRepackRows * 2;
constexpr uint32_t kColumns = 4;  // columns that share one pass over the weights; accumulators stay in registers

// One group of rows against `n` columns from `column` on.
template <uint32_t n>
void group_times_columns(const MatmulArgs& a, const uint8_t* group, uint32_t row, uint32_t column) {
    Q8Column x[n];
    __m256 acc[n];
    for (uint32_t c = 0; c < n; ++c) {
        x[c] = q8_column(static_cast<const uint8_t*>(a.x) + (column + c) * a.x_column_bytes, a.k, kBlock);
        acc[c] = _mm256_setzero_ps();
    }
    const __m256i ones = _mm256_set1_epi16(1);
    for (uint32_t b = 0; b < a.k / kBlock; ++b, group += kGroupBytes) {
        const __m256 d = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group)));
        __m256i sum[n];
        for (uint32_t c = 0; c < n; ++c) sum[c] = _mm256_setzero_si256();
        for (uint32_t j = 0; j < kBlock / 4; ++j) {
            const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + kScaleBytes + 32 * j));
            const __m256i magnitude = _mm256_sign_epi8(w, w);  // -128 stays 128 as an unsigned byte
            for (uint32_t c = 0; c < n; ++c) {
                int32_t four;
                memcpy(&four, x[c].q + b * kBlock + 4 * j, 4);
                // |w| x sign(w) a: at most 2 x 128 x 127, within 16 bits.
                const __m256i products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(_mm256_set1_epi32(four), w));
                sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(products, ones));
            }
        }
        for (uint32_t c = 0; c < n; ++c)
            acc[c] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(x[c].d[b])), _mm256_cvtepi32_ps(sum[c]), acc[c]);
    }
    for (uint32_t c = 0; c < n; ++c) {
        alignas(32) float dots[kRepackRows];
        _mm256_store_ps(dots, acc[c]);
        for (uint32_t r = 0; r < kRepackRows; ++r) store_dot(a, row + r, column + c, dots[r]);
    }
}

}  // namespace

void repack_q8_0_avx2(const void* src, void* dst, uint32_t rows, uint32_t k) {
    const uint32_t blocks = k / kBlock;
    const uint8_t* from = static_cast<const uint8_t*>(src);
    uint8_t* to = static_cast<uint8_t*>(dst);
    for (uint32_t row = 0; row < rows; row += kRepackRows)
        for (uint32_t b = 0; b < blocks; ++b, to += kGroupBytes)
            for (uint32_t r = 0; r < kRepackRows; ++r) {
                const uint8_t* block = from + (uint64_t{row + r} * blocks + b) * kBlockBytes;
                memcpy(to + 2 * r, block, 2);
                for (uint32_t j = 0; j < kBlock / 4; ++j) memcpy(to + kScaleBytes + 32 * j + 4 * r, block + 2 + 4 * j, 4);
            }
}

void matmul_repacked_q8_0_avx2(const MatmulArgs& a) {
    for (uint32_t row = a.row_begin; row < a.row_end; row += kRepackRows) {
        const uint8_t* group = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
        uint32_t c = 0;
        for (; c + kColumns <= a.columns; c += kColumns) group_times_columns<kColumns>(a, group, row, c);
        switch (a.columns - c) {
            case 3: group_times_columns<3>(a, group, row, c); break;
            case 2: group_times_columns<2>(a, group, row, c); break;
            case 1: group_times_columns<1>(a, group, row, c); break;
            default: break;
        }
    }
}

}  // namespace keel::kernels
#endif
