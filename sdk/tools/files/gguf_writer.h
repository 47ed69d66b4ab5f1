// Writes GGUF v3 files in one pass: metadata and tensor descriptions first, then tensor data asked for in chunks, so
// that a file of any size needs no more memory than one chunk. Heap and exceptions are fine here: this is a tool.
#pragma once
#include <stdint.h>

#include <functional>
#include <string>
#include <vector>

namespace keel::tools {

class GgufWriter {
  public:
    explicit GgufWriter(uint32_t alignment = 32);  // anything but 32 is written as general.alignment

    // One metadata entry each, in the order of the calls. T: (u)int8_t .. (u)int64_t, float, double.
    template <class T>
    void number(const std::string& key, T value);
    template <class T>
    void numbers(const std::string& key, const std::vector<T>& values);
    void boolean(const std::string& key, bool value);
    void string(const std::string& key, const std::string& value);
    void strings(const std::string& key, const std::vector<std::string>& values);
    // An entry as another file has it: its type and value, from behind the key.
    void entry(const std::string& key, const std::string& type_and_value);

    // Describes the next tensor; dims[0] is the row length. `type` is a kernels::WeightType.
    // std::invalid_argument when a row is not a whole number of blocks.
    void tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type);

    // Bytes [offset, offset + bytes) of tensor number `tensor`, always whole blocks, offsets ascending.
    using Fill = std::function<void(size_t tensor, uint64_t offset, uint8_t* dst, uint64_t bytes)>;
    // Called after every chunk.
    using Progress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

    // The file up to and including the padding before the data.
    std::vector<uint8_t> header() const;
    uint64_t file_bytes() const;
    // Writes the whole file, which appears when it is complete; throws as AtomicFile.
    void write(const std::string& path, const Fill& fill, const Progress& progress = {}) const;

  private:
    struct Tensor {
        std::string name;
        std::vector<uint64_t> dims;
        uint32_t type;
        uint64_t bytes;
    };
    void key(const std::string& key, uint32_t type);
    uint64_t padded(uint64_t bytes) const { return (bytes + alignment_ - 1) / alignment_ * alignment_; }

    uint32_t alignment_;
    uint64_t value_count_ = 0;
    std::vector<uint8_t> values_;  // the metadata section as it goes into the file
    std::vector<Tensor> tensors_;
};

}  // namespace keel::tools
