// Products on matrix units against the scalar set, bit for bit.
#include <memory>

#include "kernels/cuda/fragments.h"
#include "tests/simt/product_problem.h"

namespace keel_test {
namespace {

using namespace keel::cuda;

void expect_equal(WeightType type, uint32_t rows, uint32_t k, uint32_t tokens, KernelId id, uint32_t kernel_tokens,
                  simt::Order order, Random& random) {
    SCOPED_TRACE(testing::Message() << kKernels[id].name << ", " << rows << " x " << k << ", " << tokens << " tokens");
    ProductProblem p(type, rows, k, tokens, true, random);
    Buffer fragments(fragments_bytes(type, rows, k));
    make_fragments(type, p.w.data(), p.w_row_bytes, rows, k, fragments.data());
    Buffer y = p.y_before();
    ProductArgs args = p.args(y);
    args.w = fragments.data();
    launch(id, args, type == kQ4_K ? q4_k_fragments_shape(args, kernel_tokens) : q8_0_fragments_shape(args), order);
    p.expect_scalar(y);
}

TEST(SimtFragments, Q4KEqualsScalar) {
    Random random(2);
    constexpr KernelId kIds[] = {kernel_q4_k_fragments_1, kernel_q4_k_fragments_2, kernel_q4_k_fragments_4,
                                 kernel_q4_k_fragments_8};
    for (simt::Order order : orders())
        for (uint32_t i = 0; i < 4; ++i) {
            // Three rounds of the double buffer, the last one not full; more rows than a block of warps has.
            expect_equal(kQ4_K, 70, 2560, 1u << i, kIds[i], 1u << i, order, random);
            expect_equal(kQ4_K, 16, 256, i ? (1u << i) - 1 : 1, kIds[i], 1u << i, order, random);
        }
}

TEST(SimtFragments, Q8EqualsScalar) {
    Random random(3);
    for (simt::Order order : orders())
        for (uint32_t k : {32u, 160u, 576u})
            for (uint32_t rows : {16u, 37u}) expect_equal(kQ8_0, rows, k, 1, kernel_q8_0_fragments, 1, order, random);
}

}  // namespace
}  // namespace keel_test
