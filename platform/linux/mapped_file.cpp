// Whole files as read-only mappings, and locking of their pages.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "platform/platform.h"

namespace keel::platform {

namespace {

enum : int { kMapped = 0, kCannotOpen = 1, kCannotMap = 2 };

// Maps the open file; the mapping keeps the file alive, so the caller closes the descriptor in any case.
int map_descriptor(int descriptor, const void** data, uint64_t* bytes) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) return kCannotOpen;
    // A directory, pipe or device opens, but has no fixed size to map.
    if (!S_ISREG(info.st_mode) || info.st_size < 0) return kCannotOpen;
    const uint64_t size = static_cast<uint64_t>(info.st_size);
    if (size > SIZE_MAX) return kCannotMap;
    if (size == 0) {  // mmap refuses a length of zero
        *data = nullptr;
        *bytes = 0;
        return kMapped;
    }
    void* address = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) return kCannotMap;
    *data = address;
    *bytes = size;
    return kMapped;
}

}  // namespace

int map_file(const char* path, const void** data, uint64_t* bytes) {
    int descriptor;
    // O_NONBLOCK: a path that names a pipe must not hang the caller; regular files ignore it.
    do {
        descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) return kCannotOpen;
    const int result = map_descriptor(descriptor, data, bytes);
    close(descriptor);
    return result;
}

void unmap_file(const void* data, uint64_t bytes) {
    if (data) munmap(const_cast<void*>(data), static_cast<size_t>(bytes));
}

// mlock rounds to whole pages and brings every one of them in before it returns.
bool lock_pages(const void* data, uint64_t bytes) {
    if (bytes == 0) return true;
    return bytes <= SIZE_MAX && mlock(data, static_cast<size_t>(bytes)) == 0;
}

void unlock_pages(const void* data, uint64_t bytes) {
    if (bytes) munlock(data, static_cast<size_t>(bytes));
}

}  // namespace keel::platform
