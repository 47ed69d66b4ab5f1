#include "kernels/formats/byte_classes.h"

#include <string.h>

namespace keel::kernels {

void fill_byte_classes(uint32_t type, bool interleaved, uint8_t* classes) {
    const WeightTypeInfo& info = kWeightTypes[type];
    uint8_t rows[kMostClassPeriod];
    uint8_t* to = rows;
    for (const ByteRun& run : kByteRuns)
        for (uint32_t i = 0; run.type == type && i < run.bytes; ++i) *to++ = run.number;
    if (!interleaved) {
        memcpy(classes, rows, info.block_bytes);
        return;
    }
    // Interleaving moves bytes and changes none.
    for (uint32_t row = 1; row < kRepackRows; ++row) memcpy(rows + row * info.block_bytes, rows, info.block_bytes);
    repack_rows(static_cast<WeightType>(type), rows, classes, kRepackRows, info.block_elements);
}

uint32_t fill_first_slots(uint32_t type, bool interleaved, uint16_t* first_slot) {
    uint8_t classes[kMostClassPeriod];
    fill_byte_classes(type, interleaved, classes);
    const uint32_t once = class_period(type, interleaved);
    const uint32_t period = once * (once < kRansLanes ? (kRansLanes + once - 1) / once : 1);
    for (uint32_t i = 0; i < period + kRansLanes; ++i)
        first_slot[i] = static_cast<uint16_t>(classes[i % once] * kRansSlots);
    return period;
}

}  // namespace keel::kernels
