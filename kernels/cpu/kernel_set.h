// The kernel interface: what the executor calls. Kernels know no sdk type; they take pointers, shapes and strides, keep
// no state, and compute what sdk/NUMERICS.md says, so that every kernel set gives the same bits.
//
// One KernelSet per instruction set (isa.h). Every entry is set, except matmul_q8 and matmul_repacked of float types
// and matmul_bf16 of others (kernel_sets.cpp asserts it). Which set runs: sdk/backend/cpu/kernel_choice.h.
//
// Preconditions common to all: pointers to f32, int8 and int16 planes that Keel allocates are 64-byte aligned at row 0;
// weights may have any alignment (they can be mapped from a file); no buffer overlaps another unless said so.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "kernels/formats/bf16_pairs.h"
#include "kernels/formats/kv_formats.h"
#include "kernels/formats/q8_activation.h"
#include "kernels/formats/rans.h"
#include "kernels/formats/repack.h"
#include "kernels/formats/weight_types.h"

namespace keel::kernels {

// ---- matrix products ----
// y[t][r] = (accumulate ? y[t][r] : 0) + (dot(w row r, x of token t) + bias[r])
//     row_begin <= r < row_end, 0 <= t < tokens. Without bias or accumulate nothing is added.
// Bytes moved: (row_end - row_begin) * w_row_bytes once, the activations of all tokens, tokens * rows * 4 out.
struct MatmulArgs {
    const void* w;  // row 0
    uint64_t w_row_bytes;
    uint32_t row_begin, row_end;
    uint32_t k;       // inner dimension, a whole number of blocks of the type
    uint32_t tokens;  // 1..512
    const void* x;    // f32[k] per token, bf16 pairs, or a q8 activation with the type's activation block
    uint64_t x_token_bytes;
    float* const* y;    // tokens pointers, each to row 0 of that token's output
    const float* bias;  // f32[rows] or null
    bool accumulate;
    void* scratch;     // matmul_scratch_bytes(k) of this thread, 64-byte aligned: decoded weight panels
    bool from_memory;  // weights come from memory, not from a cache: kernels may fetch ahead. Never changes a result
};
// Room for two groups of 16 rows, unpacked (one where signs are split: q8_avx2.h), and for more where k is small. Upper
// bound over all kernel sets.
constexpr uint64_t kMatmulScratchBytes = 192 * 1024;
static inline uint64_t matmul_scratch_bytes(uint32_t k) {
    const uint64_t groups = 2 * ((uint64_t{k} + 255) / 256 * 5760);
    return groups > kMatmulScratchBytes ? groups : kMatmulScratchBytes;
}
using MatmulFn = void (*)(const MatmulArgs&);

// ---- sampling (NUMERICS section 6) ----
// Buckets of distances, 0..kLastBucket; numbers grow with the distance. Without `ends`: of equal width from `first`
// on, but the first and the last also hold what lies before and behind. With `ends`: kEndBuckets of equal width before
// `first`, so many behind `end`, the others between them, and the last for what lies farther.
struct DistanceBuckets {
    bool ends;
    double first, end;
    double per_near, per_main, per_far;  // buckets to the unit of distance
};
constexpr uint32_t kLastBucket = 511, kEndBuckets = 64;
template <bool ends>
static inline uint16_t bucket_number(double distance, const DistanceBuckets& b) {
    constexpr double kEnd = kEndBuckets, kMain = ends ? kLastBucket - 2 * kEndBuckets : kLastBucket;
    double place = (distance - b.first) * b.per_main;
    place = place > 0.0 ? place : 0.0;
    place = place < kMain ? place : kMain;
    if (ends) {
        double near = distance * b.per_near, far = (distance - b.end) * b.per_far;
        near = near < kEnd ? near : kEnd;
        far = far > 0.0 ? far : 0.0;
        far = far < kEnd ? far : kEnd;
        place = near + place + far;
    }
    return static_cast<uint16_t>(static_cast<int32_t>(place));
}

// Candidates: distance = (largest - value) / temperature, which is not negative; mass = rint(w * 2^52) with
// w = exp(-min(distance, 64)). The arrays are different ones.
constexpr uint32_t kMassBlock = 256, kMassGroup = 32;
struct MassArgs {
    const double* value;
    uint32_t n;  // at most kMassBlock; up to the next multiple of kMassGroup are values of -inf, and room for results
    double largest, temperature;
    const DistanceBuckets* buckets;
    uint64_t* mass;
    uint16_t* bucket;
    bool count;          // mass is 1 instead, and 0 at an infinite distance
    uint64_t* weighted;  // the sum of rint(w * min(distance, 64) * 2^52); may be null
};

// Candidates as above. Those with a mass of at least least_mass race: *best becomes the one with the smallest score
// (kernels/formats/race.h), of equal ones that with the lowest id, if that comes before what *best is.
struct RaceBest {
    double score;
    uint32_t id;
};
constexpr RaceBest kNobody = {__builtin_inf(), UINT32_MAX};
struct RaceArgs {
    const double* value;
    uint32_t n;  // as in MassArgs
    double largest, temperature;
    const uint32_t* ids;  // padded as the values, with anything; null: `first` and those that follow, a multiple of 4
    uint32_t first, position;
    uint64_t seed, least_mass;
    double reach;  // race_reach of least_mass
    RaceBest* best;
};

// ---- attention (NUMERICS section 5) ----
// One head's K or V rows of a layer in a page: row j has its codes at codes + j * code_bytes and its scales likewise.
struct KvPlane {
    KvFormat format;
    uint32_t code_bytes, scale_bytes;  // strides of rows
    uint64_t codes, scales;            // byte offsets in a page
};

constexpr uint32_t kAttentionTile = 64;   // positions
constexpr uint32_t kKvSplitTokens = 512;  // positions that are reduced apart and merged in order
constexpr uint32_t kMaxQueryRows = 128;   // query rows of one call

// A mean that was removed from the keys before RoPE comes back as a score of its own, q . R(position) mean: a sum over
// RoPE pairs of A cos(angle) + B sin(angle), angle = the pair's frequency times the position. Position = first position
// of the tile + offset, and there is a table for each of the two.
struct KeyMean {
    uint32_t pairs;                    // 0: nothing was removed
    const float* tile_rotations;       // [tile][2 * pairs]: cos, sin at position kAttentionTile * tile
    const float* offset_rotations;     // [2 * pairs][kAttentionTile]: cos (even rows), sin (odd rows) at each offset
    const float* const* coefficients;  // rows pointers to f32[2 * pairs]: A, B
};
constexpr uint32_t kMaxMeanPairs = kMaxHeadDim / 2;

// One KV head of one session, one KV split, several query rows. If K's format is rotated the caller passes rotated
// queries; if V's is, o comes back rotated. The running state (m, l, o) of each query row takes the split in place: the
// caller sets m = -inf before the first split and calls attention_finish after the last.
//
// A row is stored in the slot that is its position, but for the tail of a session whose tokens form a tree: positions
// from tail_first on are read from slots that each query row lists. Sums go by position all the same.
struct AttentionArgs {
    const uint8_t* const*
        pages;             // page p holds slots [p*page_tokens, (p+1)*page_tokens); null: evicted, seen by nobody
    uint32_t page_tokens;  // a multiple of kAttentionTile
    KvPlane k, v;          // this layer's and head's
    KeyMean mean;
    uint32_t head_dim;                 // multiple of 8, at most kMaxHeadDim
    uint32_t split;                    // positions [split*512, split*512+512)
    uint32_t rows;                     // 1..kMaxQueryRows
    const float* const* q;             // rows pointers to f32[head_dim]
    const uint32_t* begin;             // rows: first visible position
    const uint32_t* end;               // rows: one past the last visible position
    uint32_t tail_first = UINT32_MAX;  // position; UINT32_MAX: there is no tail, and row_of is not read
    const uint32_t* const* row_of;  // rows pointers, row_of[r][position - tail_first]: the slot. Rows with one list are
                                    // read together where they follow one another and share the pointer
    float scale, softcap;           // softcap 0: none
    float* m;                       // rows, running maximum, in and out
    float* l;                       // rows, running sum, in and out
    float* const* o;  // rows pointers to f32[head_dim], running output, in and out (uninitialised while m = -inf)
    float* scratch;   // attention_scratch_floats() floats of this thread
};
// Upper bound over all kernel sets; the caller provides this much per thread.
static inline uint32_t attention_scratch_floats(uint32_t head_dim) {
    const uint32_t wide = (head_dim + 15) & ~15u;
    const uint32_t tiles = 2 * kAttentionTile * (wide + kMaxKvScales);       // of K and V, scales behind
    const uint32_t states = kMaxQueryRows * (kAttentionTile + wide + 16);    // scores, and the split's o, m, l
    const uint32_t queries = kMaxQueryRows * (wide / 4 + 2 * kMaxKvScales);  // as integers, their scales and sums
    return tiles + states + queries + 16;                                    // what a register reads behind
}

struct KernelSet {
    const char* name;  // kIsaNames

    // dst[k] = decoded weights (section 3)
    void (*dequantize_row[kWeightTypeCount])(const void* src, float* dst, uint32_t k);
    MatmulFn matmul_f32[kWeightTypeCount];  // x is f32
    MatmulFn matmul_q8[kWeightTypeCount];   // x is q8; null for types without an activation block
    // matmul_q8 on repacked weights (repack.h), with the same bits; row_begin and row_end are multiples of
    // kRepackRows.
    MatmulFn matmul_repacked[kWeightTypeCount];
    bool repack_pays[kWeightTypeCount];      // matmul_repacked is measured to be the faster of the two
    MatmulFn matmul_bf16[kWeightTypeCount];  // x is bf16 pairs; null for types with an activation block
    bool multiplies_bf16;                    // by instructions of their own, twice as fast as f32
    // x[begin..end) -> that part of one token's bf16 pairs (bf16_pairs.h), and zeros behind it up to the next multiple
    // of 32. begin is a multiple of 32.
    void (*round_bf16)(const float* x, uint32_t begin, uint32_t end, void* token);
    // x[k] -> one token's q8 activation with blocks of `block` (32 or 256; k a multiple of it). For trellis weights
    // kv_rotate rotates x before, 256 elements at a time.
    void (*quantize_q8)(const float* x, uint32_t k, uint32_t block, void* token);

    // y[n] = rmsnorm(x) * w; y may be x
    void (*rms_norm)(const float* x, const float* w, uint32_t n, float eps, float* y);
    // cos and sin of position * frequency[i], each rounded to f32, times `factor` when it is not 1; interleaved per
    // pair.
    void (*rope_table)(const double* frequency, uint32_t pairs, uint32_t position, float factor, float* cos_sin);
    // Rotates one head in place. cos_sin: interleaved cos, sin per pair, pairs = rotated dims / 2.
    //   neox = false: pairs (2i, 2i+1);  neox = true: pairs (i, i + pairs). Elements past the rotated ones stay.
    void (*rope)(float* x, uint32_t pairs, const float* cos_sin, bool neox);
    void (*gate_silu)(const float* gate, const float* up, uint32_t n, float* y);  // y may be gate or up
    void (*gate_gelu)(const float* gate, const float* up, uint32_t n, float* y);
    void (*add)(float* x, const float* y, uint32_t n);  // x += y
    void (*scale)(float* x, float factor, uint32_t n);  // x *= factor
    void (*softcap)(float* x, float cap, uint32_t n);
    // y[k] = c[k] * x[0][k] + c[n + k] * x[1][k] + ...; y may be one of the x. At least one term.
    void (*mix)(const float* const* x, const float* c, uint32_t terms, uint32_t n, float* y);
    void (*leaky_square)(const float* x, float leak, uint32_t n, float* y);  // y may be x
    // x[i][n] *= sigmoid(gate[i]), i < rows
    void (*gate_rows)(float* x, const float* gate, uint32_t rows, uint32_t n);
    // x[n] less its part along v
    void (*exclude)(float* x, const float* v, uint32_t n);
    void (*exp_masses)(const MassArgs& args);
    void (*race)(const RaceArgs& args);

    // One row f32[head_dim] -> its codes and scales (kernels/formats/kv_formats.h), and back; scales of float formats
    // may be null.
    void (*kv_encode[kKvFormatCount])(const float* row, uint32_t head_dim, KvScaleMode mode, uint8_t* codes,
                                      uint8_t* scales);
    void (*kv_decode[kKvFormatCount])(const uint8_t* codes, const uint8_t* scales, uint32_t head_dim, float* row);
    // The signed Hadamard rotation of rotated KV formats and trellis weights, in place, and its inverse.
    void (*kv_rotate)(float* row, uint32_t head_dim);
    void (*kv_unrotate)(float* row, uint32_t head_dim);
    void (*attention_split)(const AttentionArgs&);
    void (*attention_finish)(float* o, float l, uint32_t head_dim);  // o *= 1 / l

    RansDecode rans_decode;  // of packed weights, while they are loaded
};

// The portable set, the reference for every other.
extern const KernelSet kScalarSet;

}  // namespace keel::kernels
