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
// Families of kernels with 8-bit activations, by that of Q4_0, fastest first: the first one that may take a product
// does. All of them compute the same bits.
struct ProductKernel {
    cuda::KernelId first;
    cuda::LaunchShape (*shape)(const cuda::ProductArgs& args, uint32_t type);
    uint32_t most_tokens;
    uint32_t most_groups;  // of a multiprocessor's share: with more of them there are enough warps without sharing k
};
constexpr uint32_t kAny = UINT32_MAX;
constexpr ProductKernel kProductKernels[] = {
    {cuda::kernel_product_shared_Q4_0, cuda::product_shared_shape, 1, 8},
    {cuda::kernel_product_token_Q4_0, cuda::product_token_shape, 1, kAny},
    {cuda::kernel_product_shared_Q4_0, cuda::product_shared_shape, 8, 2},
    {cuda::kernel_product_rows_8_Q4_0, cuda::product_rows_shape<8>, 8, kAny},
    {cuda::kernel_product_rows_64_Q4_0, cuda::product_rows_shape<64>, kAny, kAny},
};
Result launch_fragments(const CudaDevice& d, uint32_t type, const cuda::ProductArgs& a) {
    const uint32_t groups = (a.group_end - a.group_begin) / d.cuda.multiprocessors;
    for (const ProductKernel& kernel : kProductKernels) {
        const cuda::LaunchShape shape = kernel.shape(a, type);
        if (a.tokens <= kernel.most_tokens && groups < kernel.most_groups &&
            shape.shared_bytes <= cuda::kMostSharedBytes)
            return launch(d, cuda::product_kernel(kernel.first, type), a, shape);
    }
    return kSuccess;
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

Result launch_products(const CudaDevice& d, const Op* ops, const CudaDispatch& dispatch) {
    const Op* first = ops + (dispatch.input_joined ? 1 : 0);
    const Buffer& x = d.buffer(dispatch.input_joined ? ops->in : first->in);
    cuda::ProductArgs a = {};
    a.x = d.scratch(x.offset);
    a.x_token_bytes = x.row_bytes;
    if (dispatch.input_joined) {
        a.input = joined_input(ops->kind);
        a.norm = ops->norm;
        a.eps = d.program->spec.norm_eps;
        a.codes = d.row0(first->in);
    }
    if (first->to_logits) {
        a.y = d.logits();
        a.y_token_floats = first->rows;
    } else {
        const cuda::Rows y = rows_of(d, first->out);
        a.y = y.row;
        a.y_token_floats = y.stride;
    }
    a.matrices = dispatch.products;
    for (uint32_t i = 0; i < dispatch.products; ++i)
        a.matrix[i] = {static_cast<const uint8_t*>(first[i].w), first[i].bias, first[i].rows, first[i].out_offset};
    if (dispatch.gated) {
        a.gate = first[dispatch.products].gate == Gate::kSilu ? cuda::ProductGate::kSilu : cuda::ProductGate::kGelu;
        if (dispatch.products == 1) {  // one matrix of both halves
            const uint32_t half = first->rows / 2;
            a.matrices = 2;
            a.matrix[1] = {a.matrix[0].w + half * first->w_row_bytes, first->bias ? first->bias + half : nullptr, half,
                           first->out_offset + half};
            a.matrix[0].rows = half;
        }
    }
    a.w_row_bytes = first->w_row_bytes;
    a.k = first->k;
    a.tokens = rows_of_step(d, *first);
    a.accumulate = first->accumulate;
    a.group_end = cuda::product_groups(a);
    if (first->repacked) return launch_fragments(d, first->weight_type, a);
    const bool tile =
        a.tokens > cuda::kProductTokens && kernels::kWeightTypes[first->weight_type].activation_block == 0;
    return tile ? launch(d, cuda::product_f32_tile_kernel(first->weight_type), a, cuda::product_f32_tile_shape(a))
                : launch(d, cuda::product_f32_kernel(first->weight_type), a, cuda::product_f32_shape(a));
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
