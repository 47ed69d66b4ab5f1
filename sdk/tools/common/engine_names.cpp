#include "sdk/tools/common/engine_names.h"

#include <iterator>

#include "kernels/cpu/isa.h"
#include "kernels/formats/kv_formats.h"
#include "sdk/format/pack.h"

namespace keel::tools {
namespace {

template <class T>
const char* name_of(const Names<T>& names, T value, const char* fallback) {
    for (const auto& [name, v] : names)
        if (v == value) return name.c_str();
    return fallback;
}

}  // namespace

const Names<keel_kv_format> kKvFormats = {
#define KEEL_NAME(id, public_name, name, ...) {name, KEEL_KV_##public_name},
    KEEL_KV_FORMATS(KEEL_NAME)
#undef KEEL_NAME
};
const Names<keel_weights> kWeights = {{"default", KEEL_WEIGHTS_DEFAULT},
                                      {"copy", KEEL_WEIGHTS_COPY},
                                      {"map", KEEL_WEIGHTS_MAP},
                                      {"locked", KEEL_WEIGHTS_MAP_LOCKED},
                                      {"repack", KEEL_WEIGHTS_REPACK}};
const Names<keel_activation> kActivations = {
    {"q8", KEEL_ACTIVATION_Q8}, {"f32", KEEL_ACTIVATION_F32}, {"bf16", KEEL_ACTIVATION_BF16}};
const Names<keel_cpu> kCpus = [] {
    Names<keel_cpu> names = {{"auto", KEEL_CPU_AUTO}};
    for (uint32_t isa = 1; isa < std::size(kernels::kIsaNames); ++isa)
        names[kernels::kIsaNames[isa]] = static_cast<keel_cpu>(isa);
    return names;
}();

std::optional<keel_kv_format> find_kv_format(const std::string& name) {
    const auto it = kKvFormats.find(name);
    return it == kKvFormats.end() ? std::nullopt : std::optional(it->second);
}
const char* kv_format_name(keel_kv_format format) {
    return name_of(kKvFormats, format, "f16");
}
const char* kv_format_name(const keel_config& config, keel_kv_format format) {
    return format == KEEL_KV_DEFAULT && find_part(config, KEEL_PART_KV_PROFILE) ? "profile" : kv_format_name(format);
}
const keel_part* find_part(const keel_config& config, keel_part_kind kind) {
    for (uint32_t i = 0; i < config.part_count; ++i)
        if (config.parts[i].kind == kind) return &config.parts[i];
    return nullptr;
}
const char* weights_name(keel_weights weights) {
    return name_of(kWeights, weights, "default");
}
const char* activation_name(keel_activation activation) {
    return name_of(kActivations, activation, "q8");
}
const char* cpu_name(keel_cpu cpu) {
    return name_of(kCpus, cpu, "auto");
}

const char* region_name(int region) {
    static const char* const kRegions[KEEL_REGION_COUNT] = {
        "persistent", "scratch", "pinned", "weights", "kv", "device scratch", "device weights", "device kv"};
    return region >= 0 && region < KEEL_REGION_COUNT ? kRegions[region] : "?";
}

const char* chat_family_name(keel_chat_family family) {
    static const char* const kFamilies[] = {"none",  "unknown", "chatml", "llama3", "mistral",
                                            "gemma", "phi3",    "zephyr", "other"};
    return static_cast<size_t>(family) < std::size(kFamilies) ? kFamilies[family] : "?";
}

const char* pack_kind_name(uint32_t kind) {
    switch (kind) {
        case KEEL_PACK_MODEL:
            return "model";
        case KEEL_PART_CHAT_TEMPLATE:
            return "chat template";
        case KEEL_PART_GRAMMAR:
            return "grammar";
        case KEEL_PART_DRAFT_POOL:
            return "draft pool";
        case KEEL_PART_ADAPTER:
            return "adapter";
        case KEEL_PART_KV_PROFILE:
            return "KV profile";
        case KEEL_PART_WPROJ:
            return "W_proj cache";
        case KEEL_PACK_NOTE:
            return "note";
        default:
            return "unknown";
    }
}

}  // namespace keel::tools
