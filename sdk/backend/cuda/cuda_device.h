// What the CUDA backend keeps of an engine, and the launches of each op. All of a device's memory is the caller's
// regions; after attach nothing is allocated.
#pragma once
#include <atomic>

#include "kernels/cuda/kernels.h"
#include "platform/cuda/cublaslt.h"
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
    // 0 at the start of every step, even behind one given up: a counter of blocks of a launch (ProductNorm), and those
    // of every layer's attention (AttentionArgs).
    uint64_t counter, attention_counts;
    uint64_t token, position, slot, session, query_block, logits_token, logits_row, session_index, page_first, recent,
        tail_first, page_id, tail_parent;
    uint64_t bytes;
};
StepBlock step_block(const PlanConfig& config, const ModelSpec& spec);

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
    uint64_t marks;    // PINNED: [most_marks] when launches of a step began, 0: not yet
    uint64_t tables;   // DEVICE_WEIGHTS: rope frequencies, then the arrays of the KV transform
    uint64_t transform;
    uint64_t draw;          // DEVICE_SCRATCH: a DrawBlock
    uint64_t draw_staging;  // PINNED: its input, and the result
    uint64_t narrow;        // DEVICE_SCRATCH: inputs of cuBLASLt's products in 16 bits
    uint64_t workspace;     // DEVICE_SCRATCH: cuBLASLt's
};

// Products of one shape by cuBLASLt (cuda_cublaslt.cpp): those of a model that differ in weights alone.
constexpr uint32_t kCublasTokens = 64, kCublasSteps = kMaxChunk / kCublasTokens;
struct CublasShape {
    struct Key {
        uint32_t type, rows, k, most_tokens;
        uint32_t y_alignment;  // bytes
        uint64_t y_stride;     // floats
        bool operator==(const Key&) const = default;
    } key;
    platform::cuda::LtLayout w, x, y;
    // Without a bias and with one, for so many times kCublasTokens tokens.
    platform::cuda::LtAlgorithm algorithm[2][kCublasSteps];
    bool chosen[2];
};
struct CudaCublasLt {
    platform::cuda::CublasLt calls;
    platform::cuda::LtHandle handle;       // null: none, and nothing else is set
    platform::cuda::LtProduct product[2];  // as algorithm
    CublasShape* shape;                    // as many as there are ops, each of which could have its own
    uint32_t shapes;                       // of these
};

struct CudaLaunch;

// A dispatch as a step finds it: its launches, and what they are predicted to take.
struct CudaWork {
    const CudaLaunch* launch;
    uint32_t launches, ops;  // ops that it computes
    bool of_logits;          // its rows are those of logits
    // Microseconds: of its launches; to move bytes whatever the rows are, and a row's; to compute a row.
    double launch_us, fixed_us, row_us, compute_us;
    double position_us;  // attention: to read what a position has, of `window` positions at most (0: all)
    uint32_t window;
};

// A launch that writes when it began.
struct CudaMark {
    uint32_t op, ops;  // of the dispatch; ops 0: it only ends what was launched before
    double us;         // predicted
};

// Ops fuse in another way where there is one token, and where there are few, whose attention is that of tokens
// (attend_token).
constexpr uint32_t kMostTokensApart = 16;                                                         // more share rows
constexpr uint32_t kStepKinds = 3, kTokensOfKind[kStepKinds] = {1, kMostTokensApart, kMaxChunk};  // at most
constexpr uint32_t step_kind(uint32_t tokens) {
    uint32_t kind = 0;
    while (tokens > kTokensOfKind[kind]) ++kind;
    return kind;
}

// Tokens of the decode steps that there are graphs of.
constexpr uint32_t kGraphTokens[] = {1, 2, 4, 8}, kGraphs = 4;

struct CudaDevice : Device {
    keel_cuda_device options;
    CudaContext cuda;                       // zero: not attached
    platform::cuda::Stream stream, copies;  // steps; transfers of pages, from any thread
    platform::cuda::Stream draws;           // of one thread at a time, that set `drawing`
    std::atomic<uint32_t> drawing;
    platform::cuda::Event computed;  // recorded behind what Keel put last into the stream of steps
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
    CudaCublasLt cublas;    // of KEEL_NUMERICS_DEVICE
    // What a step walks (cuda_ops.cpp): [variants][kStepKinds][most_ops], by the first op of a dispatch.
    CudaWork* work;
    CudaLaunch* launches;
    uint8_t* launch_args;
    uint64_t weight_bytes;                        // that a step of one token multiplies, in the first variant
    platform::cuda::GraphExec graph[2][kGraphs];  // of each variant; null: none
    // Of the step under way.
    const Step* step;
    double in_flight_us;  // predicted time of what was launched and not seen done
    // The kernel of a mark writes it into pinned memory, where the host sees without a call of the driver how far the
    // step is: what was launched before is done. Mark i is entry i % most_marks of each array.
    uint64_t* marks;             // [most_marks] nanoseconds of the device's clock; 0: not yet
    uint64_t* marks_on_device;   // where kernels write them
    CudaMark* marked;            // [most_marks]
    uint32_t made, seen;         // marks of this step, and those that the host has seen
    uint64_t first_ns, last_ns;  // the first one and the last one seen
    uint32_t looks;              // since something was seen
    OpTime* times;               // [most_ops] of dispatches of this step that are done
    uint32_t timed;              // of these
    bool enqueued, learned;      // the step is enqueued whole; its times are in `pace`
    // Measured over predicted, of the dispatch that begins with an op: [variants][kStepKinds][most_ops].
    float* pace;
    mutable uint64_t* mark;      // where the next launch writes when it began, on the device; null: nowhere
    mutable bool behind_launch;  // what was last put into the stream of steps is a launch

    CudaWork* work_of(uint32_t variant, uint32_t kind) const;
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
    const uint32_t kept = c.all_logits_rows();
    return kept < c.chunk_tokens ? kept : c.chunk_tokens;
}

// Of the longer variant.
inline uint32_t most_ops(const Program& p) {
    const OpList* variant = p.plan.variant;
    return variant[0].count > variant[1].count ? variant[0].count : variant[1].count;
}

inline CudaWork* CudaDevice::work_of(uint32_t variant, uint32_t kind) const {
    return work + (variant * kStepKinds + kind) * most_ops(*program);
}

// Marks that are not seen yet: one for each dispatch of a step that is enqueued at once and its end, behind as many of
// calls before.
inline uint32_t most_marks(const Program& p) {
    return 2 * (most_ops(p) + 4);
}

// Most tokens of a step whose splits attention goes through apart: a turn of a conversation, behind a long context.
inline uint32_t most_partial_tokens(const PlanConfig& c) {
    return c.chunk_tokens < 64 ? c.chunk_tokens : 64;
}

// Ops that run as one dispatch: what makes an input in 8 bits, products that read it, a gate, or the norm of what one
// completes; each may be missing. Or head norms, if there are any, rotation, append, and attention of few tokens.
struct CudaDispatch {
    uint32_t ops;
    uint32_t products;  // behind the maker of their input, if that is joined; 0: one op of another kind
    bool input_joined;  // the first op makes the input, which the products do for themselves
    bool gated;         // the last op is the gate of what the products compute
    bool normed;        // the last op is the norm of the row that the product completes
    bool appends;       // the last op appends, or
    bool attends;       // is attention, which appends
};

// ---- cuda_planning.cpp ----
// The dispatch that begins with ops[0], of the `left` ops there are, in steps of so many tokens.
CudaDispatch cuda_dispatch(const Op* ops, uint32_t left, uint32_t tokens);
// What products of a joined input do with the row that op.in holds.
cuda::ProductInput joined_input(OpKind kind);
keel_status cuda_configure(PlanConfig* config, const ModelSpec& spec, keel_error* error);
WeightUse cuda_weights(const PlanConfig& config, keel_weights mode, uint32_t weight_type, uint64_t rows, bool lookup);
uint64_t cuda_cost(const PlanConfig& config, Op* op);
bool cuda_runs(const Op& op);
uint32_t cuda_fuse(const Op* ops, uint32_t left, const StepShape& shape);
double cuda_dispatch_us(const Op* ops, uint32_t count);
// A dispatch of `launches` launches, without them.
CudaWork predicted_work(const CudaDevice& d, const Op* ops, uint32_t count, uint32_t launches);
// Microseconds of it in the step under way, by the plan and the positions that attention reads.
double predict_work_us(const CudaDevice& d, const CudaWork& work);

// ---- cuda_ops.cpp ----
void place_table(CudaDevice* d, const Program& program, Arena* arenas);  // null: counts
uint32_t open_table(CudaDevice* d);                                      // gives how many launches it has
// Work items of a dispatch in the step under way: those of its launches, one after the other.
uint32_t work_items(const CudaDevice& d, const CudaWork& work);
// Launches `count` of them from `first` on. In the device's context.
platform::cuda::Result launch_work(const CudaDevice& d, const CudaWork& work, uint32_t first, uint32_t count);

// ---- cuda_cublaslt.cpp ----
// Whether products with matrices of a type are cuBLASLt's, for more than kProductTokens rows.
bool cublas_multiplies(const PlanConfig& config, uint32_t weight_type);
void place_cublas(CudaDevice* d, const Program& program, Arena* arenas);  // null: counts
// Finds it; then chooses algorithms for all shapes of the table's launches, and has run each once. Both where the
// configuration asks for it.
keel_status attach_cublas(CudaDevice* d, keel_error* error);
keel_status open_cublas(CudaDevice* d, uint32_t launches, keel_error* error);
void close_cublas(CudaDevice* d);

// ---- cuda_attention.cpp ----
uint64_t partial_bytes(const Program& p);

// ---- cuda_step.cpp ----
const CudaWork* work_of_step(const CudaDevice& d);
// Launches items of the dispatch whose first op is number `op`, predicted to take so long, with a mark.
platform::cuda::Result launch_marked(CudaDevice* d, const CudaWork& work, uint32_t op, uint32_t first, uint32_t count,
                                     double us);
// Backend::move_rows, put on the stream of copies.
platform::cuda::Result move_rows(const CudaDevice& d, const KvRowMove* moves, uint32_t count, const uint32_t* page_id,
                                 uint32_t session_index, uint32_t shift);
// Rows of logits and hidden rows of the step to where they are kept, with a mark that ends what was launched before.
platform::cuda::Result keep_rows(CudaDevice* d);
// A mark that only ends what was launched before.
platform::cuda::Result mark_end(CudaDevice* d);
// Returns when all that was put into the stream of steps is done: on a stream of the caller's, what Keel put there. In
// the device's context.
platform::cuda::Result wait_for_steps(const CudaDevice& d);
keel_status cuda_begin(Device* device, const Step* step);
keel_status cuda_enqueue(Device* device, Cursor* cursor, StepLimits* limits);
keel_status cuda_poll(Device* device, bool wait, bool* done);
keel_status cuda_drain(Device* device);
uint32_t cuda_times(Device* device, uint32_t index, OpTime* out);

// ---- cuda_graphs.cpp ----
keel_status open_graphs(CudaDevice* d, keel_error* error);
void close_graphs(CudaDevice* d);
// That of the step under way, as a whole with the marks that launch_marked makes; null: there is none.
platform::cuda::GraphExec graph_of_step(const CudaDevice& d);

// ---- cuda_draw.cpp ----
keel_status cuda_draw(Device* device, const DrawRequest& request, int32_t* token);

}  // namespace keel
