// Ops on rows (NUMERICS sections 2 and 4). A block has a row; chains of a sum run in one warp.
#include "kernels/cuda/quantize.cuh"

namespace keel::cuda {
namespace {

KEEL_GPU uint32_t narrow_f32(float x, bool bf16) {
    constexpr float kLargestF16 = 65504;
    if (bf16) return f32_to_bf16(x);
    const float magnitude = f32_from_bits(f32_bits(x) & 0x7fffffffu);
    if (magnitude > kLargestF16 && magnitude <= 3.40282347e38f) return x < 0 ? 0xfbffu : 0x7bffu;
    return f32_to_f16(x);
}

}  // namespace

KEEL_GPU_KERNEL(rms_norm) {
    const uint32_t row = block_x(), n = args.n;
    const float* x = args.x + (args.source ? args.source[row] : row) * args.x_stride;
    float* factor = reinterpret_cast<float*>(shared_memory());
    float *residual = args.residual.row ? args.residual.row + row * args.residual.stride : nullptr,
          *y = args.y.row ? args.y.row + row * args.y.stride : nullptr;
    const auto take = [&](const float v[8], uint32_t span) {
        if (args.q8.block32) quantize_span(v, span, args.q8.block32 + row * args.q8.stride32, n, 32);
        if (args.q8.block256) quantize_span(v, span, args.q8.block256 + row * args.q8.stride256, n, 256);
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i) {
            const uint32_t element = span * kSpanElements + 128 * (i / 4) + thread_x() % 32 * 4 + i % 4;
            if (element >= n) continue;
            if (residual) residual[element] = add_f32(residual[element], v[i]);
            if (y) y[element] = v[i];
        }
    };
    // Of a row that is too long for shared memory, only the factor is there.
    if (norm_is_staged(n))
        each_normed_span<kRowThreads / 32, false, true>(x, args.w, n, args.eps, factor, factor + 4, take);
    else
        each_normed_span<kRowThreads / 32, false, false>(x, args.w, n, args.eps, factor, nullptr, take);
}

KEEL_GPU_KERNEL(glu) {
    float* x = args.x.row + block_x() * args.x.stride;
    for (uint32_t i = thread_x(); i < args.n; i += kRowThreads)
        x[i] = args.gelu ? gelu_gate_f32(x[i], x[i + args.n]) : silu_gate_f32(x[i], x[i + args.n]);
}

KEEL_GPU_KERNEL(softcap) {
    float* x = args.x.row + block_x() * args.x.stride;
    for (uint32_t i = thread_x(); i < args.n; i += kRowThreads) x[i] = softcap_f32(x[i], args.cap);
}

KEEL_GPU_KERNEL(rope_table) {
    float* y = args.y.row + block_x() * args.y.stride;
    for (uint32_t i = thread_x(); i < args.pairs; i += kRowThreads)
        rope_table_f64(args.frequency + i, 1, args.position[block_x()], args.factor, y + 2 * i);
}

KEEL_GPU_KERNEL(narrow) {
    const float* x = args.x + block_x() * args.x_stride;
    uint16_t* y = args.y + block_x() * args.y_stride;
    const uint32_t quads = args.k / 4;
    for (uint32_t i = thread_x(); i < quads; i += kRowThreads) {
        const Words4 v = reinterpret_cast<const Words4*>(x)[i];
        const auto pair = [&](uint32_t low, uint32_t high) {
            return narrow_f32(f32_from_bits(low), args.bf16) | narrow_f32(f32_from_bits(high), args.bf16) << 16;
        };
        reinterpret_cast<Words2*>(y)[i] = {pair(v.x, v.y), pair(v.z, v.w)};
    }
    for (uint32_t i = quads * 4 + thread_x(); i < args.k; i += kRowThreads)
        y[i] = static_cast<uint16_t>(narrow_f32(x[i], args.bf16));
}

KEEL_GPU_KERNEL(keep_rows) {
    const uint32_t blocks = divide_up(args.part[0].n, kKeptFloats), row = block_y();
    const bool second = block_x() >= blocks;
    const KeepRowsArgs::Part& part = args.part[second ? 1 : 0];
    const float* from = part.from + row * part.stride;
    float* kept = part.kept + uint64_t{args.to[row]} * part.n;
    const uint32_t first = (second ? block_x() - blocks : block_x()) * kKeptFloats, rest = part.n - first,
                   count = rest < kKeptFloats ? rest : kKeptFloats;
    for (uint32_t i = thread_x(); i < count; i += kRowThreads) kept[first + i] = from[first + i];
}

}  // namespace keel::cuda
