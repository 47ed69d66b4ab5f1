// The execution plan as data: ops in the order they run, and the scratch buffers they read and write.
//
// An op names every scratch buffer it touches (reads, writes): lifetimes, packing and what `keel plan` shows follow
// from that and from nothing else. Weights, KV pages and logits lie in other regions and are not named here.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"
#include "sdk/backend/activation.h"
#include "sdk/model/architecture.h"

namespace keel {

// The pair of an adapter that a product adds (sdk/model/adapter_file.h); rank 0: none.
struct AdapterFactor {
    const void *a, *b;
    uint64_t a_row_bytes, b_row_bytes;
    uint32_t a_type, b_type, rank, reserved;
};

enum class OpKind : uint8_t {
    kEmbed,
    kSmear,      // adds a gated part of the embedding of the token before
    kRopeTable,  // cos and sin of every token's position
    kMix,        // weighs several rows by element and adds them
    kNorm,
    kMatmul,
    kLoraA,            // u = s A x, of tokens whose session has an adapter
    kLoraB,            // adds B u to a product
    kQkNorm,           // norms of single heads of q and k
    kRope,             // rotates q and k
    kKvAppend,         // codes this position's K and V rows into the pages, and makes q ready for their formats
    kAttention,        // online softmax over the KV splits
    kAttentionFinish,  // divides by the sums of the weights
    kExclude,          // takes from attention's output its part along the token's own v
    kHeadGate,         // scales each head of it by a gate
    kPostNorm,         // normalises a product and adds it to the residual
    kGlu,              // act(gate) * up
    kActivation,       // act(up), of models without a gate
    kQuantize,         // writes coded layouts of what stands in f32
    kOutputNorm,       // kNorm of the tokens whose logits are wanted
    kToHost,           // the residual to the host, behind the last layer that is computed elsewhere
    kFromOwnMemory,    // and into the host's buffer
    kSoftcap           // the last one: kOpKinds counts up to it
};
constexpr uint32_t kOpKinds = static_cast<uint32_t>(OpKind::kSoftcap) + 1;
constexpr uint32_t kMaxMatmuls = 3;  // products of one dispatch
constexpr uint32_t kMaxTerms = 4;    // of a mix
constexpr uint8_t kNoSite = 255;
constexpr uint32_t kItemRows = 16;  // output rows of a product's work item, and what every cut is a multiple of

// A scratch buffer: one row per token of a step (or per thread), for the longest step.
using BufferId = uint8_t;
using BufferSet = uint64_t;  // bit i: buffer i
constexpr uint32_t kMaxBuffers = 64;
constexpr BufferId kNoBuffer = 255;
constexpr BufferId kThreadBuffer = 0;  // working memory of each thread
constexpr BufferSet buffer_bit(BufferId id) {
    return BufferSet{1} << id;
}
struct Buffer {
    const char* name;
    Activation type;
    uint32_t width;  // elements of a row
    uint32_t rows;   // tokens of the longest step, or threads
    uint64_t row_bytes;
    uint64_t offset, bytes;  // in the scratch regions; bytes: all rows, and a red zone where there are any (arena.h)
    BufferSet overlaps;      // buffers that are live at some time while this one is
};

struct Op {
    const char* name;
    OpKind kind;
    Gate gate;
    BufferId in;                        // what it reads, in the layout its weights ask for
    BufferId out;                       // what it writes in f32; kNoBuffer: nobody reads that, or it goes to the logits
    BufferId out_coded[kCodedLayouts];  // coded layouts it writes, by index_of_coded; kNoBuffer: nobody reads them
    BufferId rope;                      // rope: cos and sin
    BufferId state;                     // kv_append, attention: running maximum and sum of every head
    BufferId mean;                      // kv_append, attention: scores of the removed K mean (kv_transform.h)
    BufferId more[kMaxTerms - 1];  // mix: further terms; smear, head_gate: gates; exclude: q, k and v. kNoBuffer: none
    uint8_t site;                  // keel_lab_site, where its output is what the row tap shows
    uint8_t rope_set;              // rope, kv_append, attention
    kernels::KvFormat k_format, v_format;  // kv_append, attention: of the layer's rows
    bool host;                             // computed in host memory
    bool accumulate;                       // matmul: adds to out
    bool repacked;                         // matmul, embed: w is repacked (WeightUse)
    bool to_logits;  // rows of the step are those with logits, output is the sessions' logits rows
    keel_low_rank_reason low_rank_reason;
    float low_rank_error;
    keel_repack_skip repack_skip;
    keel_fp32_reason fp32_reason;
    TensorSlot slot;  // of its weights
    int32_t layer;    // -1 outside the layers
    uint32_t window;  // attention and its finish: visible positions, 0 = all
    uint32_t weight_type;
    uint32_t rows;        // output elements of a token; kLoraA: of the adapter of largest rank
    uint32_t k;           // inner dimension; attention: of a head; attention_finish: of the query heads of a KV head
    uint32_t in_offset;   // kLoraB: floats, within an input row
    uint32_t out_offset;  // floats, within an output row
    uint64_t w_row_bytes;
    // Weights, by addresses of the backend that runs the op; null in count mode.
    const void* w;       // matmul: matrix; embed: table
    const float* norm;   // norms; qk_norm: of q; mix: its coefficients
    const float* norm2;  // qk_norm: of k
    uint32_t norm_step;  // qk_norm: floats from the norm of a head of q to that of the next; 0: all have one
    const float* bias;
    const AdapterFactor* factors;  // kLoraA, kLoraB: of each adapter
    BufferSet reads, writes;
    uint64_t fixed_bytes, token_bytes;  // moved whatever the number of tokens, and per token
    uint64_t token_macs;                // multiply-adds per token
    double fixed_us, token_us;          // predicted time to move these bytes, one thread
    double compute_us;                  // and to do these multiply-adds
    double unpack_us;                   // and, once a step, to unpack the weights
    uint32_t pass_tokens;               // more than one token are computed in multiples of so many; 0: of one

    // Elements that a part of the output must be a multiple of to be written in its coded layouts.
    uint32_t widest_block() const {
        uint32_t widest = 1;
        for (uint32_t i = 0; i < kCodedLayouts; ++i)
            if (out_coded[i] != kNoBuffer && block_of(coded_layout(i)) > widest) widest = block_of(coded_layout(i));
        return widest;
    }
};

// Predicted time of an op over `tokens` tokens, one thread, in microseconds.
inline double predict_us(const Op& op, uint32_t tokens) {
    const uint32_t passes = tokens > 1 && op.pass_tokens ? (tokens + op.pass_tokens - 1) / op.pass_tokens : 0;
    const double memory_us = op.fixed_us + op.token_us * tokens,
                 compute_us = op.unpack_us + op.compute_us * (passes ? passes * op.pass_tokens : tokens);
    return compute_us > memory_us ? compute_us : memory_us;
}

constexpr uint32_t kOpLists = 3, kAdaptedList = 2;
struct OpList {
    Op* ops;  // null in count mode
    uint32_t count;
    uint32_t own_count;               // of the first ones, those that are not computed in host memory
    uint32_t capacity;                // of ops
    uint64_t decode_bytes;            // moved by one token at context 0
    double step_us[KEEL_STEP_COSTS];  // predicted for a step of n + 1 tokens at context 0, one thread
};
struct ExecutionPlan {
    Buffer buffers[kMaxBuffers];
    uint32_t buffer_count;
    uint64_t scratch_bytes;
    BufferId residual;
    uint32_t rope_sets;  // 1, or 2 with local rope
    // By keel_variant, then the dense one of steps in which a session has an adapter. The second one is empty without
    // a W_proj cache, the third one without adapters.
    OpList variant[kOpLists];
    uint32_t low_rank_records;
    uint64_t low_rank_bytes;    // of factors and their biases
    uint64_t adapter_bytes;     // of the matrices of adapters
    const float* rope_factors;  // divisors of the frequencies, or null
};

}  // namespace keel
