// Weight decoding against gguf-py's values for real quantized tensors, bit for bit; trellis types, which only Keel has,
// against their definition.
#include <algorithm>

#include "kernels/formats/rotation.h"
#include "kernels/formats/weight_trellis_tables.h"
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
    EXPECT_EQ(checked, 13u);  // every quantized type of GGUF and BF16
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

// From the bits of the ring and the Hadamard matrix. All is exact but the product with d.
TEST(KernelsDequantize, TrellisBlocksAreWhatTheHeaderSays) {
    Random random(2);
    for (uint32_t type : {kWT2, kWT3})
        for (int round = 0; round < 20; ++round) {
            const TrellisCode code = trellis_code(type);
            const uint32_t bits = type == kWT2 ? 2 : 3, stride = type == kWT2 ? 2 : 1;
            uint8_t block[128];
            fill_weights(type, block, kWeightTypes[type].block_bytes, random);
            const auto field = [&](uint32_t u) {
                uint32_t value = 0;
                for (uint32_t i = 0; i < 4; ++i) {
                    const uint32_t at = (u % 256 * bits + i) % (256 * bits), lane = at / (64 * bits),
                                   in_lane = at % (64 * bits);
                    value |= (block[2 + in_lane / 8 * 4 + lane] >> in_lane % 8 & 1u) << i;
                }
                return value;
            };
            int q[256];
            for (uint32_t j = 0; j < 64; ++j)
                for (uint32_t b = 0; b < 4; ++b) {
                    const uint32_t u = 64 * b + j;
                    q[4 * j + b] = code.table[0][field(u)] + code.table[1][field(u + stride)] +
                                   code.table[2][field(u + 2 * stride)];
                }
            uint16_t half;
            memcpy(&half, block, 2);
            std::vector<const KernelSet*> sets = fast_sets();
            sets.push_back(&kScalarSet);
            for (const KernelSet* set : sets) {
                float got[256];
                set->dequantize_row[type](block, got, 256);
                for (uint32_t k = 0; k < 256; ++k) {
                    int sum = 0;
                    for (uint32_t i = 0; i < 256; ++i) sum += __builtin_popcount(i & k) % 2 ? -q[i] : q[i];
                    const bool negative = kRotationSigns[k / 64] >> (63 - k % 64) & 1;
                    const double want = double{f16_to_f32(half)} * (negative ? -sum : sum) / 16;
                    ASSERT_EQ(got[k], static_cast<float>(want)) << set->name << " " << kWeightTypes[type].name;
                }
            }
        }
    for (uint32_t type : {kWT2, kWT3})
        for (uint32_t state = 0; state < 1u << trellis_code(type).state_bits(); ++state)
            ASSERT_LE(std::abs(trellis_code(type).value(state)), kMostTrellisValue);
}

TEST(KernelsDequantize, TableNamesEveryTypeOnce) {
    EXPECT_EQ(weight_types().size(), 18u);
    EXPECT_EQ(weight_type_info(kWeightTypeCount), nullptr);
    // Numbers in files: GGUF's own, Keel's from 0x1000 on, nothing in the places between.
    EXPECT_EQ(kWeightTypes[kF32].number, 0u);
    EXPECT_EQ(kWeightTypes[kQ4_K].number, 12u);
    EXPECT_EQ(kWeightTypes[kIQ4_XS].number, 23u);
    EXPECT_EQ(kWeightTypes[kBF16].number, 30u);
    EXPECT_EQ(kWeightTypes[kQ8_F32].number, 0x1000u);
    EXPECT_EQ(kWeightTypes[kWT2].number, 0x1002u);
    EXPECT_EQ(kWeightTypes[kWT3].number, 0x1003u);
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
