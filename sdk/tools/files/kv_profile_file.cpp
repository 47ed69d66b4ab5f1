#include "sdk/tools/files/kv_profile_file.h"

#include <string.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "keel/keel.hpp"
#include "sdk/core/hash.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/model_file.h"

namespace keel::tools {
namespace {

template <class T>
void append(std::vector<char>& out, const std::vector<T>& values) {
    const char* bytes = reinterpret_cast<const char*>(values.data());
    out.insert(out.end(), bytes, bytes + values.size() * sizeof(T));
}

}  // namespace

std::vector<char> encode_kv_profile(const KvProfile& p) {
    KvProfileHeader header = {};
    header.magic = kKvProfileMagic;
    header.version = kKvProfileVersion;
    header.header_bytes = sizeof header;
    header.fingerprint = p.shape.fingerprint;
    header.layers = p.shape.layers;
    header.kv_heads = p.shape.kv_heads;
    header.head_dim = p.shape.head_dim;
    header.mean_pairs = static_cast<uint32_t>(p.pairs.size());
    for (const auto& [floats, part] : {std::pair(&p.key_means, kKvKeyMeans), std::pair(&p.value_means, kKvValueMeans),
                                       std::pair(&p.gains, kKvGains)})
        if (!floats->empty()) header.parts |= part;
    header.total_bytes = kv_profile_offsets(header).total_bytes;
    std::vector<uint8_t> formats;
    for (const KvLayerFormats& f : p.formats)
        formats.insert(formats.end(), {static_cast<uint8_t>(f.k + 1), static_cast<uint8_t>(f.v + 1),
                                       static_cast<uint8_t>(f.k_scale), static_cast<uint8_t>(f.v_scale)});
    std::vector<char> out;
    append(out, std::vector{header});
    append(out, formats);
    append(out, p.pairs);
    append(out, p.key_means);
    append(out, p.value_means);
    append(out, p.gains);
    const uint64_t checksum = hash64(out.data(), out.size());
    append(out, std::vector{checksum});
    if (out.size() != header.total_bytes) throw ToolError(kExitRuntime, "a KV profile does not fit its shape");
    return out;
}

KvProfile read_kv_profile_file(const std::string& path) {
    const FileReader file = open_file(path);
    const keel_reader& reader = *file.get();
    const char* bytes = static_cast<const char*>(reader.mapped);
    KvProfileHeader header = {};
    memcpy(&header, bytes, std::min<size_t>(sizeof header, reader.size_bytes));
    // The shape it claims: what contradicts itself is found, and an engine compares it with its model again.
    const KvModelShape shape = {header.fingerprint, header.layers, header.kv_heads, header.head_dim,
                                header.head_dim / 2};
    auto choice = std::make_unique<KvChoice>();
    keel_error error = make<keel_error>();
    check(read_kv_profile(reader, shape, choice.get(), &error), "cannot use " + path, &error);
    KvProfile p;
    p.shape = shape;
    p.shape.rope_pairs = 0;
    p.formats.assign(choice->layer, choice->layer + shape.layers);
    const KvProfileOffsets o = kv_profile_offsets(header);
    const auto copy = [&]<class T>(uint64_t offset, size_t count, std::vector<T>* to) {
        if (!offset) return;
        to->resize(count);
        memcpy(to->data(), bytes + offset, count * sizeof(T));
    };
    const size_t floats = size_t{shape.layers} * shape.kv_heads * shape.head_dim;
    copy(o.pairs, header.mean_pairs, &p.pairs);
    copy(o.key_means, floats, &p.key_means);
    copy(o.value_means, floats, &p.value_means);
    copy(o.gains, floats, &p.gains);
    return p;
}

std::vector<kernels::KvFormat> formats_of_profile(const std::string& path) {
    std::vector<kernels::KvFormat> formats;
    for (const KvLayerFormats& layer : read_kv_profile_file(path).formats)
        for (const kernels::KvFormat f : {layer.k, layer.v})
            if (std::find(formats.begin(), formats.end(), f) == formats.end()) formats.push_back(f);
    return formats;
}

}  // namespace keel::tools
