// The portable decoder of rANS (rans.h).
#pragma once
#include "kernels/formats/rans.h"

namespace keel::kernels {

inline uint32_t rans_word(const uint8_t* at) {
    uint16_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

// The portable decoder, over any way to look up entry(first_slot, slot).
template <class Entry>
bool rans_decode_with(Entry entry, const uint16_t* first_slot, uint32_t period, RansStream* stream, uint32_t place,
                      uint8_t* dst, uint64_t bytes) {
    const uint8_t* next = stream->next;
    const auto step = [entry](uint32_t x, const uint16_t* first, uint8_t* to) {
        const uint32_t e = entry(*first, x % kRansSlots);
        *to = static_cast<uint8_t>(e);
        return (e >> 8 & (kRansSlots - 1)) * (x >> kRansBits) + (e >> 20);
    };
    for (; bytes >= kRansLanes && stream->end - next >= kRansGroupBytes; bytes -= kRansLanes, dst += kRansLanes) {
        for (uint32_t i = 0; i < kRansLanes; ++i) {
            const uint32_t x = step(stream->lane[i], first_slot + place + i, dst + i);
            const uint32_t low = x < kRansLow;  // as often as not: no branch
            stream->lane[i] = x ^ ((x ^ (x << 16 | rans_word(next))) & -low);
            next += 2 * low;
        }
        place += kRansLanes;
        if (place >= period) place -= period;
    }
    for (uint64_t i = 0; i < bytes; ++i) {
        uint32_t& lane = stream->lane[i % kRansLanes];
        lane = step(lane, first_slot + place, dst + i);
        if (lane < kRansLow) {
            if (stream->end - next < 2) return false;
            lane = lane << 16 | rans_word(next);
            next += 2;
        }
        if (++place == period) place = 0;
    }
    stream->next = next;
    return true;
}

}  // namespace keel::kernels
