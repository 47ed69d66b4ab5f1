// The portable decoder of rANS (kernels/formats/rans.h): the reference, and that of NEON.
#include "kernels/cpu/families.h"

namespace keel::kernels {

bool rans_decode_scalar(const RansTables& tables, RansStream* stream, uint32_t place, uint8_t* dst, uint64_t bytes) {
    const uint32_t* entries = tables.entries;
    const auto entry = [entries](uint32_t first, uint32_t slot) { return entries[first + slot]; };
    return rans_decode_with(entry, tables.first_slot, tables.period, stream, place, dst, bytes);
}

}  // namespace keel::kernels
