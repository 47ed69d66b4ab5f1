// Decode steps as graphs of the driver, where keel_cuda_device.graphs asks for them: captured from the table of
// launches in open, and never changed. What a step is of lies in device memory, so that its launches are the same but
// for three things: the number of tokens, by which there are several graphs; attention's splits, of which a graph has
// those of the longest context, and blocks of splits that nobody sees end at once; and rows of logits, one a token.
// Prefill stays outside, its launches are long, and so do steps that give several tokens to a session or are cut by a
// budget.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {

using namespace platform::cuda;

namespace {

// One token each of so many sessions, as a graph is captured for it.
Step captured_step(const PlanConfig& c, uint32_t variant, uint32_t tokens) {
    Step step = {};
    step.variant = static_cast<keel_variant>(variant);
    step.tokens = step.sessions = step.query_blocks = step.logits_rows = tokens;
    step.longest = c.context_tokens;
    step.decode = true;
    return step;
}

keel_status capture(CudaDevice* d, uint32_t variant, uint32_t tokens, GraphExec* out, keel_error* error) {
    const Driver& driver = d->cuda.driver;
    const Step step = captured_step(d->program->config, variant, tokens);
    const Stream steps = d->stream;
    // On a stream of Keel's own: that of steps may be the caller's.
    d->step = &step;
    d->stream = d->copies;
    d->made = 0;
    d->behind_launch = false;
    Graph graph = nullptr;
    Result result = driver.stream_begin_capture(d->copies, kCaptureThreadLocal);
    const OpList& list = d->program->plan.variant[variant];
    const CudaWork* work = work_of_step(*d);
    for (uint32_t op = 0; op < list.own_count && result == kSuccess; op += work[op].ops)
        result = launch_marked(d, work[op], op, 0, work_items(*d, work[op]), 0);
    if (result == kSuccess) result = keep_rows(d);
    if (result == kSuccess) result = mark_end(d);
    const Result ended = driver.stream_end_capture(d->copies, &graph);
    if (result == kSuccess) result = ended;
    if (result == kSuccess) result = driver.graph_instantiate(out, graph, 0);
    const Result destroyed = graph ? driver.graph_destroy(graph) : kSuccess;
    if (result == kSuccess) result = destroyed;
    if (result == kSuccess) result = driver.graph_upload(*out, d->copies);
    if (result == kSuccess) result = driver.stream_synchronize(d->copies);
    d->step = nullptr;
    d->stream = steps;
    d->made = d->seen = 0;
    d->in_flight_us = 0;
    return cuda_result(result, "cuGraphInstantiate", error);
}

}  // namespace

keel_status open_graphs(CudaDevice* d, keel_error* error) {
    const PlanConfig& c = d->program->config;
    if (!d->options.graphs || partly_offloaded(c)) return KEEL_OK;
    CurrentCuda current(d->cuda);
    if (!current.ok()) return fail(error, KEEL_E_DEVICE, 0, "keel_cuda_device.context", "not a context");
    for (uint32_t variant = 0; variant < 2; ++variant)
        for (uint32_t i = 0; i < kGraphs && d->program->plan.variant[variant].count; ++i)
            if (kGraphTokens[i] <= c.chunk_tokens && kGraphTokens[i] <= c.max_sessions)
                KEEL_TRY(capture(d, variant, kGraphTokens[i], &d->graph[variant][i], error));
    return KEEL_OK;
}

void close_graphs(CudaDevice* d) {
    for (GraphExec* graphs : {d->graph[0], d->graph[1]})
        for (uint32_t i = 0; i < kGraphs; ++i)
            if (graphs[i]) d->cuda.driver.graph_exec_destroy(graphs[i]);
}

GraphExec graph_of_step(const CudaDevice& d) {
    const Step& step = *d.step;
    if (!step.decode || step.logits_rows != step.tokens) return nullptr;
    for (uint32_t i = 0; i < kGraphs; ++i)
        if (kGraphTokens[i] == step.tokens) return d.graph[step.variant][i];
    return nullptr;
}

}  // namespace keel
