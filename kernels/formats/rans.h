// rANS of bytes: the entropy code of packed weights (sdk/format/coded.h), order 0, with a table of frequencies for each
// class of bytes (byte_classes.h). Method: J. Duda, "Asymmetric numeral systems", arXiv:1311.2540, in its range form.
//
// kRansLanes states of 32 bits take turns: byte i is of state i % kRansLanes. One that falls below kRansLow takes the
// next word of 16 bits, in the order of bytes. A stream, little endian:
//
//     states u32[kRansLanes] | words u16[]
//
// At the end of a stream every state is kRansLow and every word is taken. Every kernel set decodes the same bytes.
#pragma once
#include <stdint.h>
#include <string.h>

namespace keel::kernels {

constexpr uint32_t kRansLanes = 32, kRansBits = 12, kRansSlots = 1u << kRansBits, kRansLow = 1u << 16;
constexpr uint32_t kRansStateBytes = kRansLanes * 4;
// Most bytes of words that kRansLanes bytes take.
constexpr uint32_t kRansGroupBytes = kRansLanes * 2;

// Of one slot: its byte, the frequency of that (below kRansSlots), and which of its slots it is.
constexpr uint32_t rans_entry(uint32_t byte, uint32_t frequency, uint32_t place) {
    return byte | frequency << 8 | place << 20;
}

// Frequencies of the 256 bytes sum to kRansSlots, and none is all of them.
bool rans_frequencies_valid(const uint16_t* frequencies);
// Entries of valid frequencies, [kRansSlots].
void rans_fill_slots(const uint16_t* frequencies, uint32_t* entries);

// Where bytes at each place have their entries.
struct RansTables {
    const uint32_t* entries;     // [classes][kRansSlots]
    const uint16_t* first_slot;  // [period + kRansLanes]: class * kRansSlots of the byte at each place
    uint32_t period;             // at least kRansLanes: place `period` is place 0
};

// A stream that is being decoded.
struct RansStream {
    uint32_t lane[kRansLanes];
    const uint8_t *next, *end;  // words

    // False: too short for its states.
    bool open(const uint8_t* bytes, uint64_t count) {
        if (count < sizeof lane) return false;
        memcpy(lane, bytes, sizeof lane);
        next = bytes + sizeof lane;
        end = bytes + count;
        return true;
    }
    bool at_end() const {
        uint32_t others = next != end;
        for (const uint32_t x : lane) others |= x ^ kRansLow;
        return others == 0;
    }
};

// The next `bytes` bytes of a stream into dst; all but the last call with a multiple of kRansLanes. `place`: of the
// first one, below the period. False: the words ran out. Reads no word behind stream->end, whatever the words are.
using RansDecode = bool (*)(const RansTables& tables, RansStream* stream, uint32_t place, uint8_t* dst, uint64_t bytes);

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
    uint32_t lanes[kRansLanes];  // of this function alone: bytes written to dst can not be among them
    memcpy(lanes, stream->lane, sizeof lanes);
    for (; bytes >= kRansLanes && stream->end - next >= kRansGroupBytes; bytes -= kRansLanes, dst += kRansLanes) {
        const auto decode = [&](uint32_t i) {
            const uint32_t x = step(lanes[i], first_slot + place + i, dst + i);
            const uint32_t low = x < kRansLow;  // as often as not: no branch
            lanes[i] = x << 16 * low | (rans_word(next) & -low);
            next += 2 * low;
        };
        for (uint32_t i = 0; i < kRansLanes; i += 2) {
            decode(i);
            decode(i + 1);
        }
        place += kRansLanes;
        if (place >= period) place -= period;
    }
    memcpy(stream->lane, lanes, sizeof lanes);
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
