// The published experiments on activation clouds, run again: 64 points of 3 coordinates and an eigenvalue spectrum of
// each of three models (phase1_manifold.json), lifted with chance to more dimensions.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

#include "sdk/tools/lab/geodesic/coverage.h"
#include "sdk/tools/lab/geodesic/curvature.h"

namespace keel::geodesic {

struct PublishedCloud {
    std::string model;
    std::vector<double> points;       // [count][3]
    std::vector<double> eigenvalues;  // descending
};
// std::runtime_error: no such file, or fields that are missing or of another shape.
PublishedCloud read_published_cloud(const std::string& path);
// [count][dim]: the three coordinates, and N(0, 1) numbers times the root of the eigenvalue of each further one (the
// last one given where there is none). Their generator was numpy's, so the further coordinates are others than theirs.
std::vector<double> lifted(const PublishedCloud& cloud, size_t dim, uint64_t seed);

// The connection as published: central differences (1e-2) of the smooth field at its points, and anywhere else the one
// of the nearest point. Its derivatives, central differences (5e-3) of that, are 0 but across the border of two points.
class NearestConnection : public Connection {
  public:
    explicit NearestConnection(const MetricField& field);  // which must outlive it
    size_t dim() const override { return field_.dim(); }
    void at(const double* x, int order, Christoffel& out) const override;

  private:
    const double* nearest(const double* x) const;
    const MetricField& field_;
    std::vector<double> gamma_;  // [count][dim][dim][dim]
};

// propagator_error by distance, the mean over `seeds` starts of the cloud with velocities of chance and unit speed,
// 16 steps of 0.05, 12 directions.
struct ValidityRow {
    double distance = 0;
    double published = 0;  // nearest connection and published propagator
    double exact = 0;      // the same field differentiated exactly, and the propagator of geodesic_flow
};
std::vector<ValidityRow> published_validity(const MetricField& field, const std::vector<double>& distances,
                                            size_t seeds, uint64_t seed);

// What the records of the cache predict for a held-out point whose own velocity is not theirs: 16 steps of 0.1, error
// of the corrected end relative to the way of the point. The published report counts every query within the radius as
// "correctable".
struct Substitution {
    double within = 0;  // share of queries within `radius`, by the metric, of a record
    double mean_error = 0, median_error = 0;
};
Substitution published_substitution(const MetricField& field, size_t cached, double radius, uint64_t seed);

// Relative Frobenius error of an n by n propagator kept as a product of rank r, by its singular values: as published,
// Phi = U V^T, and as it should be, Phi = I + U V^T.
struct Truncation {
    double product = 0, identity_and_product = 0;
};
Truncation truncation_error(const std::vector<double>& propagator, size_t dim, size_t rank);

}  // namespace keel::geodesic
