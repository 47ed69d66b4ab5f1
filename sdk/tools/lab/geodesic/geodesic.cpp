#include "sdk/tools/lab/geodesic/geodesic.h"

#include <algorithm>
#include <cmath>

#include "sdk/tools/lab/geodesic/random.h"

namespace keel::geodesic {
namespace {

// The state of a path, and behind it (with `columns` of them) the rows of its derivatives: x, v, dx, dv.
struct State {
    std::vector<double> x, v, dx, dv;  // [n], [n], [n][columns], [n][columns]
};

void add(std::vector<double>& to, double factor, const std::vector<double>& what) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += factor * what[i];
}

State moved(const State& s, double factor, const State& slope) {
    State out = s;
    add(out.x, factor, slope.x);
    add(out.v, factor, slope.v);
    add(out.dx, factor, slope.dx);
    add(out.dv, factor, slope.dv);
    return out;
}

State slope_of(const Connection& connection, const State& s) {
    const size_t n = s.x.size(), columns = s.dx.size() / n;
    Christoffel c;
    connection.at(s.x.data(), columns ? 1 : 0, c);
    State out{s.v, std::vector<double>(n, 0), s.dv, std::vector<double>(s.dv.size(), 0)};
    std::vector<double> by_v(n * n, 0);  // Gamma^k_ij v^i
    for (size_t k = 0; k < n; ++k)
        for (size_t i = 0; i < n; ++i)
            for (size_t j = 0; j < n; ++j) by_v[k * n + j] += c.gamma[(k * n + i) * n + j] * s.v[i];
    for (size_t k = 0; k < n; ++k)
        for (size_t j = 0; j < n; ++j) out.v[k] -= by_v[k * n + j] * s.v[j];
    if (!columns) return out;
    for (size_t k = 0; k < n; ++k)
        for (size_t m = 0; m < n; ++m) {
            double tide = 0;  // d_m Gamma^k_ij v^i v^j
            const double* slope = &c.gamma_1[(m * n + k) * n * n];
            for (size_t i = 0; i < n; ++i)
                for (size_t j = 0; j < n; ++j) tide += slope[i * n + j] * s.v[i] * s.v[j];
            for (size_t column = 0; column < columns; ++column)
                out.dv[k * columns + column] -=
                    tide * s.dx[m * columns + column] + 2 * by_v[k * n + m] * s.dv[m * columns + column];
        }
    return out;
}

State stepped(const Connection& connection, const State& s, double h) {
    const State a = slope_of(connection, s), b = slope_of(connection, moved(s, h / 2, a)),
                c = slope_of(connection, moved(s, h / 2, b)), d = slope_of(connection, moved(s, h, c));
    return moved(moved(moved(moved(s, h / 6, a), h / 3, b), h / 3, c), h / 6, d);
}

Flow integrated(const Connection& connection, const double* x, const double* v, double step, size_t steps,
                bool derivatives) {
    const size_t n = connection.dim(), columns = derivatives ? 2 * n : 0;
    State s{{x, x + n}, {v, v + n}, std::vector<double>(n * columns, 0), std::vector<double>(n * columns, 0)};
    for (size_t i = 0; derivatives && i < n; ++i) s.dx[i * columns + i] = s.dv[i * columns + n + i] = 1;
    Flow out;
    const auto keep = [&] {
        out.path.x.insert(out.path.x.end(), s.x.begin(), s.x.end());
        out.path.v.insert(out.path.v.end(), s.v.begin(), s.v.end());
        for (size_t i = 0; derivatives && i < n; ++i) {
            const auto row = s.dx.begin() + static_cast<ptrdiff_t>(i * columns);
            const auto middle = row + static_cast<ptrdiff_t>(n);
            out.by_x.insert(out.by_x.end(), row, middle);
            out.by_v.insert(out.by_v.end(), middle, middle + static_cast<ptrdiff_t>(n));
        }
    };
    keep();
    for (size_t t = 0; t < steps; ++t) {
        s = stepped(connection, s, step);
        keep();
    }
    return out;
}

// [n][n] times [n][m]
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, size_t n, size_t m) {
    std::vector<double> out(n * m, 0);
    for (size_t i = 0; i < n; ++i)
        for (size_t k = 0; k < n; ++k)
            for (size_t j = 0; j < m; ++j) out[i * m + j] += a[i * n + k] * b[k * m + j];
    return out;
}

}  // namespace

Path geodesic(const Connection& connection, const double* x, const double* v, double step, size_t steps) {
    return integrated(connection, x, v, step, steps, false).path;
}

Flow geodesic_flow(const Connection& connection, const double* x, const double* v, double step, size_t steps) {
    return integrated(connection, x, v, step, steps, true);
}

std::vector<double> published_propagator(const Connection& connection, const Path& path, double step) {
    const size_t n = connection.dim(), steps = path.x.size() / n - 1, wide = 2 * n;
    std::vector<double> y(wide * n, 0), out;
    for (size_t i = 0; i < n; ++i) y[i * n + i] = 1;
    const auto keep = [&] { out.insert(out.end(), y.begin(), y.begin() + static_cast<ptrdiff_t>(n * n)); };
    keep();
    std::vector<double> here = riemann(connection, path.x.data());
    for (size_t t = 0; t < steps; ++t) {
        const std::vector<double> next = riemann(connection, &path.x[(t + 1) * n]);
        std::vector<double> v(n), a(wide * wide, 0);
        for (size_t i = 0; i < n; ++i) v[i] = (path.v[t * n + i] + path.v[(t + 1) * n + i]) / 2;
        for (size_t i = 0; i < n; ++i) a[i * wide + n + i] = 1;
        for (size_t row = 0; row < n; ++row)
            for (size_t i = 0; i < n; ++i)
                for (size_t m = 0; m < n; ++m)
                    for (size_t l = 0; l < n; ++l) {
                        const size_t at = ((row * n + i) * n + m) * n + l;
                        a[(n + row) * wide + m] -= (here[at] + next[at]) / 2 * v[i] * v[l];
                    }
        std::vector<double> power = y;
        double factor = 1;
        for (int order = 1; order <= 3; ++order) {
            power = product(a, power, wide, n);
            factor *= step / order;
            add(y, factor, power);
        }
        here = next;
        keep();
    }
    return out;
}

std::vector<double> corrected(const double* point, const double* propagator, const double* start, size_t dim,
                              const std::vector<double>& queries) {
    std::vector<double> out(queries.size()), moved(dim);
    for (size_t first = 0; first < queries.size(); first += dim) {
        for (size_t i = 0; i < dim; ++i) moved[i] = queries[first + i] - start[i];
        for (size_t i = 0; i < dim; ++i) {
            double sum = point[i];
            for (size_t j = 0; j < dim; ++j) sum += propagator[i * dim + j] * moved[j];
            out[first + i] = sum;
        }
    }
    return out;
}

PropagatorError propagator_error(const Metric& metric, const Connection& connection, const Flow& flow, double step,
                                 const double* propagator, double distance, size_t directions, uint64_t seed) {
    const size_t n = metric.dim(), steps = flow.path.x.size() / n - 1;
    const double *start = flow.path.x.data(), *end = &flow.path.x[steps * n];
    Random random(seed);
    PropagatorError out;
    for (size_t d = 0; d < directions; ++d) {
        std::vector<double> q(n), difference(n), way(n);
        double length = 0;
        for (double& e : q) e = random.normal(), length += e * e;
        for (size_t i = 0; i < n; ++i) q[i] = start[i] + q[i] * distance / std::sqrt(length);
        const Path truth = geodesic(connection, q.data(), flow.path.v.data(), step, steps);
        const std::vector<double> guess = corrected(end, propagator, start, n, q);
        const double* reached = &truth.x[steps * n];
        for (size_t i = 0; i < n; ++i) difference[i] = reached[i] - guess[i], way[i] = reached[i] - start[i];
        const double error = g_norm(metric, reached, difference.data()) / g_norm(metric, reached, way.data());
        out.mean += error / static_cast<double>(directions);
        out.largest = std::max(out.largest, error);
    }
    return out;
}

double validity_radius(const Metric& metric, const Connection& connection, const Flow& flow, double step,
                       const double* propagator, const std::vector<double>& distances, double bound, size_t directions,
                       uint64_t seed) {
    double radius = 0;
    for (const double distance : distances) {
        if (!(propagator_error(metric, connection, flow, step, propagator, distance, directions, seed).mean <= bound))
            break;
        radius = distance;
    }
    return radius;
}

}  // namespace keel::geodesic
