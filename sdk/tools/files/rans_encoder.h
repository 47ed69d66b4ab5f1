// The other side of kernels/formats/rans.h.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/formats/rans.h"

namespace keel::tools {

using ByteCounts = std::array<uint64_t, 256>;
using ByteFrequencies = std::array<uint16_t, 256>;

// Bits of these bytes with an ideal code of order 0.
double entropy_bits(const ByteCounts& counts);
// The frequencies that rANS takes (rans_frequencies_valid): every byte that occurs has at least 1, and the bits are as
// few as steps of one can make them.
ByteFrequencies rans_frequencies(const ByteCounts& counts);
double coded_bits(const ByteCounts& counts, const ByteFrequencies& frequencies);

// A stream of `bytes`; byte i is coded with frequencies[classes[i % classes.size()]], which are not 0 for it.
std::vector<uint8_t> rans_encode(std::span<const uint8_t> bytes, std::span<const uint8_t> classes,
                                 std::span<const ByteFrequencies> frequencies);

}  // namespace keel::tools
