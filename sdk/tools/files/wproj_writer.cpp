// Both writers. A file is put together as a list of pieces, which then go to memory or to a file.
#include <string.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <span>

#include "keel/keel.hpp"
#include "sdk/core/hash.h"
#include "sdk/format/wproj_v1.h"
#include "sdk/format/wproj_v2.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/files/wproj_image.h"
#include "sdk/tools/files/zstd_frame.h"

namespace keel::tools {
namespace {

// Pieces of a file in order: bytes of the image, which outlives this, or bytes made here.
class Pieces {
  public:
    void borrow(const void* data, uint64_t bytes) {
        pieces_.push_back({static_cast<const uint8_t*>(data), static_cast<size_t>(bytes)});
        bytes_ += bytes;
    }
    void own(std::vector<uint8_t> data) {
        owned_.push_back(std::move(data));
        borrow(owned_.back().data(), owned_.back().size());
    }
    template <class T>
    void value(const T& x) {
        const uint8_t* p = reinterpret_cast<const uint8_t*>(&x);
        own({p, p + sizeof x});
    }
    uint64_t bytes() const { return bytes_; }

    std::vector<uint8_t> to_memory() const {
        std::vector<uint8_t> out;
        out.reserve(bytes_);
        for (const auto& piece : pieces_) out.insert(out.end(), piece.begin(), piece.end());
        return out;
    }
    void to_file(const std::string& path, const WprojProgress& progress) const {
        constexpr size_t kSlice = 4u << 20;
        AtomicFile file(path);
        uint64_t done = 0, told = 0;
        for (const auto& piece : pieces_)
            for (size_t at = 0; at < piece.size(); at += kSlice) {
                const size_t n = std::min(kSlice, piece.size() - at);
                file.write(piece.data() + at, n);
                done += n;
                if (done - told < kSlice && done != bytes_) continue;
                told = done;
                if (progress && progress(done, bytes_)) throw ToolError(KEEL_E_CANCELLED, "cannot write " + path);
            }
        file.commit();
    }

  private:
    std::deque<std::vector<uint8_t>> owned_;
    std::vector<std::span<const uint8_t>> pieces_;
    uint64_t bytes_ = 0;
};

[[noreturn]] void refuse(int version, size_t layer, const char* part, const char* why) {
    throw ToolError(KEEL_E_UNSUPPORTED,
                    strf("cannot write a W_proj cache of version %d: layer %zu %s: %s", version, layer, part, why));
}

void check_layers(int version, const WprojImage& image) {
    if (image.layers.empty() || image.layers.size() > kWprojMaxLayers)
        refuse(version, image.layers.size(), "", "no layers, or more than a cache can have");
}

// Bytes of a matrix whose rows are of a known type and whole blocks; 0 otherwise.
uint64_t matrix_bytes(uint32_t type, uint32_t rows, uint32_t row) {
    const kernels::WeightTypeInfo* info = kernels::weight_type_info(type);
    return info && row % info->block_elements == 0 ? rows * kernels::weight_row_bytes(type, row) : 0;
}

void check_payload(int version, size_t layer, const WprojImageBasis& b, const char* part) {
    if (b.columns < 1 || b.columns > kWprojMaxDimension || b.rank > b.columns)
        refuse(version, layer, part, "columns or rank are out of range");
    const uint64_t bytes = matrix_bytes(b.type, b.rank, b.columns);
    if (bytes == 0 || b.matrix.size() != bytes)
        refuse(version, layer, part, "the matrix is missing, or not of its shape");
    if ((!b.mu.empty() && b.mu.size() != b.rank) || (!b.mean.empty() && b.mean.size() != b.columns))
        refuse(version, layer, part, "mu or mean are not of its shape");
}

void check_payload(int version, size_t layer, const WprojImageRecord& r, const char* part) {
    if (r.rows < 1 || r.rows > kWprojMaxDimension || r.rank > kWprojMaxDimension)
        refuse(version, layer, part, "rows or rank are out of range");
    const uint64_t bytes = matrix_bytes(r.type, r.rows, r.rank);
    if (bytes == 0 || r.matrix.size() != bytes)
        refuse(version, layer, part, "the matrix is missing, or not of its shape");
    if (!r.bias.empty() && r.bias.size() != r.rows) refuse(version, layer, part, "the bias is not of its shape");
    if (!std::isfinite(r.compression) || r.compression < 0 || !(r.energy >= 0 && r.energy <= 1) ||
        !std::isfinite(r.error) || !std::isfinite(r.weight))
        refuse(version, layer, part, "compression, energy, error or weight are out of range");
}

void put_floats(Pieces& out, const std::vector<float>& floats) {
    out.borrow(floats.data(), floats.size() * 4);
}

// ---- version 1 ----

// The one basis of a layer, which all groups share; null: none.
const WprojImageBasis* only_basis(const WprojImageLayer& layer, size_t l) {
    const WprojImageBasis* one = nullptr;
    for (uint32_t g = 0; g < kWprojGroups; ++g) {
        const WprojImageBasis& b = layer.basis[g];
        if (!b.rank) continue;
        if (g == kWprojFfnHidden) refuse(1, l, wproj_group_name(g), "has a basis");
        check_payload(1, l, b, wproj_group_name(g));
        if (b.type != kernels::kF32) refuse(1, l, wproj_group_name(g), "the basis is not F32");
        if (one && !(b == *one)) refuse(1, l, wproj_group_name(g), "its basis differs from another group's");
        one = &b;
    }
    return one;
}

void put_record1(Pieces& out, const WprojImageRecord& r, size_t layer, uint32_t slot, uint32_t basis_rank) {
    const char* part = wproj_slot_name(slot);
    out.value(uint32_t{r.rank != 0});
    if (!r.rank) return;
    check_payload(1, layer, r, part);
    if (r.type != kernels::kF32 && r.type != kernels::kQ8_F32)
        refuse(1, layer, part, "the matrix is neither F32 nor Q8_F32");
    if (slot != kWprojFfnDownSvd && slot != kWprojDown && r.rank != basis_rank)
        refuse(1, layer, part, "its rank is not the basis'");
    const bool q8 = r.type == kernels::kQ8_F32;
    std::vector<uint8_t> h(kWprojRecord1Bytes);
    const uint32_t counts[4] = {r.rows, r.rank, !r.bias.empty(), q8};
    const uint64_t q8_bytes = q8 ? r.matrix.size() : 0;
    const float figures[3] = {r.compression, r.energy, r.weight};
    memcpy(h.data(), counts, 16);
    memcpy(h.data() + 16, &q8_bytes, 8);
    memcpy(h.data() + 24, figures, 12);
    out.own(std::move(h));
    out.borrow(r.matrix.data(), r.matrix.size());
    put_floats(out, r.bias);
}

Pieces layout1(const WprojImage& image, uint64_t key) {
    check_layers(1, image);
    WprojHeader1 h = {kWprojMagic1, key, static_cast<uint32_t>(image.layers.size()), kWprojSlots, image.columns, 0};
    std::vector<const WprojImageBasis*> bases;
    for (size_t l = 0; l < image.layers.size(); ++l) {
        bases.push_back(only_basis(image.layers[l], l));
        if (!bases[l]) continue;
        if (!h.columns) h.columns = bases[l]->columns;
        if (bases[l]->columns != h.columns) refuse(1, l, "basis", "all layers have the same columns");
    }
    if (h.columns < 1 || h.columns > kWprojMaxDimension) refuse(1, 0, "columns", "not known");
    Pieces out;
    out.value(h);
    for (size_t l = 0; l < image.layers.size(); ++l) {
        const WprojImageBasis* b = bases[l];
        const uint32_t flags = image.layers[l].empty_flags;
        const uint32_t counts[4] = {b ? b->rank : 0, b ? !b->mu.empty() : flags & 1,
                                    b ? !b->mean.empty() : flags >> 1 & 1, 0};
        out.value(counts);
        if (!b) continue;
        out.borrow(b->matrix.data(), b->matrix.size());
        put_floats(out, b->mu);
        put_floats(out, b->mean);
    }
    for (size_t l = 0; l < image.layers.size(); ++l)
        for (uint32_t s = 0; s < kWprojSlots; ++s)
            put_record1(out, image.layers[l].record[s], l, s, bases[l] ? bases[l]->rank : 0);
    return out;
}

// ---- version 2 ----

// A table entry without its offsets; mu, mean and bias are 1 where there is one. The sections' bytes go to `sections`
// in file order.
WprojLayer entry2(const WprojImageLayer& layer, size_t l, std::vector<std::span<const uint8_t>>* sections) {
    WprojLayer entry;
    memset(&entry, 0, sizeof entry);
    const auto section = [&](const void* data, size_t bytes) -> uint64_t {
        if (bytes) sections->push_back({static_cast<const uint8_t*>(data), bytes});
        return bytes != 0;
    };
    for (uint32_t g = 0; g < kWprojGroups; ++g) {
        const WprojImageBasis& b = layer.basis[g];
        if (!b.rank) continue;
        check_payload(2, l, b, wproj_group_name(g));
        section(b.matrix.data(), b.matrix.size());
        const uint64_t mu = section(b.mu.data(), b.mu.size() * 4), mean = section(b.mean.data(), b.mean.size() * 4);
        entry.basis[g] = {
            b.rank, b.columns, b.type, 0, 0, b.matrix.size(), mu, mean, hash64(b.matrix.data(), b.matrix.size())};
    }
    for (uint32_t s = 0; s < kWprojSlots; ++s) {
        const WprojImageRecord& r = layer.record[s];
        if (!r.rank) continue;
        check_payload(2, l, r, wproj_slot_name(s));
        section(r.matrix.data(), r.matrix.size());
        const uint64_t bias = section(r.bias.data(), r.bias.size() * 4);
        entry.record[s] = {
            r.rows,
            r.rank,
            r.type,
            r.compression,
            r.energy,
            r.error,
            0,
            r.matrix.size(),
            bias,
            wproj_checksum(r.matrix.data(), r.matrix.size(), r.bias.data(), static_cast<uint32_t>(r.bias.size()))};
    }
    return entry;
}

Pieces layout2(const WprojImage& image, uint64_t key, const WprojPacking& packing, const WprojProgress& progress) {
    check_layers(2, image);
    const uint32_t layers = static_cast<uint32_t>(image.layers.size());
    if (image.solver.size() >= sizeof(WprojHeader2::solver)) refuse(2, 0, "solver", "the name is too long");
    WprojHeader2 h;
    memset(&h, 0, sizeof h);
    h.magic = kWprojMagic2;
    h.version = 2;
    h.header_bytes = sizeof h;
    h.key = key;
    h.fingerprint = image.fingerprint;
    h.layers = layers;
    h.codec = packing.codec;
    h.calibration_hash = image.calibration_hash;
    h.quality = image.quality;
    memcpy(h.solver, image.solver.data(), image.solver.size());

    std::vector<WprojLayer> table;
    std::vector<std::span<const uint8_t>> sections;
    uint64_t next = wproj_align(wproj_table_end(layers) + 8), end = wproj_table_end(layers) + 8;
    for (uint32_t l = 0; l < layers; ++l) {
        WprojLayer entry = entry2(image.layers[l], l, &sections);
        wproj_map_types(&entry, wproj_number_of_type);
        uint64_t place = next;
        wproj_for_sections(entry, [&place](uint64_t& offset, uint64_t bytes) {
            offset = place;
            place = wproj_align(place + bytes);
        });
        // The reader's own rules say whether this is a file.
        keel_error error = make<keel_error>();
        check(wproj_check_layer2(entry, l, wproj_any_shape(), UINT64_MAX, &next, &end, &error),
              "cannot write a W_proj cache of version 2", &error);
        table.push_back(entry);
    }
    h.plain_bytes = end;

    Pieces out;
    out.value(h);
    const uint8_t* rows = reinterpret_cast<const uint8_t*>(table.data());
    out.own({rows, rows + table.size() * sizeof(WprojLayer)});
    uint64_t hash = hash_update(kHashSeed, reinterpret_cast<const char*>(&h), sizeof h);
    hash = hash_finish(hash_update(hash, reinterpret_cast<const char*>(rows), table.size() * sizeof(WprojLayer)));
    out.value(hash);
    if (packing.codec == kWprojPlain) {
        for (const auto& section : sections) {
            if (const uint64_t gap = wproj_align(out.bytes()) - out.bytes()) out.own(std::vector<uint8_t>(gap));
            out.borrow(section.data(), section.size());
        }
        return out;
    }
    std::vector<std::vector<uint8_t>> frames;
    std::vector<uint64_t> frame_bytes;
    uint64_t done = 0;
    for (const auto& section : sections) {
        if (progress && progress(done += section.size(), end))
            throw ToolError(KEEL_E_CANCELLED, "cannot pack the W_proj cache");
        frames.push_back(zstd_frame(section, packing.level));
        frame_bytes.push_back(frames.back().size());
    }
    const uint8_t* index = reinterpret_cast<const uint8_t*>(frame_bytes.data());
    out.own({index, index + frame_bytes.size() * 8});
    out.value(hash64(index, frame_bytes.size() * 8));
    for (auto& frame : frames) out.own(std::move(frame));
    return out;
}

}  // namespace

std::vector<uint8_t> encode_wproj_v1(const WprojImage& image, uint64_t key) {
    return layout1(image, key).to_memory();
}
void write_wproj_v1(const std::string& path, const WprojImage& image, uint64_t key, const WprojProgress& progress) {
    layout1(image, key).to_file(path, progress);
}

std::vector<uint8_t> encode_wproj_v2(const WprojImage& image, uint64_t key, const WprojPacking& packing) {
    return layout2(image, key, packing, {}).to_memory();
}
void write_wproj_v2(const std::string& path, const WprojImage& image, uint64_t key, const WprojPacking& packing,
                    const WprojProgress& progress) {
    // Packing is what takes the time where there is any.
    const bool packed = packing.codec != kWprojPlain;
    layout2(image, key, packing, packed ? progress : WprojProgress())
        .to_file(path, packed ? WprojProgress() : progress);
}

}  // namespace keel::tools
