// Row operations (NUMERICS section 4), the reference for every other set.
#include "kernels/cpu/families.h"
#include "kernels/cpu/rowops/exp_masses.h"
#include "kernels/cpu/rowops/race.h"
#include "kernels/formats/numeric.h"

namespace keel::kernels {

void rms_norm_scalar(const float* x, const float* w, uint32_t n, float eps, float* y) {
    float lanes[16] = {};
    for (uint32_t i = 0; i < n; ++i) lanes[i % 16] = fma_f32(x[i], x[i], lanes[i % 16]);
    const float r = 1.0f / __builtin_sqrtf(tree16(lanes) / static_cast<float>(n) + eps);
    for (uint32_t i = 0; i < n; ++i) y[i] = (x[i] * r) * w[i];
}

void rope_table_scalar(const double* frequency, uint32_t pairs, uint32_t position, float factor, float* cos_sin) {
    rope_table_f64(frequency, pairs, position, factor, cos_sin);
}

void rope_scalar(float* x, uint32_t pairs, const float* cos_sin, bool neox) {
    const uint32_t step = neox ? 1 : 2, partner = neox ? pairs : 1;
    for (uint32_t i = 0; i < pairs; ++i) {
        float* p = x + i * step;
        const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], x0 = p[0], x1 = p[partner];
        p[0] = x0 * c - x1 * s;
        p[partner] = x0 * s + x1 * c;
    }
}

void gate_silu_scalar(const float* gate, const float* up, uint32_t n, float* y) {
    for (uint32_t i = 0; i < n; ++i) y[i] = silu_gate_f32(gate[i], up[i]);
}

void gate_gelu_scalar(const float* gate, const float* up, uint32_t n, float* y) {
    for (uint32_t i = 0; i < n; ++i) y[i] = gelu_gate_f32(gate[i], up[i]);
}

void add_scalar(float* x, const float* y, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) x[i] = x[i] + y[i];
}

void scale_scalar(float* x, float factor, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) x[i] = x[i] * factor;
}

void softcap_scalar(float* x, float cap, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) x[i] = softcap_f32(x[i], cap);
}

void exp_masses_scalar(const MassArgs& args) {
    exp_masses_f64(args);
}

void race_scalar(const RaceArgs& args) {
    race_f64(args, race_words);
}

}  // namespace keel::kernels
