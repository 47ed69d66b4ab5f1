// What the readers of W_proj caches share: reads that say where a file ends early, names of fields for errors.
// Internal.
#pragma once
#include <stddef.h>

#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj.h"

namespace keel::wproj {

inline bool finite(double x) {
    return __builtin_fabs(x) <= 1.7976931348623157e308;
}

// Copies; KEEL_E_FILE_FORMAT when the file ends before, KEEL_E_FILE_READ when the reader fails.
inline keel_status take(const keel_reader& reader, uint64_t at, void* dst, uint64_t bytes, const char* field,
                        keel_error* error) {
    if (at > reader.size_bytes || bytes > reader.size_bytes - at)
        return fail(error, KEEL_E_FILE_FORMAT, reader.size_bytes, field, "ends early");
    if (read_at(reader, at, dst, bytes) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, at, field, "the reader failed");
    return KEEL_OK;
}

// "layer 3 q rank"
template <size_t N>
const char* name_field(char (&out)[N], uint32_t layer, const char* part, const char* field) {
    TextBuilder(out, N).text("layer ").number(layer).text(" ").text(part).text(" ").text(field);
    return out;
}

}  // namespace keel::wproj
