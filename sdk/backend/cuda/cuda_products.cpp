// Launches of products and of what stands around them: embeddings, norms, 8-bit forms.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using platform::cuda::kSuccess;
using platform::cuda::Result;

cuda::Q8Rows q8_of(const CudaDevice& d, const Op& op) {
    cuda::Q8Rows q8 = {};
    if (op.out_q8[0] != kNoBuffer) q8.block32 = d.row0(op.out_q8[0]), q8.stride32 = d.buffer(op.out_q8[0]).row_bytes;
    if (op.out_q8[1] != kNoBuffer) q8.block256 = d.row0(op.out_q8[1]), q8.stride256 = d.buffer(op.out_q8[1]).row_bytes;
    return q8;
}
// Kernels of products with 8-bit activations, fastest first: the first one that may take a product does. All of them
// compute the same bits.
struct ProductKernel {
    uint32_t most_tokens;         // of a step
    uint32_t most_blocks_per_sm;  // of product_rows, a multiprocessor's share: with more of them there are enough warps
    bool shared;                  // warps share k
    uint32_t tokens;              // of a block
};
constexpr uint32_t kAny = UINT32_MAX;
constexpr ProductKernel kProductKernels[] = {
    {8, 2, true, cuda::kFragmentTokens},
    {1, kAny, false, 1},
    {8, kAny, false, 8},
    {kAny, kAny, false, 32},
};
const ProductKernel& choose_product(uint32_t tokens, uint32_t rows, uint32_t multiprocessors) {
    const uint32_t blocks = cuda::divide_up(rows, cuda::kFragmentRows * cuda::kFragmentThreads / 32);
    const ProductKernel* kernel = kProductKernels;
    while (tokens > kernel->most_tokens || blocks / multiprocessors >= kernel->most_blocks_per_sm) ++kernel;
    return *kernel;
}

}  // namespace

Result launch_norm(const CudaDevice& d, const Op& op) {
    const cuda::Rows x = rows_of(d, op.in);
    const bool logits = op.kind == OpKind::kOutputNorm, post = op.kind == OpKind::kPostNorm;
    cuda::RmsNormArgs a = {};
    a.x = x.row;
    a.x_stride = x.stride;
    a.source = logits ? d.step_array<uint32_t>(d.block.logits_token) : nullptr;
    a.w = op.norm;
    a.n = op.k;
    a.rows = rows_of_step(d, op);
    a.eps = d.program->spec.norm_eps;
    (post ? a.residual : a.y) = rows_of(d, op.out);
    a.q8 = q8_of(d, op);
    return launch(d, cuda::kernel_rms_norm, a);
}

Result launch_embed(const CudaDevice& d, const Op& op) {
    const cuda::Rows y = rows_of(d, op.out);
    cuda::EmbedArgs a = {};
    a.w = static_cast<const uint8_t*>(op.w);
    a.ids = d.step_array<uint32_t>(d.block.token);
    a.y = y.row;
    a.w_row_bytes = op.w_row_bytes;
    a.y_token_floats = y.stride;
    a.k = op.k;
    a.tokens = d.step->tokens;
    a.scale = d.program->spec.embedding_scale;
    return launch(d, op.repacked ? cuda::embed_fragments_kernel(op.weight_type) : cuda::embed_kernel(op.weight_type),
                  a);
}

Result launch_product(const CudaDevice& d, const Op& op) {
    cuda::ProductArgs a = {};
    a.w = static_cast<const uint8_t*>(op.w);
    a.x = d.row0(op.in);
    a.x_token_bytes = d.buffer(op.in).row_bytes;
    if (op.to_logits) {
        a.y = d.logits();
        a.y_token_floats = op.rows;
    } else {
        const cuda::Rows y = rows_of(d, op.out);
        a.y = y.row + op.out_offset;
        a.y_token_floats = y.stride;
    }
    a.bias = op.bias;
    a.w_row_bytes = op.w_row_bytes;
    a.row_end = op.rows;
    a.k = op.k;
    a.tokens = rows_of_step(d, op);
    a.accumulate = op.accumulate;
    if (!op.repacked) return launch(d, cuda::product_f32_kernel(op.weight_type), a, product_f32_shape(a));
    const ProductKernel& kernel = choose_product(a.tokens, op.rows, d.multiprocessors);
    if (kernel.shared)
        return launch(d, cuda::product_shared_kernel(op.weight_type), a, product_shared_shape(a, op.weight_type));
    return launch(d, cuda::product_rows_kernel(op.weight_type, kernel.tokens), a, product_rows_shape(a, kernel.tokens));
}

Result launch_quantize(const CudaDevice& d, const Op& op, BufferId from) {
    const cuda::Rows x = rows_of(d, from);
    for (uint32_t i = 0; i < 2; ++i) {
        const BufferId to = op.out_q8[i];
        if (to == kNoBuffer) continue;
        const uint32_t block = i == 0 ? 32 : 256;
        const cuda::QuantizeArgs a = {x.row,   d.row0(to), x.stride,           d.buffer(to).row_bytes,
                                      op.rows, block,      rows_of_step(d, op)};
        if (const Result result = launch(d, cuda::quantize_kernel(block), a); result != kSuccess) return result;
    }
    return kSuccess;
}

}  // namespace keel
