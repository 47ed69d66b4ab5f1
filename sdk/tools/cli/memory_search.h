// keel plan --memory: the longest context that fits.
#pragma once
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {

// Tries ways to store weights, keys and values, and reports what fits, with the command that runs it. What the options
// name is kept. mapped_free: weights that are mapped do not count. Throws ToolError (kExitMemory) where nothing fits.
void search_memory(const EngineOptions& options, uint64_t memory_bytes, bool mapped_free, const Console& console);

}  // namespace keel::tools
