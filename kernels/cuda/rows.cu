// Row operations (NUMERICS section 4).
#include "kernels/cuda/warp.cuh"

namespace keel::cuda {

// A block a token. The sixteen chains of the sum run in the first warp, twice over, each half for itself.
KEEL_GPU_KERNEL(rms_norm) {
    const uint32_t n = args.n;
    const float* x = args.x + block_x() * args.x_token_floats;
    float* y = args.y + block_x() * args.y_token_floats;
    float* row = reinterpret_cast<float*>(shared_memory());  // x, and behind it the factor
    for (uint32_t i = thread_x(); i < n; i += kRmsNormThreads) row[i] = x[i];
    sync_block();
    if (thread_x() < 32) {
        float lane = 0;
        for (uint32_t i = thread_x() % 16; i < n; i += 16) lane = fma_f32(row[i], row[i], lane);
        const float sum = tree16(lane);
        if (thread_x() == 0) row[n] = 1.0f / __builtin_sqrtf(add_f32(sum / static_cast<float>(n), args.eps));
    }
    sync_block();
    for (uint32_t i = thread_x(); i < n; i += kRmsNormThreads) y[i] = mul_f32(mul_f32(row[i], row[n]), args.w[i]);
}

}  // namespace keel::cuda
