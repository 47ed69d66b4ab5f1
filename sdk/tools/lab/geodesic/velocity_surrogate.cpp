#include "sdk/tools/lab/geodesic/velocity_surrogate.h"

#include <Eigen/LU>
#include <algorithm>
#include <cmath>

#include "kernels/formats/numeric.h"

namespace keel::geodesic {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::Index;

constexpr uint32_t kMaxNeighbours = 16, kProbes = 16;

}  // namespace

std::vector<double> straight_velocity(const Metric& metric, const double* x, const double* y) {
    std::vector<double> way(metric.dim());
    for (size_t i = 0; i < way.size(); ++i) way[i] = y[i] - x[i];
    return unit_speed(metric, x, way.data());
}

std::vector<double> bent_velocity(const Metric& metric, const Connection& connection, const double* x,
                                  const double* y) {
    const size_t n = metric.dim();
    std::vector<double> v = straight_velocity(metric, x, y), a(n, 0);
    Christoffel c;
    connection.at(x, 0, c);
    double length = 0;
    for (size_t k = 0; k < n; ++k) {
        for (size_t i = 0; i < n; ++i)
            for (size_t j = 0; j < n; ++j) a[k] -= c.gamma[(k * n + i) * n + j] * v[i] * v[j];
        length += a[k] * a[k];
    }
    const double factor = std::clamp(0.35 / (1 + 0.01 * std::sqrt(length)), 0.05, 0.45);
    for (size_t k = 0; k < n; ++k) v[k] += factor * a[k];
    return unit_speed(metric, x, v.data());
}

Shot shoot(const Connection& connection, const double* x, const double* y, size_t steps, int iterations) {
    const size_t n = connection.dim();
    const double step = 1 / static_cast<double>(steps);
    const auto miss_of = [&](const Path& path) {
        double sum = 0;
        for (size_t i = 0; i < n; ++i) sum += std::pow(y[i] - path.x[steps * n + i], 2);
        return std::sqrt(sum);
    };
    Shot out;
    for (size_t i = 0; i < n; ++i) out.velocity.push_back(y[i] - x[i]);
    out.miss = miss_of(geodesic(connection, x, out.velocity.data(), step, steps));
    for (int iteration = 0; iteration < iterations && out.miss > 1e-12; ++iteration) {
        const Flow flow = geodesic_flow(connection, x, out.velocity.data(), step, steps);
        Eigen::VectorXd left(static_cast<Index>(n));
        for (size_t i = 0; i < n; ++i) left[static_cast<Index>(i)] = y[i] - flow.path.x[steps * n + i];
        const Eigen::VectorXd change =
            Eigen::Map<const Matrix>(&flow.by_v[steps * n * n], left.size(), left.size()).partialPivLu().solve(left);
        bool better = false;
        for (double part = 1; part > 0.01 && !better; part /= 2) {
            std::vector<double> tried = out.velocity;
            for (size_t i = 0; i < n; ++i) tried[i] += part * change[static_cast<Index>(i)];
            const double miss = miss_of(geodesic(connection, x, tried.data(), step, steps));
            better = miss < out.miss;
            if (better) out = {tried, miss};
        }
        if (!better) break;
    }
    return out;
}

void record_velocity(const RecordStore& store, const float* key, uint32_t count, float* out) {
    Found found[kMaxNeighbours];
    std::fill(out, out + kStoreDim, 0.0f);
    if (!store.header.waypoints) return;
    const size_t near = find_nearest(store, key, kProbes, std::span(found, std::min(count, kMaxNeighbours)));
    for (size_t i = 0; i < near; ++i) {
        const uint64_t r = static_cast<uint64_t>(found[i].record);
        for (uint32_t d = 0; d < kStoreDim; ++d)
            out[d] += (kernels::f16_to_f32(store.waypoints[r * store.header.waypoints * kStoreDim + d]) -
                       store.keys[r * kStoreDim + d]) /
                      static_cast<float>(near);
    }
}

}  // namespace keel::geodesic
