// The tables of a GGUF file, in memory of their own.
#pragma once
#include <string>
#include <vector>

#include "keel/keel.h"
#include "sdk/format/gguf.h"

namespace keel::tools {

struct GgufTables {
    std::vector<GgufValue> values;    // sorted by key_hash
    std::vector<GgufTensor> tensors;  // in file order
    Gguf view{};
};
// `name`: of the file, for errors. Throws ToolError.
GgufTables scan_gguf(const keel_reader& file, const std::string& name);

}  // namespace keel::tools
