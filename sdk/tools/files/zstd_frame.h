// Packing with zstd.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace keel::tools {

// Whether this build has zstd.
bool has_zstd();
// One frame with its content size and zstd's own checksum in it. Throws ToolError: KEEL_E_UNSUPPORTED without zstd.
std::vector<uint8_t> zstd_frame(std::span<const uint8_t> data, int level);

}  // namespace keel::tools
