// What the launches of ops have in common: a kernel with its arguments onto a stream, rows of buffers as kernels take
// them. In the device's context.
#pragma once
#include "sdk/backend/cuda/cuda_device.h"

namespace keel {

template <class Args>
platform::cuda::Result launch(const CudaDevice& d, platform::cuda::Stream stream, cuda::KernelId kernel,
                              const Args& args, const cuda::LaunchShape& shape) {
    if (shape.grid_x == 0 || shape.grid_y == 0) return platform::cuda::kSuccess;
    Args copy = args;
    uint64_t* began = d.mark;
    d.mark = nullptr;
    void* arguments[2] = {&copy, &began};
    return d.cuda.driver.launch(d.function[kernel], shape.grid_x, shape.grid_y, 1, shape.threads, 1, 1,
                                shape.shared_bytes, stream, arguments, nullptr);
}
// Onto the stream of steps.
template <class Args>
platform::cuda::Result launch(const CudaDevice& d, cuda::KernelId kernel, const Args& args,
                              const cuda::LaunchShape& shape) {
    return launch(d, d.stream, kernel, args, shape);
}
template <class Args>
platform::cuda::Result launch(const CudaDevice& d, cuda::KernelId kernel, const Args& args) {
    return launch(d, kernel, args, launch_shape(args));
}

inline cuda::Rows rows_of(const CudaDevice& d, BufferId id) {
    if (id == kNoBuffer) return {};
    return {reinterpret_cast<float*>(d.row0(id)), d.buffer(id).row_bytes / sizeof(float)};
}
inline cuda::Rows rows_at(cuda::Rows rows, uint64_t first) {
    rows.row += first;
    return rows;
}
// Rows that an op works on in the step under way.
inline uint32_t rows_of_step(const CudaDevice& d, const Op& op) {
    return op.to_logits || op.kind == OpKind::kOutputNorm ? d.step->logits_rows : d.step->tokens;
}

// ---- cuda_products.cpp ----
platform::cuda::Result launch_embed(const CudaDevice& d, const Op& op);
platform::cuda::Result launch_norm(const CudaDevice& d, const Op& op);
// The products of a dispatch, with the input they make and their gate.
platform::cuda::Result launch_products(const CudaDevice& d, const Op* ops, const CudaDispatch& dispatch);
// Rows of f32 of buffer `from` into the 8-bit layouts that the op writes.
platform::cuda::Result launch_quantize(const CudaDevice& d, const Op& op, BufferId from);

// ---- cuda_attention.cpp ----
platform::cuda::Result launch_qk_norm(const CudaDevice& d, const Op& op);
platform::cuda::Result launch_rope(const CudaDevice& d, const Op& op);
platform::cuda::Result launch_append(const CudaDevice& d, const Op& op);
platform::cuda::Result launch_attention(const CudaDevice& d, const Op& op);
platform::cuda::Result launch_attention_finish(const CudaDevice& d, const Op& op);

}  // namespace keel
