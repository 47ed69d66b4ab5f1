// keel bench --contended.
#pragma once
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {

struct ContendedOptions {
    uint32_t decode, position, repeats;  // tokens decoded a repeat, from this position on
};
// Decoding while 0, 1, as many and twice as many busy threads as the engine has compute for the same cores; prints
// rates and step latencies of each. After Ctrl-C what was measured until then.
void bench_contended(LoadedModel& model, const ContendedOptions& options, const Console& console);

}  // namespace keel::tools
