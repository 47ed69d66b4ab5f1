// Interleaved weights give the bits of the plain layout, for every column count and row range they promise.
#include "tests/unit/kernels_test_support.h"

namespace {

using namespace keel_test;

TEST(KernelsRepack, SameBitsAsPlainRows) {
    Random random(11);
    int compared = 0;
    std::vector<uint8_t> scratch_bytes(kMatmulScratchBytes + 64);
    void* scratch = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(scratch_bytes.data()) + 63) & ~uintptr_t{63});
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets) {
        for (uint32_t type = 0; type < kWeightTypeCount; ++type) {
            const WeightTypeInfo& info = kWeightTypes[type];
            if (!info.name || info.activation_block == 0) {
                EXPECT_EQ(set->matmul_repacked[type], nullptr);
                continue;
            }
            for (int round = 0; round < 24; ++round) {
                const uint32_t rows = kRepackRows * random.between(1, 5),
                               k = info.block_elements * random.between(1, info.block_elements == 32 ? 20 : 4);
                const uint32_t columns = round < 17 ? static_cast<uint32_t>(round) + 1 : random.between(1, 19);
                const uint64_t row_bytes = weight_row_bytes(type, k);
                Buffer plain(rows * row_bytes, 1), packed(rows * row_bytes, 1);
                fill_weights(type, plain.data(), rows * row_bytes, random,
                             round % 3         ? -1
                             : random.below(2) ? 0x80
                                               : 0x7f);
                repack_rows(static_cast<WeightType>(type), plain.data(), packed.data(), rows, k);
                const uint32_t row = random.below(rows), first = random.below(k / info.block_elements);
                Buffer back(row_bytes);
                unpack_row(static_cast<WeightType>(type), packed.data() + row / kRepackRows * kRepackRows * row_bytes,
                           row % kRepackRows, first, k / info.block_elements - first, back.data());
                ASSERT_EQ(memcmp(back.data(), plain.data() + row * row_bytes + first * info.block_bytes,
                                 row_bytes - first * info.block_bytes),
                          0)
                    << info.name;
                const uint64_t column_bytes = q8_token_bytes(k, info.activation_block);
                Buffer x(columns * column_bytes);
                for (uint32_t c = 0; c < columns; ++c) {
                    std::vector<float> v = random.normals(k);
                    if (round % 5 == 0) v[random.below(k)] = 1e30f;
                    if (round % 7 == 0) v[random.below(k)] = NAN;
                    set->quantize_q8(v.data(), k, info.activation_block, x.data() + c * column_bytes);
                }
                const uint64_t outputs = uint64_t{rows} * columns;
                Buffer a = fenced(std::vector<float>(outputs, 0.5f)), b = fenced(std::vector<float>(outputs, 0.5f));
                const std::vector<float> bias = random.normals(rows);
                std::vector<float*> ya(columns), yb(columns);
                for (uint32_t c = 0; c < columns; ++c)
                    ya[c] = a.floats() + uint64_t{c} * rows, yb[c] = b.floats() + uint64_t{c} * rows;
                MatmulArgs args = {};
                args.w = plain.data();
                args.w_row_bytes = row_bytes;
                args.row_begin = round % 2 ? kRepackRows * random.below(rows / kRepackRows) : 0;
                args.row_end = rows;
                args.k = k;
                args.tokens = columns;
                args.x = x.data();
                args.x_token_bytes = column_bytes;
                args.y = ya.data();
                args.bias = round % 4 ? nullptr : bias.data();
                args.accumulate = round % 2;
                args.scratch = scratch;
                kScalarSet.matmul_q8[type](args);
                args.w = packed.data();
                args.y = yb.data();
                set->matmul_repacked[type](args);
                ASSERT_TRUE(same_floats(a.floats(), b.floats(), outputs)) << set->name << " " << info.name;
                ++compared;
            }
        }
    }
    EXPECT_GT(compared, 0);
}

}  // namespace
