// Row operations (NUMERICS section 4), the reference for every other set.
#include "kernels/cpu/families.h"
#include "kernels/cpu/rowops/exp_masses.h"
#include "kernels/cpu/rowops/race.h"
#include "kernels/formats/numeric.h"

namespace keel::kernels {

static float dot(const float* a, const float* b, uint32_t n) {
    float lanes[16] = {};
    for (uint32_t i = 0; i < n; ++i) lanes[i % 16] = fma_f32(a[i], b[i], lanes[i % 16]);
    return tree16(lanes);
}

void rms_norm_scalar(const float* x, const float* w, uint32_t n, float eps, float* y) {
    const float r = 1.0f / __builtin_sqrtf(dot(x, x, n) / static_cast<float>(n) + eps);
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

void mix_scalar(const float* const* x, const float* c, uint32_t terms, uint32_t n, float* y) {
    for (uint32_t k = 0; k < n; ++k) {
        float sum = c[k] * x[0][k];
        for (uint32_t i = 1; i < terms; ++i) sum = fma_f32(c[i * n + k], x[i][k], sum);
        y[k] = sum;
    }
}

void leaky_square_scalar(const float* x, float leak, uint32_t n, float* y) {
    for (uint32_t i = 0; i < n; ++i) y[i] = leaky_square_f32(x[i], leak);
}

void gate_rows_scalar(float* x, const float* gate, uint32_t rows, uint32_t n) {
    for (uint32_t i = 0; i < rows; ++i) scale_scalar(x + i * n, sigmoid_f32(gate[i]), n);
}

void exclude_scalar(float* x, const float* v, uint32_t n) {
    const float part = part_along_f32(dot(x, v, n), dot(v, v, n));
    for (uint32_t i = 0; i < n; ++i) x[i] = fma_f32(-part, v[i], x[i]);
}

void exp_masses_scalar(const MassArgs& args) {
    exp_masses_f64(args);
}

void race_scalar(const RaceArgs& args) {
    race_f64(args, race_words);
}

}  // namespace keel::kernels
