// Packed text of packs, expanded by libkeel_pack.
#pragma once
#include <string>
#include <vector>

#include "keel/keel.h"

namespace keel::tools {

// Expands the text of a section and lets its reader point to it. Throws ToolError: KEEL_E_UNSUPPORTED in a build
// without zstd. `path`: of the pack, for errors.
std::vector<uint8_t> expand_text(keel_reader* section, const std::string& path);

}  // namespace keel::tools
