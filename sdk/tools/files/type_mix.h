// Which weight type each tensor of a model file gets, by the names users know: a mixture (Q4_K_M), or one type for
// every matrix (Q8_0).
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

#include "kernels/formats/weight_types.h"
#include "sdk/model/architecture.h"

namespace keel::tools {

// Which layers have a mixture's larger types.
enum class LargerLayers : uint8_t {
    kSpread,  // the first and last eighth and every third between
    kFirst    // the first eighth
};

// As llama.cpp mixes them; of Q3_K_M without its exceptions for the first layers.
struct TypeMix {
    const char* name;
    uint32_t file_type;  // general.file_type
    kernels::WeightType base, output, value, value_more, down, down_more, attention_out;
    LargerLayers larger = LargerLayers::kSpread;
};

// std::invalid_argument: another name.
TypeMix find_mix(const std::string& name);
std::vector<std::string> mix_names();  // mixtures, without the single types

// Whether a layer has the larger types of the mixture.
bool keeps_more(const TypeMix& mix, uint32_t layer, uint32_t layers);
// Of a matrix; tied: the embedding matrix is the head.
kernels::WeightType matrix_type(const TypeMix& mix, TensorSlot slot, bool tied, bool more);
// `type`, or what stands in for it where rows of so many elements are not whole blocks of it.
kernels::WeightType fitting_type(kernels::WeightType type, uint64_t row);

}  // namespace keel::tools
