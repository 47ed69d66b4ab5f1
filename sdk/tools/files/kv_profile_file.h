// KV profiles (sdk/kv/kv_profile.h) as values: what `keel calibrate kv` fills in, writes and shows.
#pragma once
#include <string>
#include <vector>

#include "sdk/kv/kv_profile.h"

namespace keel::tools {

struct KvProfile {
    KvModelShape shape{};
    std::vector<KvLayerFormats> formats;  // [layers]
    std::vector<uint32_t> pairs;          // ascending
    // [layers][kv_heads][head_dim], or empty
    std::vector<float> key_means, value_means, gains;

    size_t at(uint32_t layer, uint32_t kv_head) const {
        return (size_t{layer} * shape.kv_heads + kv_head) * shape.head_dim;
    }
};

// The bytes of the file. The profile fits its shape.
std::vector<char> encode_kv_profile(const KvProfile& profile);
// Reads and validates a file, for whatever model it was made. shape.rope_pairs is not in it: 0. Throws ToolError.
KvProfile read_kv_profile_file(const std::string& path);

// The distinct formats of a profile file, K and V of all layers, in the order they first appear.
std::vector<kernels::KvFormat> formats_of_profile(const std::string& path);

}  // namespace keel::tools
