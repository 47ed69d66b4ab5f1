// Ops on rows (NUMERICS sections 2 and 4). A block has a row; chains of a sum run in one warp.
#include "kernels/cuda/quantize.cuh"

namespace keel::cuda {
namespace {

// Row `row` of n elements in the layouts that are wanted. All threads of the block call it.
template <class Load>
KEEL_GPU void quantize_row(const Load& load, uint32_t n, const Q8Rows& to, uint32_t row) {
    const uint32_t warp = thread_x() / 32, warps = kRowThreads / 32;
    if (to.block32)
        for (uint32_t b = warp; b < n / 32; b += warps) quantize_block<1>(load, b, to.block32 + row * to.stride32, n);
    if (to.block256)
        for (uint32_t b = warp; b < n / 256; b += warps)
            quantize_block<8>(load, b, to.block256 + row * to.stride256, n);
}

}  // namespace

KEEL_GPU_KERNEL(rms_norm) {
    const uint32_t row = block_x(), n = args.n;
    const float* x = args.x + (args.source ? args.source[row] : row) * args.x_stride;
    const float* w = args.w;
    float* factor = reinterpret_cast<float*>(shared_memory());
    if (thread_x() < 32) {
        const float r = rms_factor(x, n, args.eps);
        if (thread_x() == 0) *factor = r;
    }
    sync_block();
    const float r = *factor;
    const auto load = [&](uint32_t i) { return mul_f32(mul_f32(x[i], r), w[i]); };
    quantize_row(load, n, args.q8, row);
    if (args.residual.row) {
        float* to = args.residual.row + row * args.residual.stride;
        for (uint32_t i = thread_x(); i < n; i += kRowThreads) to[i] = add_f32(to[i], load(i));
    }
    if (args.y.row) {
        float* to = args.y.row + row * args.y.stride;
        for (uint32_t i = thread_x(); i < n; i += kRowThreads) to[i] = load(i);
    }
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
