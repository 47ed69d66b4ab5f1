#include "sdk/tools/files/wproj_table.h"

#include <string.h>

#include <chrono>

#include "sdk/format/bytes.h"
#include "sdk/format/wproj_v2.h"
#include "sdk/model/wproj_slots.h"
#include "sdk/tools/files/wproj_zstd.h"
#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif

namespace keel::tools {
namespace {

// Header and table of a packed file; where this build has zstd its index of frames is checked too.
void read_packed(WprojTable* t, const WprojShape& shape) {
    const keel_reader& reader = *t->reader.get();
    const std::string doing = "cannot use " + t->path;
    keel_error error = make<keel_error>();
    WprojHeader2 h;
    check(wproj_read_header2(reader, &h, &error), doing, &error);
#ifdef KEEL_HAVE_PACK
    keel_pack_info info = make<keel_pack_info>();
    check(keel_pack_inspect(&reader, &info, &error), doing, &error);
#endif
    if (shape.layers != kWprojAnySize && shape.layers != h.layers) throw ToolError(KEEL_E_FILE_MISMATCH, doing);
    t->layers.resize(h.layers);
    uint64_t next = wproj_align(wproj_table_end(h.layers) + 8), end = next;
    for (uint32_t l = 0; l < h.layers; ++l) {
        check(read_at(reader, wproj_table_end(l), &t->layers[l], sizeof(WprojLayer)), doing);
        check(wproj_check_layer2(t->layers[l], l, shape, h.plain_bytes, &next, &end, &error), doing, &error);
        wproj_map_types(&t->layers[l], wproj_type_of_number);
    }
    t->plain_bytes = h.plain_bytes;
    t->file.version = 2;
    t->file.layers = h.layers;
    t->file.key = h.key;
    t->file.fingerprint = h.fingerprint;
    t->file.calibration_hash = h.calibration_hash;
    t->file.quality = h.quality;
    memcpy(t->file.solver, h.solver, sizeof h.solver);
}

}  // namespace

WprojTable open_wproj_table(const std::string& path, const WprojShape* shape) {
    const auto start = std::chrono::steady_clock::now();
    const auto timed = [&start](WprojTable t) {
        t.open_us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
        return t;
    };
    WprojTable t;
    t.path = path;
    t.reader = open_file(path);
    t.file_bytes = t.plain_bytes = t.reader.get()->size_bytes;
    t.packed = wproj_is_packed(*t.reader.get());
    const WprojShape any = wproj_any_shape();
    if (t.packed) {
        read_packed(&t, shape ? *shape : any);
        return timed(std::move(t));
    }
    keel_error error = make<keel_error>();
    check(wproj_open(*t.reader.get(), shape ? *shape : any, 0, true, &t.file, &error), "cannot use " + path, &error);
    t.layers.resize(t.file.layers);
    WprojCursor cursor = {};
    for (WprojLayer& layer : t.layers) check(wproj_layer(t.file, &cursor, &layer), "cannot use " + path);
    return timed(std::move(t));
}

double wproj_break_even_rank(const keel_model& model, const WprojLayer& parts, uint32_t layer, uint32_t group) {
    const WprojBasis& b = parts.basis[group];
    if (!b.rank) return 0;
    double dense_bytes = 0, per_rank = static_cast<double>(b.bytes) / b.rank;
    for (uint32_t s = 0; s < kWprojSlots; ++s) {
        const WprojRecord& r = parts.record[s];
        if (!r.rank || wproj_group(static_cast<WprojSlot>(s)) != group) continue;
        const GgufTensor* tensor = wproj_tensor(model, layer, s);
        if (!tensor) return 0;
        dense_bytes += static_cast<double>(tensor->bytes);
        per_rank += static_cast<double>(r.bytes) / r.rank;
    }
    return dense_bytes / per_rank;
}

}  // namespace keel::tools
