// Launches: a kernel with its arguments onto a stream, and those of a step, which are worked out when the device is
// opened but for what depends on the step. In the device's context.
#pragma once
#include "sdk/backend/cuda/cuda_device.h"

namespace keel {

// How a launch differs from others.
struct LaunchWays {
    uint64_t* began;   // where the device writes when it begins; null: nowhere
    bool overlapping;  // it may begin before the launch in front of it has ended
    platform::cuda::AccessWindow
        once;  // what it reads once, so that it need not stay in the second cache; 0 bytes: none
};
template <class Args>
platform::cuda::Result launch(const CudaDevice& d, platform::cuda::Stream stream, cuda::KernelId kernel,
                              const Args& args, const cuda::LaunchShape& shape, LaunchWays ways = {}) {
    if (shape.grid_x == 0 || shape.grid_y == 0) return platform::cuda::kSuccess;
    Args copy = args;
    void* arguments[2] = {&copy, &ways.began};
    platform::cuda::LaunchAttribute attributes[2] = {};
    uint32_t count = 0;
    if (ways.overlapping) {
        attributes[count].id = platform::cuda::kAttributeProgrammatic;
        attributes[count++].programmatic = 1;
    }
    if (ways.once.bytes) {
        attributes[count].id = platform::cuda::kAttributeWindow;
        attributes[count++].window = ways.once;
    }
    const platform::cuda::LaunchConfig config = {shape.grid_x,       shape.grid_y, 1,          shape.threads, 1, 1,
                                                 shape.shared_bytes, stream,       attributes, count};
    return d.cuda.driver.launch_with(&config, d.function[kernel], arguments, nullptr);
}
// Onto the stream of steps, the first one behind a mark with it.
template <class Args>
platform::cuda::Result launch(const CudaDevice& d, cuda::KernelId kernel, const Args& args,
                              const cuda::LaunchShape& shape, const platform::cuda::AccessWindow& once = {}) {
    if (shape.grid_x == 0 || shape.grid_y == 0) return platform::cuda::kSuccess;
    const LaunchWays ways = {d.mark, d.cuda.overlaps && d.behind_launch, once};
    d.mark = nullptr;
    d.behind_launch = true;
    return launch(d, d.stream, kernel, args, shape, ways);
}

// A launch of a dispatch. Its work is cut into items: rows of the step, groups of matrix rows, query blocks and splits.
struct CudaLaunch {
    uint32_t (*items)(const CudaDevice& d, const CudaLaunch& launch);  // in the step under way
    // Launches items [first, first + count).
    platform::cuda::Result (*run)(const CudaDevice& d, const CudaLaunch& launch, uint32_t first, uint32_t count);
    const void* args;       // as far as no step changes them
    cuda::KernelId kernel;  // kKernelCount: a product, or a copy
    bool of_logits;         // the step's rows are those of logits
};

// Products as the table keeps them: which kernel runs depends on a step's tokens.
enum class ProductSet : uint32_t {
    kFragments,
    kQuantized,  // this and the following: as in the file
    kUnquantized,
    kCublasLt  // unquantized, and cuBLASLt multiplies them for many tokens
};
struct ProductLaunch : cuda::ProductArgs {
    ProductSet set;
    uint32_t type;
};

// ---- what is different for each struct of arguments ----
// Sets what depends on the step, whose rows are `rows`.
template <class Args>
void fit_step(const CudaDevice&, Args* a, uint32_t rows) {
    if constexpr (requires { a->tokens; })
        a->tokens = rows;
    else
        a->rows = rows;
}
void fit_step(const CudaDevice& d, cuda::AttentionArgs* a, uint32_t rows);
void fit_step(const CudaDevice& d, cuda::AttentionFinishArgs* a, uint32_t rows);
// How many items there are: as a rule, rows.
template <class Args>
uint32_t items_of(const Args& a) {
    if constexpr (requires { a.tokens; })
        return a.tokens;
    else
        return a.rows;
}
uint32_t items_of(const ProductLaunch& a);
uint32_t items_of(const cuda::AttentionArgs& a);
// Leaves only items [first, first + count).
void cut(cuda::EmbedArgs* a, uint32_t first, uint32_t count);
void cut(cuda::RmsNormArgs* a, uint32_t first, uint32_t count);
void cut(cuda::GluArgs* a, uint32_t first, uint32_t count);
void cut(cuda::SoftcapArgs* a, uint32_t first, uint32_t count);
void cut(cuda::RopeTableArgs* a, uint32_t first, uint32_t count);
void cut(cuda::QuantizeArgs* a, uint32_t first, uint32_t count);
void cut(ProductLaunch* a, uint32_t first, uint32_t count);
void cut(cuda::KvAppendArgs* a, uint32_t first, uint32_t count);
void cut(cuda::AttentionArgs* a, uint32_t first, uint32_t count);
void cut(cuda::AttentionFinishArgs* a, uint32_t first, uint32_t count);
// Launches what is left.
template <class Args>
platform::cuda::Result launch_rest(const CudaDevice& d, const CudaLaunch& l, const Args& a) {
    return launch(d, l.kernel, a, launch_shape(a));
}
platform::cuda::Result launch_rest(const CudaDevice& d, const CudaLaunch& l, const ProductLaunch& a);
platform::cuda::Result launch_rest(const CudaDevice& d, const CudaLaunch& l, const cuda::AttentionArgs& a);

template <class Args>
Args args_of_step(const CudaDevice& d, const CudaLaunch& l) {
    Args a = *static_cast<const Args*>(l.args);
    fit_step(d, &a, l.of_logits ? d.step->logits_rows : d.step->tokens);
    return a;
}
template <class Args>
uint32_t launch_items(const CudaDevice& d, const CudaLaunch& l) {
    return items_of(args_of_step<Args>(d, l));
}
template <class Args>
platform::cuda::Result run_launch(const CudaDevice& d, const CudaLaunch& l, uint32_t first, uint32_t count) {
    Args a = args_of_step<Args>(d, l);
    cut(&a, first, count);
    return launch_rest(d, l, a);
}

// The table of launches while it is filled: what it lies in was counted by count_launches.
struct CudaTable {
    CudaDevice& d;
    uint32_t launches;    // of d.launches, filled
    uint64_t args_bytes;  // of d.launch_args
    bool of_logits;       // of the op whose launches are added

    template <class Args>
    void add(cuda::KernelId kernel, const Args& args) {
        Args* to = reinterpret_cast<Args*>(d.launch_args + args_bytes);
        static_assert(alignof(Args) <= 8 && sizeof(Args) % 8 == 0);
        *to = args;
        args_bytes += sizeof(Args);
        d.launches[launches++] = {launch_items<Args>, run_launch<Args>, to, kernel, of_logits};
    }
};

inline cuda::Rows rows_of(const CudaDevice& d, BufferId id) {
    if (id == kNoBuffer) return {};
    return {reinterpret_cast<float*>(d.row0(id)), d.buffer(id).row_bytes / sizeof(float)};
}
inline cuda::Rows rows_at(cuda::Rows rows, uint64_t first) {
    rows.row += first;
    return rows;
}
// Rows from `first` on; none stay none.
inline void skip(cuda::Rows* rows, uint32_t first) {
    if (rows->row) rows->row += first * rows->stride;
}

// ---- cuda_products.cpp ----
void add_embed(CudaTable* table, const Op& op);
void add_norm(CudaTable* table, const Op& op);
// The products of a dispatch, with the input they make and their gate.
void add_products(CudaTable* table, const Op* ops, const CudaDispatch& dispatch);
// Rows of f32 of buffer `from` into the 8-bit layouts that the op writes.
void add_quantize(CudaTable* table, const Op& op, BufferId from);

// ---- cuda_cublaslt.cpp ----
// Whether cuBLASLt multiplies in the step. Its items are matrices: group_begin <= m < group_end. With the first one
// goes what makes their input.
inline bool by_cublas(const ProductLaunch& a) {
    return a.set == ProductSet::kCublasLt && a.tokens > cuda::kProductTokens;
}
platform::cuda::Result multiply_by_cublas(const CudaDevice& d, const CudaLaunch& l, const ProductLaunch& a);

// ---- cuda_attention.cpp ----
// Of a dispatch whose last op appends, with head norms and rotation before it; or is attention, with the append before
// it or alone.
void add_append(CudaTable* table, const Op* ops, uint32_t count);
void add_attention(CudaTable* table, const Op* ops, uint32_t count);
void add_attention_finish(CudaTable* table, const Op& op);

}  // namespace keel
