// Offline tables of published codecs from text that is not scored: query covariances before RoPE, and what a codec fits
// itself.
#pragma once
#include "sdk/tools/lab/kv/kv_codec_tap.h"
#include "sdk/tools/lab/kv/kv_run.h"

namespace keel::tools {

// Query covariances of every (layer, kv head) over the first `documents` documents of a text, `context_tokens` of each.
KvCodecTables covariances_of(const EngineOptions& options, const std::string& text, uint32_t documents,
                             uint32_t context_tokens);
// Adds group scales and codebooks that the codecs of `spec` fit to K and V rows of that text.
void fit_tables(const EngineOptions& options, const KvSpec& spec, const std::string& text, uint32_t documents,
                uint32_t context_tokens, KvCodecTables* tables);

}  // namespace keel::tools
