#include "sdk/tools/lab/codecs/spherical_kmeans.h"

#include <cmath>

namespace keel::tools {
namespace {

using Eigen::Index;

constexpr int kRounds = 32;

// Unit vectors of the rows that are not zero.
RowMatrix directions_of(const RowMatrix& rows) {
    RowMatrix units(rows.rows(), rows.cols());
    Index n = 0;
    for (Index r = 0; r < rows.rows(); ++r) {
        const double norm = rows.row(r).norm();
        if (norm > 0) units.row(n++) = rows.row(r) / norm;
    }
    return units.topRows(n);
}

RowMatrix farthest_first(const RowMatrix& units, Index k) {
    RowMatrix centres(k, units.cols());
    Eigen::VectorXd closeness = Eigen::VectorXd::Zero(units.rows());  // largest |cos| to a centre so far
    Index next = 0;
    for (Index c = 0; c < k; ++c) {
        centres.row(c) = units.row(next);
        closeness = closeness.cwiseMax((units * centres.row(c).transpose()).cwiseAbs());
        closeness.minCoeff(&next);
    }
    return centres;
}

}  // namespace

std::vector<uint32_t> nearest_centres(const RowMatrix& rows, const RowMatrix& centres) {
    const RowMatrix products = (rows * centres.transpose()).cwiseAbs();
    std::vector<uint32_t> nearest(static_cast<size_t>(rows.rows()));
    for (Index r = 0; r < rows.rows(); ++r) {
        Index best;
        products.row(r).maxCoeff(&best);
        nearest[static_cast<size_t>(r)] = static_cast<uint32_t>(best);
    }
    return nearest;
}

RowMatrix spherical_centres(const RowMatrix& rows, uint32_t k) {
    const RowMatrix units = directions_of(rows);
    if (units.rows() == 0) return RowMatrix::Zero(k, rows.cols());
    RowMatrix centres = farthest_first(units, k);
    std::vector<uint32_t> assigned;
    for (int round = 0; round < kRounds; ++round) {
        std::vector<uint32_t> nearest = nearest_centres(units, centres);
        if (nearest == assigned) break;
        assigned = std::move(nearest);
        RowMatrix sums = RowMatrix::Zero(k, rows.cols());
        for (Index r = 0; r < units.rows(); ++r) {
            const Index c = assigned[static_cast<size_t>(r)];
            const double sign = units.row(r).dot(centres.row(c)) < 0 ? -1 : 1;
            sums.row(c) += sign * units.row(r);
        }
        for (Index c = 0; c < static_cast<Index>(k); ++c) {
            const double norm = sums.row(c).norm();
            if (norm > 0) centres.row(c) = sums.row(c) / norm;  // a centre without rows stays
        }
    }
    return centres;
}

}  // namespace keel::tools
