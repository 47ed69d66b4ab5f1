#include "kernels/formats/rans.h"

namespace keel::kernels {

bool rans_frequencies_valid(const uint16_t* frequencies) {
    uint32_t sum = 0;
    for (uint32_t byte = 0; byte < 256; ++byte) {
        if (frequencies[byte] >= kRansSlots) return false;
        sum += frequencies[byte];
    }
    return sum == kRansSlots;
}

void rans_fill_slots(const uint16_t* frequencies, uint32_t* entries) {
    for (uint32_t byte = 0; byte < 256; ++byte)
        for (uint32_t place = 0; place < frequencies[byte]; ++place)
            *entries++ = rans_entry(byte, frequencies[byte], place);
}

}  // namespace keel::kernels
