#include "sdk/tools/lab/geodesic/coverage.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

#include "sdk/tools/lab/geodesic/random.h"

namespace keel::geodesic {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::Index;

constexpr double kSmallest = 1e-3;  // eigenvalue of g, as published

}  // namespace

std::vector<size_t> nearest_others(size_t dim, const std::vector<double>& points, size_t point, size_t k) {
    std::vector<std::pair<double, size_t>> by_distance;
    for (size_t i = 0; i < points.size() / dim; ++i) {
        if (i == point) continue;
        double sum = 0;
        for (size_t c = 0; c < dim; ++c) sum += std::pow(points[i * dim + c] - points[point * dim + c], 2);
        by_distance.push_back({sum, i});
    }
    k = std::min(k, by_distance.size());
    std::partial_sort(by_distance.begin(), by_distance.begin() + static_cast<ptrdiff_t>(k), by_distance.end());
    std::vector<size_t> out(k);
    for (size_t i = 0; i < k; ++i) out[i] = by_distance[i].second;
    return out;
}

std::vector<double> neighbour_metrics(size_t dim, const std::vector<double>& points, size_t neighbours, double ridge) {
    const Index n = static_cast<Index>(dim);
    std::vector<double> out;
    for (size_t p = 0; p < points.size() / dim; ++p) {
        const std::vector<size_t> near = nearest_others(dim, points, p, neighbours);
        Matrix rows(static_cast<Index>(near.size()), n);
        for (size_t r = 0; r < near.size(); ++r)
            for (size_t c = 0; c < dim; ++c)
                rows(static_cast<Index>(r), static_cast<Index>(c)) = points[near[r] * dim + c] - points[p * dim + c];
        const Matrix covariance =
            rows.transpose() * rows / static_cast<double>(near.size() - 1) + ridge * Matrix::Identity(n, n);
        const Eigen::SelfAdjointEigenSolver<Matrix> eigen(covariance);
        const Eigen::VectorXd values = eigen.eigenvalues().cwiseInverse().cwiseMax(kSmallest).cwiseMin(1 / ridge);
        const Matrix g = eigen.eigenvectors() * values.asDiagonal() * eigen.eigenvectors().transpose();
        out.insert(out.end(), g.data(), g.data() + g.size());
    }
    return out;
}

MetricField published_field(size_t dim, const std::vector<double>& points, size_t neighbours, double sigma) {
    const MetricField once(dim, points, neighbour_metrics(dim, points, neighbours), sigma);
    std::vector<double> smoothed;
    for (size_t p = 0; p < once.count(); ++p) {
        MetricJet jet;
        once.jet(once.point(p), 0, jet);
        smoothed.insert(smoothed.end(), jet.g.begin(), jet.g.end());
    }
    return MetricField(dim, points, smoothed, sigma);
}

double chance_of_neighbour(size_t count, size_t neighbours, size_t cached) {
    double none = 1;  // the product form of the two binomials
    for (size_t i = 0; i < cached; ++i) {
        const double left = static_cast<double>(count) - 1 - static_cast<double>(i);
        none *= std::max(0.0, left - static_cast<double>(neighbours)) / left;
    }
    return 1 - none;
}

Coverage coverage(const MetricField& field, size_t cached, const std::vector<double>& radii, size_t permutations,
                  uint64_t seed) {
    const size_t n = field.dim(), held_out = field.count() - cached;
    const double share = 1 / static_cast<double>(permutations * held_out);
    Random random(seed);
    Coverage out{std::vector<double>(radii.size(), 0)};
    for (size_t p = 0; p < permutations; ++p) {
        const std::vector<size_t> order = random.permutation(field.count());
        for (size_t h = cached; h < order.size(); ++h) {
            const double* here = field.point(order[h]);
            std::vector<double> way(n);
            double nearest = HUGE_VAL;
            for (size_t c = 0; c < cached; ++c) {
                const double* there = field.point(order[c]);
                double sum = 0;
                for (size_t i = 0; i < n; ++i) sum += (here[i] - there[i]) * (here[i] - there[i]);
                if (sum >= nearest) continue;
                nearest = sum;
                for (size_t i = 0; i < n; ++i) way[i] = here[i] - there[i];
            }
            const double distance = g_norm(field, here, way.data());
            for (size_t r = 0; r < radii.size(); ++r) out.hits[r] += distance <= radii[r] ? share : 0;
        }
    }
    return out;
}

}  // namespace keel::geodesic
