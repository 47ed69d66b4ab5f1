#include "sdk/tools/files/rans_encoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace keel::tools {

using kernels::kRansLanes;
using kernels::kRansLow;
using kernels::kRansSlots;

double entropy_bits(const ByteCounts& counts) {
    const double total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), uint64_t{0}));
    double bits = 0;
    for (const uint64_t n : counts)
        if (n) bits += static_cast<double>(n) * std::log2(total / static_cast<double>(n));
    return bits;
}

double coded_bits(const ByteCounts& counts, const ByteFrequencies& frequencies) {
    double bits = 0;
    for (size_t b = 0; b < counts.size(); ++b)
        if (counts[b]) bits += static_cast<double>(counts[b]) * std::log2(double{kRansSlots} / frequencies[b]);
    return bits;
}

ByteFrequencies rans_frequencies(const ByteCounts& counts) {
    const uint64_t total = std::accumulate(counts.begin(), counts.end(), uint64_t{0});
    ByteFrequencies f{};
    if (total == 0) {
        f.fill(kRansSlots / 256);
        return f;
    }
    // A byte that is alone leaves a slot to another.
    const auto alone = std::find(counts.begin(), counts.end(), total);
    if (alone != counts.end()) {
        const size_t b = static_cast<size_t>(alone - counts.begin());
        f[b] = kRansSlots - 1;
        f[b ? 0 : 1] = 1;
        return f;
    }
    uint32_t sum = 0;
    for (size_t b = 0; b < counts.size(); ++b) {
        if (counts[b] == 0) continue;
        const double share = static_cast<double>(counts[b]) / static_cast<double>(total) * kRansSlots;
        f[b] = static_cast<uint16_t>(std::clamp(std::lround(share), 1l, long{kRansSlots - 1}));
        sum += f[b];
    }
    // What is too much or too little goes where it costs least or gains most.
    while (sum != kRansSlots) {
        const int step = sum < kRansSlots ? 1 : -1;
        size_t best = counts.size();
        double best_bits = 0;
        for (size_t b = 0; b < counts.size(); ++b) {
            if (counts[b] == 0 || f[b] + step < 1 || f[b] + step >= static_cast<int>(kRansSlots)) continue;
            const double bits = static_cast<double>(counts[b]) * std::log2((f[b] + step) / double(f[b]));
            if (best == counts.size() || bits > best_bits) best = b, best_bits = bits;
        }
        f[best] = static_cast<uint16_t>(f[best] + step);
        sum += static_cast<uint32_t>(step);
    }
    return f;
}

// From the last byte to the first, so that the decoder goes the other way; words in the order in which it takes them.
std::vector<uint8_t> rans_encode(std::span<const uint8_t> bytes, std::span<const uint8_t> classes,
                                 std::span<const ByteFrequencies> frequencies) {
    std::vector<std::array<uint32_t, 256>> first(frequencies.size());
    for (size_t c = 0; c < frequencies.size(); ++c)
        for (uint32_t b = 0, sum = 0; b < 256; ++b) {
            first[c][b] = sum;
            sum += frequencies[c][b];
        }
    std::array<uint32_t, kRansLanes> lane;
    lane.fill(kRansLow);
    std::vector<uint16_t> words;
    words.reserve(bytes.size() / 2 + 64);
    size_t place = bytes.size() % classes.size();
    for (size_t i = bytes.size(); i-- > 0;) {
        place = (place ? place : classes.size()) - 1;
        const uint32_t c = classes[place], f = frequencies[c][bytes[i]];
        uint32_t& x = lane[i % kRansLanes];
        if (x >= uint64_t{f} << (32 - kernels::kRansBits)) {
            words.push_back(static_cast<uint16_t>(x));
            x >>= 16;
        }
        x = (x / f << kernels::kRansBits) + x % f + first[c][bytes[i]];
    }
    std::reverse(words.begin(), words.end());
    std::vector<uint8_t> out(sizeof lane + words.size() * 2);
    memcpy(out.data(), lane.data(), sizeof lane);
    memcpy(out.data() + sizeof lane, words.data(), words.size() * 2);
    return out;
}

}  // namespace keel::tools
