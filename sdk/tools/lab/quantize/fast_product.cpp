#include "sdk/tools/lab/quantize/fast_product.h"

#if defined(KEEL_HAVE_OPENBLAS)
#include <cblas.h>
#endif

#include <algorithm>

#include "sdk/tools/lab/quantize/row_team.h"

namespace keel::tools {
namespace {

using Eigen::Index;
constexpr Index kPanel = 256;  // columns computed together; not of the threads, so that sums are not either

#if defined(KEEL_HAVE_OPENBLAS)
// out [m][n] = a b; flipped: what is given is the transposed one, [k][m] or [n][k].
void multiply(const RowsView& a, bool a_flipped, const RowsView& b, bool b_flipped, Eigen::Ref<FloatRows> out) {
    const Index k = a_flipped ? a.rows() : a.cols();
    const auto flag = [](bool flipped) { return flipped ? CblasTrans : CblasNoTrans; };
    const auto i = [](Index x) { return static_cast<blasint>(x); };
    cblas_sgemm(CblasRowMajor, flag(a_flipped), flag(b_flipped), i(out.rows()), i(out.cols()), i(k), 1, a.data(),
                i(a.outerStride()), b.data(), i(b.outerStride()), 0, out.data(), i(out.outerStride()));
}
#else
void multiply(const RowsView& a, bool a_flipped, const RowsView& b, bool b_flipped, Eigen::Ref<FloatRows> out) {
    if (a_flipped)
        out.noalias() = a.transpose() * b;
    else if (b_flipped)
        out.noalias() = a * b.transpose();
    else
        out.noalias() = a * b;
}
#endif

FloatRows product_in_panels(const RowsView& a, bool a_flipped, const RowsView& b, bool b_flipped, uint32_t threads) {
    const Index n = b_flipped ? b.rows() : b.cols();
    FloatRows out(a_flipped ? a.cols() : a.rows(), n);
    if (out.size() == 0) return out;
    const Index panels = (n + kPanel - 1) / kPanel;
    in_parallel(threads, static_cast<size_t>(panels), [&](size_t first, size_t last) {
        for (Index panel = static_cast<Index>(first); panel < static_cast<Index>(last); ++panel) {
            const Index begin = panel * kPanel, count = std::min(kPanel, n - begin);
            const auto part = [&]() -> RowsView {
                if (b_flipped) return b.middleRows(begin, count);
                return b.middleCols(begin, count);
            };
            multiply(a, a_flipped, part(), b_flipped, out.middleCols(begin, count));
        }
    });
    return out;
}

}  // namespace

FloatRows product_transposed(const RowsView& a, const RowsView& b, uint32_t threads) {
    return product_in_panels(a, false, b, true, threads);
}

FloatRows product(const RowsView& a, const RowsView& b, uint32_t threads) {
    return product_in_panels(a, false, b, false, threads);
}

FloatRows product_of_transposed(const RowsView& a, const RowsView& b, uint32_t threads) {
    return product_in_panels(a, true, b, false, threads);
}

}  // namespace keel::tools
