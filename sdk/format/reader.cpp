// The readers Keel brings: a memory block and a mapped file.
#include "platform/platform.h"
#include "sdk/core/status.h"

using namespace keel;

namespace {

// Marks readers that own a mapping, so that closing any other one does nothing.
const char kFileTag = 0;

keel_reader make_reader(const void* data, uint64_t bytes, void* tag) {
    keel_reader r = {};
    r.struct_size = sizeof r;
    r.size_bytes = bytes;
    r.user_data = tag;
    r.mapped = data;
    return r;
}

}  // namespace

extern "C" {

keel_status keel_reader_from_memory(const void* data, size_t bytes, keel_reader* out) {
    if ((!data && bytes) || !out) return KEEL_E_ARGUMENT;
    const keel_reader r = make_reader(data, bytes, nullptr);
    return write_versioned(r, out);
}

keel_status keel_reader_open_file(const char* path, keel_reader* out) {
    if (!path || !out) return KEEL_E_ARGUMENT;
    KEEL_TRY(check_versioned(out));
    const void* data;
    uint64_t bytes;
    const int result = platform::map_file(path, &data, &bytes);
    if (result != 0) return result == 1 ? KEEL_E_FILE_READ : KEEL_E_PLATFORM;
    const keel_reader r = make_reader(data, bytes, const_cast<char*>(&kFileTag));
    const keel_status status = write_versioned(r, out);
    if (status != KEEL_OK) platform::unmap_file(data, bytes);
    return status;
}

void keel_reader_close(keel_reader* reader) {
    keel_reader mine;
    if (!reader || read_versioned(reader, &mine) != KEEL_OK || mine.user_data != &kFileTag) return;
    platform::unmap_file(mine.mapped, mine.size_bytes);
    write_versioned(make_reader(nullptr, 0, nullptr), reader);
}

}  // extern "C"
