#include "sdk/tools/lab/codecs/codebook_fit.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace keel::tools {

std::vector<float> fit_codebook(std::span<const float> samples, std::span<const float> start, uint32_t rounds) {
    std::vector<float> sorted, levels(start.begin(), start.end());
    for (const float x : samples)
        if (!std::isnan(x)) sorted.push_back(x);
    std::sort(sorted.begin(), sorted.end());
    std::vector<double> sum(sorted.size() + 1);  // of the samples before an index
    for (size_t i = 0; i < sorted.size(); ++i) sum[i + 1] = sum[i] + sorted[i];

    for (uint32_t round = 0; round < rounds; ++round) {
        float moved = 0;
        size_t begin = 0;
        std::vector<float> next = levels;
        for (size_t i = 0; i < levels.size(); ++i) {
            size_t end = sorted.size();
            if (i + 1 < levels.size()) {
                const float halfway = 0.5f * (levels[i] + levels[i + 1]);
                end = static_cast<size_t>(std::lower_bound(sorted.begin(), sorted.end(), halfway) - sorted.begin());
            }
            if (end > begin) next[i] = static_cast<float>((sum[end] - sum[begin]) / static_cast<double>(end - begin));
            moved = std::max(moved, std::fabs(next[i] - levels[i]));
            begin = std::max(begin, end);
        }
        levels = next;
        if (moved < 1e-6f) break;
    }
    return levels;
}

std::vector<float> quantile_codebook(uint32_t bits) {
    const uint32_t levels = 1u << bits;
    std::vector<float> book(levels);
    for (uint32_t i = 0; i < levels / 2; ++i) {
        // The upper half; erfc falls from 1 at 0 to nothing before 40.
        const double tail = 1 - (levels / 2 + i + 0.5) / levels;
        double low = 0, high = 40;
        for (int step = 0; step < 80; ++step) {
            const double middle = 0.5 * (low + high);
            (0.5 * std::erfc(middle / std::numbers::sqrt2) > tail ? low : high) = middle;
        }
        book[levels / 2 + i] = static_cast<float>(low);
        book[levels / 2 - 1 - i] = static_cast<float>(-low);
    }
    return book;
}

}  // namespace keel::tools
