// Whole files, read-only: mapped, and by offset; and locking of pages. Nobody can write to a file or cut it short while
// it is open here.
#include "platform/platform.h"
#include "platform/windows/system.h"

namespace keel::platform {

namespace {

FileResult meaning_of(DWORD error) {
    switch (error) {
        case ERROR_FILE_NOT_FOUND:
        case ERROR_PATH_NOT_FOUND:
        case ERROR_INVALID_NAME:
        case ERROR_BAD_PATHNAME:
            return FileResult::kMissing;
        case ERROR_ACCESS_DENIED:
        case ERROR_SHARING_VIOLATION:
            return FileResult::kForbidden;
        case ERROR_TOO_MANY_OPEN_FILES:
            return FileResult::kTooMany;
        default:
            return FileResult::kUnreadable;
    }
}

FileResult map_handle(HANDLE handle, MappedFile* out) {
    LARGE_INTEGER size;
    if (GetFileType(handle) != FILE_TYPE_DISK) return FileResult::kNotAFile;
    if (!GetFileSizeEx(handle, &size)) return FileResult::kUnreadable;
    const void* address = nullptr;
    if (size.QuadPart != 0) {
        // The view keeps the mapping alive.
        const HANDLE mapping = CreateFileMappingW(handle, nullptr, PAGE_READONLY, 0, 0, nullptr);
        if (!mapping) return FileResult::kUnmappable;
        address = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
        CloseHandle(mapping);
        if (!address) return FileResult::kUnmappable;
    }
    *out = {reinterpret_cast<intptr_t>(handle), address, static_cast<uint64_t>(size.QuadPart)};
    return FileResult::kOk;
}

}  // namespace

FileResult map_file(const char* path, MappedFile* out) {
    wchar_t wide[4096];
    if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, sizeof wide / sizeof *wide))
        return FileResult::kMissing;
    const HANDLE handle =
        CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (handle == INVALID_HANDLE_VALUE) {
        const DWORD error = GetLastError(), attributes = GetFileAttributesW(wide);
        const bool directory = attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
        return directory ? FileResult::kNotAFile : meaning_of(error);
    }
    const FileResult result = map_handle(handle, out);
    if (result != FileResult::kOk) CloseHandle(handle);
    return result;
}

void unmap_file(const MappedFile& file) {
    if (file.data) UnmapViewOfFile(file.data);
    CloseHandle(reinterpret_cast<HANDLE>(file.handle));
}

bool read_file(intptr_t handle, uint64_t offset, void* dst, uint64_t bytes) {
    uint8_t* to = static_cast<uint8_t*>(dst);
    while (bytes > 0) {
        const DWORD wanted = bytes < (1u << 30) ? static_cast<DWORD>(bytes) : 1u << 30;
        OVERLAPPED at = {};
        at.Offset = static_cast<DWORD>(offset);
        at.OffsetHigh = static_cast<DWORD>(offset >> 32);
        DWORD got = 0;
        if (!ReadFile(reinterpret_cast<HANDLE>(handle), to, wanted, &got, &at) || got == 0) return false;
        to += got;
        offset += got;
        bytes -= got;
    }
    return true;
}

// A process may lock no more than its working set, so that grows first.
bool lock_pages(const void* data, uint64_t bytes) {
    if (bytes == 0) return true;
    SIZE_T low, high;
    const HANDLE process = GetCurrentProcess();
    if (!GetProcessWorkingSetSize(process, &low, &high)) return false;
    if (!SetProcessWorkingSetSize(process, low + bytes, high + bytes)) return false;
    return VirtualLock(const_cast<void*>(data), bytes);
}

void unlock_pages(const void* data, uint64_t bytes) {
    if (bytes) VirtualUnlock(const_cast<void*>(data), bytes);
}

}  // namespace keel::platform
