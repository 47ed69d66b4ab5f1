// Ranges for profilers: NVTX 3, domain "keel", where Keel is built with KEEL_NVTX, else nothing. An engine from open to
// close; a step from begin until it is done; within a call of enqueue a stage (what stands before the layers, the
// layers, what stands behind them), and in the layers each of them. The payload is bytes: of the engine those of its
// weights, else those that are moved.
#pragma once
#include "sdk/plan/program.h"
#include "sdk/plan/step.h"

namespace keel {

#if defined(KEEL_NVTX)
struct CudaRanges {
    void* domain;
    uint64_t engine, step;  // ranges that are open; 0: none
    int32_t layer;          // of the open range of this call
    bool stage_open, layer_open;

    // Loads what a profiler has injected, so that no step does.
    void open(const Program& program);
    void close();
    void begin_step(const Program& program, const Step& step);
    void end_step();
    // What is enqueued next begins with op number `op`.
    void at(const Program& program, const Step& step, uint32_t op);
    void leave();  // stage and layer
};
#else
struct CudaRanges {
    void open(const Program&) {}
    void close() {}
    void begin_step(const Program&, const Step&) {}
    void end_step() {}
    void at(const Program&, const Step&, uint32_t) {}
    void leave() {}
};
#endif

}  // namespace keel
