// Pairs of coordinates as a direction of the half circle and a signed length along it: the codes of Besicovitch and
// Riemann.
#pragma once
#include <stdint.h>

#include <span>
#include <vector>

namespace keel::tools {

// A row's pairs (x_0, x_1), (x_2, x_3), ...: per pair the direction and the projection onto it.
struct PlaneCodes {
    std::vector<uint8_t> direction;  // < 2^bits
    std::vector<float> alpha;        // signed: <pair, direction>
};

// 2^bits directions (cos, sin)(pi i / 2^bits), bits 1..8.
class PlaneDirections {
  public:
    explicit PlaneDirections(uint32_t bits);
    uint32_t bits() const { return bits_; }
    // Per pair the direction of the largest |<pair, direction>|, the first of equals. row.size() must be even.
    PlaneCodes split(std::span<const float> row) const;
    // The row whose pairs are alpha[i] times their directions.
    void join(const PlaneCodes& codes, std::span<float> row) const;

  private:
    uint32_t bits_;
    std::vector<float> cos_, sin_;
};

}  // namespace keel::tools
