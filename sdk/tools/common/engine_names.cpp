#include "sdk/tools/common/engine_names.h"

#include <iterator>

#include "kernels/cpu/isa.h"

namespace keel::tools {
namespace {

template <class T>
const char* name_of(const Names<T>& names, T value, const char* fallback) {
    for (const auto& [name, v] : names)
        if (v == value) return name.c_str();
    return fallback;
}

}  // namespace

const Names<keel_kv_format> kKvFormats = {{"f16", KEEL_KV_F16},
                                          {"f32", KEEL_KV_F32},
                                          {"fp8", KEEL_KV_FP8_E4M3},
                                          {"q8_0", KEEL_KV_Q8_0},
                                          {"q4_0", KEEL_KV_Q4_0},
                                          {"e8-2", KEEL_KV_E8_2},
                                          {"e8-3", KEEL_KV_E8_3},
                                          {"q8_0-rot", KEEL_KV_Q8_0_ROTATED},
                                          {"q4_0-rot", KEEL_KV_Q4_0_ROTATED},
                                          {"e8-4", KEEL_KV_E8_4},
                                          {"e8-5", KEEL_KV_E8_5},
                                          {"e8-6", KEEL_KV_E8_6},
                                          {"e8-8", KEEL_KV_E8_8},
                                          {"tcq-2", KEEL_KV_TCQ_2},
                                          {"tcq-3", KEEL_KV_TCQ_3},
                                          {"tcq-4", KEEL_KV_TCQ_4},
                                          {"tcq-5", KEEL_KV_TCQ_5},
                                          {"tcq-6", KEEL_KV_TCQ_6}};
const Names<keel_weights> kWeights = {{"default", KEEL_WEIGHTS_DEFAULT},
                                      {"copy", KEEL_WEIGHTS_COPY},
                                      {"map", KEEL_WEIGHTS_MAP},
                                      {"locked", KEEL_WEIGHTS_MAP_LOCKED},
                                      {"repack", KEEL_WEIGHTS_REPACK}};
const Names<keel_activation> kActivations = {{"q8", KEEL_ACTIVATION_Q8}, {"f32", KEEL_ACTIVATION_F32}};
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
    static const char* const kRegions[KEEL_REGION_COUNT] = {"persistent", "scratch", "pinned",
                                                            "weights",    "kv",      "device scratch"};
    return region >= 0 && region < KEEL_REGION_COUNT ? kRegions[region] : "?";
}

const char* chat_family_name(keel_chat_family family) {
    static const char* const kFamilies[] = {"none",    "unknown", "chatml", "llama3",
                                            "mistral", "gemma",   "phi3",   "zephyr"};
    return static_cast<size_t>(family) < std::size(kFamilies) ? kFamilies[family] : "?";
}

}  // namespace keel::tools
