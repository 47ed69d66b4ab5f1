// Interleaved weights give the bits of the plain layout, for every column count and row range they promise.
#include "tests/unit/kernels_test_support.h"

namespace {

using namespace keel_test;

TEST(KernelsRepack, SameBitsAsPlainRows) {
    Random random(11);
    int compared = 0;
    for (const KernelSet* set : fast_sets()) {
        for (uint32_t type = 0; type < kWeightTypeLimit; ++type) {
            if (!set->repack[type]) {
                EXPECT_EQ(set->matmul_repacked[type], nullptr);
                continue;
            }
            const WeightTypeInfo& info = kWeightTypes[type];
            ASSERT_LE(info.block_bytes, kMaxRepackBlockBytes);
            for (int round = 0; round < 60; ++round) {
                const uint32_t rows = kRepackRows * random.between(1, 5), k = info.block_elements * random.between(1, 20);
                const uint32_t columns = random.between(1, 19);
                const uint64_t row_bytes = weight_row_bytes(type, k);
                Buffer plain(rows * row_bytes, random.below(64)), packed(rows * row_bytes, random.below(64));
                for (uint64_t i = 0; i < rows * row_bytes; ++i) plain.data()[i] = static_cast<uint8_t>(round % 3 ? random.bits() : random.below(2) ? 0x80 : 0x7f);
                for (uint64_t b = 0; b < rows * row_bytes / info.block_bytes; ++b) {  // sane scales
                    const uint16_t d = f32_to_f16(random.uniform(-0.1f, 0.1f));
                    memcpy(plain.data() + b * info.block_bytes, &d, 2);
                }
                set->repack[type](plain.data(), packed.data(), rows, k);
                const uint64_t column_bytes = q8_column_bytes(k, info.activation_block);
                Buffer x(columns * column_bytes);
                for (uint32_t c = 0; c < columns; ++c) {
                    std::vector<float> v = random.normals(k);
                    if (round % 5 == 0) v[random.below(k)] = 1e30f;
                    if (round % 7 == 0) v[random.below(k)] = NAN;
                    set->quantize_q8(v.data(), k, info.activation_block, x.data() + c * column_bytes);
                }
                std::vector<float> a(uint64_t{rows} * columns, 0.5f), b = a, bias = random.normals(rows);
                std::vector<float*> ya(columns), yb(columns);
                for (uint32_t c = 0; c < columns; ++c) ya[c] = &a[uint64_t{c} * rows], yb[c] = &b[uint64_t{c} * rows];
                MatmulArgs args = {};
                args.w = plain.data();
                args.w_row_bytes = row_bytes;
                args.row_begin = round % 2 ? kRepackRows * random.below(rows / kRepackRows) : 0;
                args.row_end = rows;
                args.k = k;
                args.columns = columns;
                args.x = x.data();
                args.x_column_bytes = column_bytes;
                args.y = ya.data();
                args.bias = round % 4 ? nullptr : bias.data();
                args.accumulate = round % 2;
                find_kernel_set(kScalar)->matmul_q8[type](args);
                args.w = packed.data();
                args.y = yb.data();
                set->matmul_repacked[type](args);
                for (size_t i = 0; i < a.size(); ++i)
                    ASSERT_TRUE(f32_bits(a[i]) == f32_bits(b[i]) || (a[i] != a[i] && b[i] != b[i])) << info.name << " element " << i << ": " << a[i] << " and " << b[i];
                ++compared;
            }
        }
    }
    if (fast_sets().empty()) GTEST_SKIP() << "skipped: this machine has no set with interleaved kernels";
    EXPECT_GT(compared, 0);
}

}  // namespace
