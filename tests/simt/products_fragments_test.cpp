// Products on matrix units against the scalar set, bit for bit, for every type with 8-bit activations.
#include "tests/simt/product_problem.h"

namespace keel_test {
namespace {

using namespace keel::cuda;

// The weights of a problem as fragments.
Buffer lay(ProductProblem& p, simt::Order order) {
    Buffer fragments(fragment_bytes(p.type, p.rows, p.k));
    const LayArgs args = {p.w.data(), fragments.data(), p.w_row_bytes, p.rows, p.k};
    launch(lay_kernel(p.type), args, lay_shape(args, p.type), order);
    return fragments;
}

enum class Kernel { kRows1 = 1, kRows8 = 8, kRows32 = 32, kShared = 0 };
void expect_equal(Kernel kernel, uint32_t type, uint32_t rows, uint32_t k, uint32_t tokens, simt::Order order,
                  Random& random) {
    SCOPED_TRACE(testing::Message() << kWeightTypes[type].name << ", kernel " << static_cast<int>(kernel) << ", "
                                    << rows << " x " << k << ", " << tokens << " tokens");
    ProductProblem p(type, rows, k, tokens, true, random);
    Buffer fragments = lay(p, order);
    p.row_begin = random.below((rows + 15) / 16) * 16;
    p.row_end = random.between(p.row_begin + 1, rows);
    Buffer y = p.y_before();
    ProductArgs args = p.args(y);
    args.w = fragments.data();
    if (kernel == Kernel::kShared)
        launch(product_shared_kernel(type), args, product_shared_shape(args, type), order);
    else
        launch(product_rows_kernel(type, static_cast<uint32_t>(kernel)), args,
               product_rows_shape(args, static_cast<uint32_t>(kernel)), order);
    p.expect_scalar(y);
}

std::vector<uint32_t> types_with_fragments() {
    std::vector<uint32_t> types;
    for (uint32_t type : weight_types())
        if (kWeightTypes[type].activation_block) types.push_back(type);
    return types;
}

// Three chunks, the last one not full, so that both buffers are used again; more rows than the warps of a block take.
TEST(SimtFragments, ManyRowsEqualScalar) {
    Random random(2);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements, long_k = 2 * chunk_elements(8) + 3 * block;
            expect_equal(Kernel::kRows1, type, 70, long_k, 1, order, random);
            expect_equal(Kernel::kRows8, type, random.between(1, 40), long_k, 8, order, random);
            expect_equal(Kernel::kRows8, type, 16, block, random.between(2, 7), order, random);
            expect_equal(Kernel::kRows8, type, 17, block, 11, order, random);
            expect_equal(Kernel::kRows32, type, 33, 2 * chunk_elements(32) + block, 32, order, random);
            expect_equal(Kernel::kRows32, type, 17, block, 45, order, random);
            expect_equal(Kernel::kRows1, type, 17, block, 3, order, random);
        }
}

TEST(SimtFragments, FewRowsEqualScalar) {
    Random random(3);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements, long_k = 2 * chunk_elements(8) + 3 * block;
            expect_equal(Kernel::kShared, type, 37, long_k, 1, order, random);
            expect_equal(Kernel::kShared, type, random.between(1, 20), block * random.between(1, 5), 8, order, random);
            expect_equal(Kernel::kShared, type, 16, block, random.between(2, 7), order, random);
            expect_equal(Kernel::kShared, type, 16, block, 19, order, random);
        }
}

TEST(SimtFragments, EmbeddingEqualsScalar) {
    Random random(7);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments())
            for (float scale : {1.0f, 2.5f}) {
                const uint32_t k = kWeightTypes[type].block_elements * random.between(1, 4), tokens = 3, rows = 37;
                ProductProblem p(type, rows, k, 1, true, random);
                Buffer fragments = lay(p, order), y(uint64_t{tokens} * k * 4, 4), ids(tokens * 4, 4);
                uint32_t* id = reinterpret_cast<uint32_t*>(ids.data());
                for (uint32_t t = 0; t < tokens; ++t) id[t] = random.below(rows);
                const EmbedArgs args = {fragments.data(), id, y.floats(), p.w_row_bytes, k, k, tokens, scale};
                launch(embed_fragments_kernel(type), args, launch_shape(args), order);
                std::vector<float> want(k);
                for (uint32_t t = 0; t < tokens; ++t) {
                    kScalarSet.dequantize_row[type](p.w.data() + id[t] * p.w_row_bytes, want.data(), k);
                    if (scale != 1.0f) kScalarSet.scale(want.data(), scale, k);
                    EXPECT_TRUE(same_floats(y.floats() + t * k, want.data(), k)) << kWeightTypes[type].name;
                }
            }
}

}  // namespace
}  // namespace keel_test
