#include "sdk/tools/lab/geodesic/trace_tape.h"

#include <string.h>

#include <cmath>

#include "kernels/formats/numeric.h"
#include "sdk/core/hash.h"

namespace keel::geodesic {
namespace {

template <class T>
T load(const unsigned char* from) {
    T value;
    memcpy(&value, from, sizeof value);
    return value;
}

template <class T>
void append(std::vector<unsigned char>& out, T value) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(&value);
    out.insert(out.end(), bytes, bytes + sizeof value);
}

}  // namespace

int32_t TraceTape::position(size_t step) const {
    return load<int32_t>(data + step * trace_step_bytes(header.dim));
}
int32_t TraceTape::token(size_t step) const {
    return load<int32_t>(data + step * trace_step_bytes(header.dim) + 4);
}
float TraceTape::margin(size_t step) const {
    return load<float>(data + (step + 1) * trace_step_bytes(header.dim) - 4);
}
void TraceTape::state(size_t step, float* out) const {
    const unsigned char* from = data + step * trace_step_bytes(header.dim) + 8;
    for (uint32_t i = 0; i < header.dim; ++i) out[i] = kernels::f16_to_f32(load<uint16_t>(from + 2 * size_t{i}));
}

const char* read_trace(std::span<const unsigned char> file, TraceTape* out) {
    if (file.size() < sizeof(TraceHeader)) return "shorter than a header";
    *out = {load<TraceHeader>(file.data()), 0, file.data() + sizeof(TraceHeader)};
    const TraceHeader& header = out->header;
    if (header.magic != kTraceMagic) return "no trace tape";
    if (header.version != kTraceVersion) return "another version";
    if (!header.dim || header.dim > header.width || header.width > kTraceMaxDim) return "dimensions";
    const size_t step_bytes = trace_step_bytes(header.dim), bytes = file.size() - sizeof(TraceHeader);
    if (bytes % step_bytes) return "ends within a step";
    out->steps = bytes / step_bytes;
    for (size_t s = 0; s < out->steps; ++s) {
        if (out->position(s) < 0 || out->token(s) < 0) return "a negative position or token";
        if (!std::isfinite(out->margin(s))) return "a margin that is no number";
        const unsigned char* state = out->data + s * step_bytes + 8;
        for (uint32_t i = 0; i < header.dim; ++i)
            if ((load<uint16_t>(state + 2 * size_t{i}) & 0x7c00) == 0x7c00) return "a state that is no number";
    }
    return nullptr;
}

void append_trace_step(std::vector<unsigned char>& out, int32_t position, int32_t token, std::span<const float> state,
                       float margin) {
    append(out, position);
    append(out, token);
    for (const float x : state) append(out, kernels::f32_to_f16(x));
    append(out, margin);
}

std::vector<float> project_state(std::span<const float> state, uint32_t dim) {
    if (dim == state.size()) return {state.begin(), state.end()};
    std::vector<float> out(dim);
    for (uint32_t r = 0; r < dim; ++r) {
        double sum = 0;
        uint64_t signs = 0;
        for (size_t c = 0; c < state.size(); ++c) {
            if (c % 64 == 0) signs = hash_finish((uint64_t{r} << 32 | c) + 0x9e3779b97f4a7c15);
            sum += signs >> c % 64 & 1 ? state[c] : -state[c];
        }
        out[r] = static_cast<float>(sum / std::sqrt(static_cast<double>(state.size())));
    }
    return out;
}

}  // namespace keel::geodesic
