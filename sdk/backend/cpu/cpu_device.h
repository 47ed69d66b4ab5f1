// What the CPU backend keeps of an engine, and the work items of each op. Results do not depend on how a dispatch is
// cut into ranges of work items (sdk/NUMERICS.md): no reduction crosses one.
#pragma once
#include "platform/platform.h"
#include "sdk/backend/backend.h"
#include "sdk/backend/cpu/cpu_planning.h"
#include "sdk/plan/program.h"
#include "sdk/plan/step.h"

namespace keel {

struct CpuDevice : Device {
    const Program* program;
    const KvPart* kv_part;       // of its layers
    platform::ThreadTeam* team;  // null with a parallel_for hook or one thread
    void* team_memory;
    keel_hooks hooks;
    // How long work items take on this machine, over what was predicted; by op kind.
    double measured_over_predicted[kOpKinds];

    // Of the step under way.
    const Step* step;
    uint32_t kv_splits;    // that the longest session has
    bool flat;             // attention is one dispatch, in work items of (KV head, token) that take all KV splits
    const uint8_t** page;  // address of each of step->page_id, null where it is kNoPage
    // Of dispatches of the step: [ops of the longer variant]; how many have begun, and how many there are when the step
    // was computed whole.
    OpTime* times;
    uint32_t timed, times_of_step;
    float** product_row;  // [kMaxMatmuls][chunk_tokens]: where the products of the current dispatch put a token's row

    uint8_t* buffer(BufferId id, uint32_t token) const {
        const Buffer& b = program->plan.buffers[id];
        return program->region[KEEL_REGION_SCRATCH] + b.offset + token * b.row_bytes;
    }
    float* floats(BufferId id, uint32_t token) const { return reinterpret_cast<float*>(buffer(id, token)); }
    const kernels::KernelSet& kernels() const { return *program->config.kernels; }
    uint8_t* kv(uint64_t offset) const { return program->region[KEEL_REGION_KV] + offset; }
    // Of the session that token `token` is of: its pages, its f16 rows, and where its recent ones are.
    const uint8_t* const* pages_of(uint32_t token) const { return page + step->page_first[step->session[token]]; }
    uint8_t* f16_window_of(uint32_t token) const {
        return kv(kv_part->f16_window_offset(step->session_index[step->session[token]]));
    }
    const KvRecentRows& recent_of(uint32_t token) const { return step->recent[step->session[token]]; }
};

// Ops that run as one range of work items, between two barriers.
struct Dispatch {
    const Op* op;  // the first
    uint32_t ops;
    uint32_t items;   // work items of one KV split
    uint32_t splits;  // KV splits; every op but attention has one

    // Gate, up and what joined them: the activation, and quantizing (null where it is a dispatch of its own).
    bool gated() const { return op->kind == OpKind::kMatmul && op[ops - 1].kind != OpKind::kMatmul; }
    // Of adapters, whose A has few rows: by rows while there are few tokens, else by tokens.
    static bool cut_rows(uint32_t tokens) { return tokens < kItemRows; }
    const Op* quantize() const { return op[ops - 1].kind == OpKind::kQuantize ? &op[ops - 1] : nullptr; }
    uint32_t gated_item_rows() const { return quantize() ? quantize()->widest_block() : kItemRows; }
};

inline uint32_t product_items(const Op& op) {
    return (op.rows + kItemRows - 1) / kItemRows;
}

// ---- cpu_rows.cpp: one token, or one row of logits ----
void run_embed(const CpuDevice& d, const Op& op, uint32_t token);
// `before`: room for the embedding of the token before.
void run_smear(const CpuDevice& d, const Op& op, uint32_t token, float* before);
void run_mix(const CpuDevice& d, const Op& op, uint32_t token);
void run_rope_table(const CpuDevice& d, const Op& op, uint32_t token);
// `local`: room for a row that no product reads in f32.
void run_norm(const CpuDevice& d, const Op& op, uint32_t token, float* local);
// As run_norm, for a row of logits; the normalised row is also the hidden-state view.
void run_output_norm(const CpuDevice& d, const Op& op, uint32_t row);
// Normalises a product and adds it to the residual (architectures with post-norms).
void run_post_norm(const CpuDevice& d, const Op& op, uint32_t token);
// Activation by itself: behind what adapters add to gate and up.
void run_glu(const CpuDevice& d, const Op& op, uint32_t token);
void run_activation(const CpuDevice& d, const Op& op, uint32_t token);
void run_softcap(const CpuDevice& d, const Op& op, uint32_t row);
// The residual of a token that another backend handed over.
void run_from_own_memory(const CpuDevice& d, const Op& op, uint32_t token);
// Writes x[k] in the 8-bit layouts of the op's output.
void quantize_row(const CpuDevice& d, const Op& op, const float* x, uint32_t k, uint32_t token);
// The same for elements [begin, end) of a row of k, whole blocks.
void quantize_part(const CpuDevice& d, const Op& op, const float* x, uint32_t begin, uint32_t end, uint32_t k,
                   uint32_t token);
// Shows elements [first, first + count) of what products multiply to the row tap, where the op has a site of it.
void show_row(const CpuDevice& d, const Op& op, uint32_t token, const float* x, uint32_t first, uint32_t count,
              uint32_t total);

// ---- cpu_attention.cpp: one KV head and its query heads ----
// qk_norm, rope and kv_append are one dispatch, with or without attention behind them.
struct QkvPost {
    explicit QkvPost(const Dispatch& dispatch);
    const Op* norm;  // null: no head norms
    const Op *rope, *append;
    const Op *attention, *finish;  // null: a dispatch of its own
};
// Head norms, rotation, what the KV formats ask for (kv_transform.h), and the K and V rows of the token into its slot.
void run_qkv_post(const CpuDevice& d, const QkvPost& post, uint32_t token, uint32_t kv_head);
// Work item `item`: (KV head, query block); KV splits [split_first, split_first + split_count).
void run_attention(const CpuDevice& d, const Op& op, uint32_t item, uint32_t split_first, uint32_t split_count,
                   float* scratch);
// All KV heads of a token: divides by the sums of the weights, rotates back, adds the mean of the values.
void run_attention_finish(const CpuDevice& d, const Op& op, uint32_t token);
// What is done to attention's output behind that, all heads of a token.
void run_exclude(const CpuDevice& d, const Op& op, uint32_t token);
void run_head_gate(const CpuDevice& d, const Op& op, uint32_t token);
// Work item `item`: (KV head, token); qkv_post, attention over all KV splits and attention_finish.
void run_flat_attention(const CpuDevice& d, const QkvPost& post, uint32_t item, float* scratch);

// ---- cpu_products.cpp: work items [first, last) ----
// Where the products of a dispatch put their rows, if it has any; before its first work item.
void aim_products(const CpuDevice& d, const Dispatch& dispatch);
// Matrices that follow one another.
void run_products(const CpuDevice& d, const Dispatch& dispatch, uint32_t first, uint32_t last, float* scratch);
// The A of adapters, or their B, each for the tokens whose session has it. Work items are those of Dispatch::cut_rows.
void run_lora(const CpuDevice& d, const Dispatch& dispatch, uint32_t first, uint32_t last, float* scratch);
// Gate and up, their activation and its 8-bit form. One matrix may hold both, up behind gate.
void run_gated(const CpuDevice& d, const Dispatch& dispatch, uint32_t first, uint32_t last, float* scratch);

// ---- cpu_backend.cpp ----
// As Backend::parallel.
void run_tasks(const CpuDevice& d, uint32_t tasks, void (*task)(void* context, uint32_t index), void* context);

// ---- executor.cpp ----
keel_status cpu_begin(Device* device, const Step* step);
keel_status cpu_enqueue(Device* device, Cursor* cursor, StepLimits* limits);

}  // namespace keel
