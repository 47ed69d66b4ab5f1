// Weight decoding against gguf-py's values for real quantized tensors, bit for bit.
#include <algorithm>

#include "tests/test_paths.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

std::string key_of(const std::string& name) {
    return std::string(1, '"').append(name).append("\":");
}

uint32_t index_number(const std::string& index, const std::string& type, const std::string& key) {
    const size_t at = index.find(key_of(key), index.find(key_of(type)));
    return at == std::string::npos ? 0 : static_cast<uint32_t>(std::stoul(index.substr(at + key.size() + 3)));
}

void check_blocks(const std::string& dir) {
    const std::vector<char> text = read_file(dir + "/index.json");
    const std::string index(text.begin(), text.end());
    uint32_t checked = 0;
    for (uint32_t type : weight_types()) {
        const WeightTypeInfo& info = kWeightTypes[type];
        if (index.find(key_of(info.name)) == std::string::npos) continue;
        SCOPED_TRACE(info.name);
        EXPECT_EQ(info.block_elements, index_number(index, info.name, "block_elements"));
        EXPECT_EQ(info.block_bytes, index_number(index, info.name, "block_bytes"));
        std::string name = info.name;
        std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return tolower(c); });
        const std::vector<char> blocks = read_file(dir + "/" + name + ".bin"),
                                values = read_file(dir + "/" + name + ".f32");
        const uint32_t n = static_cast<uint32_t>(values.size() / 4);
        ASSERT_EQ(n, index_number(index, info.name, "elements"));
        ASSERT_EQ(blocks.size(), weight_row_bytes(type, n));
        std::vector<const KernelSet*> sets = fast_sets();
        sets.push_back(&kScalarSet);
        for (const KernelSet* set : sets) {
            SCOPED_TRACE(set->name);
            for (size_t offset : {0, 1, 6}) {  // weights may lie anywhere in a file
                Buffer source(offset + blocks.size(), 1), decoded(n * 4, 4);
                memcpy(source.data() + offset, blocks.data(), blocks.size());
                set->dequantize_row[type](source.data() + offset, decoded.floats(), n);
                EXPECT_EQ(0, memcmp(decoded.data(), values.data(), values.size()));
            }
        }
        ++checked;
    }
    EXPECT_EQ(checked, 13u);  // every quantized type and BF16
}

TEST(KernelsDequantize, BundledBlocksDecodeExactly) {
    check_blocks(source_path("tests/data/quant-blocks"));
}

TEST(KernelsDequantize, SharedBlocksDecodeExactly) {
    KEEL_SHARED_OR_SKIP(dir, "conformance/quant-blocks");
    check_blocks(dir);
}

TEST(KernelsDequantize, SetsAgreeOnRandomBlocks) {
    const KernelSet* scalar = &kScalarSet;
    Random random(1);
    for (const KernelSet* set : fast_sets())
        for (uint32_t type : weight_types())
            for (int fill : {-1, -1, 0, 255, 0x80, 0x7f}) {
                SCOPED_TRACE(std::string(set->name) + " " + kWeightTypes[type].name + " fill " + std::to_string(fill));
                const uint32_t k = random.between(1, 5) * std::max<uint32_t>(kWeightTypes[type].block_elements, 4) +
                                   (kWeightTypes[type].block_elements == 1 ? random.below(4) : 0);
                Buffer w(weight_row_bytes(type, k), 1), a(k * 4, 4), b(k * 4, 4);
                fill_weights(type, w.data(), weight_row_bytes(type, k), random, fill);
                scalar->dequantize_row[type](w.data(), a.floats(), k);
                set->dequantize_row[type](w.data(), b.floats(), k);
                EXPECT_TRUE(same_floats(a.floats(), b.floats(), k));
            }
}

TEST(KernelsDequantize, TableNamesEveryTypeOnce) {
    EXPECT_EQ(weight_types().size(), 16u);
    EXPECT_EQ(weight_type_info(kWeightTypeCount), nullptr);
    // Numbers in files: GGUF's own, Keel's from 0x1000 on, nothing in the places between.
    EXPECT_EQ(kWeightTypes[kF32].number, 0u);
    EXPECT_EQ(kWeightTypes[kQ4_K].number, 12u);
    EXPECT_EQ(kWeightTypes[kIQ4_XS].number, 23u);
    EXPECT_EQ(kWeightTypes[kBF16].number, 30u);
    EXPECT_EQ(kWeightTypes[kQ8_F32].number, 0x1000u);
    for (uint32_t number : {4u, 5u, 9u, 16u, 29u, 31u, 34u, 39u, 40u, 0x1001u, UINT32_MAX})
        EXPECT_EQ(weight_type_of_number(number), kWeightTypeCount) << number;
    for (uint32_t type : weight_types()) {
        const WeightTypeInfo& info = kWeightTypes[type];
        EXPECT_EQ(info.activation_block, info.block_elements == 1 ? 0 : info.block_elements) << info.name;
        std::vector<const KernelSet*> sets = fast_sets();
        sets.push_back(&kScalarSet);
        for (const KernelSet* set : sets) {
            EXPECT_NE(set->dequantize_row[type], nullptr);
            EXPECT_NE(set->matmul_f32[type], nullptr);
            EXPECT_EQ(set->matmul_q8[type] != nullptr, info.activation_block != 0) << info.name;
            EXPECT_EQ(set->matmul_repacked[type] != nullptr, info.activation_block != 0) << info.name;
        }
    }
}

}  // namespace
}  // namespace keel_test
