// The published KakeyaTurbo recipes by name, each in the general form of names.
#pragma once
#include <span>
#include <string_view>

namespace keel::tools {

struct KakeyaturboRecipe {
    std::string_view name;
    std::string_view k, v;      // codecs of K and V: kakeyaturbo options, "besicovitch:..." or "riemann:..."
    std::string_view layers;    // boundary layers (layer_set.h), which both K and V code as
    std::string_view boundary;  // this: kakeyaturbo options or "f16"
};

std::span<const KakeyaturboRecipe> kakeyaturbo_recipes();

}  // namespace keel::tools
