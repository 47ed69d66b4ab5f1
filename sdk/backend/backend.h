// The seam between plan and engine and the machine that computes: one table of functions per backend. Plan and engine
// know nothing else of a backend; a backend knows the plan (sdk/plan) and nothing of engines and sessions.
//
// A step's way:
//
//     begin(step) -> enqueue -> KEEL_AGAIN -> enqueue -> ... -> KEEL_OK -> poll -> not yet -> poll -> done
//
// A backend that computes in the calling thread does so in enqueue, and poll says "done" at once. One that computes
// elsewhere records work in enqueue, and its results are there when poll says "done". Either way the host owns the
// arrays of the step, and no page, row of logits or hidden row of it changes hands before "done" or drain().
//
// Threads: begin, enqueue, poll and drain are called by one thread at a time. upload, copy and download come from any
// thread, for pages and f16 windows that the step in flight does not use; they take effect in the order of the calls,
// before what is enqueued later. What fails with anything but the statuses named poisons the engine.
#pragma once
#include "keel/keel.h"
#include "sdk/backend/activation.h"

namespace keel {

class Arena;
struct DrawRequest;
struct ModelSpec;
struct Op;
struct PlanConfig;
struct Program;
struct Step;
struct StepShape;

// What a backend keeps of one engine. Each derives its own.
struct Device {};

// How far a step has been enqueued: the next op of its variant's list, and the next of its work items.
struct Cursor {
    uint32_t op, item;
};

// When enqueue stops before the end of the step.
struct StepLimits {
    uint64_t deadline_ns;  // on platform::now_ns(); 0: none. Work predicted to end later is not begun
    bool progressed;       // something was enqueued under these limits; until then nothing stops it
    bool (*cancelled)(const void* context);
    const void* context;
};

// How the backend has matrices of a shape and weight type.
struct WeightUse {
    bool usable;            // there are kernels for them
    Activation x;           // the layout in which it reads its activations
    bool repacked;          // rows in groups of 16, in an order of the backend's own, else plain: as in the file
    keel_repack_skip skip;  // why plain, where the configuration would have it repacked
    keel_fp32_reason fp32;  // of a product
};

// Most bytes of plain rows that upload_rows is called with.
constexpr uint64_t kUploadRowsBytes = 64 * 1024;

// A row of K and V that goes from one slot of a session to another one.
struct KvRowMove {
    uint32_t to, from;
};

// What one dispatch of a step took, in microseconds.
struct OpTime {
    uint32_t op, ops;     // the first of its variant's list, and how many ran together
    double begin_us, us;  // the former since the step's first one began
    double predicted_us;  // when it was enqueued
};

struct Backend {
    // ---- planning: no device yet ----
    bool device_numerics;  // it has KEEL_NUMERICS_DEVICE
    // Fills in what the backend chooses itself of a configuration: for a CPU its kernel set, for others how many layers
    // they compute. KEEL_E_UNSUPPORTED.
    keel_status (*configure)(PlanConfig* config, const ModelSpec& spec, keel_error* error);
    // A matrix of so many rows. `mode`: config.weights, or KEEL_WEIGHTS_REPACK for one that is interleaved in its file.
    // `lookup`: only single rows of it are read.
    WeightUse (*weights)(const PlanConfig& config, keel_weights mode, uint32_t weight_type, uint64_t rows, bool lookup);
    // Fills the predicted times of an op from its bytes and multiply-adds, and returns the working memory of each
    // thread that runs it, in bytes.
    uint64_t (*cost)(const PlanConfig& config, Op* op);
    // Whether it computes an op, whose shape and weights are known. Null: every op.
    bool (*runs)(const Op& op);
    // How many of the `left` ops from `ops` on run as one dispatch in steps of this shape; at least 1.
    uint32_t (*fuse)(const Op* ops, uint32_t left, const StepShape& shape);
    // Predicted microseconds of a dispatch of one token that none of its ops has: of launches. Null: none.
    double (*dispatch_us)(const Op* ops, uint32_t count);

    // ---- an engine's device ----
    // Places a Device in the persistent region, and what it needs before weights come; null in count mode.
    Device* (*place)(const PlanConfig& config, const keel_hooks& hooks, Arena* arenas);
    // The first call on a placed device, with the addresses of all regions: upload works from here on, and close has to
    // follow, whatever fails. KEEL_E_DEVICE, KEEL_E_UNSUPPORTED.
    keel_status (*attach)(Device* device, const PlanConfig& config, uint8_t* const* region, keel_error* error);
    // Counts, and with a device places, what the backend keeps in the regions beside the plan's own objects. All of
    // those have been counted or placed in `program`.
    void (*place_copies)(Device* device, const Program& program, Arena* arenas);
    // Everything is placed and loaded. `program` outlives the device. KEEL_E_PLATFORM, KEEL_E_DEVICE.
    keel_status (*open)(Device* device, const Program* program, keel_error* error);
    void (*close)(Device* device);
    // Runs task(context, i) for i in 0..tasks-1, at most config.threads, on the host's threads, and returns when all
    // are done; from attach on. Null: the backend has none.
    void (*parallel)(Device* device, uint32_t tasks, void (*task)(void* context, uint32_t index), void* context);

    // ---- memory of a region, by byte offset ----
    keel_status (*upload)(Device* device, keel_region_kind region, uint64_t to, const void* from, uint64_t bytes);
    // Plain rows of k elements into DEVICE_WEIGHTS, in the backend's order of repacked ones: a piece of a matrix that
    // weights() has repacked, of whole groups of 16 rows or its last rows. The group of the last rows is filled up.
    // Null without memory of the backend's own.
    keel_status (*upload_rows)(Device* device, uint64_t to, uint32_t weight_type, const void* plain, uint32_t rows,
                               uint32_t k);
    keel_status (*copy)(Device* device, keel_region_kind region, uint64_t to, uint64_t from, uint64_t bytes);
    keel_status (*download)(Device* device, void* to, keel_region_kind region, uint64_t from, uint64_t bytes);
    // KV rows of a session, one after the other, in the layers whose KV lies in DEVICE_KV: what copies of each plane
    // would do, at once. page_id: of the session's pages; session_index: whose f16 window, shift: KvF16Window's. Null
    // without memory of the backend's own.
    keel_status (*move_rows)(Device* device, const KvRowMove* moves, uint32_t count, const uint32_t* page_id,
                             uint32_t session_index, uint32_t shift);

    // ---- running a step ----
    // The step that enqueue will be called for, from {0, 0} on. Nothing is in flight.
    keel_status (*begin)(Device* device, const Step* step);
    // Enqueues work from `cursor` on and moves it. KEEL_OK: the whole step is enqueued. KEEL_AGAIN: the deadline would
    // be passed, by this work or by what is in flight. KEEL_E_CANCELLED: limits->cancelled says so.
    keel_status (*enqueue)(Device* device, Cursor* cursor, StepLimits* limits);
    // *done: all that was enqueued has been computed. Waits for that only where the caller allows it with `wait`, and
    // need not then.
    keel_status (*poll)(Device* device, bool wait, bool* done);
    // Returns when nothing is in flight; what has not begun may be dropped. The step is over.
    keel_status (*drain)(Device* device);
    // Null: the host draws. Else the backend keeps rows of logits and hidden states, by their rows of Program::logits,
    // at Program::kept_logits and kept_hidden, and the host downloads them when somebody asks. Draws a token of such a
    // row and waits for it; any thread, with a step of other rows in flight or none. KEEL_E_NUMERIC as sampler_draw;
    // KEEL_E_BUSY: another thread draws, so that the host has to.
    keel_status (*draw)(Device* device, const DrawRequest& request, int32_t* token);
    // How many dispatches of the newest step that poll said was done were timed, and where there is such a one, what
    // dispatch number `index` of them took. Program::time_ops asks for them. Null: there are no times.
    uint32_t (*times)(Device* device, uint32_t index, OpTime* out);
};

// That of a configuration that names none: the CPU's.
const Backend* default_backend();

}  // namespace keel

// What keel_config.backend points to.
struct keel_backend : keel::Backend {};
