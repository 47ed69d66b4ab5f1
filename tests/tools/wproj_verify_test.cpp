// keel wproj verify and inspect on caches of the bundled model: whole ones, and ones that are wrong in one way each.
#include "sdk/tools/files/wproj_verify.h"

#include <gtest/gtest.h>
#include <string.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "kernels/cpu/kernel_set.h"
#include "sdk/model/wproj_slots.h"
#include "sdk/tools/files/wproj_image.h"
#include "tests/test_paths.h"

namespace {

using namespace keel;
using namespace keel::tools;

constexpr uint32_t kRank = 32;

// Pt: the first rows of the identity. W_proj: the first columns of W. Exact, and its energy is that of those columns.
class WprojVerify : public testing::Test {
  protected:
    void SetUp() override {
        model_ = open_model(keel_test::source_path("samples/models/books-7m-f16.gguf"));
        shape_ = wproj_shape_of(*model_.model);
        image_.fingerprint = model_.info.fingerprint;
        image_.layers.resize(shape_.layers);
        WprojImageLayer& layer = image_.layers[0];
        for (const uint32_t slot : {kWprojQ, kWprojV, kWprojDown}) {
            const uint32_t group = wproj_group(static_cast<WprojSlot>(slot)), columns = shape_.columns[group],
                           rows = shape_.rows[slot];
            std::vector<float> pt(size_t{kRank} * columns), w, mean(columns, 0.5f);
            for (uint32_t i = 0; i < kRank; ++i) pt[size_t{i} * columns + i] = 1;
            layer.basis[group] = {kRank, columns, kernels::kF32, bytes_of(pt), std::vector<float>(kRank, 0.5f), mean};
            const GgufTensor* tensor = wproj_tensor(*model_.model, 0, slot);
            ASSERT_NE(tensor, nullptr);
            const uint8_t* data = static_cast<const uint8_t*>(model_.reader.get()->mapped) + tensor->offset;
            std::vector<float> row(columns);
            double kept = 0, all = 0;
            for (uint32_t r = 0; r < rows; ++r) {
                kernels::kScalarSet.dequantize_row[tensor->type](
                    data + r * kernels::weight_row_bytes(tensor->type, columns), row.data(), columns);
                for (uint32_t c = 0; c < columns; ++c) {
                    const double square = static_cast<double>(row[c]) * row[c];
                    all += square;
                    if (c < kRank) kept += square;
                }
                w.insert(w.end(), row.begin(), row.begin() + kRank);
            }
            layer.record[slot] = {rows, kRank, kernels::kF32, bytes_of(w), {}};
            layer.record[slot].compression = wproj_compression(rows, kRank, columns);
            layer.record[slot].energy = static_cast<float>(kept / all);
        }
    }
    void TearDown() override { std::filesystem::remove(path_); }

    static std::vector<uint8_t> bytes_of(const std::vector<float>& floats) {
        std::vector<uint8_t> out(floats.size() * 4);
        memcpy(out.data(), floats.data(), out.size());
        return out;
    }
    // What verify says after a change of the image; each part by its name.
    std::vector<WprojPartCheck> checks(const std::function<void(WprojImageLayer&)>& change) {
        WprojImage image = image_;
        change(image.layers[0]);
        write_wproj_v2(path_, image, 1);
        return verify_wproj(open_wproj_table(path_, &shape_), &model_);
    }
    static const WprojPartCheck& part(const std::vector<WprojPartCheck>& checks, const std::string& name) {
        for (const WprojPartCheck& c : checks)
            if (c.part == name) return c;
        throw std::runtime_error("no part " + name);
    }
    static void set(std::vector<uint8_t>& matrix, size_t index, float value) {
        memcpy(matrix.data() + index * 4, &value, 4);
    }

    std::string path_ = testing::TempDir() + "keel_wproj_verify.bin";
    ModelFile model_;
    WprojShape shape_{};
    WprojImage image_;
};

TEST_F(WprojVerify, WholeOnes) {
    const std::vector<WprojPartCheck> all = checks([](WprojImageLayer&) {});
    EXPECT_EQ(all.size(), 5u);
    for (const WprojPartCheck& c : all) {
        EXPECT_FALSE(c.broken()) << c.part;
        EXPECT_EQ(c.unit_error, 0) << c.part;
        if (!c.part.ends_with("Pt")) {
            EXPECT_NEAR(c.energy, c.stored_energy, 1e-6) << c.part;
        } else {
            EXPECT_NEAR(c.mu_error, 0, 1e-9) << c.part;
        }
    }
}

TEST_F(WprojVerify, WhatIsWrongIsNamed) {
    EXPECT_NEAR(
        part(checks([](WprojImageLayer& l) { set(l.basis[kWprojAttnIn].matrix, 0, 1.5f); }), "attn_in Pt").unit_error,
        0.5, 1e-6);
    EXPECT_FALSE(
        part(checks([](WprojImageLayer& l) { set(l.basis[kWprojAttnIn].matrix, 7, NAN); }), "attn_in Pt").finite);
    EXPECT_FALSE(
        part(checks([](WprojImageLayer& l) { l.basis[kWprojFfnHidden].mean[3] = INFINITY; }), "ffn_hidden Pt").finite);
    EXPECT_NEAR(part(checks([](WprojImageLayer& l) { l.basis[kWprojAttnIn].mu[3] = 2; }), "attn_in Pt").mu_error, 1.0,
                1e-6);
    EXPECT_FALSE(part(checks([](WprojImageLayer& l) { set(l.record[kWprojV].matrix, 5, INFINITY); }), "v").finite);
    EXPECT_FALSE(
        part(checks([](WprojImageLayer& l) { l.record[kWprojQ].bias.assign(l.record[kWprojQ].rows, NAN); }), "q")
            .finite);
    const WprojPartCheck other = part(checks([](WprojImageLayer& l) { l.record[kWprojDown].energy = 0.9f; }), "down");
    EXPECT_GT(std::fabs(other.energy - other.stored_energy), 0.1);
    // A byte of a matrix in the file itself.
    write_wproj_v2(path_, image_, 1);
    uint64_t offset = open_wproj_table(path_).layers[0].record[kWprojV].offset;
    std::fstream(path_, std::ios::in | std::ios::out | std::ios::binary)
        .seekp(static_cast<std::streamoff>(offset))
        .put('\x11');
    EXPECT_FALSE(part(verify_wproj(open_wproj_table(path_, &shape_), &model_), "v").checksum);
}

// M n b_w / (n b_P + M b_q): the model's weights are F16, the factors F32.
TEST_F(WprojVerify, BreakEvenRank) {
    write_wproj_v2(path_, image_, 1);
    const WprojTable table = open_wproj_table(path_, &shape_);
    const double n = shape_.columns[kWprojAttnIn], rows = shape_.rows[kWprojQ] + shape_.rows[kWprojV];
    EXPECT_NEAR(wproj_break_even_rank(*model_.model, table.layers[0], 0, kWprojAttnIn),
                rows * n * 2 / (n * 4 + rows * 4), 1e-9);
    EXPECT_EQ(wproj_break_even_rank(*model_.model, table.layers[0], 0, kWprojAttnOut), 0);
}

TEST_F(WprojVerify, PackedTablesAreTheSame) {
#ifdef KEEL_HAVE_PACK
    write_wproj_v2(path_, image_, 1);
    const WprojTable plain = open_wproj_table(path_, &shape_);
    write_wproj_v2(path_, image_, 1, {kWprojZstd, 3});
    const WprojTable packed = open_wproj_table(path_, &shape_);
    EXPECT_TRUE(packed.packed);
    EXPECT_EQ(packed.plain_bytes, plain.file_bytes);
    ASSERT_EQ(packed.layers.size(), plain.layers.size());
    EXPECT_EQ(0, memcmp(packed.layers.data(), plain.layers.data(), plain.layers.size() * sizeof(WprojLayer)));
#endif
}

}  // namespace
