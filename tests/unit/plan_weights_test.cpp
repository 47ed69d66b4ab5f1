// Tensors of three dimensions, such as one matrix per expert: bound by the shape of their slot, and repacked matrix by
// matrix.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/formats/repack.h"
#include "sdk/model/model.h"
#include "sdk/plan/weights.h"
#include "tests/test_engine.h"

namespace {

TEST(ThreeDimensions, TheSlotSaysHowManyMatricesThereAre) {
    keel::ModelSpec spec = {};
    spec.embedding = 64;
    spec.feed_forward = 32;
    spec.head_dim = 3;
    const keel::SlotInfo experts = {"ffn_gate_exps.weight", "ffn_gate", keel::kDimEmbedding, keel::kDimFeedForward,
                                    keel::kDimHead};
    keel::GgufTensor t = {};
    t.dims[0] = 64;
    t.dims[1] = 32;
    t.dims[2] = 3;
    t.dims[3] = 1;
    EXPECT_TRUE(keel::shape_fits(t, experts, spec));
    EXPECT_FALSE(keel::shape_fits(t, keel::kSlots[keel::kFfnGate], spec));  // a single matrix
    for (uint64_t& dim : t.dims) {
        ++dim;
        EXPECT_FALSE(keel::shape_fits(t, experts, spec));
        --dim;
    }
}

TEST(ThreeDimensions, EveryMatrixIsRepacked) {
    using namespace keel::kernels;
    constexpr uint32_t kRows = 2 * kRepackRows, kMatrices = 3;
    for (uint32_t k : {64u, 4096u}) {  // several groups of rows in one read, and one group in several
        const uint64_t row_bytes = weight_row_bytes(kQ8_0, k), bytes = row_bytes * kRows * kMatrices;
        std::vector<uint8_t> file(bytes), expected(bytes);
        for (uint64_t i = 0; i < bytes; ++i) file[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
        for (uint32_t m = 0; m < kMatrices; ++m)
            repack_rows(kQ8_0, file.data() + m * kRows * row_bytes, expected.data() + m * kRows * row_bytes, kRows, k);

        keel_reader reader = keel_test::sized<keel_reader>();
        keel_test::check(keel_reader_from_memory(file.data(), file.size(), &reader), "reader");
        const uint64_t capacity = bytes + keel::kRedZoneBytes;
        std::vector<uint8_t> memory(capacity + 64);
        uint8_t* base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
        keel::Arena arena(base, capacity);
        keel::Arena none;
        keel::WeightPlacer placer{arena, none, KEEL_WEIGHTS_REPACK, {}, bytes, &kScalarSet, nullptr};
        keel::GgufTensor t = {};
        t.type = kQ8_0;
        t.dims[0] = k;
        t.dims[1] = kRows;
        t.dims[2] = kMatrices;
        t.dims[3] = 1;
        t.bytes = bytes;
        const void* placed = placer.repacked_matrix(reader, t, "experts", 0);
        ASSERT_EQ(placer.status, KEEL_OK);
        ASSERT_NE(placed, nullptr);
        EXPECT_EQ(0, memcmp(placed, expected.data(), bytes)) << k;
        arena.release();
    }
}

}  // namespace
