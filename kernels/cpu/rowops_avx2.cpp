// Row operations (NUMERICS section 4), eight lanes at a time; the elements behind the last eight go through the scalar
// forms.
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/vector_avx2.h"
#if defined(__AVX2__)

namespace keel::kernels {

void rms_norm_avx2(const float* x, const float* w, uint32_t n, float eps, float* y) {
    __m256 lo = _mm256_setzero_ps(), hi = lo;
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        lo = _mm256_fmadd_ps(a, a, lo);
        hi = _mm256_fmadd_ps(b, b, hi);
    }
    alignas(32) float lanes[16];
    _mm256_store_ps(lanes, lo);
    _mm256_store_ps(lanes + 8, hi);
    for (; i < n; ++i) lanes[i % 16] = fma_f32(x[i], x[i], lanes[i % 16]);
    const float r = 1.0f / __builtin_sqrtf(tree16(lanes) / static_cast<float>(n) + eps);
    const __m256 rs = _mm256_set1_ps(r);
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), rs), _mm256_loadu_ps(w + i)));
    for (; i < n; ++i) y[i] = (x[i] * r) * w[i];
}

void rope_avx2(float* x, uint32_t pairs, const float* cos_sin, bool neox) {
    uint32_t i = 0;
    if (!neox) {
        for (; i + 4 <= pairs; i += 4) {
            const __m256 v = _mm256_loadu_ps(x + 2 * i), cs = _mm256_loadu_ps(cos_sin + 2 * i);
            const __m256 vc = _mm256_mul_ps(v, _mm256_moveldup_ps(cs));
            const __m256 vs = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(cs));
            _mm256_storeu_ps(x + 2 * i, _mm256_addsub_ps(vc, vs));
        }
    } else {
        for (; i + 8 <= pairs; i += 8) {
            const __m256 a = _mm256_loadu_ps(cos_sin + 2 * i), b = _mm256_loadu_ps(cos_sin + 2 * i + 8);
            const auto in_order = [](__m256 v) {
                return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
            };
            const __m256 c = in_order(_mm256_shuffle_ps(a, b, 0x88)), s = in_order(_mm256_shuffle_ps(a, b, 0xdd));
            const __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + i + pairs);
            _mm256_storeu_ps(x + i, _mm256_sub_ps(_mm256_mul_ps(x0, c), _mm256_mul_ps(x1, s)));
            _mm256_storeu_ps(x + i + pairs, _mm256_add_ps(_mm256_mul_ps(x0, s), _mm256_mul_ps(x1, c)));
        }
    }
    const uint32_t step = neox ? 1 : 2, partner = neox ? pairs : 1;
    for (; i < pairs; ++i) {
        float* p = x + i * step;
        const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], x0 = p[0], x1 = p[partner];
        p[0] = x0 * c - x1 * s;
        p[partner] = x0 * s + x1 * c;
    }
}

void gate_silu_avx2(const float* gate, const float* up, uint32_t n, float* y) {
    const __m256 one = _mm256_set1_ps(1.0f), minus = _mm256_set1_ps(-0.0f);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 g = _mm256_loadu_ps(gate + i);
        const __m256 e = exp_avx2(_mm256_xor_ps(g, minus));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), _mm256_loadu_ps(up + i)));
    }
    for (; i < n; ++i) y[i] = silu_gate_f32(gate[i], up[i]);
}

void gate_gelu_avx2(const float* gate, const float* up, uint32_t n, float* y) {
    const __m256 one = _mm256_set1_ps(1.0f), half = _mm256_set1_ps(0.5f);
    const __m256 cubic = _mm256_set1_ps(kGeluCubic), outer = _mm256_set1_ps(kGeluScale);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 g = _mm256_loadu_ps(gate + i);
        const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(cubic, _mm256_mul_ps(g, g)), g);
        const __m256 t = tanh_avx2(_mm256_mul_ps(outer, _mm256_add_ps(g, cube)));
        const __m256 gelu = _mm256_mul_ps(_mm256_mul_ps(half, g), _mm256_add_ps(one, t));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(gelu, _mm256_loadu_ps(up + i)));
    }
    for (; i < n; ++i) y[i] = gelu_gate_f32(gate[i], up[i]);
}

void add_avx2(float* x, const float* y, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; ++i) x[i] = x[i] + y[i];
}

void scale_avx2(float* x, float factor, uint32_t n) {
    const __m256 f = _mm256_set1_ps(factor);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), f));
    for (; i < n; ++i) x[i] = x[i] * factor;
}

void softcap_avx2(float* x, float cap, uint32_t n) {
    const __m256 c = _mm256_set1_ps(cap);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(c, tanh_avx2(_mm256_div_ps(_mm256_loadu_ps(x + i), c))));
    for (; i < n; ++i) x[i] = softcap_f32(x[i], cap);
}

}  // namespace keel::kernels
#endif
