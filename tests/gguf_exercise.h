// Reads a GGUF the way the library does, with every promise of sdk/format/gguf.h checked; a broken one traps, so that
// unit tests and the fuzzer stop there.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/gguf.h"

namespace keel_test {

inline void promise(bool kept) {
    if (!kept) __builtin_trap();
}

struct GgufTables {
    keel::Gguf view = {};
    std::vector<keel::GgufValue> values;
    std::vector<keel::GgufTensor> tensors;
};

inline keel_limits default_limits() {
    keel_limits limits;
    promise(keel::resolve_limits(nullptr, &limits) == KEEL_OK);
    return limits;
}

// Both variants; the tables are exactly as large as pass 1 says.
inline keel_status scan(const keel_reader& reader, const keel_limits& limits, GgufTables* out, keel_error* error) {
    KEEL_TRY(keel::gguf_scan(reader, limits, nullptr, nullptr, &out->view, error));
    promise(!out->view.values && !out->view.tensors);
    out->values.resize(out->view.value_count);
    out->tensors.resize(out->view.tensor_count);
    return keel::gguf_scan(reader, limits, out->values.data(), out->tensors.data(), &out->view, error);
}

inline std::string file_text(const keel_reader& reader, uint64_t offset, uint64_t bytes) {
    std::string text(bytes, 0);
    promise(keel::read_at(reader, offset, text.data(), bytes) == KEEL_OK);
    return text;
}

// Calls every getter on one value. A getter that refuses must say why and leave its result alone.
inline void exercise_value(const keel_reader& reader, const GgufTables& t, const keel::GgufValue& v) {
    const std::string key = file_text(reader, keel::gguf_key_offset(v), v.key_bytes);
    promise(key.find('\0') == std::string::npos && keel::hash64(key.data(), key.size()) == v.key_hash);
    promise(keel::gguf_find(t.view, key.c_str()) == &v);
    keel_error error = {sizeof error, KEEL_OK, 0, "", ""};
    bool present = false;
    const auto check = [&](keel_status status, bool untouched) {
        promise(present && (status == KEEL_OK || (status == KEEL_E_FILE_FORMAT && untouched)));
        promise(status == KEEL_OK || (error.status == status && error.reason[0] && error.field[0]));
    };
    uint32_t u = 12345;
    check(keel::gguf_u32(reader, t.view, key.c_str(), &u, &present, &error), u == 12345);
    float f = -1.5f;
    check(keel::gguf_f32(reader, t.view, key.c_str(), &f, &present, &error), f == -1.5f);
    promise(f - f == 0);
    bool b = false;
    check(keel::gguf_bool(reader, t.view, key.c_str(), &b, &present, &error), !b);
    char text[9] = "untouch.";
    uint64_t bytes = 77;
    const keel_status status =
        keel::gguf_string(reader, t.view, key.c_str(), text, sizeof text, &bytes, &present, &error);
    check(status, bytes == 77 && text[0] == 'u');
    if (status == KEEL_OK) promise(bytes == v.count && text[std::min<uint64_t>(bytes, 8)] == 0);

    if (v.type != keel::kGgufArray || v.element_type != keel::kGgufString) return;
    keel::GgufStringCursor cursor(reader, v);
    promise(cursor.left() == v.count);
    for (uint64_t i = 0; i < v.count; ++i) {
        promise(cursor.next(&bytes) == KEEL_OK && bytes <= v.bytes);
        std::string element(bytes, 0);
        promise((i % 2 ? cursor.skip() : cursor.read(element.data())) == KEEL_OK);
    }
    promise(cursor.left() == 0 && cursor.next(&bytes) == KEEL_E_FILE_FORMAT);
}

// Scans and, when the file is accepted, checks all that the view promises. Returns the scan's status.
inline keel_status exercise(const keel_reader& reader, const keel_limits& limits, keel_error* error) {
    GgufTables t;
    const keel_status status = scan(reader, limits, &t, error);
    if (status != KEEL_OK) {
        promise(error->status == status && error->reason[0] && error->offset <= reader.size_bytes);
        return status;
    }
    const keel::Gguf& g = t.view;
    promise(g.version == 2 || g.version == 3);
    promise(g.file_bytes == reader.size_bytes && g.data_offset <= g.file_bytes);
    for (uint32_t i = 0; i < g.value_count; ++i) {
        const keel::GgufValue& v = t.values[i];
        promise(i == 0 || t.values[i - 1].key_hash < v.key_hash);
        promise(v.offset <= g.data_offset && v.bytes <= g.data_offset - v.offset);
        const bool fixed = v.type == keel::kGgufArray && v.element_type != keel::kGgufString;
        if (fixed) promise(v.bytes == v.count * keel::gguf_scalar_bytes(v.element_type));
        exercise_value(reader, t, v);
    }
    uint64_t end = g.data_offset;
    for (const keel::GgufTensor& tensor : t.tensors) {
        promise(tensor.offset >= end && tensor.offset % g.alignment == g.data_offset % g.alignment);
        promise(tensor.bytes <= g.file_bytes - tensor.offset);
        end = tensor.offset + tensor.bytes;
        promise(tensor.dim_count >= 1 && tensor.dim_count <= 4);
        uint64_t rows = 1;
        for (int d = 1; d < 4; ++d) rows *= tensor.dims[d];
        promise(rows * keel::kernels::weight_row_bytes(tensor.type, tensor.dims[0]) == tensor.bytes);
        const std::string name = file_text(reader, tensor.name_offset, tensor.name_bytes);
        promise(keel::hash64(name.data(), name.size()) == tensor.name_hash);
    }
    return KEEL_OK;
}

inline keel_reader memory_reader(const void* data, uint64_t bytes) {
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    reader.size_bytes = bytes;
    reader.mapped = data;
    return reader;
}

}  // namespace keel_test
