// Names of the library's enum values on the command line and in reports; one table serves both directions.
#pragma once
#include <map>
#include <optional>
#include <string>

#include "keel/keel.h"

namespace keel::tools {

template <class T>
using Names = std::map<std::string, T>;
extern const Names<keel_kv_format> kKvFormats;
extern const Names<keel_weights> kWeights;
extern const Names<keel_activation> kActivations;
extern const Names<keel_cpu> kCpus;

const char* kv_format_name(keel_kv_format format);  // "tcq-3"; "f16" of the default
// The format a configuration asks for: "profile" where it leaves that to one.
const char* kv_format_name(const keel_config& config, keel_kv_format format);
// The part of this kind, or null.
const keel_part* find_part(const keel_config& config, keel_part_kind kind);
std::optional<keel_kv_format> find_kv_format(const std::string& name);
const char* weights_name(keel_weights weights);  // "copy"; "default" of an op without weights
const char* activation_name(keel_activation activation);
const char* cpu_name(keel_cpu cpu);
const char* region_name(int region);                    // "persistent"
const char* chat_family_name(keel_chat_family family);  // "chatml"

const char* pack_kind_name(uint32_t kind);  // of PackSection

}  // namespace keel::tools
