// Products, embeddings and 8-bit activations against the scalar set, bit for bit, for every weight type.
#include "tests/simt/product_problem.h"

namespace keel_test {
namespace {

using namespace keel::cuda;

uint32_t odd_k(uint32_t type, Random& random) {
    const uint32_t block = kWeightTypes[type].block_elements;
    return block == 1 ? random.between(1, 90) : block * random.between(1, block == 32 ? 5 : 2);
}

// Rows that fill no group, groups that begin and end anywhere, more tokens than one block takes.
void expect_equal(uint32_t type, uint32_t tokens, simt::Order order, Random& random) {
    ProductProblem p({type, {random.between(1, 40), random.between(1, 20)}, odd_k(type, random), tokens}, false,
                     random);
    Buffer y = p.y_before();
    ProductArgs args = p.args(p.w, y);
    args.group_begin = random.below(args.group_end);
    args.group_end = random.between(args.group_begin + 1, args.group_end);
    SCOPED_TRACE(testing::Message() << kWeightTypes[type].name << ", " << testing::PrintToString(p.shape.rows) << " x "
                                    << p.shape.k << ", " << tokens << " tokens");
    launch(product_f32_kernel(type), args, product_f32_shape(args), order);
    p.expect_scalar(args, y);
}

std::vector<uint32_t> types_with_kernels() {
    std::vector<uint32_t> types = weight_types();
    std::erase_if(types, [](uint32_t type) { return is_trellis(type); });
    return types;
}

TEST(SimtProducts, EqualScalarForEveryTypeAndNumberOfTokens) {
    Random random(4);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_kernels())
            for (uint32_t tokens : {1u, random.between(2, 7), 8u, 13u}) expect_equal(type, tokens, order, random);
}

// Three rounds of a tile, the last one not full; rows, tokens and groups that fill none.
TEST(SimtProducts, TilesEqualScalarForUnquantizedTypes) {
    Random random(8);
    for (simt::Order order : orders())
        for (uint32_t type : {kF32, kF16, kBF16})
            for (uint32_t k : {2 * kTileElements + random.between(1, 40), random.between(1, 70)}) {
                ProductProblem p({type, {random.between(50, 70), random.between(1, 20)}, k, random.between(9, 40)},
                                 false, random);
                Buffer y = p.y_before();
                ProductArgs args = p.args(p.w, y);
                args.group_begin = random.below(2);
                SCOPED_TRACE(testing::Message() << kWeightTypes[type].name << ", " << k << " elements");
                launch(product_f32_tile_kernel(type), args, product_f32_tile_shape(args), order);
                p.expect_scalar(args, y);
            }
}

TEST(SimtProducts, EmbeddingEqualsScalar) {
    Random random(5);
    for (simt::Order order : orders())
        for (uint32_t type : types_with_kernels())
            for (float scale : {1.0f, 2.5f}) {
                const uint32_t k = odd_k(type, random), tokens = 3, vocabulary = 7;
                const uint64_t row_bytes = weight_row_bytes(type, k);
                Buffer w(vocabulary * row_bytes, 2), y(uint64_t{tokens} * k * 4, 4), ids(tokens * 4, 4);
                fill_weights(type, w.data(), vocabulary * row_bytes, random);
                uint32_t* id = reinterpret_cast<uint32_t*>(ids.data());
                for (uint32_t t = 0; t < tokens; ++t) id[t] = random.below(vocabulary);
                const EmbedArgs args = {w.data(), id, y.floats(), row_bytes, k, k, tokens, scale};
                launch(embed_kernel(type), args, launch_shape(args), order);
                std::vector<float> want(k);
                for (uint32_t t = 0; t < tokens; ++t) {
                    kScalarSet.dequantize_row[type](w.data() + id[t] * row_bytes, want.data(), k);
                    if (scale != 1.0f) kScalarSet.scale(want.data(), scale, k);
                    EXPECT_TRUE(same_floats(y.floats() + t * k, want.data(), k)) << kWeightTypes[type].name;
                }
            }
}

TEST(SimtProducts, QuantizingEqualsScalar) {
    Random random(6);
    for (simt::Order order : orders())
        for (uint32_t block : {32u, 256u})
            for (int kind = 0; kind < 8; ++kind) {
                const uint32_t k = block * random.between(1, 6), tokens = 2;
                Buffer x = fenced(random.normals(tokens * k));
                for (uint32_t i = 0; i < tokens * k; ++i) {
                    float& v = x.floats()[i];
                    if (kind == 1) v *= 1e-42f;  // subnormal: 127 / amax overflows
                    if (kind == 2) v *= 1e37f;
                    if (kind == 3) v = random.below(4) ? 0.0f : v;
                    if (kind == 4) v = 0.0f;
                    if (kind == 7) v = i % block ? std::round(v * 40) * 0.5f : 127.0f;  // codes are v: many ties
                }
                if (kind == 5) x.floats()[random.below(k)] = kInf32;
                if (kind == 6) x.floats()[random.below(k)] = NAN;
                const uint64_t bytes = q8_token_bytes(k, block);
                Buffer q8(tokens * bytes), want(bytes);
                const QuantizeArgs args = {x.floats(), q8.data(), k, bytes, k, block, tokens};
                launch(quantize_kernel(block), args, launch_shape(args), order);
                for (uint32_t t = 0; t < tokens; ++t) {
                    SCOPED_TRACE(testing::Message() << "block " << block << " kind " << kind);
                    kScalarSet.quantize_q8(x.floats() + t * k, k, block, want.data());
                    const Q8Token a = q8_token(q8.data() + t * bytes, k, block), b = q8_token(want.data(), k, block);
                    EXPECT_EQ(memcmp(a.q, b.q, k), 0);
                    EXPECT_TRUE(same_floats(a.d, b.d, k / block));
                    EXPECT_EQ(memcmp(a.sums, b.sums, k / 16 * 2), 0);
                }
            }
}

}  // namespace
}  // namespace keel_test
