#include "sdk/tools/files/type_mix.h"

#include <stdexcept>

namespace keel::tools {

using namespace kernels;

namespace {

constexpr TypeMix kMixes[] = {
    {"Q3_K_S", 11, kQ3_K, kQ6_K, kQ3_K, kQ3_K, kQ3_K, kQ3_K, kQ3_K},
    {"Q3_K_M", 12, kQ3_K, kQ6_K, kQ4_K, kQ5_K, kQ3_K, kQ4_K, kQ4_K},
    {"Q3_K_L", 13, kQ3_K, kQ6_K, kQ5_K, kQ5_K, kQ5_K, kQ5_K, kQ5_K},
    {"Q4_K_S", 14, kQ4_K, kQ6_K, kQ4_K, kQ5_K, kQ4_K, kQ5_K, kQ4_K, LargerLayers::kFirst},
    {"Q4_K_M", 15, kQ4_K, kQ6_K, kQ4_K, kQ6_K, kQ4_K, kQ6_K, kQ4_K},
    {"Q5_K_S", 16, kQ5_K, kQ6_K, kQ5_K, kQ5_K, kQ5_K, kQ5_K, kQ5_K},
    {"Q5_K_M", 17, kQ5_K, kQ6_K, kQ5_K, kQ6_K, kQ5_K, kQ6_K, kQ5_K},
};

// general.file_type of a model of one type, by WeightType.
constexpr uint32_t file_type_of(uint32_t type) {
    switch (type) {
        case kF32:
            return 0;
        case kF16:
            return 1;
        case kQ4_0:
            return 2;
        case kQ4_1:
            return 3;
        case kQ8_0:
            return 7;
        case kQ5_0:
            return 8;
        case kQ5_1:
            return 9;
        case kQ2_K:
            return 10;
        case kQ3_K:
            return 11;
        case kQ4_K:
            return 14;
        case kQ5_K:
            return 16;
        case kQ6_K:
            return 18;
        case kIQ4_NL:
            return 25;
        case kIQ4_XS:
            return 30;
        case kBF16:
            return 32;
        case kWT2:
        case kWT3:  // llama.cpp has none
            return kWeightTypes[type].number;
        default:
            return UINT32_MAX;
    }
}
constexpr bool every_gguf_type_has_a_file_type() {
    for (uint32_t type = 0; type < kWeightTypeCount; ++type)
        if (in_gguf(kWeightTypes[type].number) != (file_type_of(type) != UINT32_MAX)) return false;
    return true;
}
static_assert(every_gguf_type_has_a_file_type());

}  // namespace

TypeMix find_mix(const std::string& name) {
    for (const TypeMix& m : kMixes)
        if (name == m.name) return m;
    for (uint32_t i = 0; i < kWeightTypeCount; ++i) {
        const WeightType type = static_cast<WeightType>(i);
        if (file_type_of(i) != UINT32_MAX && name == kWeightTypes[i].name)
            return {kWeightTypes[i].name, file_type_of(i), type, type, type, type, type, type, type};
    }
    throw std::invalid_argument("unknown tensor type or mixture: " + name);
}

std::vector<std::string> mix_names() {
    std::vector<std::string> names;
    for (const TypeMix& m : kMixes) names.push_back(m.name);
    return names;
}

bool keeps_more(const TypeMix& mix, uint32_t layer, uint32_t layers) {
    const uint32_t eighth = layers / 8;
    if (layer < eighth) return true;
    return mix.larger == LargerLayers::kSpread && (layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2);
}

WeightType fitting_type(WeightType type, uint64_t row) {
    if (row % kWeightTypes[type].block_elements == 0) return type;
    const auto stand_in = [](WeightType t) {
        switch (t) {
            case kQ4_K:
                return kQ5_0;
            case kQ5_K:
                return kQ5_1;
            case kQ6_K:
                return kQ8_0;
            case kQ2_K:
            case kQ3_K:
            case kIQ4_XS:
            case kWT2:
            case kWT3:
                return kIQ4_NL;
            default:
                return kF16;
        }
    };
    return fitting_type(stand_in(type), row);
}

WeightType matrix_type(const TypeMix& mix, TensorSlot slot, bool tied, bool more) {
    switch (slot) {
        case kTokenEmbedding:
            return tied ? mix.output : mix.base;
        case kOutput:
            return mix.output;
        case kAttnV:
        case kAttnQkv:
            return more ? mix.value_more : mix.value;
        case kAttnOutput:
            return mix.attention_out;
        case kFfnDown:
            return more ? mix.down_more : mix.down;
        default:
            return mix.base;
    }
}

}  // namespace keel::tools
