// Geodesics, and how they move with their start.
#pragma once
#include <stdint.h>

#include "sdk/tools/lab/geodesic/curvature.h"

namespace keel::geodesic {

// x''^k = -Gamma^k_ij x'^i x'^j by the classical Runge-Kutta method of order 4, from x with velocity v, in `steps`
// steps of length `step` (of the curve's parameter; with unit speed, arc length).
struct Path {
    std::vector<double> x, v;  // [steps + 1][dim], the start included
};
Path geodesic(const Connection& connection, const double* x, const double* v, double step, size_t steps);

// The same path with the Jacobian of its points in its start, velocity components kept:
//     dx' = dv,  dv'^k = -d_m Gamma^k_ij v^i v^j dx^m - 2 Gamma^k_ij v^i dv^j
// by the same method with the same stages, which makes it the derivative of the computed path itself.
struct Flow {
    Path path;
    std::vector<double> by_x;  // [steps + 1][dim][dim]: d x_t / d x_0, the propagator Phi of a record
    std::vector<double> by_v;  // [steps + 1][dim][dim]: d x_t / d v_0
};
Flow geodesic_flow(const Connection& connection, const double* x, const double* v, double step, size_t steps);

// The propagator as published ("Magnus-3"), beside which the one above stands: y = [J; J'], y(0) = [I; 0], y <- E y,
// E = I + hA + h^2 A^2 / 2 + h^3 A^3 / 6, A = [0 I; -K 0], K^a_m = R^a_iml v^i v^l with R and v averaged over the ends
// of a step. J' is taken as a covariant derivative and used as a coordinate's, so its error falls with the distance to
// the start, not with its square. [steps + 1][dim][dim]
std::vector<double> published_propagator(const Connection& connection, const Path& path, double step);

// x_t + Phi_t (q - q_0) for `count` queries [count][dim] at once; point [dim], propagator [dim][dim]: [count][dim].
std::vector<double> corrected(const double* point, const double* propagator, const double* start, size_t dim,
                              const std::vector<double>& queries);

// How wrong a corrected end is, |x_true - x_predicted|_g / |x_true - start|_g by the metric at x_true: the mean over
// `directions` of chance of a start moved by `distance` (Euclidean), velocity components kept.
struct PropagatorError {
    double mean = 0, largest = 0;
};
PropagatorError propagator_error(const Metric& metric, const Connection& connection, const Flow& flow, double step,
                                 const double* propagator, double distance, size_t directions, uint64_t seed);
// The validity radius: the largest distance of ascending `distances` up to which the mean error stays within `bound`;
// 0: none.
double validity_radius(const Metric& metric, const Connection& connection, const Flow& flow, double step,
                       const double* propagator, const std::vector<double>& distances, double bound, size_t directions,
                       uint64_t seed);

}  // namespace keel::geodesic
