#include "sdk/tools/lab/geodesic/neighbour_text.h"

#include <algorithm>
#include <cmath>

namespace keel::geodesic {

double neighbour_probability(const RecordStore& store, const float* key, int32_t token, uint32_t k,
                             double temperature) {
    constexpr uint32_t kProbes = 16;
    Found found[kStoreMaxCandidates];
    const size_t count = find_nearest(store, key, kProbes, std::span(found, std::min(k, kStoreMaxCandidates)));
    double right = 0, all = 0;
    for (size_t i = 0; i < count; ++i) {
        // Against the nearest, so that distances far above the temperature leave something.
        const double closer =
            double{found[i].distance} * found[i].distance - double{found[0].distance} * found[0].distance;
        const double weight = std::exp(-closer / temperature);
        all += weight;
        if (store.gate[found[i].record] == token) right += weight;
    }
    return all > 0 ? right / all : 0;
}

}  // namespace keel::geodesic
