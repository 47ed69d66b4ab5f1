// Models within a number of bytes, counted as the contest for 16 MB counts: the pack with its tensors entropy coded,
// and the code that runs it. That contest does not count a tokenizer; here it is in the pack.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace keel::tools {

struct ByteBudget {
    uint64_t bytes;     // of code and pack together
    uint64_t code = 0;  // of that
};
// The code is these files. Throws ToolError: one that is none.
ByteBudget budget_of(uint64_t bytes, const std::vector<std::string>& code);
// Of the pack that `keel pack PATH --codec CODEC` writes of this model, with the codec of this name: auto, or rans in a
// build without zstd, which packs no text.
uint64_t packed_bytes(const std::string& path);
const char* budget_codec_name();

// "code 1,000 and pack 15,998,000 of 16,000,000 bytes: 1,000 left", or so many over.
std::string budget_text(const ByteBudget& budget, uint64_t packed);

}  // namespace keel::tools
