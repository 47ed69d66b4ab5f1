#include "sdk/tools/common/atomic_file.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "sdk/tools/common/console.h"

namespace keel::tools {

AtomicFile::AtomicFile(const std::string& path)
    : path_(path), partial_(strf("%s.%ld.partial", path.c_str(), static_cast<long>(getpid()))) {
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored))
        throw ToolError(kExitFile, "cannot write " + path + ": it is no regular file");
    file_ = fopen(partial_.c_str(), "wb");
    if (!file_) fail(errno);
}

AtomicFile::~AtomicFile() {
    if (!file_) return;
    fclose(file_);
    std::error_code ignored;
    std::filesystem::remove(partial_, ignored);
}

void AtomicFile::fail(int error) const {
    throw ToolError(kExitFile, "cannot write " + path_ + ": " + std::generic_category().message(error));
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t bytes) {
    if (offset != at_ && fseeko(file_, static_cast<off_t>(offset), SEEK_SET) != 0) fail(errno);
    if (fwrite(data, 1, bytes, file_) != bytes) fail(errno);
    at_ = offset + bytes;
    end_ = std::max(end_, at_);
}

void AtomicFile::extend(uint64_t bytes) {
    const char zero = 0;
    if (bytes > end_) write_at(bytes - 1, &zero, 1);
}

void AtomicFile::commit() {
    // All of it is on the disk before it has its name: a full disk may be told of as late as here.
    if (fflush(file_) != 0 || fsync(fileno(file_)) != 0) fail(errno);
    FILE* file = std::exchange(file_, nullptr);
    std::error_code error;
    if (fclose(file) != 0) error.assign(errno, std::generic_category());
    if (!error) std::filesystem::rename(partial_, path_, error);
    if (!error) return;
    std::error_code ignored;
    std::filesystem::remove(partial_, ignored);
    fail(error.value());
}

void write_file(const std::string& path, std::span<const char> contents) {
    AtomicFile file(path);
    file.write(contents.data(), contents.size());
    file.commit();
}

RemovedAtTheEnd::~RemovedAtTheEnd() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
}

}  // namespace keel::tools
