// Which bytes of a block of weights are alike: an entropy code (rans.h) has a table of frequencies for each class.
// Scales in f16 are split, as their high bytes take few values and their low bytes nearly all.
#pragma once
#include <stdint.h>

#include "kernels/formats/rans.h"
#include "kernels/formats/repack.h"
#include "kernels/formats/weight_types.h"

namespace keel::kernels {

constexpr uint32_t kMostByteClasses = 8;
constexpr uint32_t kMostClassPeriod = kRepackRows * kMostBlockBytes;

// `bytes` bytes in a row, all of class `number`, of a block of `type`; in the order of the block. Part of the format of
// coded files: a row that changes makes those of that type unreadable.
struct ByteRun {
    WeightType type;
    uint8_t bytes, number;
};
// clang-format off
constexpr ByteRun kByteRuns[] = {
    {kF32, 1, 0}, {kF32, 1, 1}, {kF32, 1, 2}, {kF32, 1, 3},
    {kF16, 1, 0}, {kF16, 1, 1},
    {kBF16, 1, 0}, {kBF16, 1, 1},
    {kQ4_0, 1, 0}, {kQ4_0, 1, 1}, {kQ4_0, 16, 2},                                             // d | qs
    {kQ4_1, 1, 0}, {kQ4_1, 1, 1}, {kQ4_1, 1, 2}, {kQ4_1, 1, 3}, {kQ4_1, 16, 4},               // d m | qs
    {kQ5_0, 1, 0}, {kQ5_0, 1, 1}, {kQ5_0, 4, 2}, {kQ5_0, 16, 3},                              // d | qh | qs
    {kQ5_1, 1, 0}, {kQ5_1, 1, 1}, {kQ5_1, 1, 2}, {kQ5_1, 1, 3}, {kQ5_1, 4, 4}, {kQ5_1, 16, 5},
    {kQ8_0, 1, 0}, {kQ8_0, 1, 1}, {kQ8_0, 32, 2},                                             // d | qs
    {kQ2_K, 16, 0}, {kQ2_K, 64, 1}, {kQ2_K, 1, 2}, {kQ2_K, 1, 3}, {kQ2_K, 1, 4}, {kQ2_K, 1, 5},
    {kQ3_K, 32, 0}, {kQ3_K, 64, 1}, {kQ3_K, 8, 2}, {kQ3_K, 4, 3}, {kQ3_K, 1, 4}, {kQ3_K, 1, 5},
    {kQ4_K, 1, 0}, {kQ4_K, 1, 1}, {kQ4_K, 1, 2}, {kQ4_K, 1, 3},                               // d dmin | sc | qs
    {kQ4_K, 4, 4}, {kQ4_K, 4, 5}, {kQ4_K, 4, 6}, {kQ4_K, 128, 7},
    {kQ5_K, 1, 0}, {kQ5_K, 1, 1}, {kQ5_K, 1, 0}, {kQ5_K, 1, 2},                               // d dmin | sc | qh | qs
    {kQ5_K, 4, 3}, {kQ5_K, 4, 4}, {kQ5_K, 4, 5}, {kQ5_K, 32, 6}, {kQ5_K, 128, 7},
    {kQ6_K, 128, 0}, {kQ6_K, 64, 1}, {kQ6_K, 16, 2}, {kQ6_K, 1, 3}, {kQ6_K, 1, 4},            // ql | qh | sc | d
    {kIQ4_NL, 1, 0}, {kIQ4_NL, 1, 1}, {kIQ4_NL, 16, 2},                                       // d | qs
    {kIQ4_XS, 1, 0}, {kIQ4_XS, 1, 1}, {kIQ4_XS, 2, 2}, {kIQ4_XS, 4, 3}, {kIQ4_XS, 128, 4},
    {kQ8_F32, 1, 0}, {kQ8_F32, 1, 1}, {kQ8_F32, 1, 2}, {kQ8_F32, 1, 3}, {kQ8_F32, 32, 4},
};
// clang-format on

constexpr uint32_t byte_classes(uint32_t type) {
    uint32_t classes = 0;
    for (const ByteRun& run : kByteRuns)
        if (run.type == type && run.number >= classes) classes = run.number + 1u;
    return classes;
}
constexpr bool every_block_has_its_runs() {
    for (uint32_t type = 0; type < kWeightTypeCount; ++type) {
        uint32_t bytes = 0;
        for (const ByteRun& run : kByteRuns) bytes += run.type == type ? run.bytes : 0;
        if (bytes != kWeightTypes[type].block_bytes || byte_classes(type) > kMostByteClasses) return false;
    }
    return true;
}
static_assert(every_block_has_its_runs(), "the runs of a weight type are not its block, or have too many classes");

// Bytes after which the classes repeat: those of a block, or of a block of each row of a group that is interleaved.
constexpr uint32_t class_period(uint32_t type, bool interleaved) {
    return kWeightTypes[type].block_bytes * (interleaved ? kRepackRows : 1u);
}
// The class of each byte of a period.
void fill_byte_classes(uint32_t type, bool interleaved, uint8_t* classes);

// RansTables::first_slot and period for such bytes: the period is one of theirs or several.
constexpr uint32_t kMostFirstSlots = kMostClassPeriod + kRansLanes;
uint32_t fill_first_slots(uint32_t type, bool interleaved, uint16_t* first_slot);

}  // namespace keel::kernels
