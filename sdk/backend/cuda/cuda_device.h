// What the CUDA backend keeps of an engine, and the launches of each op. All of a device's memory is the caller's
// regions; after attach nothing is allocated.
#pragma once
#include <atomic>

#include "kernels/cuda/kernels.h"
#include "sdk/backend/backend.h"
#include "sdk/backend/cuda/cuda_context.h"
#include "sdk/backend/cuda/cuda_ranges.h"
#include "sdk/plan/program.h"
#include "sdk/plan/step.h"

namespace keel {

// Where an array lies that a block gets behind its other ones.
inline uint64_t place_in_block(uint64_t* block_bytes, uint64_t bytes) {
    const uint64_t at = *block_bytes;
    *block_bytes = kernels::round64(at + bytes);
    return at;
}

// Where the arrays of a step lie in their block: the same offsets in pinned memory, where the host writes them, and on
// the device. Those that trees need stand last, and are sent only with one.
struct StepBlock {
    uint64_t token, position, slot, session, query_block, logits_token, session_index, page_first, tail_first, page_id,
        tail_parent;
    uint64_t bytes;
};
StepBlock step_block(const PlanConfig& config);

// The same for a draw: what goes up, then what comes back, then work memory on the device.
struct DrawBlock {
    uint64_t bias, forbidden, mask, window, input_bytes;
    uint64_t result, left, distance, mass, weighted, list, best, bytes;
};
DrawBlock draw_block(const Program& program);

// Where the backend's own objects lie in the regions.
struct CudaCopies {
    uint64_t plain;    // DEVICE_SCRATCH: plain rows on their way, kUploadRowsBytes
    uint64_t step;     // DEVICE_SCRATCH: a StepBlock
    uint64_t logits;   // DEVICE_SCRATCH: [rows of a step][vocabulary]
    uint64_t partial;  // DEVICE_SCRATCH: what attention leaves of splits (kernels/cuda/attention_args.h)
    uint64_t staging;  // PINNED: a StepBlock
    uint64_t marks;    // DEVICE_SCRATCH: [2 * most_ops] when launches of a step began
    uint64_t times;    // PINNED: the same, when the step is done
    uint64_t tables;   // DEVICE_WEIGHTS: rope frequencies, then the arrays of the KV transform
    uint64_t transform;
    uint64_t draw;          // DEVICE_SCRATCH: a DrawBlock
    uint64_t draw_staging;  // PINNED: its input, and the result
};

struct CudaDevice : Device {
    keel_cuda_device options;
    CudaContext cuda;                       // zero: not attached
    platform::cuda::Stream stream, copies;  // steps; transfers of pages, from any thread
    platform::cuda::Stream draws;           // of one thread at a time, that set `drawing`
    std::atomic<uint32_t> drawing;
    platform::cuda::Event computed;  // recorded behind what the last enqueue launched
    platform::cuda::Module module;
    platform::cuda::Function function[cuda::kKernelCount];
    uint8_t* region[KEEL_REGION_COUNT];
    CudaCopies at;
    StepBlock block;
    DrawBlock draw_block;
    const Program* program;
    KvTransform transform;  // its arrays on the device
    BufferId hidden;        // what the output norm writes, in both variants
    CudaRanges ranges;      // for profilers
    // Of the step under way.
    const Step* step;
    double in_flight_us;  // predicted time of what was launched and not seen done
    // What kernels say of the time. An entry of `times` for each launch of a step that writes a mark: of a dispatch, or
    // behind the last of each call of enqueue (ops: 0); when the step is done, of dispatches only.
    OpTime* times;           // [2 * most_ops]
    uint32_t timed;          // of these
    bool enqueued, learned;  // the step is enqueued whole; its times are in `times` and `pace`
    // Measured over predicted, of the dispatch that begins with an op: [variants][up to 8 tokens, more][most_ops].
    float* pace;
    mutable uint64_t* mark;  // where the next launch writes when it began, on the device; null: nowhere

    uint8_t* scratch(uint64_t offset) const { return region[KEEL_REGION_DEVICE_SCRATCH] + offset; }
    const Buffer& buffer(BufferId id) const { return program->plan.buffers[id]; }
    uint8_t* row0(BufferId id) const { return scratch(buffer(id).offset); }
    float* logits() const { return reinterpret_cast<float*>(scratch(at.logits)); }  // of the step
    float* kept_logits() const { return reinterpret_cast<float*>(scratch(program->kept_logits)); }
    float* kept_hidden() const { return reinterpret_cast<float*>(scratch(program->kept_hidden)); }
    template <class T>
    const T* step_array(uint64_t offset) const {
        return reinterpret_cast<const T*>(scratch(at.step + offset));
    }
};
inline CudaDevice* cuda_device(Device* device) {
    return static_cast<CudaDevice*>(device);
}

// Most rows of logits of a step.
inline uint32_t most_logits_rows(const PlanConfig& c) {
    const uint32_t kept = c.max_sessions * c.logits_rows;
    return kept < c.chunk_tokens ? kept : c.chunk_tokens;
}

// Of the longer variant.
inline uint32_t most_ops(const Program& p) {
    const OpList* variant = p.plan.variant;
    return variant[0].count > variant[1].count ? variant[0].count : variant[1].count;
}

// Most tokens of a step whose splits attention goes through apart.
inline uint32_t most_partial_tokens(const PlanConfig& c) {
    return c.chunk_tokens < 16 ? c.chunk_tokens : 16;
}

// Ops that run as one dispatch: what makes an input in 8 bits, products that read it, a gate; each may be missing.
struct CudaDispatch {
    uint32_t ops;
    uint32_t products;  // behind the maker of their input, if that is joined; 0: one op of another kind
    bool input_joined;  // the first op makes the input, which the products do for themselves
    bool gated;         // the last op is the gate of what the products compute
};

// ---- cuda_planning.cpp ----
// The dispatch that begins with ops[0], of the `left` ops there are, in steps of so many tokens.
CudaDispatch cuda_dispatch(const Op* ops, uint32_t left, uint32_t tokens);
// What products of a joined input do with the row that op.in holds.
cuda::ProductInput joined_input(OpKind kind);
keel_status cuda_configure(PlanConfig* config, const ModelSpec& spec, keel_error* error);
WeightUse cuda_weights(const PlanConfig& config, uint32_t weight_type, uint64_t rows, bool lookup);
uint64_t cuda_cost(const PlanConfig& config, Op* op);
// Microseconds of an op in the step under way, by the plan and the positions that attention reads.
double cuda_predict_us(const CudaDevice& d, const Op& op);
uint32_t cuda_fuse(const Op* ops, uint32_t left, const StepShape& shape);

// ---- cuda_ops.cpp ----
// Launches a dispatch for the step under way, all of its work. In the device's context.
platform::cuda::Result launch_dispatch(const CudaDevice& d, const Op* ops, const CudaDispatch& dispatch);

// ---- cuda_attention.cpp ----
uint64_t partial_bytes(const Program& p);

// ---- cuda_step.cpp ----
keel_status cuda_begin(Device* device, const Step* step);
keel_status cuda_enqueue(Device* device, Cursor* cursor, StepLimits* limits);
keel_status cuda_poll(Device* device, bool* done);
keel_status cuda_drain(Device* device);
uint32_t cuda_times(Device* device, uint32_t index, OpTime* out);

// ---- cuda_draw.cpp ----
keel_status cuda_draw(Device* device, const DrawRequest& request, int32_t* token);

}  // namespace keel
