// zstd sections of W_proj caches. In a build without zstd everything but wproj_is_packed throws ToolError
// (KEEL_E_UNSUPPORTED).
#pragma once
#include <vector>

#include "keel/keel.h"

namespace keel::tools {

// Whether a reader begins as a packed version-2 file does. Nothing else is checked.
bool wproj_is_packed(const keel_reader& reader);

// The plain file in a packed one, checked and expanded by libkeel_pack.
std::vector<uint8_t> unpack_wproj(const keel_reader& packed);

}  // namespace keel::tools
