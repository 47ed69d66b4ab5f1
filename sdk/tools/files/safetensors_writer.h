// safetensors files: u64 length of a JSON header, the header (name -> dtype, shape, offsets), then the tensors,
// row-major and little endian, in the order they were announced in.
#pragma once
#include <string>
#include <vector>

#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/console.h"

namespace keel::tools {

struct SafetensorsEntry {
    std::string name;
    const char* dtype;  // "F32" or "I32"
    std::vector<uint64_t> shape;

    uint64_t bytes() const;
};

// Writes the header at once; tensors are filled piece by piece. Unwritten parts are zero. Throws as AtomicFile.
class SafetensorsWriter {
  public:
    // metadata: strings for the header's __metadata__
    SafetensorsWriter(const std::string& path, std::vector<SafetensorsEntry> entries, const Json& metadata);
    // Elements [first, first + count) of tensor `index`; elements have 4 bytes.
    void write(size_t index, uint64_t first, const void* data, uint64_t count);
    void commit();

  private:
    AtomicFile file_;
    std::vector<uint64_t> offsets_;  // in the file, of each tensor and of the end
};

}  // namespace keel::tools
