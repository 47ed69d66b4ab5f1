#include "sdk/tools/files/wproj_image.h"

#include <string.h>

#include <algorithm>
#include <string_view>

#include "keel/keel.hpp"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj_v1.h"
#include "sdk/format/wproj_v2.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/model_file.h"
#include "sdk/tools/files/wproj_zstd.h"

namespace keel::tools {
namespace {

void need(keel_status status, const keel_error* error = nullptr) {
    check(status, "cannot use the W_proj cache", error);
}

template <class T>
std::vector<T> load(const keel_reader& reader, uint64_t offset, uint64_t count) {
    std::vector<T> out(count);
    need(read_at(reader, offset, out.data(), count * sizeof(T)));
    return out;
}
std::vector<float> floats(const keel_reader& reader, uint64_t offset, uint64_t count) {
    return offset ? load<float>(reader, offset, count) : std::vector<float>();
}

[[noreturn]] void damaged(uint64_t offset, uint32_t layer, const char* part, const char* reason) {
    keel_error error = make<keel_error>();
    error.status = KEEL_E_FILE_FORMAT;
    error.offset = offset;
    snprintf(error.field, sizeof error.field, "layer %u %s", layer, part);
    snprintf(error.reason, sizeof error.reason, "%s", reason);
    throw ToolError(KEEL_E_FILE_FORMAT, "cannot use the W_proj cache", &error);
}

WprojImage read_v1(const WprojFile& file) {
    WprojImage image;
    image.version = 1;
    image.key = file.key;
    image.columns = file.columns;
    image.layers.resize(file.layers);
    keel_error error = make<keel_error>();
    uint64_t basis_at = file.first_basis, record_at = file.first_record;
    for (uint32_t l = 0; l < file.layers; ++l) {
        WprojImageLayer& layer = image.layers[l];
        WprojBasis1 b;
        need(wproj_read_basis1(file.reader, basis_at, file.columns, l, &b, &error), &error);
        basis_at = b.end;
        bool used[kWprojGroups] = {};
        for (uint32_t s = 0; s < kWprojSlots; ++s) {
            WprojRecord1 r;
            need(wproj_read_record1(file.reader, record_at, b.rank, l, s, &r, &error), &error);
            record_at = r.end;
            if (!r.present) continue;
            if (s != kWprojFfnDownSvd && s != kWprojDown) used[wproj_group(static_cast<WprojSlot>(s))] = true;
            layer.record[s] = {r.rows,
                               r.rank,
                               r.has_q8 ? kernels::kQ8_F32 : kernels::kF32,
                               load<uint8_t>(file.reader, r.matrix, r.bytes),
                               floats(file.reader, r.bias, r.rows),
                               r.compression,
                               r.energy,
                               -1,
                               r.weight};
        }
        if (!b.rank) {
            layer.empty_flags = b.has_mu | b.has_mean << 1;
            continue;
        }
        WprojImageBasis basis = {b.rank,
                                 file.columns,
                                 kernels::kF32,
                                 load<uint8_t>(file.reader, b.matrix, uint64_t{b.rank} * file.columns * 4),
                                 floats(file.reader, b.mu, b.rank),
                                 floats(file.reader, b.mean, file.columns)};
        for (const uint32_t g : {kWprojAttnOut, kWprojFfnIn})
            if (used[g]) layer.basis[g] = basis;
        if (used[kWprojAttnIn] || !(used[kWprojAttnOut] || used[kWprojFfnIn]))
            layer.basis[kWprojAttnIn] = std::move(basis);
    }
    return image;
}

WprojImage read_v2(const WprojFile& file) {
    WprojImage image;
    image.key = file.key;
    image.fingerprint = file.fingerprint;
    image.calibration_hash = file.calibration_hash;
    image.quality = file.quality;
    image.solver = file.solver;
    image.layers.resize(file.layers);
    uint64_t end = wproj_table_end(file.layers) + 8;
    WprojCursor cursor = {};
    for (uint32_t l = 0; l < file.layers; ++l) {
        WprojLayer entry;
        need(wproj_layer(file, &cursor, &entry));
        keel_error error = make<keel_error>();
        need(wproj_check_payload(file, entry, l, &error), &error);
        wproj_for_sections(entry, [&](uint64_t offset, uint64_t bytes) {
            const std::vector<uint8_t> gap = load<uint8_t>(file.reader, end, offset - end);
            if (std::any_of(gap.begin(), gap.end(), [](uint8_t x) { return x != 0; }))
                damaged(end, l, "padding", "is not zero");
            end = offset + bytes;
        });
        WprojImageLayer& layer = image.layers[l];
        for (uint32_t g = 0; g < kWprojGroups; ++g) {
            const WprojBasis& b = entry.basis[g];
            if (!b.rank) continue;
            layer.basis[g] = {b.rank,
                              b.columns,
                              b.type,
                              load<uint8_t>(file.reader, b.offset, b.bytes),
                              floats(file.reader, b.mu, b.rank),
                              floats(file.reader, b.mean, b.columns)};
        }
        for (uint32_t s = 0; s < kWprojSlots; ++s) {
            const WprojRecord& r = entry.record[s];
            if (!r.rank) continue;
            layer.record[s] = {r.rows,
                               r.rank,
                               r.type,
                               load<uint8_t>(file.reader, r.offset, r.bytes),
                               floats(file.reader, r.bias, r.rows),
                               r.compression,
                               r.energy,
                               r.error,
                               0};
        }
    }
    return image;
}

}  // namespace

WprojImage read_wproj_image(const keel_reader& reader) {
    keel_error error = make<keel_error>();
    if (wproj_is_packed(reader)) {
        const std::vector<uint8_t> plain = unpack_wproj(reader);
        keel_reader memory = make<keel_reader>();
        need(keel_reader_from_memory(plain.data(), plain.size(), &memory));
        return read_wproj_image(memory);
    }
    WprojFile file;
    need(wproj_open(reader, wproj_any_shape(), 0, true, &file, &error), &error);
    return file.version == 1 ? read_v1(file) : read_v2(file);
}

WprojImage read_wproj_image(const std::string& path) {
    return read_wproj_image(*open_file(path).get());
}

}  // namespace keel::tools
