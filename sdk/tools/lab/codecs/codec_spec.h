// Names of codecs: "family:option:option".
#pragma once
#include <stdint.h>

#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

namespace keel::tools {

inline std::vector<std::string_view> spec_fields(std::string_view spec) {
    std::vector<std::string_view> fields;
    for (size_t colon; (colon = spec.find(':')) != std::string_view::npos; spec.remove_prefix(colon + 1))
        fields.push_back(spec.substr(0, colon));
    fields.push_back(spec);
    return fields;
}

// A decimal number of [low, high] in its shortest form; nothing for any other text.
inline std::optional<uint32_t> spec_number(std::string_view text, uint32_t low, uint32_t high) {
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) return std::nullopt;
    if (text.size() > 1 && text[0] == '0') return std::nullopt;
    return value;
}

}  // namespace keel::tools
