// The execution plan: the whole forward pass as a flat array of POD ops, and the scratch buffers they use, packed by
// lifetime. Built from a model description by one function that runs in count mode (weights not placed, ops not stored)
// and in place mode.
//
// Ops of one token's way; those in brackets exist for some architectures or shapes only. A row op works per token
// column, a matmul per 16 output rows, attention per (KV head, block of columns, span of positions). An op is cut into
// these units; the executor may stop between any two groups of units. Ops joined by `+` are one pass: threads meet once
// for all of them. Those joined by `~` are one pass in steps of few columns (Join), and apart in others.
//
//     embed, rope_table
//     per layer: attn_norm -> attn_q + attn_k + attn_v | attn_qkv -> store_kv ~ attention ~ attention_finish
//                -> attn_output [-> attn_post_norm] -> ffn_norm -> ffn_gate + ffn_up + gate | ffn_gate_up + gate
//                [~ ffn_quantize] -> ffn_down [-> ffn_post_norm]
//     output_norm -> output [-> softcap]
//
// With a W_proj cache there is a second list of ops, the low-rank variant, over the same weights and buffers. In front of
// the products of a group that has a basis it has
//
//     sub [-> sub_quantize]
//
// x_sub = Pt x, which the group's records multiply; other products stay as they are.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"
#include "sdk/model/model.h"
#include "sdk/plan/config.h"
#include "sdk/plan/weights.h"

namespace keel {

enum class OpKind : uint8_t {
    kEmbed,
    kRopeTable,
    kNorm,
    kMatmul,
    kStoreKv,
    kAttention,
    kAttentionFinish,
    kPostNorm,
    kGate,
    kQuantize,
    kOutputNorm,
    kSoftcap
};

// Whether an op runs in the pass of the op before it.
enum class Join : uint8_t {
    kNo,
    kYes,
    kFlat,    // attention: in flat steps (engine.h), whose units are (KV head, column)
    kNarrow,  // quantizing: where units of whole activation blocks of rows are predicted to fit a tile
};
constexpr uint32_t kPassMatmuls = 3;   // most matrices of one pass
constexpr uint32_t kRowsPerUnit = 16;  // output rows of a matmul unit, and what every cut is a multiple of

// Scratch buffers. Activations that feed matmuls come in up to three forms: f32, and 8-bit with blocks of 32 or of 256;
// only the forms some weight asks for have bytes.
enum BufferId : uint8_t {
    kBufResidual,  // f32 [columns][embedding]
    kBufRope,      // f32 [columns][rope sets][rope_dims] cos, sin interleaved
    kBufAttnIn,
    kBufAttnIn32,
    kBufAttnIn256,
    kBufQkv,        // f32 [columns][q | k | v]
    kBufAttnOut,    // f32 [columns][q_dim]
    kBufAttnState,  // f32 [columns][running maximum of each head | running sum of each head]
    kBufAttnMean,   // f32 [columns][heads][2 * mean pairs]: scores of the removed K mean (kv_transform.h)
    kBufAttnOut32,
    kBufAttnOut256,
    kBufPost,  // f32 [columns][embedding], where a norm stands between product and residual
    kBufFfnIn,
    kBufFfnIn32,
    kBufFfnIn256,
    kBufFfn,  // f32 [columns][gate | up]
    kBufFfn32,
    kBufFfn256,
    kBufHeadIn,
    kBufHeadIn32,
    kBufHeadIn256,
    kBufSub,  // f32 [columns][rank], low-rank variant: x_sub of the four groups (WprojGroup), three forms each
    kBufSubEnd = kBufSub + 3 * kWprojGroups,
    kBufThread = kBufSubEnd,  // f32 [threads][attention scratch, one embedding row, or matmul scratch]
    kBufferCount
};
extern const char* const kBufferNames[kBufferCount];

struct Buffer {
    uint64_t offset, bytes;           // in the scratch region, for chunk_tokens columns
    uint64_t column_bytes;            // stride between columns
    uint8_t first_stage, last_stage;  // alive from .. to, in stages of one layer (see plan.cpp)
};

struct Op {
    OpKind kind;
    Join join;
    Gate gate;
    BufferId in, out;  // out of a norm or gate: its f32 form; the other two forms follow in BufferId
    uint8_t rope_set;  // store_kv, attention
    uint8_t stage;
    uint16_t unit_rows;                     // quantize: rows of a unit when it joins its pass, a whole activation block
    uint8_t accumulate;                     // matmul: adds to out
    uint8_t want_f32, want_q32, want_q256;  // forms this op has to produce
    uint8_t repacked;                       // matmul, embed: w is interleaved (kernels/formats/repack.h)
    uint8_t projects;                       // matmul: w is a basis Pt; quantize: of what it gives
    keel_low_rank_reason low_rank_reason;
    float low_rank_error;
    keel_repack_skip repack_skip;
    uint8_t to_logits;  // columns are those with logits, output is the sessions' logits rows
    TensorSlot slot;    // names the op
    int32_t layer;      // -1 outside the layers
    uint32_t window;    // attention: visible positions, 0 = all
    uint32_t weight_type, rows, k;
    uint32_t out_offset;  // floats, within an output column
    uint64_t w_row_bytes;
    const void* w;       // matmul: matrix; embed: table; null in count mode
    const float* norm;   // norms; store_kv: q norm
    const float* norm2;  // store_kv: k norm
    const float* bias;
    uint64_t fixed_bytes, token_bytes;
    uint64_t token_macs;        // multiply-adds per token column
    double fixed_us, token_us;  // predicted time to move these bytes, one thread
    double compute_us;          // and to do these multiply-adds
};

struct OpList {
    Op* ops;  // null in count mode
    uint32_t count;
    uint64_t decode_bytes;  // moved by one column at context 0
};
struct ExecutionPlan {
    Buffer buffers[kBufferCount];
    uint64_t scratch_bytes;
    uint32_t rope_sets;  // 1, or 2 with local rope
    OpList variant[2];   // by keel_variant; the second one is empty without a W_proj cache
    uint32_t low_rank_records;
    uint64_t low_rank_bytes;    // of bases, records and their biases
    const float* rope_factors;  // divisors of the frequencies, or null
};

// What a caller wants to know of a plan that is only counted: one op, and the ops between which its output is alive.
struct PlanQuery {
    uint32_t index;              // in: op number, those of the low-rank variant behind the others
    Op op;                       // out
    uint32_t first_op, last_op;  // out
    uint32_t dispatch;           // out: number of its range of work in a flat step of one column
    uint32_t low_rank;           // out: 1 for an op of the low-rank variant
};

// Emits the ops of `model`. In count mode (weights.arena.counting()) ops may be null. In place mode ops has room for
// those that a count run found: `dense_count` of them, then those of the low-rank variant.
void build_plan(const keel_model& model, const PlanConfig& config, WeightPlacer& weights, Op* ops, uint32_t dense_count,
                ExecutionPlan* plan);
// Count mode only. KEEL_E_ARGUMENT when there is no such op.
keel_status query_plan(const keel_model& model, const PlanConfig& config, WeightPlacer& weights, PlanQuery* query,
                       ExecutionPlan* plan);

// Predicted time of an op over `columns` columns, one thread, in microseconds.
inline double predict_us(const Op& op, uint32_t columns) {
    const double memory_us = op.fixed_us + op.token_us * columns, compute_us = op.compute_us * columns;
    return compute_us > memory_us ? compute_us : memory_us;
}

// Whether a kNarrow op joins a pass whose ops are predicted to take `pass_us`.
inline bool is_narrow(const Op& op, double pass_us, uint32_t tile_us) {
    return pass_us * op.unit_rows <= static_cast<double>(op.rows) * tile_us;
}

const char* op_name(const Op& op);

}  // namespace keel
