// With which velocity does a state go on? Two published answers that know where it will arrive, the exact one for
// them, and one from records, which does not.
#pragma once
#include "sdk/tools/lab/geodesic/geodesic.h"
#include "sdk/tools/lab/geodesic/record_store.h"

namespace keel::geodesic {

// (y - x) / |y - x|_g: the published "local metric" velocity, a straight line's.
std::vector<double> straight_velocity(const Metric& metric, const double* x, const double* y);
// The published curvature correction of it: v + clip(0.35 / (1 + 0.01 |a|), 0.05, 0.45) a with the acceleration
// a^k = -Gamma^k_ij v^i v^j, scaled to unit speed again.
std::vector<double> bent_velocity(const Metric& metric, const Connection& connection, const double* x, const double* y);
// The velocity (not of unit speed) with which the geodesic from x is at y after parameter 1, by Newton's method with
// halved steps, on d x_1 / d v_0 of geodesic_flow. `miss`: Euclidean distance to y that is left.
struct Shot {
    std::vector<double> velocity;
    double miss = 0;
};
Shot shoot(const Connection& connection, const double* x, const double* y, size_t steps, int iterations);

// The mean displacement to the first waypoint of the `count` nearest records (at most 16). out: [kStoreDim]; zeros for
// a store without trajectories.
void record_velocity(const RecordStore& store, const float* key, uint32_t count, float* out);

}  // namespace keel::geodesic
