#include "sdk/tools/common/atomic_file.h"

#include <stdio.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "sdk/tools/common/console.h"

namespace keel::tools {

AtomicFile::AtomicFile(const std::string& path) : path_(path), partial_(path + ".partial") {
    file_ = fopen(partial_.c_str(), "wb");
    if (!file_) fail();
}

AtomicFile::~AtomicFile() {
    if (!file_) return;
    fclose(file_);
    std::error_code ignored;
    std::filesystem::remove(partial_, ignored);
}

void AtomicFile::fail() const {
    throw ToolError(kExitFile, "cannot write " + path_);
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t bytes) {
    if (offset != at_ && fseeko(file_, static_cast<off_t>(offset), SEEK_SET) != 0) fail();
    if (fwrite(data, 1, bytes, file_) != bytes) fail();
    at_ = offset + bytes;
    end_ = std::max(end_, at_);
}

void AtomicFile::extend(uint64_t bytes) {
    const char zero = 0;
    if (bytes > end_) write_at(bytes - 1, &zero, 1);
}

void AtomicFile::commit() {
    FILE* file = std::exchange(file_, nullptr);
    std::error_code error;
    if (fclose(file) != 0) error = std::make_error_code(std::errc::io_error);
    if (!error) std::filesystem::rename(partial_, path_, error);
    if (!error) return;
    std::error_code ignored;
    std::filesystem::remove(partial_, ignored);
    fail();
}

void write_file(const std::string& path, std::span<const char> contents) {
    AtomicFile file(path);
    file.write(contents.data(), contents.size());
    file.commit();
}

}  // namespace keel::tools
