// Whole files, read-only: mapped, and by pread; and locking of pages.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "platform/platform.h"

namespace keel::platform {

namespace {

// What an errno of open means.
FileResult meaning_of(int error) {
    switch (error) {
        case ENOENT:
        case ENOTDIR:
            return FileResult::kMissing;
        case EACCES:
        case EPERM:
            return FileResult::kForbidden;
        case ENXIO:  // a pipe or device that cannot be opened without waiting
        case ENODEV:
            return FileResult::kNotAFile;
        case EMFILE:
        case ENFILE:
            return FileResult::kTooMany;
        default:
            return FileResult::kUnreadable;
    }
}

FileResult map_descriptor(int descriptor, MappedFile* out) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) return FileResult::kUnreadable;
    // A directory, pipe or device opens, but has no fixed size to map.
    if (!S_ISREG(info.st_mode) || info.st_size < 0) return FileResult::kNotAFile;
    const uint64_t size = static_cast<uint64_t>(info.st_size);
    if (size > SIZE_MAX) return FileResult::kUnmappable;
    void* address = nullptr;
    if (size != 0) {  // mmap refuses a length of zero
        address = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (address == MAP_FAILED) return FileResult::kUnmappable;
    }
    *out = {descriptor, address, size};
    return FileResult::kOk;
}

}  // namespace

FileResult map_file(const char* path, MappedFile* out) {
    int descriptor;
    // O_NONBLOCK: a path that names a pipe must not hang the caller; regular files ignore it.
    do {
        descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) return meaning_of(errno);
    const FileResult result = map_descriptor(descriptor, out);
    if (result != FileResult::kOk) close(descriptor);
    return result;
}

void unmap_file(const MappedFile& file) {
    if (file.data) munmap(const_cast<void*>(file.data), static_cast<size_t>(file.bytes));
    close(static_cast<int>(file.handle));
}

bool read_file(intptr_t handle, uint64_t offset, void* dst, uint64_t bytes) {
    uint8_t* to = static_cast<uint8_t*>(dst);
    while (bytes > 0) {
        // The kernel reads at most 2 GiB at a time.
        const size_t wanted = bytes < (1u << 30) ? static_cast<size_t>(bytes) : 1u << 30;
        const ssize_t got = pread(static_cast<int>(handle), to, wanted, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        to += got;
        offset += static_cast<uint64_t>(got);
        bytes -= static_cast<uint64_t>(got);
    }
    return true;
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
