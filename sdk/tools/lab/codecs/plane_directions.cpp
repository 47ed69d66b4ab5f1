#include "sdk/tools/lab/codecs/plane_directions.h"

#include <cmath>
#include <numbers>

#include "kernels/formats/numeric.h"

namespace keel::tools {

PlaneDirections::PlaneDirections(uint32_t bits) : bits_(bits) {
    const uint32_t count = 1u << bits;
    for (uint32_t i = 0; i < count; ++i) {
        double s, c;
        kernels::sincos_f64(std::numbers::pi * i / count, &s, &c);
        cos_.push_back(static_cast<float>(c));
        sin_.push_back(static_cast<float>(s));
    }
}

PlaneCodes PlaneDirections::split(std::span<const float> row) const {
    PlaneCodes codes;
    for (size_t i = 0; i + 1 < row.size(); i += 2) {
        uint32_t best = 0;
        float alpha = row[i] * cos_[0] + row[i + 1] * sin_[0];
        for (uint32_t k = 1; k < cos_.size(); ++k) {
            const float projection = row[i] * cos_[k] + row[i + 1] * sin_[k];
            if (std::fabs(projection) > std::fabs(alpha)) best = k, alpha = projection;
        }
        codes.direction.push_back(static_cast<uint8_t>(best));
        codes.alpha.push_back(alpha);
    }
    return codes;
}

void PlaneDirections::join(const PlaneCodes& codes, std::span<float> row) const {
    for (size_t i = 0; i < codes.alpha.size(); ++i) {
        row[2 * i] = codes.alpha[i] * cos_[codes.direction[i]];
        row[2 * i + 1] = codes.alpha[i] * sin_[codes.direction[i]];
    }
}

}  // namespace keel::tools
