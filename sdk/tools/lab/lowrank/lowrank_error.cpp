#include "sdk/tools/lab/lowrank/lowrank_error.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace keel::tools {

using Eigen::Index;
using Eigen::MatrixXd;

namespace {
constexpr Index kBlockRows = 256;  // of a weight as f64 at a time

double squared_norm(const Eigen::Ref<const FloatRows>& rows) {
    double sum = 0;
    for (Index r = 0; r < rows.rows(); ++r) sum += rows.row(r).cast<double>().squaredNorm();
    return sum;
}
}  // namespace

double OutputError::relative() const {
    return error == 0 ? 0 : energy > 0 ? error / energy : std::numeric_limits<double>::infinity();
}

OutputError output_error(const WeightView& weight, const FloatRows& pt, const FloatRows& w_proj,
                         const Eigen::VectorXf& bias, const FloatRows& sample) {
    if (pt.cols() != weight.cols() || sample.cols() != weight.cols() || w_proj.rows() != weight.rows() ||
        w_proj.cols() != pt.rows() || (bias.size() && bias.size() != weight.rows()))
        throw std::invalid_argument("weight, factors and sample do not fit each other");
    OutputError sums;
    sums.rows = static_cast<uint64_t>(sample.rows());
    if (!sums.rows) return sums;
    const MatrixXd x = sample.transpose().cast<double>(), x_sub = pt.cast<double>() * x;  // a column per token
    for (Index r = 0; r < weight.rows(); r += kBlockRows) {
        const Index count = std::min(kBlockRows, weight.rows() - r);
        MatrixXd y = weight.middleRows(r, count).cast<double>() * x;
        sums.energy += y.squaredNorm();
        sums.variance += (y.colwise() - y.rowwise().mean()).squaredNorm();
        y -= w_proj.middleRows(r, count).cast<double>() * x_sub;
        if (bias.size()) y.colwise() -= bias.segment(r, count).cast<double>();
        sums.error += y.squaredNorm();
    }
    return sums;
}

double projected_energy(const WeightView& weight, const FloatRows& w_proj) {
    const double whole = squared_norm(weight);
    return whole > 0 ? std::clamp(squared_norm(w_proj) / whole, 0.0, 1.0) : 0;
}

}  // namespace keel::tools
