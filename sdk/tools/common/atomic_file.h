// Files that appear whole or not at all.
#pragma once
#include <stdint.h>

#include <cstdio>
#include <span>
#include <string>

namespace keel::tools {

// Writes beside `path` and moves the result there with commit(); without it nothing is left behind. Throws ToolError
// (kExitFile) with the system's reason when the file cannot be written, and at once when `path` is there and no regular
// file: a device or a directory is not replaced.
class AtomicFile {
  public:
    explicit AtomicFile(const std::string& path);
    AtomicFile(const AtomicFile&) = delete;
    ~AtomicFile();
    void write(const void* data, size_t bytes) { write_at(end_, data, bytes); }
    // Any order; what lies between written ranges is zero.
    void write_at(uint64_t offset, const void* data, size_t bytes);
    // At least so many bytes.
    void extend(uint64_t bytes);
    void commit();

  private:
    [[noreturn]] void fail(int error) const;
    std::string path_, partial_;
    std::FILE* file_ = nullptr;
    uint64_t end_ = 0, at_ = 0;
};

void write_file(const std::string& path, std::span<const char> contents);

// A file that is only needed while this lives, if it is there.
struct RemovedAtTheEnd {
    const std::string path;
    ~RemovedAtTheEnd();
};

}  // namespace keel::tools
