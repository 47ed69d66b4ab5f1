#include "sdk/tools/lab/codecs/layer_set.h"

#include "sdk/tools/lab/codecs/codec_spec.h"

namespace keel::tools {

std::optional<LayerSet> LayerSet::parse(std::string_view text) {
    constexpr uint32_t kMaxLayers = 1 << 16;
    LayerSet set;
    while (!text.empty()) {
        const size_t plus = text.find('+');
        std::string_view item = text.substr(0, plus);
        Place::From from = Place::From::first;
        if (item.starts_with("-")) {
            from = Place::From::last;
            item.remove_prefix(1);
        } else if (item.starts_with("Ldiv")) {
            from = Place::From::part;
            item.remove_prefix(4);
        }
        const auto number = spec_number(item, from == Place::From::first ? 0 : 1, kMaxLayers);
        if (!number) return std::nullopt;
        set.places_.push_back({from, *number});
        if (plus == std::string_view::npos) break;
        text.remove_prefix(plus + 1);
        if (text.empty()) return std::nullopt;
    }
    return set;
}

bool LayerSet::contains(uint32_t layer, uint32_t layers) const {
    for (const Place& place : places_) {
        const uint32_t named = place.from == Place::From::first ? place.number
                               : place.from == Place::From::last
                                   ? layers - place.number  // wraps where there are fewer layers
                                   : layers / place.number;
        if (layer == named) return true;
    }
    return false;
}

}  // namespace keel::tools
