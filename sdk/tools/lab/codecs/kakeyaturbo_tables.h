// The codebooks that were published with KakeyaTurbo, measured on two models.
#pragma once
#include <span>

#include "sdk/tools/lab/codecs/kakeyaturbo_options.h"

namespace keel::tools {

// 2^bits ascending levels for K or V rows; empty where none was published.
std::span<const float> published_codebook(KakeyaturboOptions::Codebook codebook, uint32_t bits, bool value);

}  // namespace keel::tools
