// Perplexity, bits per byte and, beside a reference, KL and top-1 of a model on a text: what `keel eval ppl` says, and
// `keel quantize --test` of the model it wrote.
#pragma once
#include <stdint.h>

#include <string>

#include "sdk/tools/common/console.h"
#include "sdk/tools/common/engine_setup.h"

namespace keel::tools {

struct PplOptions {
    EngineOptions engine;
    std::string text, against;
    uint32_t window = 0, stride = 0, documents = 0;
    uint64_t max_tokens = 0;
    bool no_bos = false, per_document = false;
    bool case_operators = false;  // of the model, and of a reference that then reads the same tokens
};

// The report, which is printed as text unless the console is one for JSON.
Json eval_ppl(const PplOptions& options, const Console& console);

}  // namespace keel::tools
