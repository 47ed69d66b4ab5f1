// A KV profile in memory, for tests: fields and arrays to fill, then bytes() in the layout of sdk/kv/kv_profile.h.
#pragma once
#include <cstring>
#include <vector>

#include "keel/keel.h"
#include "sdk/core/hash.h"
#include "sdk/kv/kv_profile.h"

namespace keel_test {

struct KvProfileBuilder {
    keel::KvProfileHeader header{};
    std::vector<uint8_t> formats;  // [layers][4]
    std::vector<uint32_t> pairs;
    std::vector<float> key_means, value_means, gains;  // [layers][kv_heads][head_dim], or empty

    KvProfileBuilder(const keel_model_info& info, keel_kv_format k, keel_kv_format v) {
        header.magic = keel::kKvProfileMagic;
        header.version = keel::kKvProfileVersion;
        header.header_bytes = sizeof header;
        header.fingerprint = info.fingerprint;
        header.layers = info.layers;
        header.kv_heads = info.kv_heads;
        header.head_dim = info.head_dim;
        for (uint32_t layer = 0; layer < info.layers; ++layer) {
            const uint8_t entry[4] = {static_cast<uint8_t>(k), static_cast<uint8_t>(v), 0, 0};
            formats.insert(formats.end(), entry, entry + 4);
        }
    }
    size_t floats() const { return size_t{header.layers} * header.kv_heads * header.head_dim; }

    std::vector<uint8_t> bytes() {
        header.parts = 0;
        if (!key_means.empty()) header.parts |= keel::kKvKeyMeans;
        if (!value_means.empty()) header.parts |= keel::kKvValueMeans;
        if (!gains.empty()) header.parts |= keel::kKvGains;
        header.mean_pairs = static_cast<uint32_t>(pairs.size());
        header.total_bytes = keel::kv_profile_offsets(header).total_bytes;
        std::vector<uint8_t> out;
        const auto put = [&out](const void* data, size_t n) {
            const uint8_t* p = static_cast<const uint8_t*>(data);
            out.insert(out.end(), p, p + n);
        };
        put(&header, sizeof header);
        put(formats.data(), formats.size());
        put(pairs.data(), pairs.size() * 4);
        for (const std::vector<float>* array : {&key_means, &value_means, &gains})
            put(array->data(), array->size() * 4);
        seal(out, true);
        return out;
    }
    // Writes the checksum of what is there now, over the last 8 bytes or behind them.
    static void seal(std::vector<uint8_t>& file, bool append) {
        if (append) file.resize(file.size() + 8);
        const uint64_t sum = keel::hash64(file.data(), file.size() - 8);
        memcpy(file.data() + file.size() - 8, &sum, 8);
    }
};

}  // namespace keel_test
