// What GPU kernels take: one struct by value each, plain data with device pointers in it. No CUDA types: the backend
// fills them, kernels and tests read them. Beside each struct is the shape of its launch.
//
// Preconditions common to all: planes that Keel allocates are 64-byte aligned at row 0, weights as they lie in the file
// are aligned to 2 bytes; no buffer overlaps another unless said so; indices and positions were checked by who gives
// them.
#pragma once
#include <stdint.h>

#include "kernels/formats/q8_activation.h"
#include "kernels/formats/weight_types.h"

namespace keel::cuda {

struct LaunchShape {
    uint32_t grid_x, grid_y;
    uint32_t threads;  // of a block
    uint32_t shared_bytes;
};

// Of a block: what a context has that shares its device with graphics.
constexpr uint32_t kMostSharedBytes = 48 * 1024;

constexpr uint32_t divide_up(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

// ---- rows ----
// Rows of floats, `stride` apart.
struct Rows {
    float* row;
    uint64_t stride;
};
// Where the 8-bit layouts of a row go (kernels/formats/q8_activation.h): blocks of 32 and of 256; null: nowhere.
struct Q8Rows {
    uint8_t *block32, *block256;
    uint64_t stride32, stride256;  // bytes
};

constexpr uint32_t kRowThreads = 256;

// y = rmsnorm(x) * w (NUMERICS section 4), for each of `rows` rows. Row r reads x[source[r]], or x[r].
struct RmsNormArgs {
    const float* x;
    uint64_t x_stride;
    const uint32_t* source;  // [rows] or null
    const float* w;
    uint32_t n, rows;
    float eps;
    Rows y;         // null: nowhere in f32
    Rows residual;  // residual += y; null: none
    Q8Rows q8;
};
// x[i] = act(x[i]) * x[i + n]
struct GluArgs {
    Rows x;
    uint32_t n, rows;
    bool gelu;
};
// x = cap * tanh(x / cap)
struct SoftcapArgs {
    Rows x;
    uint32_t n, rows;
    float cap;
};
// cos and sin of position * frequency[i], interleaved (kernels/formats/numeric.h).
struct RopeTableArgs {
    const double* frequency;
    const uint32_t* position;
    Rows y;
    uint32_t pairs, rows;
    float factor;
};

constexpr LaunchShape row_shape(uint32_t rows, uint32_t shared_bytes = 0) {
    return {rows, 1, kRowThreads, shared_bytes};
}
constexpr LaunchShape launch_shape(const RmsNormArgs& a) {
    return row_shape(a.rows, 16 * 4);
}
constexpr LaunchShape launch_shape(const GluArgs& a) {
    return row_shape(a.rows);
}
constexpr LaunchShape launch_shape(const SoftcapArgs& a) {
    return row_shape(a.rows);
}
constexpr LaunchShape launch_shape(const RopeTableArgs& a) {
    return row_shape(a.rows);
}

// ---- what only takes time ----
// Its launch says when what was launched before was done.
struct NothingArgs {
    uint32_t unused;
};
constexpr LaunchShape launch_shape(const NothingArgs&) {
    return {1, 1, 32, 0};
}
// Reads 16 * count bytes once, which is what memory can deliver.
struct ReadStreamArgs {
    const uint8_t* from;  // 16-byte aligned
    uint64_t count;
    uint32_t* never;  // null, which the compiler does not know, so that it leaves the reads
};
constexpr LaunchShape launch_shape(const ReadStreamArgs&, uint32_t multiprocessors) {
    return {8 * multiprocessors, 1, kRowThreads, 0};
}

// ---- matrix products ----
// y[t][r] = (accumulate ? y[t][r] : 0) + (dot(w row r, x of token t) + bias[r])
//     row_begin <= r < row_end, 0 <= t < tokens. Without bias or accumulate nothing is added.
// What x holds and how w lies says the kernel.
struct ProductArgs {
    const uint8_t* w;
    const void* x;
    float* y;
    const float* bias;     // f32[rows] or null
    uint64_t w_row_bytes;  // of rows as in the file
    uint64_t x_token_bytes, y_token_floats;
    uint32_t row_begin, row_end;
    uint32_t k;  // a whole number of blocks of the type
    uint32_t tokens;
    bool accumulate;
};

// Weights as they lie in the file, x is f32[k]: product_f32_TYPE.
constexpr uint32_t kProductThreads = 128, kProductTokens = 8, kProductF32Rows = 8;  // of a block
constexpr LaunchShape product_f32_shape(const ProductArgs& a) {
    return {divide_up(a.row_end - a.row_begin, kProductF32Rows), divide_up(a.tokens, kProductTokens), kProductThreads,
            0};
}

// y[t][k] = row ids[t] of w, decoded (NUMERICS section 3), times scale.
struct EmbedArgs {
    const uint8_t* w;
    const uint32_t* ids;
    float* y;
    uint64_t w_row_bytes, y_token_floats;
    uint32_t k, tokens;
    float scale;
};
constexpr uint32_t kEmbedThreads = 128;
constexpr LaunchShape launch_shape(const EmbedArgs& a) {
    return {a.tokens, 1, kEmbedThreads, 0};
}

// x[t][k] -> the 8-bit activation of token t (q8_activation.h), in blocks of those in the kernel's name.
struct QuantizeArgs {
    const float* x;
    uint8_t* q8;
    uint64_t x_token_floats, q8_token_bytes;
    uint32_t k, block, tokens;
};
constexpr uint32_t kQuantizeThreads = 128;
constexpr LaunchShape launch_shape(const QuantizeArgs& a) {
    return {divide_up(a.k / a.block, kQuantizeThreads / 32), a.tokens, kQuantizeThreads, 0};
}

// ---- weights in fragments (fragments.cuh) ----
constexpr uint32_t kFragmentRows = 16, kFragmentThreads = 128;
// Plain rows -> fragments, fragment_bytes(type, rows, k) of them, 16-byte aligned. lay_TYPE.
struct LayArgs {
    const uint8_t* plain;
    uint8_t* fragments;
    uint64_t w_row_bytes;
    uint32_t rows, k;
};
constexpr uint64_t fragment_bytes(uint32_t type, uint32_t rows, uint32_t k) {
    return uint64_t{divide_up(rows, kFragmentRows)} * kFragmentRows * kernels::weight_row_bytes(type, k);
}
constexpr LaunchShape lay_shape(const LayArgs& a, uint32_t type) {
    const uint32_t blocks = divide_up(a.rows, kFragmentRows) * (a.k / kernels::kWeightTypes[type].block_elements);
    return {divide_up(blocks, kFragmentThreads / 32), 1, kFragmentThreads, 0};
}

// Products with 8-bit activations, ProductArgs: w in fragments, w_row_bytes that of plain rows, row_begin a multiple of
// kFragmentRows. product_rows_N_TYPE: a warp 16 rows and N tokens, 1, 8 or 32. product_shared_TYPE, for matrices of few
// rows: a block of warps 16 rows and 8 tokens. Embeddings out of fragments: embed_fragments_TYPE, EmbedArgs likewise.
constexpr uint32_t kFragmentTokens = 8;
// Elements that are worked on between barriers.
KEEL_DEVICE constexpr uint32_t chunk_elements(uint32_t kernel_tokens) {
    return kernel_tokens > 8 ? 512 : 1024;
}
// Of 256 elements of a token in shared memory: codes, sums, and what keeps tokens in different banks.
constexpr uint32_t kStagedWords = 76;
constexpr LaunchShape product_rows_shape(const ProductArgs& a, uint32_t kernel_tokens) {
    return {divide_up(a.row_end - a.row_begin, kFragmentRows * kFragmentThreads / 32),
            divide_up(a.tokens, kernel_tokens), kFragmentThreads,
            2 * (chunk_elements(kernel_tokens) / 256) * kernel_tokens * kStagedWords * 4};
}
constexpr LaunchShape product_shared_shape(const ProductArgs& a, uint32_t type) {
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    const uint32_t integers = info.sub_block && info.m_at != kernels::kNoField ? 2 : 1;
    return {divide_up(a.row_end - a.row_begin, kFragmentRows), divide_up(a.tokens, kFragmentTokens), kFragmentThreads,
            chunk_elements(kFragmentTokens) / info.block_elements * integers * kFragmentRows * kFragmentTokens * 4};
}

}  // namespace keel::cuda
