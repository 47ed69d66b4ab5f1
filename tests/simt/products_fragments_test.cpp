// Products on matrix units against the scalar set, bit for bit, for every type with 8-bit activations.
#include "tests/simt/product_problem.h"

namespace keel_test {
namespace {

using namespace keel::cuda;

// The weights of a problem as fragments.
std::deque<Buffer> lay(ProductProblem& p, simt::Order order) {
    std::deque<Buffer> laid;
    for (uint32_t m = 0; m < p.w.size(); ++m) {
        const uint32_t rows = p.shape.rows[m];
        Buffer& fragments = laid.emplace_back(fragment_bytes(p.shape.type, rows, p.shape.k));
        const LayArgs args = {p.w[m].data(), fragments.data(), p.w_row_bytes, rows, p.shape.k};
        launch(lay_kernel(p.shape.type), args, lay_shape(args, p.shape.type), order);
    }
    return laid;
}

// A family of kernels, by that of Q4_0, and the shape of its launches.
struct Kernel {
    KernelId first;
    LaunchShape (*shape)(const ProductArgs& args, uint32_t type);
};
constexpr Kernel kToken = {kernel_product_token_Q4_0, product_token_shape},
                 kShared = {kernel_product_shared_Q4_0, product_shared_shape},
                 kRows8 = {kernel_product_rows_8_Q4_0, product_rows_shape<8>},
                 kPrompt256 = {kernel_product_prompt_Q4_0, product_prompt_shape<256>},
                 kPrompt64 = {kernel_product_prompt_Q4_0, product_prompt_shape<64>};
void expect_equal(const Kernel& kernel, const ProductShape& shape, simt::Order order, Random& random) {
    const uint32_t type = shape.type;
    SCOPED_TRACE(testing::Message() << kKernels[product_kernel(kernel.first, type)].name << ", "
                                    << testing::PrintToString(shape.rows) << " x " << shape.k << ", " << shape.tokens
                                    << " tokens, input " << static_cast<int>(shape.input) << ", gate "
                                    << static_cast<int>(shape.gate));
    ProductProblem p(shape, true, random);
    std::deque<Buffer> fragments = lay(p, order);
    Buffer y = p.y_before();
    ProductArgs args = p.args(fragments, y);
    args.group_begin = random.below(args.group_end);
    args.group_end = random.between(args.group_begin + 1, args.group_end);
    Buffer codes(q8_token_bytes(shape.k, p.block));
    if (shape.input != ProductInput::kRows) args.codes = codes.data();
    launch(product_kernel(kernel.first, type), args, kernel.shape(args, type), order);
    p.expect_scalar(args, y);
    if (!args.codes) return;
    const Q8Token got = q8_token(codes.data(), shape.k, p.block), want = q8_token(p.x_codes.data(), shape.k, p.block);
    EXPECT_EQ(memcmp(got.q, want.q, shape.k), 0);
    EXPECT_TRUE(same_floats(got.d, want.d, shape.k / p.block));
    EXPECT_EQ(memcmp(got.sums, want.sums, shape.k / 16 * 2), 0);
}

std::vector<uint32_t> types_with_fragments() {
    std::vector<uint32_t> types;
    for (uint32_t type : weight_types())
        if (kWeightTypes[type].activation_block) types.push_back(type);
    return types;
}

constexpr ProductInput kInputs[] = {ProductInput::kRows, ProductInput::kFloats, ProductInput::kNormed};
constexpr ProductGate kGates[] = {ProductGate::kNone, ProductGate::kSilu, ProductGate::kGelu};

// Three chunks, the last one not full, so that both buffers are used again; more rows than the warps of a block take.
TEST(SimtFragments, ManyRowsEqualScalar) {
    Random random(2);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements, long_k = 2 * chunk_elements(8) + 3 * block;
            expect_equal(kRows8, {type, {random.between(1, 40)}, long_k, 8}, order, random);
            expect_equal(kRows8, {type, {16}, block, random.between(2, 7)}, order, random);
            expect_equal(kRows8, {type, {17, 40, 3}, block, 11}, order, random);
            const ProductGate gate = kGates[1 + type % 2];
            expect_equal(kRows8, {type, {52, 52}, block, 3, ProductInput::kRows, gate}, order, random);
        }
}

// Three chunks, the last one not full; one block of rows and several, rows of one matrix and of three in a warp.
TEST(SimtFragments, PromptEqualsScalar) {
    Random random(5);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements, long_k = 2 * kPromptChunk + block;
            expect_equal(kPrompt64, {type, {33}, long_k, 64}, order, random);
            expect_equal(kPrompt64, {type, {17, 40, 3}, 3 * block, 77}, order, random);
            expect_equal(kPrompt256, {type, {70}, block, random.between(1, 20)}, order, random);
            const ProductGate gate = kGates[1 + type % 2];
            expect_equal(kPrompt64, {type, {52, 52}, block, 43, ProductInput::kRows, gate}, order, random);
        }
}

// One token: three strips, the last one not full; every way in which its activations come.
TEST(SimtFragments, OneTokenEqualsScalar) {
    Random random(4);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements, long_k = (2 * strip_blocks(block) + 1) * block;
            for (ProductInput input : kInputs) {
                expect_equal(kToken, {type, {70}, long_k, 1, input}, order, random);
                expect_equal(kToken, {type, {30, 5, 17}, 5 * block, 1, input}, order, random);
                const ProductGate gate = kGates[1 + random.below(2)];
                expect_equal(kToken, {type, {52, 52}, block, 1, input, gate}, order, random);
            }
            expect_equal(kToken, {type, {17}, block, 3}, order, random);
        }
}

// Three rounds of a block's warps, the last one not full.
TEST(SimtFragments, FewRowsEqualScalar) {
    Random random(3);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements,
                           long_k = (2 * kFragmentWarps * strip_blocks(block) + 3) * block;
            for (ProductInput input : kInputs) {
                expect_equal(kShared, {type, {37}, long_k, 1, input}, order, random);
                const ProductGate gate = kGates[1 + random.below(2)];
                expect_equal(kShared, {type, {20, 20}, 3 * block, 1, input, gate}, order, random);
            }
            expect_equal(kShared, {type, {random.between(1, 20)}, long_k, 8}, order, random);
            expect_equal(kShared, {type, {16, 2, 9}, block, random.between(2, 7)}, order, random);
            expect_equal(kShared, {type, {16, 16}, long_k, 19, ProductInput::kRows, ProductGate::kSilu}, order, random);
        }
}

TEST(SimtFragments, EmbeddingEqualsScalar) {
    Random random(7);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments())
            for (float scale : {1.0f, 2.5f}) {
                const uint32_t k = kWeightTypes[type].block_elements * random.between(1, 4), tokens = 3, rows = 37;
                ProductProblem p({type, {rows}, k, 1}, true, random);
                std::deque<Buffer> fragments = lay(p, order);
                Buffer y(uint64_t{tokens} * k * 4, 4), ids(tokens * 4, 4);
                uint32_t* id = reinterpret_cast<uint32_t*>(ids.data());
                for (uint32_t t = 0; t < tokens; ++t) id[t] = random.below(rows);
                const EmbedArgs args = {fragments[0].data(), id, y.floats(), p.w_row_bytes, k, k, tokens, scale};
                launch(embed_fragments_kernel(type), args, launch_shape(args), order);
                std::vector<float> want(k);
                for (uint32_t t = 0; t < tokens; ++t) {
                    kScalarSet.dequantize_row[type](p.w[0].data() + id[t] * p.w_row_bytes, want.data(), k);
                    if (scale != 1.0f) kScalarSet.scale(want.data(), scale, k);
                    EXPECT_TRUE(same_floats(y.floats() + t * k, want.data(), k)) << kWeightTypes[type].name;
                }
            }
}

}  // namespace
}  // namespace keel_test
