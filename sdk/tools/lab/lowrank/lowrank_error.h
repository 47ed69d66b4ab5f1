// The output error of low-rank factors on activations that took no part in solving, and whether a factor is good enough
// to be used. Needs Eigen.
#pragma once
#include "sdk/tools/lab/lowrank/nested_factors.h"

namespace keel::tools {

// Sums over the rows x of a sample, in f64.
struct OutputError {
    double error = 0;     // |W x - W_proj (Pt x) - bias|^2
    double energy = 0;    // |W x|^2
    double variance = 0;  // |W (x - x_mean)|^2, x_mean of the sample
    uint64_t rows = 0;
    // error / energy: a factor's `error` in a cache. 0 where both are 0; infinite where only the energy is.
    double relative() const;
    // A sample of at least one row, and relative() <= bound; a bound is at least 0. No rows, no acceptance.
    bool accepted(double bound) const { return rows > 0 && relative() <= bound; }
};

// weight [rows][columns] as it is read (decoded), pt [rank][columns] and w_proj [rows][rank] decoded from their stored
// bytes, bias [rows] or empty, sample [any][columns]. std::invalid_argument where shapes do not fit.
OutputError output_error(const WeightView& weight, const FloatRows& pt, const FloatRows& w_proj,
                         const Eigen::VectorXf& bias, const FloatRows& sample);

// |W_proj|_F^2 / |W|_F^2 clamped to [0, 1]; 0 for a weight of zeros: a factor's `energy` in a cache, bookkeeping of the
// published format.
double projected_energy(const WeightView& weight, const FloatRows& w_proj);

}  // namespace keel::tools
