#include "sdk/tools/lab/quantize/type_rules.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "sdk/format/bytes.h"
#include "sdk/tools/common/console.h"

namespace keel::tools {
namespace {

bool matches(const char* pattern, const char* text) {
    for (; *pattern; ++pattern, ++text) {
        if (*pattern == '*') {
            for (;; ++text) {
                if (matches(pattern + 1, text)) return true;
                if (!*text) return false;
            }
        }
        if (!*text || (*pattern != '?' && *pattern != *text)) return false;
    }
    return !*text;
}

bool matches_name(const std::string& pattern, const std::string& name) {
    constexpr std::string_view kSuffix = ".weight";
    if (matches(pattern.c_str(), name.c_str())) return true;
    return name.ends_with(kSuffix) && matches(pattern.c_str(), name.substr(0, name.size() - kSuffix.size()).c_str());
}

}  // namespace

std::vector<ModelMatrix> matrices_of(const keel_model& model, const keel_reader& reader) {
    std::vector<ModelMatrix> out;
    const auto add = [&](TensorSlot slot, uint32_t layer) {
        const GgufTensor* const t = model.block_tensor(slot, layer);
        if (!t || !is_matrix(slot)) return;
        ModelMatrix m = {static_cast<uint32_t>(t - model.tensors()),
                         slot,
                         layer,
                         std::string(t->name_bytes, 0),
                         t->type,
                         t->dims[0],
                         1};
        check(read_at(reader, t->name_offset, m.name.data(), m.name.size()), "cannot read the file");
        for (uint32_t i = 1; i < t->dim_count; ++i) m.rows *= t->dims[i];
        out.push_back(std::move(m));
    };
    for (uint32_t slot = 0; slot < kGlobalSlots; ++slot) add(static_cast<TensorSlot>(slot), 0);
    for (uint32_t layer = 0; layer < model.spec.blocks; ++layer)
        for (uint32_t slot = kGlobalSlots; slot < kSlotCount; ++slot) add(static_cast<TensorSlot>(slot), layer);
    return out;
}

TypeRules::TypeRules(const std::string& text) {
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
        const size_t equals = part.find('=');
        if (equals == std::string::npos) {
            if (mix_) throw std::invalid_argument("two types for all matrices: " + text);
            mix_ = find_mix(part);
            continue;
        }
        const std::string type = part.substr(equals + 1);
        Rule rule = {part.substr(0, equals), {}};
        if (rule.pattern.empty()) throw std::invalid_argument("a rule without a pattern: " + part);
        if (type != "keep") {
            const TypeMix one = find_mix(type);
            if (type != kernels::kWeightTypes[one.base].name)
                throw std::invalid_argument("a rule gives one type, not a mixture: " + part);
            rule.type = one.base;
        }
        rules_.push_back(rule);
    }
    if (!mix_ && rules_.empty()) throw std::invalid_argument("no type");
}

std::vector<bool> TypeRules::undecided(const std::vector<ModelMatrix>& matrices) const {
    std::vector<bool> out;
    for (const ModelMatrix& m : matrices)
        out.push_back(!mix_ && std::none_of(rules_.begin(), rules_.end(),
                                            [&](const Rule& rule) { return matches_name(rule.pattern, m.name); }));
    return out;
}

std::vector<uint32_t> TypeRules::choose(const std::vector<ModelMatrix>& matrices, const ModelSpec& spec) const {
    std::vector<bool> used(rules_.size());
    std::vector<uint32_t> types;
    for (const ModelMatrix& m : matrices) {
        uint32_t type = mix_ ? matrix_type(*mix_, m.slot, spec.tied,
                                           m.slot >= kGlobalSlots && keeps_more(*mix_, m.layer, spec.blocks))
                             : m.type;
        for (size_t i = 0; i < rules_.size(); ++i) {
            if (!matches_name(rules_[i].pattern, m.name)) continue;
            type = rules_[i].type.value_or(m.type);
            used[i] = true;
            break;
        }
        types.push_back(type == m.type ? type : fitting_type(static_cast<kernels::WeightType>(type), m.columns));
    }
    for (size_t i = 0; i < rules_.size(); ++i)
        if (!used[i])
            throw std::invalid_argument("no matrix that no rule before it takes matches " + rules_[i].pattern);
    return types;
}

}  // namespace keel::tools
