// A tape of states: what a model had computed at each step of a text, for building and measuring record stores.
//
//     TraceHeader, then steps of 12 + 2 dim bytes, little-endian, until the end of the file:
//     i32 position | i32 token | f16[dim] state | f32 margin
//
// The state is what the model has after computing `token` at `position`; margin is the distance between its two largest
// logits. A step whose position does not follow the one before begins another text. Where dim is the model's width the
// state is its own; below, a projection that only depends on both (project_state), so that tapes can be compared.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <span>
#include <vector>

namespace keel::geodesic {

constexpr uint64_t kTraceMagic = 0x45434152544c454b;  // "KELTRACE"
constexpr uint32_t kTraceVersion = 1, kTraceMaxDim = 16384;

struct TraceHeader {
    uint64_t magic = kTraceMagic;
    uint32_t version = kTraceVersion;
    uint32_t dim = 0;
    uint32_t layer = 0;           // layers computed before the state: all of them, and the output norm
    uint32_t width = 0;           // of the model's states
    uint64_t fingerprint = 0;     // keel_model_info's
    uint64_t tokenizer_hash = 0;  // keel_stats.vocabulary_hash
};

struct TraceTape {
    TraceHeader header;
    size_t steps = 0;
    const unsigned char* data = nullptr;  // the first step

    int32_t position(size_t step) const;
    int32_t token(size_t step) const;
    float margin(size_t step) const;
    void state(size_t step, float* out) const;  // [dim]
    // Whether the step after `step` is of the same text.
    bool goes_on(size_t step) const { return step + 1 < steps && position(step + 1) - 1 == position(step); }
};

constexpr size_t trace_step_bytes(uint32_t dim) {
    return 12 + 2 * size_t{dim};
}

// A view of a file's bytes, which must outlive it. Null, or why they are no tape: magic, version, dimensions, a part of
// a step at the end, a negative position or token, a state or margin that is no finite number.
const char* read_trace(std::span<const unsigned char> file, TraceTape* out);

// The bytes of one step behind `out`. state: [dim]
void append_trace_step(std::vector<unsigned char>& out, int32_t position, int32_t token, std::span<const float> state,
                       float margin);

// state [width] to [dim] by a matrix of signs, entry (r, c) by a hash of both, over sqrt(width): lengths and distances
// keep their ratios up to about 1 / sqrt(dim) (Achlioptas, 2003). dim == width: the state itself.
std::vector<float> project_state(std::span<const float> state, uint32_t dim);

}  // namespace keel::geodesic
