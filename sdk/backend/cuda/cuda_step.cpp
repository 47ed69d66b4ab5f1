// A step on the device: its arrays go up in one copy, ops are launched in order, rows of logits come back.
#include <string.h>

#include "platform/platform.h"
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using namespace platform::cuda;

constexpr float kLeastPace = 0.01f;  // a clock that stands still is not believed
constexpr uint32_t kLooksPerQuery = 32;

// Writes the step into its block. Returns the bytes that the device needs of it.
uint64_t pack_step(const CudaDevice& d, const Step& step, uint8_t* to) {
    const StepBlock& b = d.block;
    const auto put = [&](uint64_t offset, const auto* from, uint64_t count) {
        memcpy(to + offset, from, count * sizeof *from);
        return offset + count * sizeof *from;
    };
    memset(to + b.counter, 0, static_cast<size_t>(b.token - b.counter));  // all counts
    put(b.token, step.token, step.tokens);
    put(b.position, step.position, step.tokens);
    put(b.slot, step.slot, step.tokens);
    put(b.session, step.session, step.tokens);
    put(b.query_block, step.query_block, step.query_blocks);
    put(b.logits_token, step.logits_token, step.logits_rows);
    put(b.logits_row, step.logits_row, step.logits_rows);
    put(b.session_index, step.session_index, step.sessions);
    put(b.page_first, step.page_first, step.sessions + 1);
    put(b.recent, step.recent, step.sessions);
    put(b.tail_first, step.tail_first, step.sessions);
    const uint64_t end = put(b.page_id, step.page_id, step.page_first[step.sessions]);
    for (uint32_t s = 0; s < step.sessions; ++s)
        if (step.tail_first[s] != kNoNode)
            return put(b.tail_parent, step.tail_parent, uint64_t{step.sessions} * kMaxTreeNodes);
    return end;
}

// How far the device is off its prediction for the dispatch that begins with op `op` of the step's variant.
float* pace_of(const CudaDevice& d, uint32_t op) {
    return d.pace + (d.step->variant * kStepKinds + step_kind(d.step->tokens)) * most_ops(*d.program) + op;
}
// The next launch says when it began: it is of this dispatch, or only ends what was launched before (ops: 0).
void mark_next(CudaDevice* d, uint32_t op, uint32_t ops, double us) {
    const uint32_t entry = d->made++ % most_marks(*d->program);
    d->marked[entry] = {op, ops, us};
    d->mark = d->marks_on_device + entry;
}

double us_between(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? static_cast<double>(to_ns - from_ns) * 1e-3 : 0;
}

// Sees which marks are there: what was launched before them is done, and took until then.
void see_marks(CudaDevice* d) {
    const uint32_t entries = most_marks(*d->program);
    for (++d->looks; d->seen < d->made; ++d->seen, d->looks = 0) {
        const uint64_t now_ns = __atomic_load_n(d->marks + d->seen % entries, __ATOMIC_ACQUIRE);
        if (!now_ns) return;
        d->marks[d->seen % entries] = 0;
        if (d->seen == 0) {
            d->first_ns = now_ns;
        } else if (const CudaMark& done = d->marked[(d->seen - 1) % entries]; done.ops) {
            const double us = us_between(d->last_ns, now_ns);
            d->in_flight_us -= done.us;
            if (d->timed == 0 || d->times[d->timed - 1].op != done.op)
                d->times[d->timed++] = {done.op, done.ops, us_between(d->first_ns, d->last_ns), 0, 0};
            d->times[d->timed - 1].us += us;
            d->times[d->timed - 1].predicted_us += done.us;
        }
        d->last_ns = now_ns;
    }
    d->in_flight_us = 0;  // whatever was lost in additions
}

// Predictions learn from what a step took. Slowly, so that one interruption counts little.
void learn_times(CudaDevice* d) {
    const CudaWork* work = work_of_step(*d);
    for (uint32_t i = 0; i < d->timed; ++i) {
        const OpTime& t = d->times[i];
        float* pace = pace_of(*d, t.op);
        const double now = t.us / predict_work_us(*d, work[t.op]), least = *pace / 4, most = *pace * 4;
        *pace += static_cast<float>(((now < least ? least : now > most ? most : now) - *pace) / 8);
        if (*pace < kLeastPace) *pace = kLeastPace;
    }
    d->learned = true;
}

// Launches a step as its graph, if there is one and it fits into what is left. The marks are those of its launches.
Result launch_graph(CudaDevice* d, double left_us, bool bounded, Cursor* cursor) {
    const GraphExec graph = graph_of_step(*d);
    if (!graph || d->made || cursor->op || cursor->item) return kSuccess;
    const OpList& list = d->program->plan.variant[d->step->variant];
    const CudaWork* work = work_of_step(*d);
    double us = 0;
    for (uint32_t op = 0; op < list.own_count; op += work[op].ops) {
        const double own_us = predict_work_us(*d, work[op]) * static_cast<double>(*pace_of(*d, op));
        d->marked[d->made++] = {op, work[op].ops, own_us};
        us += own_us;
    }
    for (uint32_t i = 0; i < 2; ++i) d->marked[d->made++] = {0, 0, 0};  // kept rows, the end
    if (bounded && us > left_us) {
        d->made = 0;
        return kSuccess;
    }
    d->in_flight_us = us;
    *cursor = {list.own_count, 0};
    return d->cuda.driver.graph_launch(graph, d->stream);
}

// cuda_enqueue but for what comes behind its launches.
keel_status launch_step(CudaDevice* device, Cursor* cursor, StepLimits* limits) {
    CudaDevice& d = *device;
    const OpList& list = d.program->plan.variant[d.step->variant];
    const CudaWork* work = work_of_step(d);
    d.behind_launch = false;
    see_marks(device);
    // What is left in flight when the call returns is predicted to be done by the deadline.
    double left_us = 0;
    if (limits->deadline_ns) {
        const uint64_t now_ns = platform::now_ns();
        left_us = (now_ns < limits->deadline_ns ? static_cast<double>(limits->deadline_ns - now_ns) / 1000 : 0) -
                  d.in_flight_us;
    }
    keel_status status = KEEL_OK;
    bool launched = false;
    if (launch_graph(device, left_us, limits->deadline_ns != 0, cursor) != kSuccess) return KEEL_E_DEVICE;
    if (cursor->op == list.own_count) limits->progressed = true;
    while (cursor->op < list.own_count) {
        const CudaWork& w = work[cursor->op];
        const uint32_t items = work_items(d, w);
        if (limits->progressed || d.seen < d.made) {
            if (limits->cancelled(limits->context))
                status = KEEL_E_CANCELLED;
            else if (limits->deadline_ns && d.made - d.seen > most_ops(*d.program))
                status = KEEL_AGAIN;
            if (status != KEEL_OK) break;
        }
        // As many tiles as fit, and the first one when nothing runs.
        const double us = predict_work_us(d, w) * static_cast<double>(*pace_of(d, cursor->op)),
                     item_us = items ? us / items : 0;
        uint32_t count = items - cursor->item;
        if (count && limits->deadline_ns && item_us * count > left_us) {
            const double tile_items = d.program->config.tile_us / item_us;
            const uint32_t tile = tile_items < 1 ? 1 : tile_items < count ? static_cast<uint32_t>(tile_items) : count;
            const uint32_t tiles = left_us > 0 ? static_cast<uint32_t>(left_us / (item_us * tile)) : 0;
            if (tiles == 0 && (limits->progressed || d.seen < d.made)) status = KEEL_AGAIN;
            if (status != KEEL_OK) break;
            count = tiles ? tiles * tile : tile;
        }
        d.ranges.at(*d.program, *d.step, cursor->op);
        if (launch_marked(device, w, cursor->op, cursor->item, count, item_us * count) != kSuccess)
            return KEEL_E_DEVICE;
        left_us -= item_us * count;
        cursor->item += count;
        if (cursor->item == items) *cursor = {cursor->op + w.ops, 0};
        launched = limits->progressed = true;
    }
    d.ranges.leave();
    d.enqueued = status == KEEL_OK;
    if (launched && d.enqueued && list.own_count == list.count && d.step->logits_rows && keep_rows(device) != kSuccess)
        return KEEL_E_DEVICE;
    if (launched && mark_end(device) != kSuccess) return KEEL_E_DEVICE;  // also behind copies, which make no marks
    return status;
}

}  // namespace

const CudaWork* work_of_step(const CudaDevice& d) {
    return d.work_of(d.step->variant, step_kind(d.step->tokens));
}

Result mark_end(CudaDevice* d) {
    mark_next(d, 0, 0, 0);
    return launch(*d, cuda::kernel_nothing, cuda::NothingArgs{}, launch_shape(cuda::NothingArgs{}));
}

Result keep_rows(CudaDevice* device) {
    mark_next(device, 0, 0, 0);
    const CudaDevice& d = *device;
    const ModelSpec& s = d.program->spec;
    const Buffer& hidden = d.buffer(d.hidden);
    const cuda::KeepRowsArgs args = {{{d.logits(), d.kept_logits(), s.vocabulary, s.vocabulary},
                                      {reinterpret_cast<const float*>(d.row0(d.hidden)), d.kept_hidden(),
                                       hidden.row_bytes / sizeof(float), s.embedding}},
                                     d.step_array<uint32_t>(d.block.logits_row),
                                     d.step->logits_rows};
    return launch(d, cuda::kernel_keep_rows, args, launch_shape(args));
}

Result launch_marked(CudaDevice* d, const CudaWork& work, uint32_t op, uint32_t first, uint32_t count, double us) {
    mark_next(d, op, work.ops, us);
    const Result result = launch_work(*d, work, first, count);
    if (d->mark)
        --d->made;  // no kernel was launched
    else
        d->in_flight_us += us;
    d->mark = nullptr;
    return result;
}

StepBlock step_block(const PlanConfig& c, const ModelSpec& s) {
    StepBlock b = {};
    const auto place = [&](uint64_t count, uint64_t bytes) { return place_in_block(&b.bytes, count * bytes); };
    b.counter = place(1, sizeof(uint32_t));
    b.attention_counts = place(uint64_t{s.layers} * cuda::attention_counts(s.kv_heads), sizeof(uint32_t));
    b.token = place(c.chunk_tokens, sizeof(int32_t));
    b.position = place(c.chunk_tokens, sizeof(uint32_t));
    b.slot = place(c.chunk_tokens, sizeof(uint32_t));
    b.session = place(c.chunk_tokens, sizeof(uint32_t));
    b.query_block = place(c.chunk_tokens, sizeof(QueryBlock));
    b.logits_token = place(c.chunk_tokens, sizeof(uint32_t));
    b.logits_row = place(c.chunk_tokens, sizeof(uint32_t));
    b.session_index = place(c.max_sessions, sizeof(uint32_t));
    b.page_first = place(c.max_sessions + 1, sizeof(uint32_t));
    b.recent = place(c.max_sessions, sizeof(KvRecentRows));
    b.tail_first = place(c.max_sessions, sizeof(uint32_t));
    b.page_id = place(uint64_t{c.max_sessions} * kv_pages_for(c.context_tokens), sizeof(uint32_t));
    b.tail_parent = place(uint64_t{c.max_sessions} * kMaxTreeNodes, sizeof(uint32_t));
    return b;
}

// Behind Keel's work on the caller's stream there may be work that waits for this very thread.
Result wait_for_steps(const CudaDevice& d) {
    const Driver& driver = d.cuda.driver;
    if (!d.options.stream) return driver.stream_synchronize(d.stream);
    return d.computed ? driver.event_synchronize(d.computed) : kSuccess;
}

keel_status cuda_begin(Device* device, const Step* step) {
    CudaDevice& d = *cuda_device(device);
    d.step = step;
    d.in_flight_us = 0;
    d.ranges.begin_step(*d.program, *step);
    for (; d.seen < d.made; ++d.seen) d.marks[d.seen % most_marks(*d.program)] = 0;  // of a step that was given up
    d.made = d.seen = d.timed = d.looks = 0;
    d.enqueued = d.learned = false;
    uint8_t* staging = d.region[KEEL_REGION_PINNED] + d.at.staging;
    const uint64_t bytes = pack_step(d, *step, staging);
    CurrentCuda current(d.cuda);
    if (!current.ok()) return KEEL_E_DEVICE;
    const Driver& driver = d.cuda.driver;
    if (d.options.wait_event && driver.stream_wait_event(d.stream, d.options.wait_event, 0) != kSuccess)
        return KEEL_E_DEVICE;
    Result sent = driver.copy_to_device(reinterpret_cast<DevicePointer>(d.scratch(d.at.step)), staging,
                                        static_cast<size_t>(bytes), d.stream);
    if (sent == kSuccess && d.options.stream) sent = driver.event_record(d.computed, d.stream);
    return sent == kSuccess ? KEEL_OK : KEEL_E_DEVICE;
}

keel_status cuda_enqueue(Device* device, Cursor* cursor, StepLimits* limits) {
    CudaDevice& d = *cuda_device(device);
    CurrentCuda current(d.cuda);
    if (!current.ok()) return KEEL_E_DEVICE;
    const Driver& driver = d.cuda.driver;
    const Cursor before = *cursor;
    const keel_status status = launch_step(&d, cursor, limits);
    // Also behind launches of which one was refused: who closes the engine waits for the others. Where nothing was
    // launched it stays in front of what the caller put behind.
    const bool launched = cursor->op != before.op || cursor->item != before.item || status == KEEL_E_DEVICE;
    if (launched && driver.event_record(d.computed, d.stream) != kSuccess) return KEEL_E_DEVICE;
    if (status == KEEL_E_DEVICE) return status;
    if (d.enqueued && d.options.done_event && driver.event_record(d.options.done_event, d.stream) != kSuccess)
        return KEEL_E_DEVICE;
    // Windows sends what was launched to the device when somebody asks for it.
    const Result result = driver.event_query(d.computed);
    return result == kSuccess || result == kNotReady ? status : KEEL_E_DEVICE;
}

keel_status cuda_poll(Device* device, bool wait, bool* done) {
    CudaDevice& d = *cuda_device(device);
    see_marks(&d);
    // A device that is lost writes no mark: now and then the driver is asked.
    if (d.seen < d.made && (wait || d.looks >= kLooksPerQuery)) {
        d.looks = 0;
        CurrentCuda current(d.cuda);
        if (!current.ok()) return KEEL_E_DEVICE;
        const Driver& driver = d.cuda.driver;
        const Result result = wait ? driver.event_synchronize(d.computed) : driver.event_query(d.computed);
        if (result != kSuccess && result != kNotReady) return KEEL_E_DEVICE;
        see_marks(&d);
        if (result == kSuccess && d.seen < d.made)
            return KEEL_E_DEVICE;  // pinned memory that the device does not write
    }
    *done = d.seen == d.made;
    if (*done && d.enqueued && !d.learned) {
        learn_times(&d);
        d.ranges.end_step();
    }
    return KEEL_OK;
}

uint32_t cuda_times(Device* device, uint32_t index, OpTime* out) {
    const CudaDevice& d = *cuda_device(device);
    if (!d.learned) return 0;
    if (index < d.timed) *out = d.times[index];
    return d.timed;
}

keel_status cuda_drain(Device* device) {
    CudaDevice& d = *cuda_device(device);
    d.ranges.end_step();
    CurrentCuda current(d.cuda);
    return current.ok() && wait_for_steps(d) == kSuccess ? KEEL_OK : KEEL_E_DEVICE;
}

}  // namespace keel
