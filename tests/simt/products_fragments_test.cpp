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
// Two blocks at once, or of blocks of prompts the largest.
constexpr Kernel kToken = {kernel_product_token_Q4_0,
                           [](const ProductArgs&a, uint32_t type) { return product_token_shape(a, type, 1); }},
                 kStream = {kernel_product_stream_Q4_0,
                            [](const ProductArgs&a, uint32_t type) { return product_stream_shape(a, type, 1); }},
                 kPrompt = {kernel_product_prompt_Q4_0,
                            [](const ProductArgs&a, uint32_t type) { return product_prompt_shape(a, type, 1); }},
                 kSmallPrompt = {kernel_product_prompt_Q4_0, [](const ProductArgs&a, uint32_t type) {
                                     return product_prompt_shape(a, type, UINT32_MAX);
                                 }};
void expect_equal(const Kernel& kernel, const ProductShape& shape, simt::Order order, Random& random,
                  bool all = false) {
    const uint32_t type = shape.type;
    SCOPED_TRACE(testing::Message() << kKernels[product_kernel(kernel.first, type)].name << ", "
                                    << testing::PrintToString(shape.rows) << " x " << shape.k << ", " << shape.tokens
                                    << " tokens, input " << static_cast<int>(shape.input) << ", gate "
                                    << static_cast<int>(shape.gate));
    ProductProblem p(shape, true, random);
    std::deque<Buffer> fragments = lay(p, order);
    Buffer y = p.y_before();
    ProductArgs args = p.args(fragments, y);
    if (!all) {
        args.group_begin = random.below(args.group_end);
        args.group_end = random.between(args.group_begin + 1, args.group_end);
    }
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

constexpr ProductInput kInputs[] = {ProductInput::kRows, ProductInput::kFloats};
constexpr ProductGate kGates[] = {ProductGate::kNone, ProductGate::kSilu, ProductGate::kGelu};

// Three chunks, the last one not full, so that both buffers are used again; more rows than the warps of a block take.
TEST(SimtFragments, ManyTokensEqualScalar) {
    Random random(2);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements, long_k = 2 * kPromptChunk + block;
            expect_equal(kSmallPrompt, {type, {33}, long_k, 64}, order, random);
            expect_equal(kSmallPrompt, {type, {17, 40, 3}, 3 * block, 77}, order, random);
            expect_equal(kPrompt, {type, {70}, block, random.between(1, 20)}, order, random);
            const ProductGate gate = kGates[1 + type % 2];
            expect_equal(kSmallPrompt, {type, {52, 52}, block, 43, ProductInput::kRows, gate}, order, random);
        }
}

// Strips of some groups for each of a block's warps, so that they are brought into the same places three times, the
// last strip of a group not full; groups of one strip; every way in which activations come.
TEST(SimtFragments, FewTokensEqualScalar) {
    Random random(3);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_fragments()) {
            const uint32_t block = kWeightTypes[type].block_elements, strip = strip_blocks(block) * block,
                           ahead = strips_ahead(kWeightTypes[type]), long_k = 3 * strip + block;
            // Strips of a group of long_k are four: groups of a block so that each warp has three times `ahead`.
            const uint32_t rows = 16 * 2 * (3 * ahead * kStreamWarps / 4);
            expect_equal(kStream, {type, {rows}, long_k, 8}, order, random, true);
            expect_equal(kToken, {type, {rows}, long_k, 1}, order, random, true);
            expect_equal(kStream, {type, {30, 5, 17}, block, random.between(1, 7)}, order, random);
            expect_equal(kToken, {type, {30, 5, 17}, block, 1}, order, random);
            const ProductGate gate = kGates[1 + random.below(2)];
            expect_equal(kStream, {type, {52, 52}, strip, random.between(2, 8), ProductInput::kRows, gate}, order,
                         random);
            for (ProductInput input : kInputs) {
                expect_equal(kToken, {type, {37}, (kStreamWarps + 1) * strip, 1, input}, order, random);
                expect_equal(kToken, {type, {70, 70}, 2 * block, 1, input, kGates[1 + random.below(2)]}, order, random);
            }
        }
}

// Activations of more spans than the warps of a block have in registers, and that leave room for one strip ahead.
TEST(SimtFragments, LongRowsEqualScalar) {
    Random random(5);
    for (simt::Order order : orders())
        for (uint32_t type : {uint32_t{kQ8_0}, uint32_t{kQ4_K}}) {
            expect_equal(kToken, {type, {20}, 256 * (3 * kStreamWarps + 1), 1, ProductInput::kFloats}, order, random);
            expect_equal(kToken, {type, {2}, 14336, 1, ProductInput::kFloats}, order, random);
        }
}

// The norm of the row that a product completes, in 8 bits: by one launch of several blocks, and by two, of which the
// first one leaves it alone. Rows of more spans than the warps of a block have on their way.
TEST(SimtFragments, NormBehindAProductEqualsScalar) {
    Random random(11);
    for (simt::Order order : orders())
        for (uint32_t block : {32u, 256u}) {
            const uint32_t rows = block == 32 ? 544 : 256 * (4 * kStreamWarps + 2), type = block == 32 ? kQ8_0 : kQ4_K;
            ProductProblem p({type, {rows}, kWeightTypes[type].block_elements, 1}, true, random);
            std::deque<Buffer> fragments = lay(p, order);
            Buffer y = p.y_before(), norm = fenced(random.normals(rows)), counter(4),
                   codes(q8_token_bytes(rows, block));
            memset(counter.data(), 0, 4);
            memset(codes.data(), 0x5a, q8_token_bytes(rows, block));
            ProductArgs args = p.args(fragments, y);
            args.after = {reinterpret_cast<uint32_t*>(counter.data()),
                          norm.floats(),
                          codes.data(),
                          block,
                          args.group_end,
                          1e-6f,
                          0};
            const auto run = [&](uint32_t begin, uint32_t end) {
                ProductArgs part = args;
                part.group_begin = begin;
                part.group_end = end;
                launch(product_kernel(kToken.first, type), part, kToken.shape(part, type), order);
            };
            const uint32_t groups = args.group_end, half = random.between(1, groups - 1);
            const bool cut = random.below(2);
            if (cut) {
                run(0, half);
                EXPECT_EQ(codes.data()[0], 0x5a);
            }
            run(cut ? half : 0, groups);
            EXPECT_EQ(*reinterpret_cast<uint32_t*>(counter.data()), 0u);
            p.expect_scalar(args, y);
            std::vector<float> row(rows);
            kScalarSet.rms_norm(y.floats(), norm.floats(), rows, 1e-6f, row.data());
            Buffer expected(q8_token_bytes(rows, block));
            kScalarSet.quantize_q8(row.data(), rows, block, expected.data());
            const Q8Token got = q8_token(codes.data(), rows, block), want = q8_token(expected.data(), rows, block);
            EXPECT_EQ(memcmp(got.q, want.q, rows), 0);
            EXPECT_TRUE(same_floats(got.d, want.d, rows / block));
            EXPECT_EQ(memcmp(got.sums, want.sums, rows / 16 * 2), 0);
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
