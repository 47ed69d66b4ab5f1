// What decides, beside the model, what an engine computes: figures of one setup are not those of another.
#pragma once
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {

// config: of the options. Bytes of its parts count, not their names.
Json engine_setup(const EngineOptions& options, const keel_config& config, const keel_memory_plan& plan);

}  // namespace keel::tools
