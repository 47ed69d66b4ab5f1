// The readers Keel brings: a memory block and a file.
#include "platform/platform.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"

using namespace keel;

namespace {

// user_data is the file's handle. This function also marks readers that own a file, so that closing any other one does
// nothing.
keel_status read_of_file(void* user_data, uint64_t offset, void* dst, size_t bytes) {
    return platform::read_file(reinterpret_cast<intptr_t>(user_data), offset, dst, bytes) ? KEEL_OK : KEEL_E_FILE_READ;
}

keel_status status_of(platform::FileResult result) {
    switch (result) {
        case platform::FileResult::kOk:
            return KEEL_OK;
        case platform::FileResult::kMissing:
            return KEEL_E_FILE_MISSING;
        case platform::FileResult::kForbidden:
            return KEEL_E_FILE_PERMISSION;
        case platform::FileResult::kNotAFile:
            return KEEL_E_FILE_KIND;
        case platform::FileResult::kTooMany:
        case platform::FileResult::kUnmappable:
            return KEEL_E_PLATFORM;
        case platform::FileResult::kUnreadable:
            break;
    }
    return KEEL_E_FILE_READ;
}

}  // namespace

extern "C" {

keel_status keel_reader_from_memory(const void* data, size_t bytes, keel_reader* out) {
    if ((!data && bytes) || !out) return KEEL_E_ARGUMENT;
    keel_reader r = {};
    r.struct_size = sizeof r;
    r.size_bytes = bytes;
    r.mapped = data;
    return write_versioned(r, out);
}

keel_status keel_reader_part(const keel_reader* whole, uint64_t offset, uint64_t bytes, keel_reader* out) {
    if (!whole || !out) return KEEL_E_ARGUMENT;
    keel_reader r;
    KEEL_TRY(read_versioned(whole, &r));
    return reader_part(r, offset, bytes, &r) ? write_versioned(r, out) : KEEL_E_ARGUMENT;
}

keel_status keel_reader_open_file(const char* path, keel_reader* out) {
    if (!path || !out) return KEEL_E_ARGUMENT;
    KEEL_TRY(check_versioned(out));
    platform::MappedFile file;
    const platform::FileResult result = platform::map_file(path, &file);
    if (result != platform::FileResult::kOk) return status_of(result);
    keel_reader r = {};
    r.struct_size = sizeof r;
    r.size_bytes = file.bytes;
    r.read_at = read_of_file;
    r.user_data = reinterpret_cast<void*>(file.handle);
    r.mapped = file.data;
    const keel_status status = write_versioned(r, out);
    if (status != KEEL_OK) platform::unmap_file(file);
    return status;
}

void keel_reader_close(keel_reader* reader) {
    keel_reader mine;
    if (!reader || read_versioned(reader, &mine) != KEEL_OK || mine.read_at != read_of_file || mine.part) return;
    platform::unmap_file({reinterpret_cast<intptr_t>(mine.user_data), mine.mapped, mine.size_bytes});
    mine = {};
    write_versioned(mine, reader);
}

}  // extern "C"
