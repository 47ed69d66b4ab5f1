// Sets of layers that do not name a model's depth: "0+1+Ldiv4+Ldiv2+-2+-1".
#pragma once
#include <stdint.h>

#include <optional>
#include <string_view>
#include <vector>

namespace keel::tools {

class LayerSet {
  public:
    // '+' between layers: "n" from the first (0), "-n" from the last (-1), "Ldivn" a part of the number of layers,
    // rounded down. Nothing for any other text; the empty text is the empty set.
    static std::optional<LayerSet> parse(std::string_view text);
    bool contains(uint32_t layer, uint32_t layers) const;

  private:
    struct Place {
        enum class From { first, last, part } from;
        uint32_t number;
    };
    std::vector<Place> places_;
};

}  // namespace keel::tools
