// W_proj caches, both versions: sizes of the published files, byte-identical rewriting, views, and files that are
// short, changed or hostile.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "sdk/format/wproj_v1.h"
#include "sdk/tools/common/console.h"
#include "tests/test_paths.h"
#include "tests/wproj_images.h"
#include "tests/wproj_sizes.h"

namespace {

using namespace keel;
using namespace keel::tools;
using namespace keel_test;

constexpr uint64_t kKey = 0x0123456789abcdefull;
using Bytes = std::vector<uint8_t>;

keel_status open(const Bytes& file, const WprojShape& shape, uint64_t key = kKey, bool any = false,
                 keel_error* error = nullptr) {
    WprojFile view;
    return wproj_open(memory_reader(file), shape, key, any, &view, error);
}
// As whatever it says it is.
keel_status open_any(const Bytes& file) {
    return open(file, wproj_any_shape(), 0, true);
}

template <class T>
Bytes with(Bytes file, uint64_t offset, T value) {
    memcpy(file.data() + offset, &value, sizeof value);
    return file;
}

Bytes bytes_at(const Bytes& file, uint64_t offset, uint64_t bytes) {
    return {file.begin() + static_cast<ptrdiff_t>(offset), file.begin() + static_cast<ptrdiff_t>(offset + bytes)};
}
Bytes bytes_of(const std::vector<float>& floats) {
    Bytes out(floats.size() * 4);
    if (!floats.empty()) memcpy(out.data(), floats.data(), out.size());
    return out;
}

// ---- sizes ----

struct Published {
    const char* tag;
    uint64_t bytes;
    uint32_t columns, layers, rank;
    std::array<uint32_t, kWprojSlots> rows;
};
constexpr std::array<uint32_t, kWprojSlots> kLlamaQkv = {0, 4096, 1024, 1024}, kLlamaQkvo = {0, 4096, 1024, 1024, 4096};
constexpr std::array<uint32_t, kWprojSlots> kSmolQkv = {0, 576, 192, 192}, kSmolQkvo = {0, 576, 192, 192, 576};
constexpr Published kPublished[] = {
    {"199911F6", 95966496, 4096, 32, 128, kLlamaQkv},    {"0A2337F6", 191403296, 4096, 32, 256, kLlamaQkv},
    {"FFBC2BB6", 764024096, 4096, 32, 1024, kLlamaQkv},  {"2405A3B6", 1145771296, 4096, 32, 1536, kLlamaQkv},
    {"7CC1AFB6", 1145771296, 4096, 32, 1536, kLlamaQkv}, {"D4DB0E08", 1372264992, 4096, 32, 1536, kLlamaQkvo},
    {"626D1BB6", 1527518496, 4096, 32, 2048, kLlamaQkv}, {"EB866869", 26094032, 576, 30, 256, kSmolQkv},
    {"A402C8CC", 52113872, 576, 30, 512, kSmolQkv},      {"3C2C89D7", 62068352, 576, 30, 512, kSmolQkvo},
};

TEST(WprojSizes, OfTheTenPublishedFiles) {
    for (const Published& p : kPublished) {
        WprojSizes sizes;
        sizes.columns = p.columns;
        sizes.ranks.assign(p.layers, p.rank);
        sizes.rows = p.rows;
        EXPECT_EQ(wproj_v1_bytes(sizes), p.bytes) << p.tag;
    }
}

// A file of a published configuration, written: the smallest one, contents zeros but for the scales.
TEST(WprojSizes, OfAWrittenFileOfAPublishedConfiguration) {
    const Published& p = kPublished[7];
    WprojImage image;
    WprojImageLayer layer;
    layer.basis[kWprojAttnIn] = {p.rank,
                                 p.columns,
                                 kernels::kF32,
                                 Bytes(size_t{p.rank} * p.columns * 4),
                                 std::vector<float>(p.rank),
                                 std::vector<float>(p.columns)};
    for (const uint32_t s : {kWprojQ, kWprojK, kWprojV}) {
        layer.record[s] = {p.rows[s], p.rank, kernels::kQ8_F32, Bytes(size_t{p.rows[s]} * (p.rank / 32) * 36), {}};
        layer.record[s].compression = wproj_compression(p.rows[s], p.rank, p.columns);
    }
    image.layers.assign(p.layers, layer);
    const Bytes file = encode_wproj_v1(image, kKey);
    EXPECT_EQ(file.size(), p.bytes);
    const WprojShape smol = {1, 30, {576, 576, 576, 1536}, {0, 576, 192, 192, 576, 1536, 1536, 576}};
    EXPECT_EQ(open(file, smol), KEEL_OK);
    EXPECT_NEAR(layer.record[kWprojQ].compression, 256.0 * (576 + 576) / (576 * 576), 1e-6);
}

TEST(WprojSizes, CountedEqualsWritten) {
    WprojRandom random(5);
    for (int round = 0; round < 40; ++round) {
        WprojSizes sizes;
        sizes.columns = 32 + random.below(60);
        sizes.mu = random.below(2);
        sizes.mean = random.below(2);
        sizes.bias = random.below(2);
        for (uint32_t s = kWprojQ; s <= kWprojGate; ++s) sizes.rows[s] = random.below(3) ? 1 + random.below(50) : 0;
        WprojImage image;
        image.columns = sizes.columns;
        for (uint32_t l = 1 + random.below(4); l; --l) {
            const uint32_t rank = random.below(3) ? 32 - random.below(2) : 0;
            sizes.ranks.push_back(rank);
            WprojImageLayer layer;
            if (rank) {
                layer.basis[kWprojAttnIn] =
                    some_basis(random, rank, sizes.columns, kernels::kF32, sizes.mu, sizes.mean);
                for (uint32_t s = 0; s < kWprojSlots; ++s)
                    if (sizes.rows[s])
                        layer.record[s] = some_record(random, sizes.rows[s], rank, sizes.columns,
                                                      rank % 32 ? kernels::kF32 : kernels::kQ8_F32, sizes.bias);
            } else {
                layer.empty_flags = sizes.mu | sizes.mean << 1;
            }
            image.layers.push_back(layer);
        }
        EXPECT_EQ(encode_wproj_v1(image, kKey).size(), wproj_v1_bytes(sizes));
    }
}

// ---- rewriting ----

TEST(WprojRewrite, Version1ToTheByte) {
    const Bytes file = version1_by_hand(small_image_v1(), kKey);
    const WprojImage image = read_wproj_image(memory_reader(file));
    EXPECT_EQ(image.version, 1u);
    EXPECT_EQ(image.key, kKey);
    EXPECT_EQ(encode_wproj_v1(image, image.key), file);
    EXPECT_EQ(encode_wproj_v1(read_wproj_image(callback_reader(file)), kKey), file);
    EXPECT_NE(encode_wproj_v1(image, kKey + 1), file);
}

TEST(WprojRewrite, Version2ToTheByte) {
    const Bytes file = encode_wproj_v2(small_image_v2(), kKey);
    const WprojImage image = read_wproj_image(memory_reader(file));
    EXPECT_EQ(image.key, kKey);
    EXPECT_EQ(image.solver, "whitened");
    EXPECT_EQ(image.quality.kl, 0.0625);
    EXPECT_EQ(image.calibration_hash, 77u);
    EXPECT_EQ(encode_wproj_v2(image, image.key), file);
    EXPECT_EQ(image.layers[0].basis, small_image_v2().layers[0].basis);
}

TEST(WprojRewrite, Version1BasesWithoutRecordsStay) {
    WprojImage image;
    WprojRandom random(3);
    image.layers.resize(2);
    image.layers[1].basis[kWprojAttnIn] = some_basis(random, 9, 40, kernels::kF32, true, false);
    const Bytes file = encode_wproj_v1(image, kKey);
    EXPECT_EQ(encode_wproj_v1(read_wproj_image(memory_reader(file)), kKey), file);
    WprojFile view;
    ASSERT_EQ(wproj_open(memory_reader(file), wproj_any_shape(), kKey, false, &view, nullptr), KEEL_OK);
    EXPECT_TRUE(view_is_inside(view));
}

TEST(WprojRewrite, FilesOnDisk) {
    const std::string path = keel_test::temp_path("wproj_rewrite.bin");
    uint64_t told = 0, whole = 0;
    const WprojProgress watch = [&](uint64_t done, uint64_t total) {
        told = done;
        whole = total;
        return false;
    };
    const Bytes one = version1_by_hand(small_image_v1(), kKey);
    write_wproj_v1(path, small_image_v1(), kKey, watch);
    EXPECT_EQ(told, one.size());
    EXPECT_EQ(whole, one.size());
    const std::vector<char> read = read_file(path);
    EXPECT_EQ(Bytes(read.begin(), read.end()), one);
    write_wproj_v2(path, small_image_v2(), kKey);
    const std::vector<char> again = read_file(path);
    EXPECT_EQ(Bytes(again.begin(), again.end()), encode_wproj_v2(small_image_v2(), kKey));
    EXPECT_EQ(encode_wproj_v2(read_wproj_image(path), kKey).size(), again.size());
    std::filesystem::remove(path);
}

// ---- views ----

// What the view names is what the image held, and offsets of version 2 are multiples of 64.
void expect_view(const Bytes& file, const WprojImage& image, const WprojShape& shape, bool version1) {
    WprojFile view;
    keel_error error = {};
    error.struct_size = sizeof error;
    ASSERT_EQ(wproj_open(callback_reader(file), shape, kKey, false, &view, &error), KEEL_OK)
        << error.field << ": " << error.reason;
    EXPECT_EQ(view.layers, image.layers.size());
    EXPECT_EQ(view.key, kKey);
    EXPECT_TRUE(view_is_inside(view));
    WprojCursor cursor = {};
    for (const WprojImageLayer& want : image.layers) {
        WprojLayer layer;
        ASSERT_EQ(wproj_layer(view, &cursor, &layer), KEEL_OK);
        for (uint32_t g = 0; g < kWprojGroups; ++g) {
            const WprojBasis& b = layer.basis[g];
            ASSERT_EQ(b.rank, want.basis[g].rank);
            if (!b.rank) continue;
            EXPECT_EQ(b.columns, want.basis[g].columns);
            EXPECT_EQ(b.type, want.basis[g].type);
            EXPECT_EQ(bytes_at(file, b.offset, b.bytes), want.basis[g].matrix);
            EXPECT_EQ(b.mu != 0, !want.basis[g].mu.empty());
            EXPECT_EQ(b.mean != 0, !want.basis[g].mean.empty());
            if (b.mu) {
                EXPECT_EQ(bytes_at(file, b.mu, b.rank * 4), bytes_of(want.basis[g].mu));
            }
            if (b.mean) {
                EXPECT_EQ(bytes_at(file, b.mean, b.columns * 4), bytes_of(want.basis[g].mean));
            }
            if (!version1) {
                EXPECT_EQ((b.offset | b.mu | b.mean) % 64, 0u);
            }
        }
        for (uint32_t s = 0; s < kWprojSlots; ++s) {
            const WprojRecord& r = layer.record[s];
            const bool skipped = version1 && (s == kWprojFfnDownSvd || s == kWprojDown);
            ASSERT_EQ(r.rank, skipped ? 0 : want.record[s].rank) << s;
            if (!r.rank) continue;
            EXPECT_EQ(r.rows, want.record[s].rows);
            EXPECT_EQ(r.type, want.record[s].type);
            EXPECT_EQ(r.energy, want.record[s].energy);
            EXPECT_EQ(r.compression, want.record[s].compression);
            EXPECT_EQ(r.error, version1 ? -1 : want.record[s].error);
            EXPECT_EQ(bytes_at(file, r.offset, r.bytes), want.record[s].matrix);
            EXPECT_EQ(r.bias != 0, !want.record[s].bias.empty());
            if (r.bias) {
                EXPECT_EQ(bytes_at(file, r.bias, r.rows * 4), bytes_of(want.record[s].bias));
            }
            if (!version1) {
                EXPECT_EQ((r.offset | r.bias) % 64, 0u);
            }
        }
    }
    WprojLayer beyond;
    EXPECT_EQ(wproj_layer(view, &cursor, &beyond), KEEL_E_ARGUMENT);
}

TEST(WprojView, OfVersion1) {
    expect_view(version1_by_hand(small_image_v1(), kKey), small_image_v1(), small_shape(4), true);
}
TEST(WprojView, OfVersion2) {
    expect_view(encode_wproj_v2(small_image_v2(), kKey), small_image_v2(), small_shape(4), false);
}

// The published cache's O multiplies the residual stream's basis: of use only to models whose attention output is as
// long.
TEST(WprojView, Version1OutputProjectionNeedsItsWidth) {
    const Bytes file = version1_by_hand(small_image_v1(), kKey);
    WprojShape shape = small_shape(4);
    shape.columns[kWprojAttnOut] = 128;
    WprojFile view;
    ASSERT_EQ(wproj_open(memory_reader(file), shape, kKey, false, &view, nullptr), KEEL_OK);
    WprojCursor cursor = {};
    WprojLayer layer;
    ASSERT_EQ(wproj_layer(view, &cursor, &layer), KEEL_OK);
    EXPECT_EQ(layer.record[kWprojO].rank, 0u);
    EXPECT_EQ(layer.basis[kWprojAttnOut].rank, 0u);
    EXPECT_EQ(layer.record[kWprojQ].rank, 32u);
    EXPECT_EQ(layer.basis[kWprojFfnIn].offset, layer.basis[kWprojAttnIn].offset);
}

// A reader that gives other bytes after the file was opened: a status, or a view inside the file, never more.
TEST(WprojView, OfAFileThatChanges) {
    WprojRandom random(8);
    for (const bool first : {true, false}) {
        const Bytes whole = first ? version1_by_hand(small_image_v1(), kKey) : encode_wproj_v2(small_image_v2(), kKey);
        int refused = 0;
        for (int round = 0; round < 3000; ++round) {
            Bytes file = whole;
            WprojFile view;
            ASSERT_EQ(wproj_open(callback_reader(file), small_shape(4), kKey, false, &view, nullptr), KEEL_OK);
            const uint32_t span = static_cast<uint32_t>(first ? file.size() : wproj_table_end(4));
            file[first && round % 2 ? view.first_record + round % 60 : random.below(span)] ^=
                static_cast<uint8_t>(1u << random.below(8));
            WprojCursor cursor = {};
            WprojLayer layer;
            keel_status status = KEEL_OK;
            while (status == KEEL_OK && cursor.layer < view.layers) {
                status = wproj_layer(view, &cursor, &layer);
                if (status != KEEL_OK) break;
                wproj_for_sections(layer, [&](uint64_t offset, uint64_t bytes) {
                    ASSERT_TRUE(offset <= file.size() && bytes <= file.size() - offset);
                });
            }
            refused += status != KEEL_OK;
        }
        EXPECT_GT(refused, 100);
    }
}

// ---- keys ----

TEST(WprojKeys, AreWhatAFileIsFoundBy) {
    const WprojShape shape = small_shape(4);
    const Bytes one = version1_by_hand(small_image_v1(), kKey), two = encode_wproj_v2(small_image_v2(), kKey);
    EXPECT_EQ(open(one, shape), KEEL_OK);
    EXPECT_EQ(open(two, shape), KEEL_OK);
    EXPECT_EQ(open(one, shape, kKey + 1), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(open(two, shape, kKey + 1), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(open(one, shape, kKey ^ 1ull << 63), KEEL_E_FILE_MISMATCH);
    // Without a key version 2 goes by the model, and version 1 by nothing.
    EXPECT_EQ(open(one, shape, 0), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(open(version1_by_hand(small_image_v1(), 0), shape, 0), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(open(two, shape, 0), KEEL_OK);
    WprojShape other = shape;
    other.fingerprint ^= 1;
    EXPECT_EQ(open(two, other, 0), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(open(two, other, kKey), KEEL_E_FILE_MISMATCH);
    // By force: any key and any model of the shape.
    EXPECT_EQ(open(one, other, kKey + 1, true), KEEL_OK);
    EXPECT_EQ(open(two, other, kKey + 1, true), KEEL_OK);
    EXPECT_EQ(open(two, other, 0, true), KEEL_OK);
}

TEST(WprojKeys, ForceDoesNotChangeShapes) {
    const Bytes files[] = {version1_by_hand(small_image_v1(), kKey), encode_wproj_v2(small_image_v2(), kKey)};
    for (int version = 0; version < 2; ++version)
        for (int change = 0; change < 13; ++change) {
            WprojShape shape = small_shape(4);
            if (change < 8)
                shape.rows[change] += 32;
            else if (change < 12)
                shape.columns[change - 8] += 32;
            else
                shape.layers = 5;
            // Version 1: slots 0 and 7 and the vector of down are not looked at; O is not used when its width differs.
            // Version 2 has no slot 0.
            const bool unseen = version == 0 ? change == 0 || change == 7 || change == 9 || change == 11 : change == 0;
            EXPECT_EQ(open(files[version], shape, kKey, true), unseen ? KEEL_OK : KEEL_E_FILE_MISMATCH)
                << version << " " << change;
        }
}

// ---- damage ----

TEST(WprojDamage, EveryTruncationIsRefused) {
    const Bytes files[] = {version1_by_hand(tiny_image_v1(), kKey), encode_wproj_v2(tiny_image_v2(), kKey)};
    for (const Bytes& whole : files) {
        ASSERT_EQ(open(whole, wproj_any_shape(), kKey, true), KEEL_OK);
        for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
            keel_error error = {};
            error.struct_size = sizeof error;
            const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(bytes));
            ASSERT_EQ(open(cut, wproj_any_shape(), kKey, true, &error), KEEL_E_FILE_FORMAT) << bytes;
            ASSERT_NE(error.field[0], 0);
            // Resealed, it still contradicts itself.
            Bytes sealed = cut;
            if (&whole == &files[1]) reseal_v2(sealed, true);
            ASSERT_EQ(open_any(sealed), KEEL_E_FILE_FORMAT) << bytes;
        }
    }
}

TEST(WprojDamage, OneByteMoreIsRefused) {
    for (Bytes file : {version1_by_hand(small_image_v1(), kKey), encode_wproj_v2(small_image_v2(), kKey)}) {
        file.push_back(0);
        EXPECT_EQ(open_any(file), KEEL_E_FILE_FORMAT);
        if (file[7] == '2') reseal_v2(file, true);
        EXPECT_EQ(open_any(file), KEEL_E_FILE_FORMAT);
    }
}

TEST(WprojDamage, HostileFieldsOfVersion1) {
    const Bytes file = version1_by_hand(small_image_v1(), kKey);
    const WprojShape shape = small_shape(4);
    const auto set = [&](uint64_t offset, auto value) { return open(with(file, offset, value), shape); };
    const uint32_t minus = 0xffffffffu;
    EXPECT_EQ(set(0, uint64_t{1}), KEEL_E_FILE_FORMAT);
    for (const uint32_t offset : {16u, 20u, 24u, 28u})
        for (const uint32_t value : {0u, 1u, 7u, 9u, 0x80000000u, minus})
            if (!(offset == 28 && value == 0)) {
                EXPECT_NE(set(offset, value), KEEL_OK) << offset << " " << value;
            }
    EXPECT_EQ(set(16, 5u), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(set(24, 63u), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(set(16, kWprojMaxLayers + 1), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(set(24, kWprojMaxDimension + 1), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(set(20, 7u), KEEL_E_FILE_FORMAT);
    // The first basis, at 32: rank, has_mu, has_mean, padding.
    for (const uint32_t offset : {32u, 36u, 40u, 44u})
        for (const uint32_t value : {2u, 31u, 33u, 64u, 65u, 0x80000000u, minus})
            EXPECT_EQ(set(offset, value), KEEL_E_FILE_FORMAT) << offset << " " << value;
    // The first record of layer 0 (slot 0, f32 64 x 5 with bias) and the second (q, Q8 64 x 32 with bias).
    WprojFile view;
    ASSERT_EQ(wproj_open(memory_reader(file), shape, kKey, false, &view, nullptr), KEEL_OK);
    const uint64_t svd = view.first_record, q = svd + 44 + 64 * 5 * 4 + 64 * 4;
    for (const uint64_t at : {svd, q}) {
        for (const uint64_t offset : {0, 4, 8, 12, 16, 40})
            for (const uint32_t value : {2u, 63u, 1u << 20, 0x80000000u, minus})
                EXPECT_NE(set(at + offset, value), KEEL_OK) << offset << " " << value;
        for (const uint64_t value : {uint64_t{1}, uint64_t{64 * 36 + 1}, uint64_t{1} << 63, ~uint64_t{0}})
            EXPECT_EQ(set(at + 20, value), KEEL_E_FILE_FORMAT);
        for (const uint64_t offset : {28, 32, 36})
            for (const float value : {NAN, INFINITY, -INFINITY})
                EXPECT_EQ(set(at + offset, value), KEEL_E_FILE_FORMAT) << offset;
        EXPECT_EQ(set(at + 32, 1.01f), KEEL_E_FILE_FORMAT);
        EXPECT_EQ(set(at + 32, -0.01f), KEEL_E_FILE_FORMAT);
        EXPECT_EQ(set(at + 28, -1.0f), KEEL_E_FILE_FORMAT);
        EXPECT_EQ(set(at + 40, 1u), KEEL_E_FILE_FORMAT);
    }
    EXPECT_EQ(set(q, 0u), KEEL_E_FILE_FORMAT);       // what follows is no record
    EXPECT_EQ(set(q + 8, 64u), KEEL_E_FILE_FORMAT);  // not the basis' rank
    EXPECT_EQ(set(q + 16, 0u), KEEL_E_FILE_FORMAT);  // then q8_bytes has to be 0
    keel_error error = {};
    error.struct_size = sizeof error;
    EXPECT_EQ(open(with(file, q + 32, 2.0f), shape, kKey, false, &error), KEEL_E_FILE_FORMAT);
    EXPECT_STREQ(error.field, "layer 0 q energy");
    EXPECT_EQ(error.offset, q + 32);
}

// Consistent in themselves, but not with the rest of the file.
TEST(WprojDamage, RecordsAndBasesThatDoNotBelongTogether) {
    WprojRandom random(31);
    keel_error error = {};
    error.struct_size = sizeof error;
    WprojImage image = tiny_image_v1();
    image.layers[0].record[kWprojV] = some_record(random, 4, 5, 32, kernels::kF32, false);  // the basis has rank 3
    EXPECT_EQ(open(version1_by_hand(image, kKey), wproj_any_shape(), kKey, false, &error), KEEL_E_FILE_FORMAT);
    EXPECT_STREQ(error.field, "layer 0 v rank");
    image = tiny_image_v1();
    image.layers[0].basis[kWprojAttnIn] = {};
    EXPECT_EQ(open(version1_by_hand(image, kKey), wproj_any_shape(), kKey, false, &error), KEEL_E_FILE_FORMAT);
    EXPECT_STREQ(error.field, "layer 0 q rank");
    // The end of the file inside a basis and inside a record.
    Bytes cut = version1_by_hand(tiny_image_v1(), kKey);
    EXPECT_EQ(open(Bytes(cut.begin(), cut.end() - 1), wproj_any_shape(), kKey, false, &error), KEEL_E_FILE_FORMAT);
    EXPECT_STREQ(error.field, "layer 1 down rows");
    cut.resize(32 + 16 + 100);
    EXPECT_EQ(open(cut, wproj_any_shape(), kKey, false, &error), KEEL_E_FILE_FORMAT);
    EXPECT_STREQ(error.field, "layer 0 basis rank");
    EXPECT_EQ(error.offset, 32u);
}

// Types in a version-2 table are GGUF's numbers, and 31 for Q8_F32 as in the first such files, whatever Keel numbers it
// by today.
TEST(WprojView, Version2HoldsTheNumbersOfItsTypes) {
    const WprojImage image = small_image_v2();
    const Bytes file = encode_wproj_v2(image, kKey);
    uint32_t own = 0;
    for (size_t l = 0; l < image.layers.size(); ++l) {
        WprojLayer stored;
        memcpy(&stored, file.data() + wproj_table_end(static_cast<uint32_t>(l)), sizeof stored);
        const auto expect_number = [&](uint32_t number, uint32_t type) {
            own += type == kernels::kQ8_F32;
            EXPECT_EQ(number, type == kernels::kQ8_F32 ? 31 : kernels::kWeightTypes[type].number);
        };
        for (uint32_t g = 0; g < kWprojGroups; ++g)
            if (stored.basis[g].rank) expect_number(stored.basis[g].type, image.layers[l].basis[g].type);
        for (uint32_t s = 0; s < kWprojSlots; ++s)
            if (stored.record[s].rank) expect_number(stored.record[s].type, image.layers[l].record[s].type);
    }
    EXPECT_GT(own, 0u);
}

TEST(WprojDamage, HostileFieldsOfVersion2) {
    const Bytes file = encode_wproj_v2(small_image_v2(), kKey);
    const WprojShape shape = small_shape(4);
    const auto set = [&](uint64_t offset, auto value) {
        Bytes changed = with(file, offset, value);
        reseal_v2(changed, false);
        return open(changed, shape);
    };
    const auto header = [&](size_t offset, auto value) { return set(offset, value); };
    EXPECT_EQ(header(offsetof(WprojHeader2, version), 3u), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(header(offsetof(WprojHeader2, codec), uint32_t{kWprojZstd}), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(header(offsetof(WprojHeader2, codec), 2u), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(header(offsetof(WprojHeader2, header_bytes), 168u), KEEL_E_FILE_FORMAT);
    for (const uint32_t layers : {0u, 3u, 5u, kWprojMaxLayers, kWprojMaxLayers + 1, 0xffffffffu})
        EXPECT_NE(header(offsetof(WprojHeader2, layers), layers), KEEL_OK) << layers;
    for (const uint64_t bytes : {uint64_t{0}, file.size() - 1, file.size() + 1, ~uint64_t{0}})
        EXPECT_EQ(header(offsetof(WprojHeader2, plain_bytes), bytes), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(header(offsetof(WprojHeader2, fingerprint), uint64_t{1}), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(header(offsetof(WprojHeader2, key), uint64_t{1}), KEEL_E_FILE_MISMATCH);
    for (const size_t field :
         {offsetof(WprojQuality, nll_dense), offsetof(WprojQuality, nll_low_rank), offsetof(WprojQuality, kl)})
        for (const double value : {static_cast<double>(NAN), static_cast<double>(INFINITY)})
            EXPECT_EQ(header(offsetof(WprojHeader2, quality) + field, value), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(header(offsetof(WprojHeader2, solver) + 3, '\n'), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(header(offsetof(WprojHeader2, solver) + 31, 'x'), KEEL_E_FILE_FORMAT);
    std::array<char, 32> endless;
    endless.fill('a');
    EXPECT_EQ(header(offsetof(WprojHeader2, solver), endless), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(header(offsetof(WprojHeader2, reserved) + 24, uint64_t{1}), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(open(with(file, wproj_table_end(4), uint64_t{1}), shape), KEEL_E_FILE_FORMAT);

    // Layer 2, group ffn_in (mean, no mu missing: g % 2 says) and slot up.
    const uint64_t layer = wproj_table_end(2),
                   basis = layer + offsetof(WprojLayer, basis) + kWprojAttnIn * sizeof(WprojBasis);
    const uint64_t record = layer + offsetof(WprojLayer, record) + kWprojUp * sizeof(WprojRecord);
    for (const uint32_t value : {0u, 32u, 63u, 65u, 96u, 0xffffffffu})
        EXPECT_EQ(set(basis + offsetof(WprojBasis, rank), value), KEEL_E_FILE_FORMAT) << value;
    for (const uint32_t value : {0u, kWprojMaxDimension + 1, 0xffffffffu})
        EXPECT_EQ(set(basis + offsetof(WprojBasis, columns), value), KEEL_E_FILE_FORMAT) << value;
    EXPECT_EQ(set(basis + offsetof(WprojBasis, columns), 96u), KEEL_E_FILE_MISMATCH);
    for (const uint32_t type : {4u, 32u, 34u, 39u, 40u, 0x1000u, 0xffffffffu}) {
        EXPECT_EQ(set(basis + offsetof(WprojBasis, type), type), KEEL_E_UNSUPPORTED);
        EXPECT_EQ(set(record + offsetof(WprojRecord, type), type), KEEL_E_UNSUPPORTED);
    }
    EXPECT_EQ(set(record + offsetof(WprojRecord, type), kernels::kWeightTypes[kernels::kQ4_K].number),
              KEEL_E_FILE_FORMAT);  // no whole blocks
    EXPECT_EQ(set(basis + offsetof(WprojBasis, reserved), 1u), KEEL_E_FILE_FORMAT);
    for (const size_t field : {offsetof(WprojBasis, offset), offsetof(WprojBasis, bytes), offsetof(WprojBasis, mu),
                               offsetof(WprojBasis, mean)})
        for (const uint64_t value : {uint64_t{1}, uint64_t{64}, ~uint64_t{0}, ~uint64_t{0} - 63, uint64_t{1} << 63,
                                     uint64_t{file.size() + 63} / 64 * 64})
            EXPECT_EQ(set(basis + field, value), KEEL_E_FILE_FORMAT) << field << " " << value;
    for (const size_t field :
         {offsetof(WprojRecord, offset), offsetof(WprojRecord, bytes), offsetof(WprojRecord, bias)})
        for (const uint64_t value : {uint64_t{1}, uint64_t{64}, ~uint64_t{0}, ~uint64_t{0} - 63, uint64_t{1} << 63,
                                     uint64_t{file.size() + 63} / 64 * 64})
            EXPECT_EQ(set(record + field, value), KEEL_E_FILE_FORMAT) << field << " " << value;
    for (const uint32_t value : {0u, 32u, 96u, 0xffffffffu})
        EXPECT_EQ(set(record + offsetof(WprojRecord, rank), value), KEEL_E_FILE_FORMAT) << value;
    for (const uint32_t value : {0u, kWprojMaxDimension + 1, 0xffffffffu})
        EXPECT_EQ(set(record + offsetof(WprojRecord, rows), value), KEEL_E_FILE_FORMAT) << value;
    EXPECT_EQ(set(record + offsetof(WprojRecord, rows), 95u), KEEL_E_FILE_MISMATCH);
    for (const float value : {NAN, INFINITY, -INFINITY})
        for (const size_t field :
             {offsetof(WprojRecord, compression), offsetof(WprojRecord, energy), offsetof(WprojRecord, error)})
            EXPECT_EQ(set(record + field, value), KEEL_E_FILE_FORMAT) << field;
    EXPECT_EQ(set(record + offsetof(WprojRecord, energy), 1.5f), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(set(record + offsetof(WprojRecord, energy), -0.5f), KEEL_E_FILE_FORMAT);
    EXPECT_EQ(set(record + offsetof(WprojRecord, compression), -0.5f), KEEL_E_FILE_FORMAT);
    // Slot 0 is not in this version; an absent basis has no fields.
    const uint64_t empty = wproj_table_end(1);
    EXPECT_EQ(set(empty + offsetof(WprojLayer, basis) + offsetof(WprojBasis, checksum), uint64_t{5}),
              KEEL_E_FILE_FORMAT);
    EXPECT_EQ(set(empty + offsetof(WprojLayer, record) + offsetof(WprojRecord, error), -1.0f), KEEL_E_FILE_FORMAT);
    Bytes moved = file;
    memcpy(moved.data() + layer + offsetof(WprojLayer, record), moved.data() + record, sizeof(WprojRecord));
    reseal_v2(moved, false);
    EXPECT_EQ(open(moved, shape), KEEL_E_FILE_FORMAT);
}

// Random flips: refused, or a view that lies inside the file. Version 2: header and table never pass; of the rest
// nothing that a checksum covers passes read_wproj_image, nor does padding.
TEST(WprojDamage, RandomFlips) {
    WprojRandom random(11);
    const Bytes one = version1_by_hand(small_image_v1(), kKey), two = encode_wproj_v2(small_image_v2(), kKey);
    int passed = 0;
    for (int round = 0; round < 4000; ++round) {
        Bytes file = round % 2 ? one : two;
        const uint32_t flips = 1 + random.below(3);
        bool table = false;
        for (uint32_t i = 0; i < flips; ++i) {
            const uint32_t at =
                random.below(static_cast<uint32_t>(round % 4 < 2 ? file.size() : wproj_table_end(4) + 8));
            file[at] ^= static_cast<uint8_t>(1 + random.below(255));
            table = table || at < wproj_table_end(4) + 8;
        }
        const bool sealed = round % 8 == 2;
        if (sealed) reseal_v2(file, random.below(2));
        WprojFile view;
        const keel_status status = wproj_open(memory_reader(file), wproj_any_shape(), 0, true, &view, nullptr);
        if (status != KEEL_OK) continue;
        ++passed;
        ASSERT_TRUE(view_is_inside(view));
        ASSERT_TRUE(round % 2 || sealed || !table || file == two);
    }
    EXPECT_GT(passed, 300);
}

TEST(WprojDamage, Version2PayloadsAreCoveredByChecksums) {
    const Bytes file = encode_wproj_v2(tiny_image_v2(), kKey);
    WprojFile view;
    ASSERT_EQ(wproj_open(memory_reader(file), wproj_any_shape(), 0, true, &view, nullptr), KEEL_OK);
    std::vector<bool> uncovered(file.size());  // mu and mean
    WprojCursor cursor = {};
    WprojLayer layer;
    while (wproj_layer(view, &cursor, &layer) == KEEL_OK)
        for (const WprojBasis& b : layer.basis) {
            for (uint64_t i = 0; b.mu && i < b.rank * 4; ++i) uncovered[b.mu + i] = true;
            for (uint64_t i = 0; b.mean && i < b.columns * 4; ++i) uncovered[b.mean + i] = true;
        }
    for (uint64_t at = wproj_table_end(2); at < file.size(); at += 7) {
        Bytes changed = file;
        changed[at] ^= 0x40;
        if (uncovered[at]) {
            EXPECT_NO_THROW(read_wproj_image(memory_reader(changed))) << at;
        } else {
            EXPECT_THROW(read_wproj_image(memory_reader(changed)), ToolError) << at;
        }
    }
}

TEST(WprojDamage, AReaderThatFailsIsNoBadFile) {
    const Bytes file = version1_by_hand(small_image_v1(), kKey);
    keel_reader reader = callback_reader(file);
    reader.read_at = [](void*, uint64_t, void*, size_t) { return KEEL_E_FILE_READ; };
    WprojFile view;
    EXPECT_EQ(wproj_open(reader, small_shape(4), kKey, false, &view, nullptr), KEEL_E_FILE_READ);
}

// ---- what the writers refuse ----

template <class Write>
keel_status status_of(Write write) {
    try {
        write();
        return KEEL_OK;
    } catch (const ToolError& error) {
        return error.detail.contains("status") && error.detail["status"] == "KEEL_E_UNSUPPORTED" ? KEEL_E_UNSUPPORTED
               : error.detail.contains("status") && error.detail["status"] == "KEEL_E_CANCELLED" ? KEEL_E_CANCELLED
                                                                                                 : KEEL_E_FILE_FORMAT;
    }
}

TEST(WprojWriters, RefuseWhatAVersionCannotHold) {
    const auto one = [](auto change) {
        WprojImage image = small_image_v1();
        change(image);
        return status_of([&] { encode_wproj_v1(image, kKey); });
    };
    const auto two = [](auto change) {
        WprojImage image = small_image_v2();
        change(image);
        return status_of([&] { encode_wproj_v2(image, kKey); });
    };
    EXPECT_EQ(one([](WprojImage&) {}), KEEL_OK);
    EXPECT_EQ(one([](WprojImage& i) { i.layers[0].basis[kWprojFfnIn].matrix[5] ^= 1; }),
              KEEL_E_UNSUPPORTED);  // another basis
    EXPECT_EQ(one([](WprojImage& i) { i.layers[0].basis[kWprojFfnIn].mu.clear(); }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(one([](WprojImage& i) { i.layers[0].basis[kWprojFfnHidden] = i.layers[0].basis[kWprojAttnIn]; }),
              KEEL_E_UNSUPPORTED);
    EXPECT_EQ(one([](WprojImage& i) { i.layers[0].record[kWprojQ].matrix.clear(); }), KEEL_E_UNSUPPORTED);  // missing
    EXPECT_EQ(one([](WprojImage& i) { i.layers[0].record[kWprojFfnDownSvd].matrix.pop_back(); }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(one([](WprojImage& i) { i.layers[0].record[kWprojQ].bias.pop_back(); }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(one([](WprojImage& i) { i.layers[0].record[kWprojQ].energy = 2; }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(one([](WprojImage& i) { i.layers[1].record[kWprojV].type = kernels::kQ8_F32; }),
              KEEL_E_UNSUPPORTED);  // rank 7
    EXPECT_EQ(one([](WprojImage& i) {
                  WprojImageRecord& r = i.layers[0].record[kWprojQ];
                  r.type = kernels::kQ8_0;
                  r.matrix.resize(size_t{r.rows} * 34);
              }),
              KEEL_E_UNSUPPORTED);
    EXPECT_EQ(one([](WprojImage& i) { i.layers[2].record[kWprojQ] = i.layers[0].record[kWprojQ]; }),
              KEEL_E_UNSUPPORTED);  // no basis
    EXPECT_EQ(one([](WprojImage& i) { i.layers.clear(); }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(status_of([] { encode_wproj_v1(small_image_v2(), kKey); }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(two([](WprojImage&) {}), KEEL_OK);
    EXPECT_EQ(two([](WprojImage& i) { i.solver = std::string(32, 'x'); }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(two([](WprojImage& i) { i.layers[0].basis[1].matrix.clear(); }), KEEL_E_UNSUPPORTED);
    EXPECT_EQ(two([](WprojImage& i) { i.layers[0].basis[1] = {}; }), KEEL_E_FILE_FORMAT);  // records without a basis
    EXPECT_EQ(status_of([] { encode_wproj_v2(small_image_v1(), kKey); }), KEEL_E_FILE_FORMAT);  // slot 0
}

TEST(WprojWriters, CancelledOrFailedLeaveNoFile) {
    const std::string path = keel_test::temp_path("wproj_cancelled.bin");
    std::filesystem::remove(path);
    for (const bool first : {true, false}) {
        const auto stop = [](uint64_t, uint64_t) { return true; };
        EXPECT_EQ(status_of([&] {
                      first ? write_wproj_v1(path, small_image_v1(), kKey, stop)
                            : write_wproj_v2(path, small_image_v2(), kKey, {}, stop);
                  }),
                  KEEL_E_CANCELLED);
        EXPECT_FALSE(std::filesystem::exists(path));
        for (const auto& entry : std::filesystem::directory_iterator(testing::TempDir()))
            EXPECT_FALSE(entry.path().string().starts_with(path + "." + std::to_string(getpid()))) << entry.path();
    }
    WprojImage broken = small_image_v1();
    broken.layers[3].record[kWprojQ].matrix.clear();
    EXPECT_THROW(write_wproj_v1(path, broken, kKey), ToolError);
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_THROW(write_wproj_v1(testing::TempDir() + "no/such/directory.bin", small_image_v1(), kKey), ToolError);
}

// ---- seeds ----

// Seeds of tests/fuzz/wproj_fuzz.cpp; KEEL_WRITE_CORPUS=1 writes them again after a change of the format.
TEST(WprojDamage, FuzzCorpusIsCurrent) {
    const std::pair<const char*, Bytes> seeds[] = {{"version-1", version1_by_hand(tiny_image_v1(), kKey)},
                                                   {"version-2", encode_wproj_v2(tiny_image_v2(), kKey)}};
    for (const auto& [name, bytes] : seeds) {
        const std::string path = source_path(std::string("tests/fuzz/corpus/wproj/") + name);
        if (getenv("KEEL_WRITE_CORPUS"))
            std::ofstream(path, std::ios::binary)
                .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
        const std::vector<char> seed = read_file(path);
        EXPECT_EQ(Bytes(seed.begin(), seed.end()), bytes) << path;
    }
}

}  // namespace
