// Products and what stands around them: embeddings, norms, 8-bit forms.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using platform::cuda::kSuccess;
using platform::cuda::Result;

cuda::Q8Rows q8_of(const CudaDevice& d, const Op& op) {
    cuda::Q8Rows q8 = {};
    if (op.out_coded[0] != kNoBuffer)
        q8.block32 = d.row0(op.out_coded[0]), q8.stride32 = d.buffer(op.out_coded[0]).row_bytes;
    if (op.out_coded[1] != kNoBuffer)
        q8.block256 = d.row0(op.out_coded[1]), q8.stride256 = d.buffer(op.out_coded[1]).row_bytes;
    return q8;
}
// Families of kernels: of fragments with 8-bit activations, of weights as in the file. `first`: the kernel of type
// `first_type`. Of a set the first one that may take a product does, and they stand fastest first. All of them compute
// the same bits.
struct ProductFamily {
    ProductSet set;
    cuda::KernelId first;
    uint32_t first_type;
    cuda::LaunchShape (*shape)(const cuda::ProductArgs& args, uint32_t type, uint32_t multiprocessors);
    uint32_t most_tokens;
};
constexpr uint32_t kAny = UINT32_MAX;
cuda::LaunchShape f32_shape(const cuda::ProductArgs& a, uint32_t, uint32_t) {
    return product_f32_shape(a);
}
cuda::LaunchShape f32_tile_shape(const cuda::ProductArgs& a, uint32_t, uint32_t) {
    return product_f32_tile_shape(a);
}
constexpr ProductFamily kFamilies[] = {
    {ProductSet::kFragments, cuda::kernel_product_token_Q4_0, kernels::kQ4_0, cuda::product_token_shape, 1},
    {ProductSet::kFragments, cuda::kernel_product_stream_Q4_0, kernels::kQ4_0, cuda::product_stream_shape,
     cuda::kStreamTokens},
    {ProductSet::kFragments, cuda::kernel_product_prompt_Q4_0, kernels::kQ4_0, cuda::product_prompt_shape, kAny},
    {ProductSet::kQuantized, cuda::kernel_product_f32_F32, 0, f32_shape, kAny},
    {ProductSet::kUnquantized, cuda::kernel_product_f32_F32, 0, f32_shape, cuda::kProductTokens},
    {ProductSet::kUnquantized, cuda::kernel_product_f32_tile_F32, 0, f32_tile_shape, kAny},
    {ProductSet::kCublasLt, cuda::kernel_product_f32_F32, 0, f32_shape, cuda::kProductTokens},  // see by_cublas
};
constexpr uint32_t kItemGroups = 4;  // of an item: what a block of many tokens takes

}  // namespace

void add_norm(CudaTable* table, const Op& op) {
    const CudaDevice& d = table->d;
    const cuda::Rows x = rows_of(d, op.in);
    const bool logits = op.kind == OpKind::kOutputNorm, post = op.kind == OpKind::kPostNorm;
    cuda::RmsNormArgs a = {};
    a.x = x.row;
    a.x_stride = x.stride;
    a.source = logits ? d.step_array<uint32_t>(d.block.logits_token) : nullptr;
    a.w = op.norm;
    a.n = op.k;
    a.eps = d.program->spec.norm_eps;
    (post ? a.residual : a.y) = rows_of(d, op.out);
    a.q8 = q8_of(d, op);
    table->add(cuda::kernel_rms_norm, a);
}

void add_embed(CudaTable* table, const Op& op) {
    const CudaDevice& d = table->d;
    const cuda::Rows y = rows_of(d, op.out);
    cuda::EmbedArgs a = {};
    a.w = static_cast<const uint8_t*>(op.w);
    a.ids = d.step_array<uint32_t>(d.block.token);
    a.y = y.row;
    a.w_row_bytes = op.w_row_bytes;
    a.y_token_floats = y.stride;
    a.k = op.k;
    a.scale = d.program->spec.embedding_scale;
    table->add(op.repacked ? cuda::embed_fragments_kernel(op.weight_type) : cuda::embed_kernel(op.weight_type), a);
}

void add_products(CudaTable* table, const Op* ops, const CudaDispatch& dispatch) {
    const CudaDevice& d = table->d;
    const Op* first = ops + (dispatch.input_joined ? 1 : 0);
    const Buffer& x = d.buffer(dispatch.input_joined ? ops->in : first->in);
    ProductLaunch a = {};
    a.x = d.scratch(x.offset);
    a.x_token_bytes = x.row_bytes;
    if (dispatch.input_joined) {
        a.input = joined_input(ops->kind);
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
    a.accumulate = first->accumulate;
    a.group_end = cuda::product_groups(a);
    if (dispatch.normed) {
        const Op& norm = first[1];
        const uint32_t layout = norm.out_coded[0] != kNoBuffer ? 0 : 1;
        a.after = {reinterpret_cast<uint32_t*>(d.scratch(d.at.step + d.block.counter)),
                   norm.norm,
                   d.row0(norm.out_coded[layout]),
                   layout == 0 ? 32u : 256u,
                   a.group_end,
                   d.program->spec.norm_eps,
                   0};
    }
    const bool cublas = cublas_multiplies(d.program->config, first->weight_type);
    a.set = first->repacked                                                   ? ProductSet::kFragments
            : cublas                                                          ? ProductSet::kCublasLt
            : kernels::kWeightTypes[first->weight_type].activation_block == 0 ? ProductSet::kUnquantized
                                                                              : ProductSet::kQuantized;
    a.type = first->weight_type;
    table->add(cuda::kKernelCount, a);
}

void add_quantize(CudaTable* table, const Op& op, BufferId from) {
    const CudaDevice& d = table->d;
    const cuda::Rows x = rows_of(d, from);
    for (uint32_t i = 0; i < 2; ++i) {
        const BufferId to = op.out_coded[i];
        if (to == kNoBuffer) continue;
        const uint32_t block = i == 0 ? 32 : 256;
        table->add(cuda::quantize_kernel(block),
                   cuda::QuantizeArgs{x.row, d.row0(to), x.stride, d.buffer(to).row_bytes, op.rows, block, 0});
    }
}

// ---- cut ----
uint32_t items_of(const ProductLaunch& a) {
    if (by_cublas(a)) return a.matrices;
    return a.tokens ? cuda::divide_up(a.group_end, kItemGroups) : 0;
}
void cut(ProductLaunch* a, uint32_t first, uint32_t count) {
    if (by_cublas(*a)) {
        a->group_begin = first;
        a->group_end = first + count;
        return;
    }
    const uint32_t end = (first + count) * kItemGroups;
    a->group_begin = first * kItemGroups;
    if (end < a->group_end) a->group_end = end;
}
// The weights of a launch that reads them once: where a step has more of them than the second cache holds, they shall
// not push out what every launch needs, its code among that. Nothing, where they lie too far apart.
static platform::cuda::AccessWindow read_once(const CudaDevice& d, const ProductLaunch& a) {
    if (a.tokens > cuda::kStreamTokens || a.set != ProductSet::kFragments || d.weight_bytes <= d.cuda.cache_bytes)
        return {};
    uintptr_t begin = UINTPTR_MAX, end = 0;
    for (uint32_t i = 0; i < a.matrices; ++i) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(a.matrix[i].w),
                        behind =
                            at + cuda::divide_up(a.matrix[i].rows, cuda::kGroupRows) * cuda::kGroupRows * a.w_row_bytes;
        begin = at < begin ? at : begin;
        end = behind > end ? behind : end;
    }
    if (end - begin > d.cuda.window_bytes) return {};
    return {begin, static_cast<size_t>(end - begin), 1.0f, platform::cuda::kAccessStreaming,
            platform::cuda::kAccessNormal};
}

// By the first family whose kernels have room for the shape.
Result launch_rest(const CudaDevice& d, const CudaLaunch& l, const ProductLaunch& a) {
    if (by_cublas(a)) return multiply_by_cublas(d, l, a);
    for (const ProductFamily& f : kFamilies) {
        if (f.set != a.set || a.tokens > f.most_tokens) continue;
        const cuda::LaunchShape shape = f.shape(a, a.type, d.cuda.multiprocessors);
        if (shape.shared_bytes <= cuda::kMostSharedBytes)
            return launch<cuda::ProductArgs>(d, static_cast<cuda::KernelId>(f.first + (a.type - f.first_type)), a,
                                             shape, read_once(d, a));
    }
    return platform::cuda::kInvalidValue;  // the last family of a set takes any shape
}

void cut(cuda::EmbedArgs* a, uint32_t first, uint32_t count) {
    a->ids += first;
    a->y += first * a->y_token_floats;
    a->tokens = count;
}
void cut(cuda::RmsNormArgs* a, uint32_t first, uint32_t count) {
    if (a->source)
        a->source += first;
    else
        a->x += first * a->x_stride;
    skip(&a->y, first);
    skip(&a->residual, first);
    if (a->q8.block32) a->q8.block32 += first * a->q8.stride32;
    if (a->q8.block256) a->q8.block256 += first * a->q8.stride256;
    a->rows = count;
}
void cut(cuda::QuantizeArgs* a, uint32_t first, uint32_t count) {
    a->x += first * a->x_token_floats;
    a->q8 += first * a->q8_token_bytes;
    a->tokens = count;
}

}  // namespace keel
