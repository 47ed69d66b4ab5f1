// Writing coded sections of packs (sdk/format/coded.h).
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "keel/keel.h"
#include "sdk/tools/common/gguf_tables.h"

namespace keel::tools {

enum class PackCodec {
    kRaw,
    kAuto,  // tensors of which it saves kLeastSaving, none where it saves less than that of the file; text likewise
    kRans,  // all tensors of which it saves a byte
    kZstd   // text of which it saves kLeastSaving
};
constexpr double kLeastSaving = 0.03;

// What coding the tensors of a GGUF file would save.
class CodedPlan {
  public:
    // Reads the whole file. `interleave`: the section has the rows of matrices interleaved.
    CodedPlan(const keel_reader& file, bool interleave, PackCodec codec);
    bool worth_it() const { return worth_it_; }
    // The section, from its first byte to its last, of what the file has from byte `begin` on, which is 0 or the first
    // of the tensors.
    void write(uint64_t begin, const std::function<void(const void* data, size_t bytes)>& put) const;

  private:
    struct CodedTensor {
        std::vector<std::array<uint16_t, 256>> frequencies;  // of each class
        std::vector<uint8_t> stored;                         // the same in the file
        double saved_bytes = 0;
    };
    std::vector<uint8_t> bytes_of(const GgufTensor& t) const;
    CodedTensor consider(uint32_t number) const;

    const keel_reader& file_;
    bool interleave_, worth_it_ = false;
    GgufTables tables_;
    std::vector<CodedTensor> coded_;  // by tensor number; without frequencies: it stays raw
};

}  // namespace keel::tools
