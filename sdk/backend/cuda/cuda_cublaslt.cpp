// KEEL_NUMERICS_DEVICE: products of F16 and BF16 matrices with many rows by cuBLASLt. All that it needs is made in
// open: a step only names a shape, its number of tokens and addresses. It multiplies kCublasTokens tokens or a
// multiple of that, so that there are few algorithms: rows behind those of the step, whose contents nobody reads, are
// computed as well. Up to kProductTokens rows are product_f32's (cuda_products.cpp), as without it.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {

using namespace platform::cuda;

namespace {

constexpr uint64_t kWorkspaceBytes = 32 << 20, kWorkspaceAlign = 256;
constexpr uint32_t kNarrowAlign = 8;  // elements

uint64_t narrow_stride(uint32_t k) {
    return cuda::divide_up(k, kNarrowAlign) * uint64_t{kNarrowAlign};
}
// Longest row that a product reads: the ranks of low-rank factors are no longer.
uint32_t most_inner(const ModelSpec& s) {
    const uint32_t heads = s.heads * s.head_dim, wider = heads > s.embedding ? heads : s.embedding;
    return s.feed_forward > wider ? s.feed_forward : wider;
}
CublasShape::Key shape_key(const CudaDevice& d, const ProductLaunch& a, uint32_t matrix, bool of_logits) {
    const PlanConfig& c = d.program->config;
    const uint64_t from_row = uint64_t{a.matrix[matrix].out} * sizeof(float) | 16;  // rows are 64-byte aligned
    return {a.type,
            a.matrix[matrix].rows,
            a.k,
            of_logits ? most_logits_rows(c) : c.chunk_tokens,
            static_cast<uint32_t>(from_row & -from_row),
            a.y_token_floats};
}
CublasShape* find_shape(const CudaDevice& d, const CublasShape::Key& key) {
    for (uint32_t i = 0; i < d.cublas.shapes; ++i)
        if (d.cublas.shape[i].key == key) return d.cublas.shape + i;
    return nullptr;
}
// As many tokens as are computed for `tokens`.
uint64_t cublas_tokens(const CublasShape& shape, uint32_t tokens) {
    const uint32_t whole = cuda::divide_up(tokens, kCublasTokens) * kCublasTokens;
    return whole < shape.key.most_tokens ? whole : shape.key.most_tokens;
}

// Matrix number `matrix` of a product, in a shape whose algorithms are chosen.
Result multiply(const CudaDevice& d, CublasShape* shape, const ProductLaunch& a, uint32_t matrix) {
    const CublasLt& calls = d.cublas.calls;
    const cuda::ProductMatrix& m = a.matrix[matrix];
    const LtProduct product = d.cublas.product[m.bias != nullptr];
    const uint64_t tokens = cublas_tokens(*shape, a.tokens);
    const float one = 1, add = a.accumulate ? 1 : 0;
    float* y = a.y + m.out;
    Result result = calls.layout_set(shape->x, kLtColumns, &tokens, sizeof tokens);
    if (result == kSuccess) result = calls.layout_set(shape->y, kLtColumns, &tokens, sizeof tokens);
    if (result == kSuccess && m.bias) result = calls.product_set(product, kLtBiasPointer, &m.bias, sizeof m.bias);
    if (result != kSuccess) return result;
    return calls.multiply(d.cublas.handle, product, &one, m.w, shape->w, d.scratch(d.at.narrow), shape->x, &add, y,
                          shape->y, y, shape->y,
                          &shape->algorithm[m.bias != nullptr][cuda::divide_up(a.tokens, kCublasTokens) - 1],
                          d.scratch(d.at.workspace), kWorkspaceBytes, d.stream);
}

keel_status cublas_result(Result result, const char* call, keel_error* error) {
    if (result == kSuccess) return KEEL_OK;
    return fail(error, KEEL_E_DEVICE, static_cast<uint64_t>(result), call,
                "cuBLASLt refused (its number is in error->offset)");
}

// While algorithms are chosen.
struct Preference {
    explicit Preference(const CublasLt& calls) : calls(calls) {}
    ~Preference() {
        if (preference) calls.preference_destroy(preference);
    }
    Preference(const Preference&) = delete;
    const CublasLt& calls;
    LtPreference preference = nullptr;
};

keel_status new_shape(CudaDevice* d, const CublasShape::Key& key, keel_error* error) {
    CudaCublasLt& cublas = d->cublas;
    const CublasLt& calls = cublas.calls;
    CublasShape& shape = cublas.shape[cublas.shapes++];
    shape = {};
    shape.key = key;
    const int type = key.type == kernels::kBF16 ? kLtBf16 : kLtF16;
    const auto layout = [&](LtLayout* out, int of, uint64_t rows, uint64_t columns, uint64_t stride) {
        return cublas_result(calls.layout_create(out, of, rows, columns, static_cast<int64_t>(stride)),
                             "cublasLtMatrixLayoutCreate", error);
    };
    KEEL_TRY(layout(&shape.w, type, key.k, key.rows, key.k));
    KEEL_TRY(layout(&shape.x, type, key.k, key.most_tokens, narrow_stride(key.k)));
    return layout(&shape.y, kLtF32, key.rows, key.most_tokens, key.y_stride);
}

// Algorithms of a shape for every number of tokens, each of which has then run with the addresses of `a`: so all
// kernels are loaded. What it writes nobody has written to yet.
keel_status choose(CudaDevice* d, CublasShape* shape, ProductLaunch a, uint32_t matrix, LtPreference preference,
                   keel_error* error) {
    const CublasLt& calls = d->cublas.calls;
    const bool bias = a.matrix[matrix].bias != nullptr;
    const auto prefer = [&](int attribute, const auto& value) {
        return cublas_result(calls.preference_set(preference, attribute, &value, sizeof value),
                             "cublasLtMatmulPreferenceSetAttribute", error);
    };
    KEEL_TRY(prefer(kLtMinAlignmentC, shape->key.y_alignment));
    KEEL_TRY(prefer(kLtMinAlignmentD, shape->key.y_alignment));
    const LtProduct product = d->cublas.product[bias];
    if (bias)
        KEEL_TRY(cublas_result(
            calls.product_set(product, kLtBiasPointer, &a.matrix[matrix].bias, sizeof a.matrix[matrix].bias),
            "cublasLtMatmulDescSetAttribute", error));
    for (uint32_t most = shape->key.most_tokens, first = 0; first < most; first += kCublasTokens) {
        a.tokens = first + kCublasTokens < most ? first + kCublasTokens : most;
        const uint64_t tokens = cublas_tokens(*shape, a.tokens);
        LtHeuristic found = {};
        int count = 0;
        Result result = calls.layout_set(shape->x, kLtColumns, &tokens, sizeof tokens);
        if (result == kSuccess) result = calls.layout_set(shape->y, kLtColumns, &tokens, sizeof tokens);
        KEEL_TRY(cublas_result(result, "cublasLtMatrixLayoutSetAttribute", error));
        result = calls.heuristic(d->cublas.handle, product, shape->w, shape->x, shape->y, shape->y, preference, 1,
                                 &found, &count);
        if (result == kSuccess && count < 1) result = kInvalidValue;
        KEEL_TRY(cublas_result(result != kSuccess ? result : found.state, "cublasLtMatmulAlgoGetHeuristic", error));
        shape->algorithm[bias][first / kCublasTokens] = found.algorithm;
        KEEL_TRY(cublas_result(multiply(*d, shape, a, matrix), "cublasLtMatmul", error));
    }
    shape->chosen[bias] = true;
    return KEEL_OK;
}

keel_status choose_all(CudaDevice* d, uint32_t launches, LtPreference preference, keel_error* error) {
    for (uint32_t i = 0; i < launches; ++i) {
        const CudaLaunch& launch = d->launches[i];
        if (launch.run != run_launch<ProductLaunch>) continue;
        const ProductLaunch& a = *static_cast<const ProductLaunch*>(launch.args);
        for (uint32_t m = 0; m < a.matrices && a.set == ProductSet::kCublasLt; ++m) {
            const CublasShape::Key key = shape_key(*d, a, m, launch.of_logits);
            if (key.most_tokens <= cuda::kProductTokens) continue;
            if (!find_shape(*d, key)) KEEL_TRY(new_shape(d, key, error));
            CublasShape* shape = find_shape(*d, key);
            if (!shape->chosen[a.matrix[m].bias != nullptr]) KEEL_TRY(choose(d, shape, a, m, preference, error));
        }
    }
    return KEEL_OK;
}

}  // namespace

bool cublas_multiplies(const PlanConfig& config, uint32_t weight_type) {
    return config.device_numerics && config.chunk_tokens > cuda::kProductTokens &&
           (weight_type == kernels::kF16 || weight_type == kernels::kBF16);
}

void place_cublas(CudaDevice* d, const Program& p, Arena* arenas) {
    const uint64_t most_shapes = uint64_t{p.plan.variant[0].count} + p.plan.variant[1].count;
    CublasShape* shapes = arenas[KEEL_REGION_PERSISTENT].place<CublasShape>("cublas_shapes", most_shapes);
    Arena& scratch = arenas[KEEL_REGION_DEVICE_SCRATCH];
    const uint64_t narrow = scratch.place_offset(
        "narrow_rows", p.config.chunk_tokens * narrow_stride(most_inner(p.spec)) * sizeof(uint16_t));
    const uint64_t workspace = scratch.place_offset("cublas_workspace", kWorkspaceBytes, kWorkspaceAlign);
    if (d) d->cublas.shape = shapes, d->at.narrow = narrow, d->at.workspace = workspace;
}

keel_status attach_cublas(CudaDevice* d, keel_error* error) {
    CublasLt& calls = d->cublas.calls;
    if (const char* missing = load_cublaslt(&calls)) return fail(error, KEEL_E_DEVICE, 0, "cuBLASLt", missing);
    KEEL_TRY(cublas_result(calls.create(&d->cublas.handle), "cublasLtCreate", error));
    for (LtProduct& product : d->cublas.product) {
        KEEL_TRY(
            cublas_result(calls.product_create(&product, kLtComputeF32, kLtF32), "cublasLtMatmulDescCreate", error));
        KEEL_TRY(cublas_result(calls.product_set(product, kLtTransposeA, &kLtTranspose, sizeof kLtTranspose),
                               "cublasLtMatmulDescSetAttribute", error));
    }
    return cublas_result(calls.product_set(d->cublas.product[1], kLtEpilogue, &kLtEpilogueBias, sizeof kLtEpilogueBias),
                         "cublasLtMatmulDescSetAttribute", error);
}

keel_status open_cublas(CudaDevice* d, uint32_t launches, keel_error* error) {
    const CublasLt& calls = d->cublas.calls;
    CurrentCuda current(d->cuda);
    if (!current.ok()) return fail(error, KEEL_E_DEVICE, 0, "keel_cuda_device.context", "not a context");
    Preference p(calls);
    KEEL_TRY(cublas_result(calls.preference_create(&p.preference), "cublasLtMatmulPreferenceCreate", error));
    const auto prefer = [&](int attribute, const auto& value) {
        return cublas_result(calls.preference_set(p.preference, attribute, &value, sizeof value),
                             "cublasLtMatmulPreferenceSetAttribute", error);
    };
    constexpr uint32_t kAlign = 16;
    KEEL_TRY(prefer(kLtMaxWorkspaceBytes, kWorkspaceBytes));
    KEEL_TRY(prefer(kLtMinAlignmentA, kAlign));
    KEEL_TRY(prefer(kLtMinAlignmentB, kAlign));
    // On a stream of Keel's own: that of steps may be the caller's.
    const Stream steps = d->stream;
    d->stream = d->copies;
    const keel_status chosen = choose_all(d, launches, p.preference, error);
    const Result done = d->cuda.driver.stream_synchronize(d->stream);
    d->stream = steps;
    KEEL_TRY(chosen);
    return cuda_result(done, "cuStreamSynchronize", error);
}

void close_cublas(CudaDevice* d) {
    CudaCublasLt& cublas = d->cublas;
    if (!cublas.handle) return;
    for (uint32_t i = 0; i < cublas.shapes; ++i)
        for (const LtLayout layout : {cublas.shape[i].w, cublas.shape[i].x, cublas.shape[i].y})
            if (layout) cublas.calls.layout_destroy(layout);
    for (const LtProduct product : cublas.product)
        if (product) cublas.calls.product_destroy(product);
    cublas.calls.destroy(cublas.handle);
}

Result multiply_by_cublas(const CudaDevice& d, const CudaLaunch& l, const ProductLaunch& a) {
    Result result = kSuccess;
    if (a.group_begin == 0) {
        const cuda::NarrowArgs narrow = {static_cast<const float*>(a.x),
                                         reinterpret_cast<uint16_t*>(d.scratch(d.at.narrow)),
                                         a.x_token_bytes / sizeof(float),
                                         narrow_stride(a.k),
                                         a.k,
                                         a.tokens,
                                         a.type == kernels::kBF16};
        result = launch(d, cuda::kernel_narrow, narrow, launch_shape(narrow));
    } else if (d.mark) {  // cuBLASLt's kernels make none
        result = launch(d, cuda::kernel_nothing, cuda::NothingArgs{}, launch_shape(cuda::NothingArgs{}));
    }
    d.behind_launch = false;
    for (uint32_t m = a.group_begin; m < a.group_end && result == kSuccess; ++m)
        result = multiply(d, find_shape(d, shape_key(d, a, m, l.of_logits)), a, m);
    return result;
}

}  // namespace keel
