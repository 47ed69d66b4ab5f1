// Texts in oracle files are written in hexadecimal, so that a line holds any bytes.
#pragma once
#include <string>

namespace keel_test {

inline std::string unhex(const std::string& hex) {
    std::string out;
    for (size_t i = 0; i + 1 < hex.size(); i += 2)
        out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    return out;
}

}  // namespace keel_test
