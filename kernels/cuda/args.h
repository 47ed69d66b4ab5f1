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

KEEL_DEVICE constexpr uint32_t divide_up(uint32_t a, uint32_t b) {
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

// y = x in 16 bits, for who multiplies them elsewhere: bf16, or f16 with finite values beyond its range as its largest.
// Rows of both are 16-byte aligned.
struct NarrowArgs {
    const float* x;
    uint16_t* y;
    uint64_t x_stride, y_stride;
    uint32_t k, rows;
    bool bf16;
};
// Row r of two arrays to row to[r] of two others: what is kept of a step.
struct KeepRowsArgs {
    struct Part {
        const float* from;
        float* kept;      // [...][n]
        uint64_t stride;  // of `from`
        uint32_t n;
    } part[2];
    const uint32_t* to;
    uint32_t rows;
};
constexpr uint32_t kKeptFloats = 2048;  // of a block

constexpr LaunchShape row_shape(uint32_t rows, uint32_t shared_bytes = 0) {
    return {rows, 1, kRowThreads, shared_bytes};
}
// The row is in shared memory, behind its factor, where it fits.
KEEL_DEVICE constexpr uint32_t norm_bytes(uint32_t n) {
    return 16 + divide_up(n, 4) * 16;
}
KEEL_DEVICE constexpr bool norm_is_staged(uint32_t n) {
    return norm_bytes(n) <= kMostSharedBytes;
}
constexpr LaunchShape launch_shape(const RmsNormArgs& a) {
    return row_shape(a.rows, norm_is_staged(a.n) ? norm_bytes(a.n) : 16);
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
constexpr LaunchShape launch_shape(const NarrowArgs& a) {
    return row_shape(a.rows);
}
constexpr LaunchShape launch_shape(const KeepRowsArgs& a) {
    return {divide_up(a.part[0].n, kKeptFloats) + divide_up(a.part[1].n, kKeptFloats), a.rows, kRowThreads, 0};
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
constexpr uint32_t kGroupRows = 16;  // of a matrix, the last group not always full
constexpr uint32_t kProductMatrices = 3;
enum class ProductGate : uint32_t { kNone, kSilu, kGelu };
enum class ProductInput : uint32_t {
    kRows,   // rows as the kernel reads them: f32[k], or 8-bit activations (q8_activation.h) with the type's block
    kFloats  // one row of f32[k], whose 8-bit form every block makes for itself
};
// What is made of the row of a product of one matrix for one token once it is complete, whatever launches compute it:
// its RMS norm (NUMERICS section 4) times `norm`, in 8 bits. The last block to end does it.
struct ProductNorm {
    uint32_t* counter;  // 0 between products; null: nothing is made
    const float* norm;  // f32[rows]
    uint8_t* codes;
    uint32_t block;   // of the 8-bit form
    uint32_t groups;  // of the whole matrix
    float eps;
    uint32_t reserved;
};
struct ProductMatrix {
    const uint8_t* w;
    const float* bias;   // f32[rows] or null
    uint32_t rows, out;  // out: where its rows begin in one of y
};
// One product or several with the same x, of matrices of one type and one k. Groups of kGroupRows rows of all matrices
// are counted behind one another; group_begin <= g < group_end are computed, for 0 <= t < tokens:
//     y[t][out + r] = (accumulate ? y[t][out + r] : 0) + (dot(row r, x of token t) + bias[r])
// Without bias or accumulate nothing is added. With a gate there are two matrices of as many rows, a group is that of
// both, and y[t][out + r] of the first = act(its sum) * sum of the second; no accumulate.
struct ProductArgs {
    ProductMatrix matrix[kProductMatrices];
    uint32_t matrices, group_begin, group_end;
    uint32_t k;            // a whole number of blocks of the type
    uint64_t w_row_bytes;  // of rows as in the file
    const void* x;
    float* y;
    uint64_t x_token_bytes, y_token_floats;
    uint32_t tokens;  // 1 unless input is kRows
    bool accumulate;
    ProductGate gate;
    ProductInput input;
    uint8_t* codes;     // kFloats: where the 8-bit form is left besides; null: nowhere
    ProductNorm after;  // of product_token: rows, at out, are 16-byte aligned
};
// Groups of the matrices of a launch.
constexpr uint32_t product_groups(const ProductArgs& a) {
    uint32_t groups = 0;
    for (uint32_t m = 0; m < (a.gate == ProductGate::kNone ? a.matrices : 1); ++m)
        groups += divide_up(a.matrix[m].rows, kGroupRows);
    return groups;
}

// Weights as they lie in the file, x is f32[k], no gate. product_f32_TYPE, for few tokens, every type: a block a group.
constexpr uint32_t kProductThreads = 256, kProductTokens = 8;  // of a block
constexpr LaunchShape product_f32_shape(const ProductArgs& a) {
    return {a.group_end - a.group_begin, divide_up(a.tokens, kProductTokens), kProductThreads, 0};
}

// product_f32_tile_TYPE, for many tokens, unquantized types: a block four groups and 32 tokens, kTileElements of both
// at a time in shared memory, a thread one lane of the contract for eight rows and eight tokens.
constexpr uint32_t kTileGroups = 4, kTileRows = kTileGroups * kGroupRows, kTileTokens = 32, kTileElements = 64;
constexpr uint32_t kTileThreads = kTileRows / 8 * (kTileTokens / 8) * 16;
constexpr uint32_t kTileStride = kTileElements + 4;  // words of a row
constexpr LaunchShape product_f32_tile_shape(const ProductArgs& a) {
    return {divide_up(a.group_end - a.group_begin, kTileGroups), divide_up(a.tokens, kTileTokens), kTileThreads,
            (kTileRows + kTileTokens) * kTileStride * 4};
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

// x[t][k] -> the 8-bit activation of token t (q8_activation.h), in blocks of those in the kernel's name. Rows of x are
// 16-byte aligned.
struct QuantizeArgs {
    const float* x;
    uint8_t* q8;
    uint64_t x_token_floats, q8_token_bytes;
    uint32_t k, block, tokens;
};
constexpr uint32_t kQuantizeThreads = 128;
constexpr LaunchShape launch_shape(const QuantizeArgs& a) {
    return {divide_up(a.k, kQuantizeThreads / 32 * 256), a.tokens, kQuantizeThreads, 0};
}

// ---- weights in fragments (fragments.cuh) ----
constexpr uint32_t kFragmentThreads = 128, kFragmentWarps = kFragmentThreads / 32;
// Plain rows -> fragments, fragment_bytes(type, rows, k) of them, 16-byte aligned. lay_TYPE.
struct LayArgs {
    const uint8_t* plain;
    uint8_t* fragments;
    uint64_t w_row_bytes;
    uint32_t rows, k;
};
constexpr uint64_t fragment_bytes(uint32_t type, uint32_t rows, uint32_t k) {
    return uint64_t{divide_up(rows, kGroupRows)} * kGroupRows * kernels::weight_row_bytes(type, k);
}
constexpr LaunchShape lay_shape(const LayArgs& a, uint32_t type) {
    const uint32_t blocks = divide_up(a.rows, kGroupRows) * (a.k / kernels::kWeightTypes[type].block_elements);
    return {divide_up(blocks, kFragmentWarps), 1, kFragmentThreads, 0};
}
// Embeddings out of fragments: embed_fragments_TYPE, EmbedArgs with w in fragments, w_row_bytes that of plain rows.

// Products with 8-bit activations, w in fragments.
//
// Of one token: product_token_TYPE; of up to eight: product_stream_TYPE, input kRows. As many blocks as run at once
// take groups in turn, and the warps of a block the strips of a group: so many blocks of weights, brought in a few
// ahead.
constexpr uint32_t kStreamThreads = 256, kStreamWarps = kStreamThreads / 32, kStreamTokens = 8;
constexpr uint32_t kStreamBlocks = 2;  // of a multiprocessor at once
KEEL_DEVICE constexpr uint32_t strip_blocks(uint32_t block_elements) {
    return block_elements == 32 ? 4 : 1;
}
KEEL_DEVICE constexpr uint32_t strip_bytes(const kernels::WeightTypeInfo& type) {
    return strip_blocks(type.block_elements) * kGroupRows * type.block_bytes;
}
// Strips of a warp that are on their way at most.
KEEL_DEVICE constexpr uint32_t strips_ahead(const kernels::WeightTypeInfo& type) {
    const uint32_t strips = 36 * 1024 / (kStreamWarps * strip_bytes(type));
    return strips == 0 ? 1 : strips;
}
// Sums of a turn for each warp, for a gate, and for the beginning: of 16 rows and eight tokens, or one.
constexpr uint32_t kTurns = kStreamWarps + 2, kStreamTurnsBytes = kTurns * 512, kTokenTurnsBytes = kTurns * 64;
constexpr LaunchShape strips_shape(const ProductArgs& a, uint32_t multiprocessors, uint32_t shared_bytes) {
    const uint32_t groups = a.group_end - a.group_begin, blocks = kStreamBlocks * multiprocessors;
    return {groups < blocks ? groups : blocks, 1, kStreamThreads, shared_bytes};
}
constexpr LaunchShape product_stream_shape(const ProductArgs& a, uint32_t type, uint32_t multiprocessors) {
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    return strips_shape(a, multiprocessors, kStreamWarps * strips_ahead(info) * strip_bytes(info) + kStreamTurnsBytes);
}
// Activations are in shared memory as well.
KEEL_DEVICE constexpr uint32_t token_bytes(uint32_t k, const kernels::WeightTypeInfo& type, uint32_t ahead) {
    return kStreamWarps * ahead * strip_bytes(type) + kTokenTurnsBytes +
           static_cast<uint32_t>(kernels::q8_token_bytes(k, type.block_elements));
}
// One strip where long activations take the place of more.
KEEL_DEVICE constexpr uint32_t token_strips_ahead(uint32_t k, const kernels::WeightTypeInfo& type) {
    const uint32_t most = strips_ahead(type);
    return token_bytes(k, type, most) <= kMostSharedBytes ? most : 1;
}
// Whether there is room for one; if not, product_stream_TYPE multiplies.
constexpr bool product_token_fits(uint32_t k, uint32_t type) {
    return token_bytes(k, kernels::kWeightTypes[type], 1) <= kMostSharedBytes;
}
constexpr LaunchShape product_token_shape(const ProductArgs& a, uint32_t type, uint32_t multiprocessors) {
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    const uint32_t bytes = token_bytes(a.k, info, token_strips_ahead(a.k, info)),
                   behind = a.after.counter ? norm_bytes(a.matrix[0].rows) : 0;
    return strips_shape(a, multiprocessors, behind > bytes ? behind : bytes);
}

// Whether a lane multiplies words of codes that are side by side (fragments.cuh): it loads two at once.
KEEL_DEVICE constexpr bool paired_words(uint32_t sub_block) {
    return sub_block != 16;
}

// Many tokens: product_prompt_TYPE. A warp a group, with a gate that of one matrix, and 64 tokens. The warps of a
// block, an even number, share the activations, which come through shared memory chunk by chunk.
constexpr uint32_t kPromptTokens = 64, kPromptChunk = 256;
// At most: two blocks fit a multiprocessor. Integer sums of whole blocks take registers.
KEEL_DEVICE constexpr uint32_t prompt_threads(uint32_t sub_block) {
    return sub_block ? 192 : 256;
}
// Of 256 elements of a token in shared memory: what is loaded at once is in different banks.
KEEL_DEVICE constexpr uint32_t prompt_code_words(uint32_t sub_block) {
    return paired_words(sub_block) ? 72 : 68;
}
KEEL_DEVICE constexpr uint32_t prompt_chunk_words(const kernels::WeightTypeInfo& type) {
    const bool minima = type.sub_block && type.m_at != kernels::kNoField;
    return kPromptTokens * (prompt_code_words(type.sub_block) + kPromptChunk / type.block_elements + (minima ? 8 : 0));
}
// Results of a warp, and of one token.
constexpr uint32_t kPromptResultStride = kGroupRows + 4, kPromptResultFloats = kPromptTokens * kPromptResultStride;
// Smaller blocks where there would be fewer of them than multiprocessors.
constexpr LaunchShape product_prompt_shape(const ProductArgs& a, uint32_t type, uint32_t multiprocessors) {
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    const uint32_t groups = (a.group_end - a.group_begin) * (a.gate == ProductGate::kNone ? 1 : 2),
                   token_blocks = divide_up(a.tokens, kPromptTokens);
    uint32_t threads = prompt_threads(info.sub_block);
    while (threads > 64 && divide_up(groups, threads / 32) * token_blocks < multiprocessors)
        threads = threads > 128 ? 128 : 64;
    const uint32_t chunks = 2 * prompt_chunk_words(info), results = threads / 32 * kPromptResultFloats;
    return {token_blocks, divide_up(groups, threads / 32), threads, (chunks > results ? chunks : results) * 4};
}

}  // namespace keel::cuda
