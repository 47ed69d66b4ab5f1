// A curved metric field for tests: points and metrics of chance, close enough to each other to overlap.
#pragma once
#include "sdk/tools/lab/geodesic/metric_field.h"
#include "sdk/tools/lab/geodesic/random.h"

namespace keel_test {

inline keel::geodesic::MetricField made_up_field(size_t dim, size_t count, double sigma, uint64_t seed) {
    keel::geodesic::Random random(seed);
    std::vector<double> points(count * dim), metrics;
    for (double& x : points) x = random.normal();
    for (size_t p = 0; p < count; ++p) {
        std::vector<double> root(dim * dim), g(dim * dim, 0);
        for (double& x : root) x = 0.4 * random.normal();
        for (size_t i = 0; i < dim; ++i)
            for (size_t j = 0; j < dim; ++j) {
                for (size_t k = 0; k < dim; ++k) g[i * dim + j] += root[i * dim + k] * root[j * dim + k];
                if (i == j) g[i * dim + j] += 0.5;
            }
        metrics.insert(metrics.end(), g.begin(), g.end());
    }
    return keel::geodesic::MetricField(dim, points, metrics, sigma);
}

}  // namespace keel_test
