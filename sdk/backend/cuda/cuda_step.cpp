// A step on the device: its arrays go up in one copy, ops are launched in order, rows of logits come back.
#include <string.h>

#include "platform/platform.h"
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using namespace platform::cuda;

constexpr float kLeastPace = 0.01f;  // a clock that stands still is not believed

// Writes the step into its block. Returns the bytes that the device needs of it.
uint64_t pack_step(const CudaDevice& d, const Step& step, uint8_t* to) {
    const StepBlock& b = d.block;
    const auto put = [&](uint64_t offset, const auto* from, uint64_t count) {
        memcpy(to + offset, from, count * sizeof *from);
        return offset + count * sizeof *from;
    };
    put(b.token, step.token, step.tokens);
    put(b.position, step.position, step.tokens);
    put(b.slot, step.slot, step.tokens);
    put(b.session, step.session, step.tokens);
    put(b.query_block, step.query_block, step.query_blocks);
    put(b.logits_token, step.logits_token, step.logits_rows);
    put(b.session_index, step.session_index, step.sessions);
    put(b.page_first, step.page_first, step.sessions + 1);
    put(b.tail_first, step.tail_first, step.sessions);
    const uint64_t end = put(b.page_id, step.page_id, step.page_first[step.sessions]);
    for (uint32_t s = 0; s < step.sessions; ++s)
        if (step.tail_first[s] != kNoNode)
            return put(b.tail_parent, step.tail_parent, uint64_t{step.sessions} * kMaxTreeNodes);
    return end;
}

double predict_ops_us(const CudaDevice& d, const Op* ops, uint32_t count) {
    double us = 0;
    for (uint32_t i = 0; i < count; ++i) us += cuda_predict_us(d, ops[i]);
    return us;
}

// How far the device is off its prediction for the dispatch that begins with op `op` of the step's variant.
float* pace_of(const CudaDevice& d, uint32_t op) {
    const uint32_t kind = d.step->variant * 2 + (d.step->tokens > kQueryBlockTokens);
    return d.pace + kind * most_ops(*d.program) + op;
}

// The next launch says when it began: it is the first of these ops, or with 0 a mark behind others.
void mark_next(CudaDevice* d, uint32_t op, uint32_t ops, double us) {
    d->mark = reinterpret_cast<uint64_t*>(d->scratch(d->at.marks)) + d->timed;
    d->times[d->timed++] = {op, ops, 0, 0, us};
}

// Launches a dispatch, whose first op is number `index`, with a mark.
Result launch_timed(CudaDevice* d, const Op* ops, const CudaDispatch& dispatch, uint32_t index, double us) {
    mark_next(d, index, dispatch.ops, us);
    const Result result = launch_dispatch(*d, ops, dispatch);
    if (d->mark) --d->timed;  // there was nothing to launch
    d->mark = nullptr;
    return result;
}

// The marks of a step that is done become times, and predictions learn from them. Slowly, so that one interruption
// counts little.
void learn_times(CudaDevice* d) {
    const uint64_t* began = reinterpret_cast<const uint64_t*>(d->region[KEEL_REGION_PINNED] + d->at.times);
    const auto us_between = [](uint64_t from, uint64_t to) {
        return to > from ? static_cast<double>(to - from) * 1e-3 : 0;
    };
    const OpList& list = d->program->plan.variant[d->step->variant];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < d->timed; ++i) {
        OpTime t = d->times[i];
        if (!t.ops) continue;
        t.begin_us = us_between(began[0], began[i]);
        t.us = us_between(began[i], began[i + 1]);  // the last one is a mark
        float* pace = pace_of(*d, t.op);
        const double now = t.us / predict_ops_us(*d, list.ops + t.op, t.ops), least = *pace / 4, most = *pace * 4;
        *pace += static_cast<float>(((now < least ? least : now > most ? most : now) - *pace) / 8);
        if (*pace < kLeastPace) *pace = kLeastPace;
        d->times[kept++] = t;
    }
    d->timed = kept;
    d->learned = true;
}

// When launches began.
Result fetch_times(const CudaDevice& d) {
    return d.cuda.driver.copy_to_host(d.region[KEEL_REGION_PINNED] + d.at.times,
                                      reinterpret_cast<DevicePointer>(d.scratch(d.at.marks)),
                                      d.timed * sizeof(uint64_t), d.stream);
}

// Rows of logits and their hidden rows to where they are kept, in runs of rows that follow one another.
Result keep_rows(const CudaDevice& d) {
    const Step& step = *d.step;
    const Program& p = *d.program;
    const Driver& driver = d.cuda.driver;
    for (uint32_t row = 0, rows; row < step.logits_rows; row += rows) {
        for (rows = 1; row + rows < step.logits_rows && step.logits_row[row + rows] == step.logits_row[row] + rows;)
            ++rows;
        const uint64_t to = step.logits_row[row], vocabulary = p.spec.vocabulary, embedding = p.spec.embedding;
        const auto copy = [&](float* kept, const void* from, uint64_t floats) {
            return driver.copy_on_device(reinterpret_cast<DevicePointer>(kept), reinterpret_cast<DevicePointer>(from),
                                         floats * sizeof(float), d.stream);
        };
        Result result = copy(d.kept_logits() + to * vocabulary, d.logits() + row * vocabulary, rows * vocabulary);
        const Buffer& buffer = d.buffer(d.hidden);
        for (uint32_t i = 0; i < rows && result == kSuccess; ++i)
            result = copy(d.kept_hidden() + (to + i) * embedding, d.row0(d.hidden) + (row + i) * buffer.row_bytes,
                          embedding);
        if (result != kSuccess) return result;
    }
    return kSuccess;
}

}  // namespace

StepBlock step_block(const PlanConfig& c) {
    StepBlock b = {};
    const auto place = [&](uint64_t count, uint64_t bytes) { return place_in_block(&b.bytes, count * bytes); };
    b.token = place(c.chunk_tokens, sizeof(int32_t));
    b.position = place(c.chunk_tokens, sizeof(uint32_t));
    b.slot = place(c.chunk_tokens, sizeof(uint32_t));
    b.session = place(c.chunk_tokens, sizeof(uint32_t));
    b.query_block = place(c.chunk_tokens, sizeof(QueryBlock));
    b.logits_token = place(c.chunk_tokens, sizeof(uint32_t));
    b.session_index = place(c.max_sessions, sizeof(uint32_t));
    b.page_first = place(c.max_sessions + 1, sizeof(uint32_t));
    b.tail_first = place(c.max_sessions, sizeof(uint32_t));
    b.page_id = place(uint64_t{c.max_sessions} * kv_pages_for(c.context_tokens), sizeof(uint32_t));
    b.tail_parent = place(uint64_t{c.max_sessions} * kMaxTreeNodes, sizeof(uint32_t));
    return b;
}

keel_status cuda_begin(Device* device, const Step* step) {
    CudaDevice& d = *cuda_device(device);
    d.step = step;
    d.in_flight_us = 0;
    d.ranges.begin_step(*d.program, *step);
    d.timed = 0;
    d.enqueued = d.learned = false;
    uint8_t* staging = d.region[KEEL_REGION_PINNED] + d.at.staging;
    const uint64_t bytes = pack_step(d, *step, staging);
    CurrentCuda current(d.cuda);
    if (!current.ok()) return KEEL_E_DEVICE;
    const Driver& driver = d.cuda.driver;
    if (d.options.wait_event && driver.stream_wait_event(d.stream, d.options.wait_event, 0) != kSuccess)
        return KEEL_E_DEVICE;
    const Result sent = driver.copy_to_device(reinterpret_cast<DevicePointer>(d.scratch(d.at.step)), staging,
                                              static_cast<size_t>(bytes), d.stream);
    return sent == kSuccess ? KEEL_OK : KEEL_E_DEVICE;
}

keel_status cuda_enqueue(Device* device, Cursor* cursor, StepLimits* limits) {
    CudaDevice& d = *cuda_device(device);
    CurrentCuda current(d.cuda);
    if (!current.ok()) return KEEL_E_DEVICE;
    const Driver& driver = d.cuda.driver;
    const OpList& list = d.program->plan.variant[d.step->variant];
    if (d.in_flight_us > 0) {
        const Result result = driver.event_query(d.computed);
        if (result != kSuccess && result != kNotReady) return KEEL_E_DEVICE;
        if (result == kSuccess) d.in_flight_us = 0;
    }
    // What is left in flight when the call returns is predicted to be done by the deadline.
    double left_us = 0;
    if (limits->deadline_ns) {
        const uint64_t now_ns = platform::now_ns();
        left_us = (now_ns < limits->deadline_ns ? static_cast<double>(limits->deadline_ns - now_ns) / 1000 : 0) -
                  d.in_flight_us;
    }
    keel_status status = KEEL_OK;
    while (cursor->op < list.own_count) {
        const Op* ops = list.ops + cursor->op;
        const CudaDispatch dispatch = cuda_dispatch(ops, list.own_count - cursor->op, d.step->tokens);
        const double us = predict_ops_us(d, ops, dispatch.ops) * static_cast<double>(*pace_of(d, cursor->op));
        if (limits->progressed) {
            if (limits->cancelled(limits->context)) status = KEEL_E_CANCELLED;
            if (status == KEEL_OK && limits->deadline_ns && us > left_us) status = KEEL_AGAIN;
            if (status != KEEL_OK) break;
        }
        d.ranges.at(*d.program, *d.step, cursor->op);
        if (launch_timed(&d, ops, dispatch, cursor->op, us) != kSuccess) return KEEL_E_DEVICE;
        cursor->op += dispatch.ops;
        d.in_flight_us += us;
        left_us -= us;
        limits->progressed = true;
    }
    d.ranges.leave();
    if (d.timed && d.times[d.timed - 1].ops) {
        mark_next(&d, 0, 0, 0);
        if (launch(d, cuda::kernel_nothing, cuda::NothingArgs{}) != kSuccess) return KEEL_E_DEVICE;
    }
    if (status == KEEL_OK && fetch_times(d) != kSuccess) return KEEL_E_DEVICE;
    d.enqueued = status == KEEL_OK;
    if (status == KEEL_OK && list.own_count == list.count && keep_rows(d) != kSuccess) return KEEL_E_DEVICE;
    if (driver.event_record(d.computed, d.stream) != kSuccess) return KEEL_E_DEVICE;
    if (status == KEEL_OK && d.options.done_event && driver.event_record(d.options.done_event, d.stream) != kSuccess)
        return KEEL_E_DEVICE;
    return status;
}

keel_status cuda_poll(Device* device, bool* done) {
    CudaDevice& d = *cuda_device(device);
    CurrentCuda current(d.cuda);
    if (!current.ok()) return KEEL_E_DEVICE;
    const Result result = d.cuda.driver.event_query(d.computed);
    *done = result == kSuccess;
    if (*done && d.enqueued && !d.learned) {
        learn_times(&d);
        d.ranges.end_step();
    }
    return result == kSuccess || result == kNotReady ? KEEL_OK : KEEL_E_DEVICE;
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
    return current.ok() && d.cuda.driver.stream_synchronize(d.stream) == kSuccess ? KEEL_OK : KEEL_E_DEVICE;
}

}  // namespace keel
