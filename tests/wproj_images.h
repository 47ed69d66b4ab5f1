// W_proj caches for tests: small images with random contents, a version-1 file put together byte by byte as the format
// says, and a look at whether everything a view names lies inside its file.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "keel/keel.h"
#include "sdk/core/hash.h"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj.h"
#include "sdk/format/wproj_v2.h"
#include "sdk/tools/files/wproj_image.h"

namespace keel_test {

using keel::tools::WprojImage;
using keel::tools::WprojImageBasis;
using keel::tools::WprojImageLayer;
using keel::tools::WprojImageRecord;

inline keel_reader memory_reader(const std::vector<uint8_t>& file) {
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    EXPECT_EQ(keel_reader_from_memory(file.data(), file.size(), &reader), KEEL_OK);
    return reader;
}

// The same file through a callback, without an address.
inline keel_reader callback_reader(const std::vector<uint8_t>& file) {
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    reader.size_bytes = file.size();
    reader.user_data = const_cast<uint8_t*>(file.data());
    reader.read_at = [](void* data, uint64_t offset, void* dst, size_t bytes) {
        memcpy(dst, static_cast<const uint8_t*>(data) + offset, bytes);
        return KEEL_OK;
    };
    return reader;
}

class WprojRandom {
  public:
    explicit WprojRandom(uint32_t seed) : engine_(seed) {}
    uint32_t below(uint32_t n) { return static_cast<uint32_t>(engine_() % n); }
    float unit() { return static_cast<float>(static_cast<double>(engine_()) / 4294967296.0); }
    std::vector<float> floats(size_t n) {
        std::vector<float> out(n);
        for (float& x : out) x = 2 * unit() - 1;
        return out;
    }
    // A matrix with sane scales: F32, or blocks of Q8_F32, Q8_0 and Q4_0, whose first bytes are the scale.
    std::vector<uint8_t> matrix(uint32_t type, uint32_t rows, uint32_t row) {
        std::vector<uint8_t> out(rows * keel::kernels::weight_row_bytes(type, row));
        if (type == keel::kernels::kF32) {
            const std::vector<float> values = floats(out.size() / 4);
            memcpy(out.data(), values.data(), out.size());
            return out;
        }
        for (uint8_t& byte : out) byte = static_cast<uint8_t>(engine_());
        const uint32_t block = keel::kernels::kWeightTypes[type].block_bytes;
        for (size_t at = 0; at < out.size(); at += block) {
            const float scale = 0.01f;
            const uint16_t half = type == keel::kernels::kF16 ? 0x3800 : 0x2000;  // 0.5 and 2^-7
            if (type == keel::kernels::kQ8_F32)
                memcpy(out.data() + at, &scale, 4);
            else
                memcpy(out.data() + at, &half, 2);
        }
        return out;
    }

  private:
    std::mt19937 engine_;
};

inline WprojImageBasis some_basis(WprojRandom& random, uint32_t rank, uint32_t columns, uint32_t type, bool mu,
                                  bool mean) {
    return {rank,
            columns,
            type,
            random.matrix(type, rank, columns),
            random.floats(mu ? rank : 0),
            random.floats(mean ? columns : 0)};
}
inline WprojImageRecord some_record(WprojRandom& random, uint32_t rows, uint32_t rank, uint32_t columns, uint32_t type,
                                    bool bias) {
    WprojImageRecord r = {rows, rank, type, random.matrix(type, rows, rank), random.floats(bias ? rows : 0)};
    r.compression = keel::tools::wproj_compression(rows, rank, columns);
    r.energy = random.unit();
    r.weight = random.unit();
    return r;
}

// Rows of the slots of the small models here: Q 64, K and V 32, O 64, up and gate 96, down 64, of a residual stream of
// 64.
constexpr uint32_t kSmallColumns = 64;
constexpr uint32_t kSmallRows[keel::kWprojSlots] = {64, 64, 32, 32, 64, 96, 96, 64};
inline keel::WprojShape small_shape(uint32_t layers) {
    return {0x1234567890abcdefull, layers, {64, 64, 64, 96}, {0, 64, 32, 32, 64, 96, 96, 64}};
}

// Version 1: ranks vary and one is missing, Q8 where they are multiples of 32, every flag both ways, slots 0 and 7 with
// ranks of their own.
inline WprojImage small_image_v1() {
    WprojRandom random(1);
    WprojImage image;
    image.version = 1;
    image.columns = kSmallColumns;
    for (const uint32_t rank : {32u, 7u, 0u, 64u}) {
        WprojImageLayer layer;
        if (rank == 0) layer.empty_flags = 3;
        if (rank) {
            const WprojImageBasis basis =
                some_basis(random, rank, kSmallColumns, keel::kernels::kF32, rank != 7, rank != 64);
            for (uint32_t slot = keel::kWprojQ; slot <= keel::kWprojGate; ++slot) {
                if (rank == 7 && slot != keel::kWprojV && slot != keel::kWprojUp) continue;
                const uint32_t type =
                    rank % 32 == 0 && slot != keel::kWprojK ? keel::kernels::kQ8_F32 : keel::kernels::kF32;
                layer.record[slot] = some_record(random, kSmallRows[slot], rank, kSmallColumns, type, slot % 2);
                layer.basis[wproj_group(static_cast<keel::WprojSlot>(slot))] = basis;
            }
        }
        layer.record[keel::kWprojFfnDownSvd] = some_record(random, 64, 5, 96, keel::kernels::kF32, true);
        if (rank == 7) layer.record[keel::kWprojDown] = some_record(random, 64, 32, 96, keel::kernels::kQ8_F32, false);
        image.layers.push_back(layer);
    }
    return image;
}

// Version 2: a basis per group with ranks and types of its own, a layer without anything, one with a basis alone.
inline WprojImage small_image_v2() {
    using namespace keel::kernels;
    WprojRandom random(2);
    WprojImage image;
    image.fingerprint = small_shape(0).fingerprint;
    image.calibration_hash = 77;
    image.quality = {99, 1000, 3.5, 3.625, 0.0625};
    image.solver = "whitened";
    image.layers.resize(4);
    const keel::WprojShape shape = small_shape(4);
    const uint32_t pt[] = {kF16, kQ8_0, kF32, kBF16}, w[] = {kQ8_0, kQ4_0, kQ8_F32, kF32};
    for (const uint32_t l : {0u, 2u}) {
        WprojImageLayer& layer = image.layers[l];
        for (uint32_t g = 0; g < keel::kWprojGroups; ++g)
            if (l == 0 || g != keel::kWprojAttnOut)
                layer.basis[g] =
                    some_basis(random, 32 + 32 * (l == 2), shape.columns[g], pt[(g + l) % 4], g % 2, l == 2);
        for (uint32_t s = keel::kWprojQ; s < keel::kWprojSlots; ++s) {
            const WprojImageBasis& basis = layer.basis[wproj_group(static_cast<keel::WprojSlot>(s))];
            if (basis.rank && !(l == 2 && s == keel::kWprojV))
                layer.record[s] =
                    some_record(random, shape.rows[s], basis.rank, basis.columns, w[(s + l) % 4], s % 3 == 0);
            layer.record[s].weight = 0;
            if (layer.record[s].rank) layer.record[s].error = s % 2 ? -1 : 0.01f * static_cast<float>(s);
        }
    }
    image.layers[3].basis[keel::kWprojFfnIn] = some_basis(random, 32, 64, kF16, true, true);
    return image;
}

// Files of a few KiB, for tests that go through every byte and for the fuzzer: an f32 and a Q8 layer; an absent layer
// and one with two groups.
inline WprojImage tiny_image_v1() {
    WprojRandom random(3);
    WprojImage image;
    image.version = 1;
    image.columns = 32;
    for (const uint32_t rank : {3u, 32u}) {
        WprojImageLayer layer;
        layer.basis[keel::kWprojAttnIn] = some_basis(random, rank, 32, keel::kernels::kF32, true, rank == 3);
        for (const uint32_t slot : {keel::kWprojQ, keel::kWprojV})
            layer.record[slot] = some_record(
                random, 4, rank, 32, rank == 3 ? keel::kernels::kF32 : keel::kernels::kQ8_F32, slot == keel::kWprojV);
        layer.record[keel::kWprojDown] = some_record(random, 2, 5, 32, keel::kernels::kF32, false);
        image.layers.push_back(layer);
    }
    return image;
}
inline WprojImage tiny_image_v2() {
    WprojRandom random(4);
    WprojImage image;
    image.fingerprint = small_shape(0).fingerprint;
    image.solver = "weight-pca";
    image.layers.resize(2);
    WprojImageLayer& layer = image.layers[1];
    layer.basis[keel::kWprojAttnIn] = some_basis(random, 32, 32, keel::kernels::kQ8_0, true, true);
    layer.basis[keel::kWprojFfnHidden] = some_basis(random, 3, 64, keel::kernels::kF16, false, false);
    layer.record[keel::kWprojK] = some_record(random, 6, 32, 32, keel::kernels::kQ4_0, true);
    layer.record[keel::kWprojDown] = some_record(random, 8, 3, 64, keel::kernels::kF32, false);
    return image;
}

// A version-1 file by the layout alone.
inline std::vector<uint8_t> version1_by_hand(const WprojImage& image, uint64_t key) {
    std::vector<uint8_t> out;
    const auto put = [&out](const void* data, size_t bytes) {
        const uint8_t* p = static_cast<const uint8_t*>(data);
        out.insert(out.end(), p, p + bytes);
    };
    const auto word = [&put](uint32_t x) { put(&x, 4); };
    put("WPROJV01", 8);
    put(&key, 8);
    word(static_cast<uint32_t>(image.layers.size()));
    word(8);
    word(image.columns);
    word(0);
    for (const WprojImageLayer& layer : image.layers) {
        const WprojImageBasis* basis = nullptr;
        for (const WprojImageBasis& b : layer.basis)
            if (b.rank) basis = &b;
        word(basis ? basis->rank : 0);
        word(basis ? !basis->mu.empty() : layer.empty_flags & 1);
        word(basis ? !basis->mean.empty() : layer.empty_flags >> 1);
        word(0);
        if (!basis) continue;
        put(basis->matrix.data(), basis->matrix.size());
        put(basis->mu.data(), basis->mu.size() * 4);
        put(basis->mean.data(), basis->mean.size() * 4);
    }
    for (const WprojImageLayer& layer : image.layers)
        for (const WprojImageRecord& r : layer.record) {
            word(r.rank != 0);
            if (!r.rank) continue;
            const bool q8 = r.type != keel::kernels::kF32;
            const uint64_t q8_bytes = q8 ? uint64_t{r.rows} * (r.rank / 32) * 36 : 0;
            word(r.rows);
            word(r.rank);
            word(!r.bias.empty());
            word(q8);
            put(&q8_bytes, 8);
            put(&r.compression, 4);
            put(&r.energy, 4);
            put(&r.weight, 4);
            word(0);
            put(r.matrix.data(), r.matrix.size());
            put(r.bias.data(), r.bias.size() * 4);
        }
    return out;
}

// Writes version 2's size and the checksum of header and table, so that checks behind those are reached. Does nothing
// to a file too short.
inline void reseal_v2(std::vector<uint8_t>& file, bool size) {
    keel::WprojHeader2 h;
    if (file.size() < sizeof h) return;
    memcpy(&h, file.data(), sizeof h);
    if (size) h.plain_bytes = file.size();
    memcpy(file.data(), &h, sizeof h);
    if (h.layers > keel::kWprojMaxLayers) return;
    const uint64_t end = keel::wproj_table_end(h.layers);
    if (file.size() < end + 8) return;
    const uint64_t hash = keel::hash64(file.data(), end);
    memcpy(file.data() + end, &hash, 8);
}

// Whether a file that was opened names nothing but bytes of its own, all layers of it.
inline bool view_is_inside(const keel::WprojFile& file) {
    keel::WprojCursor cursor = {};
    const auto inside = [&file](uint64_t offset, uint64_t bytes) {
        return offset <= file.reader.size_bytes && bytes <= file.reader.size_bytes - offset;
    };
    for (uint32_t l = 0; l < file.layers; ++l) {
        keel::WprojLayer layer;
        if (wproj_layer(file, &cursor, &layer) != KEEL_OK) return false;
        bool ok = true;
        keel::wproj_for_sections(
            layer, [&](uint64_t offset, uint64_t bytes) { ok = ok && bytes != 0 && inside(offset, bytes); });
        for (uint32_t s = 0; s < keel::kWprojSlots; ++s) {
            const keel::WprojRecord& r = layer.record[s];
            const keel::WprojBasis& b = layer.basis[wproj_group(static_cast<keel::WprojSlot>(s))];
            if (!r.rank) continue;
            ok = ok && b.rank == r.rank && r.bytes == r.rows * keel::kernels::weight_row_bytes(r.type, r.rank) &&
                 b.bytes == b.rank * keel::kernels::weight_row_bytes(b.type, b.columns);
        }
        if (!ok) return false;
    }
    keel::WprojLayer layer;
    return wproj_layer(file, &cursor, &layer) == KEEL_E_ARGUMENT;
}

}  // namespace keel_test
