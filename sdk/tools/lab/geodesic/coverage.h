// Coverage of a cache of points as it was published for geodesic trajectory caching, and why it is an identity.
#pragma once
#include <stdint.h>

#include <vector>

#include "sdk/tools/lab/geodesic/metric_field.h"

namespace keel::geodesic {

// The published metric of a cloud [count][dim]: of each point the inverse of C = L^T L / (k - 1) + ridge I, the rows of
// L being the k nearest other points minus it; eigenvalues clamped to [1e-3, 1 / ridge]. [count][dim][dim]
//
// With k == dim the rows of L are a basis, and as the ridge goes to 0 L C^-1 L^T becomes (k - 1) I: each of the k
// neighbours is at distance sqrt(k - 1) from the point, whatever the cloud; sqrt(7) for 8. So "a cached point within 3"
// asks no more than "is one of my 8 neighbours cached", which chance answers (chance_of_neighbour).
constexpr double kPublishedRidge = 1e-3;
std::vector<double> neighbour_metrics(size_t dim, const std::vector<double>& points, size_t neighbours,
                                      double ridge = kPublishedRidge);
// The published field: over neighbour_metrics smoothed with sigma, smoothed with sigma again.
MetricField published_field(size_t dim, const std::vector<double>& points, size_t neighbours, double sigma);

// The k nearest of the other points, nearest first.
std::vector<size_t> nearest_others(size_t dim, const std::vector<double>& points, size_t point, size_t k);

// 1 - C(count - 1 - neighbours, cached) / C(count - 1, cached): the chance that at least one of a point's neighbours is
// among `cached` of the count - 1 others.
double chance_of_neighbour(size_t count, size_t neighbours, size_t cached);

struct Coverage {
    // By radius: share of held-out points within it of the cached one nearest to them. Nearest by Euclid; the radius is
    // by the metric at the held-out point.
    std::vector<double> hits;
};
// `cached` points of a permutation of chance are the cache, the others held out; the mean over `permutations`.
Coverage coverage(const MetricField& field, size_t cached, const std::vector<double>& radii, size_t permutations,
                  uint64_t seed);

}  // namespace keel::geodesic
