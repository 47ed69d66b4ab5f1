#include "sdk/tools/lab/quantize/fast_product.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/lab/quantize/row_team.h"

namespace keel::tools {
namespace {

constexpr Eigen::Index kMostTokens = 512;  // of a kernel's call
constexpr size_t kAlignment = 64;
constexpr size_t kRowsOfAPart = 16;  // at least, of b

const kernels::KernelSet& kernel_set() {
    static const kernels::KernelSet* const set = [] {
        keel_cpu cpu = KEEL_CPU_AUTO;
        const kernels::KernelSet* chosen = nullptr;
        keel_error error = {};
        check(choose_kernels(&cpu, &chosen, &error), "cannot choose kernels");
        return chosen;
    }();
    return *set;
}

struct Aligned {
    explicit Aligned(size_t bytes) : data(static_cast<float*>(operator new (bytes, std::align_val_t{kAlignment}))) {}
    Aligned(const Aligned&) = delete;
    ~Aligned() { operator delete (data, std::align_val_t{kAlignment}); }
    float* const data;
};

}  // namespace

FloatRows product_transposed(const RowsView& a, const RowsView& b, uint32_t threads) {
    const Eigen::Index m = a.rows(), n = b.rows(), k = a.cols();
    FloatRows out(m, n);
    const size_t stride = (static_cast<size_t>(k) * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
    const Aligned x(std::max<size_t>(stride * static_cast<size_t>(m), kAlignment));
    for (Eigen::Index i = 0; i < m; ++i)
        std::copy_n(a.row(i).data(), k, x.data + static_cast<size_t>(i) * stride / sizeof(float));
    std::vector<float*> y(static_cast<size_t>(m));
    for (Eigen::Index i = 0; i < m; ++i) y[static_cast<size_t>(i)] = out.row(i).data();
    const size_t parts = std::max<size_t>(static_cast<size_t>(n) / kRowsOfAPart, 1);
    in_parallel(threads, parts, [&](size_t first, size_t last) {
        const Aligned scratch(kernels::matmul_scratch_bytes(static_cast<uint32_t>(k)));
        kernels::MatmulArgs args = {};
        args.w = b.data();
        args.w_row_bytes = static_cast<uint64_t>(b.outerStride()) * sizeof(float);
        args.row_begin = static_cast<uint32_t>(first * kRowsOfAPart);
        args.row_end = static_cast<uint32_t>(last == parts ? static_cast<size_t>(n) : last * kRowsOfAPart);
        args.k = static_cast<uint32_t>(k);
        args.x_token_bytes = stride;
        args.scratch = scratch.data;
        for (Eigen::Index token = 0; token < m; token += kMostTokens) {
            args.tokens = static_cast<uint32_t>(std::min(kMostTokens, m - token));
            args.x = x.data + static_cast<size_t>(token) * stride / sizeof(float);
            args.y = y.data() + token;
            kernel_set().matmul_f32[kernels::kF32](args);
        }
    });
    return out;
}

FloatRows product(const RowsView& a, const RowsView& b, uint32_t threads) {
    const FloatRows transposed = b.transpose();
    return product_transposed(a, transposed, threads);
}

FloatRows product_of_transposed(const RowsView& a, const RowsView& b, uint32_t threads) {
    const FloatRows left = a.transpose(), right = b.transpose();
    return product_transposed(left, right, threads);
}

}  // namespace keel::tools
