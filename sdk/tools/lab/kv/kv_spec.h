// How the laboratory names a way to store K and V:
//
//     SIDE                 both K and V, such as tcq-3 (a native format) or kakeya-d4:10 (a published codec,
//                          sdk/tools/lab/codecs/kv_codec.h)
//     k=SIDE:v=SIDE        one each; of published codecs both sides, or one of them f16
//     profile              the formats of a KV profile, which may differ from layer to layer
//     ...+sN+rM            native: the first N positions and the last M before each query are also kept in f16, and
//                          read so
//     ...@FILE             with this profile's means and gains; @none: without any
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "keel/keel.h"
#include "sdk/tools/lab/codecs/kv_codec.h"

namespace keel::tools {

struct KvSpec {
    std::string name;    // as it was given, defaults left out
    std::string family;  // what forms of different size have in common: "tcq", "kakeya-d4", "tcq+e8"
    bool native = true;  // kept by the engine's own arena; else by codecs between the model and an arena of f32
    keel_kv_format k_format = KEEL_KV_DEFAULT, v_format = KEEL_KV_DEFAULT;  // native: DEFAULT is the profile's
    uint32_t sinks = 0, recent = 0;                   // native: keel_config's kv_sink_tokens and kv_recent_tokens
    std::string profile;                              // file name; empty: none
    std::shared_ptr<const KvCodec> k_codec, v_codec;  // not native: null is f16
};

// What native formats get that do not name it and are no plain floats.
struct KvSpecDefaults {
    std::string profile;             // empty: none
    uint32_t sinks = 0, recent = 0;  // as in KvSpec
};
// Sinks of coded rows under a keel_config.kv_sink_tokens.
uint32_t sinks_of_coded_rows(uint32_t kv_sink_tokens);

// Rows in f32, as they are.
KvSpec exact_kv();

// Throws ToolError (kExitUsage).
KvSpec parse_kv_spec(std::string_view text, const KvSpecDefaults& defaults = {});
// Cut at commas and blanks; a piece without a name of its own belongs to the piece before it (options of
// kakeyaturbo:...).
std::vector<std::string> split_kv_specs(std::string_view text);
// For help texts: native formats and published codecs.
std::string kv_spec_help();

}  // namespace keel::tools
