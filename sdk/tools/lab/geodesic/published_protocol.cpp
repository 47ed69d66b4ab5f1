#include "sdk/tools/lab/geodesic/published_protocol.h"

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "sdk/tools/lab/geodesic/geodesic.h"
#include "sdk/tools/lab/geodesic/random.h"

namespace keel::geodesic {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::Index;

constexpr double kMetricStep = 1e-2, kGammaStep = 5e-3;

std::vector<double> random_direction(const MetricField& field, const double* x, Random& random) {
    std::vector<double> v(field.dim());
    for (double& e : v) e = random.normal();
    return unit_speed(field, x, v.data());
}

// The smooth field with derivatives of g as published.
class DifferencedMetric : public Metric {
  public:
    explicit DifferencedMetric(const MetricField& field) : field_(field) {}
    size_t dim() const override { return field_.dim(); }
    void jet(const double* x, int, MetricJet& out) const override {
        const size_t n = dim(), square = n * n;
        std::vector<double> moved(x, x + n);
        MetricJet low, high;
        field_.jet(x, 0, out);
        out.g_1.resize(n * square);
        for (size_t m = 0; m < n; ++m) {
            moved[m] = x[m] - kMetricStep;
            field_.jet(moved.data(), 0, low);
            moved[m] = x[m] + kMetricStep;
            field_.jet(moved.data(), 0, high);
            moved[m] = x[m];
            for (size_t i = 0; i < square; ++i) out.g_1[m * square + i] = (high.g[i] - low.g[i]) / (2 * kMetricStep);
        }
    }

  private:
    const MetricField& field_;
};

double product_error(const Matrix& m, size_t rank, double norm) {
    const Eigen::VectorXd values = Eigen::JacobiSVD<Matrix>(m).singularValues();
    double sum = 0;
    for (Index i = static_cast<Index>(rank); i < values.size(); ++i) sum += values[i] * values[i];
    return std::sqrt(sum) / norm;
}

}  // namespace

PublishedCloud read_published_cloud(const std::string& path) {
    std::ifstream in(path);
    const nlohmann::json file = nlohmann::json::parse(in, nullptr, false);
    try {
        PublishedCloud out{file.at("model_name"), {}, file.at("eigenvalues")};
        for (const auto& point : file.at("cloud")) {
            const std::vector<double> x = point;
            if (x.size() != 3) throw std::runtime_error("points of 3 coordinates");
            out.points.insert(out.points.end(), x.begin(), x.end());
        }
        if (out.points.empty() || out.eigenvalues.empty()) throw std::runtime_error("points and eigenvalues");
        return out;
    } catch (const std::exception& error) {
        throw std::runtime_error(path + " is no published cloud: " + error.what());
    }
}

std::vector<double> lifted(const PublishedCloud& cloud, size_t dim, uint64_t seed) {
    Random random(seed);
    std::vector<double> out;
    for (size_t p = 0; p < cloud.points.size() / 3; ++p)
        for (size_t c = 0; c < dim; ++c)
            out.push_back(
                c < 3 ? cloud.points[p * 3 + c]
                      : random.normal() *
                            std::sqrt(std::max(cloud.eigenvalues[std::min(c, cloud.eigenvalues.size() - 1)], 1e-6)));
    return out;
}

NearestConnection::NearestConnection(const MetricField& field) : field_(field) {
    const DifferencedMetric differenced(field);
    const LeviCivita connection(differenced);
    Christoffel c;
    for (size_t p = 0; p < field.count(); ++p) {
        connection.at(field.point(p), 0, c);
        gamma_.insert(gamma_.end(), c.gamma.begin(), c.gamma.end());
    }
}

const double* NearestConnection::nearest(const double* x) const {
    const size_t n = dim();
    size_t best = 0;
    double least = HUGE_VAL;
    for (size_t p = 0; p < field_.count(); ++p) {
        double sum = 0;
        for (size_t i = 0; i < n; ++i) sum += std::pow(x[i] - field_.point(p)[i], 2);
        if (sum < least) least = sum, best = p;
    }
    return &gamma_[best * n * n * n];
}

void NearestConnection::at(const double* x, int order, Christoffel& out) const {
    const size_t n = dim(), cube = n * n * n;
    const double* here = nearest(x);
    out.gamma.assign(here, here + cube);
    if (order < 1) return;
    out.gamma_1.resize(n * cube);
    std::vector<double> moved(x, x + n);
    for (size_t m = 0; m < n; ++m) {
        moved[m] = x[m] - kGammaStep;
        const double* low = nearest(moved.data());
        moved[m] = x[m] + kGammaStep;
        const double* high = nearest(moved.data());
        moved[m] = x[m];
        for (size_t i = 0; i < cube; ++i) out.gamma_1[m * cube + i] = (high[i] - low[i]) / (2 * kGammaStep);
    }
}

std::vector<ValidityRow> published_validity(const MetricField& field, const std::vector<double>& distances,
                                            size_t seeds, uint64_t seed) {
    constexpr double kStep = 0.05;
    constexpr size_t kSteps = 16, kDirections = 12;
    const size_t n = field.dim();
    const NearestConnection nearest(field);
    const LeviCivita exact(field);
    Random random(seed);
    std::vector<ValidityRow> out(distances.size());
    for (size_t s = 0; s < seeds; ++s) {
        const double* start = field.point(random.below(field.count()));
        const std::vector<double> v = random_direction(field, start, random);
        const Flow flow = geodesic_flow(exact, start, v.data(), kStep, kSteps);
        const Flow flat{geodesic(nearest, start, v.data(), kStep, kSteps), {}, {}};
        const std::vector<double> published = published_propagator(nearest, flat.path, kStep);
        const uint64_t directions = random.bits();
        for (size_t d = 0; d < distances.size(); ++d) {
            out[d].distance = distances[d];
            out[d].published += propagator_error(field, nearest, flat, kStep, &published[kSteps * n * n], distances[d],
                                                 kDirections, directions)
                                    .mean /
                                static_cast<double>(seeds);
            out[d].exact += propagator_error(field, exact, flow, kStep, &flow.by_x[kSteps * n * n], distances[d],
                                             kDirections, directions)
                                .mean /
                            static_cast<double>(seeds);
        }
    }
    return out;
}

Substitution published_substitution(const MetricField& field, size_t cached, double radius, uint64_t seed) {
    constexpr double kStep = 0.1;
    constexpr size_t kSteps = 16;
    const size_t n = field.dim();
    const LeviCivita connection(field);
    Random random(seed);
    const std::vector<size_t> order = random.permutation(field.count());
    std::vector<Flow> records;
    for (size_t c = 0; c < cached; ++c) {
        const double* start = field.point(order[c]);
        records.push_back(
            geodesic_flow(connection, start, random_direction(field, start, random).data(), kStep, kSteps));
    }
    Substitution out;
    std::vector<double> errors;
    for (size_t h = cached; h < order.size(); ++h) {
        const double* here = field.point(order[h]);
        const std::vector<double> query(here, here + n);
        const Flow* best = nullptr;
        double least = HUGE_VAL;
        for (const Flow& record : records) {
            std::vector<double> way(n);
            for (size_t i = 0; i < n; ++i) way[i] = here[i] - record.path.x[i];
            const double distance = g_norm(field, here, way.data());
            if (distance < least) least = distance, best = &record;
        }
        if (least > radius) continue;
        const Path truth = geodesic(connection, here, random_direction(field, here, random).data(), kStep, kSteps);
        const double* reached = &truth.x[kSteps * n];
        const std::vector<double> guess =
            corrected(&best->path.x[kSteps * n], &best->by_x[kSteps * n * n], best->path.x.data(), n, query);
        std::vector<double> difference(n), way(n);
        for (size_t i = 0; i < n; ++i) difference[i] = reached[i] - guess[i], way[i] = reached[i] - here[i];
        errors.push_back(g_norm(field, reached, difference.data()) / g_norm(field, reached, way.data()));
    }
    if (errors.empty()) return out;
    out.within = static_cast<double>(errors.size()) / static_cast<double>(order.size() - cached);
    for (const double error : errors) out.mean_error += error / static_cast<double>(errors.size());
    std::sort(errors.begin(), errors.end());
    out.median_error = errors[errors.size() / 2];
    return out;
}

Truncation truncation_error(const std::vector<double>& propagator, size_t dim, size_t rank) {
    const Index n = static_cast<Index>(dim);
    const Matrix phi = Eigen::Map<const Matrix>(propagator.data(), n, n);
    return {product_error(phi, rank, phi.norm()), product_error(phi - Matrix::Identity(n, n), rank, phi.norm())};
}

}  // namespace keel::geodesic
