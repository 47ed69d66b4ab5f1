#include "sdk/tools/lab/codecs/kakeyaturbo_block.h"

#include <bit>
#include <cmath>

#include "sdk/tools/lab/codecs/row_bits.h"
#include "sdk/tools/lab/codecs/row_rotation.h"
#include "sdk/tools/lab/codecs/spherical_kmeans.h"

namespace keel::tools {
namespace {

using Eigen::Index;

constexpr uint64_t kSignSeed = 0xCAFEBABE;

}  // namespace

uint32_t kakeyaturbo_width(uint32_t rank) {
    return std::bit_ceil(rank);
}

KakeyaturboBlock analyse_kakeyaturbo(const RowMatrix& rows, const KakeyaturboOptions& options,
                                     const BlockBasis* basis) {
    KakeyaturboBlock block;
    const uint32_t dim = static_cast<uint32_t>(rows.cols());
    if (basis)
        block.basis = *basis;
    else if (options.pca == KakeyaturboOptions::Pca::exact)
        block.basis = exact_pca(rows, options.variance_ratio, options.rank);
    else
        block.basis = randomized_pca(rows, options.variance_ratio, options.rank ? options.rank : std::max(dim / 2, 1u));

    const RowMatrix coefficients = block.basis.coefficients(rows);
    block.centres = spherical_centres(coefficients, options.centres).unaryExpr([](double x) -> double {
        return through_f16(static_cast<float>(x));
    });
    const std::vector<uint32_t> nearest = nearest_centres(coefficients, block.centres);
    const uint32_t width = kakeyaturbo_width(static_cast<uint32_t>(coefficients.cols()));
    for (Index r = 0; r < rows.rows(); ++r) {
        const uint32_t centre = nearest[static_cast<size_t>(r)];
        const double t = coefficients.row(r).dot(block.centres.row(centre));
        const Eigen::RowVectorXd residual = coefficients.row(r) - t * block.centres.row(centre);
        const double norm = residual.norm();
        std::vector<float> scaled(width);
        if (norm > 0) {
            // The transform is orthonormal, so its coordinates have variance ||e||^2 / W; H of entries +-1 over ||e||
            // is the same.
            const double scale = std::sqrt(static_cast<double>(width)) / norm;
            for (Index i = 0; i < residual.size(); ++i)
                scaled[static_cast<size_t>(i)] = static_cast<float>(residual[i] * scale);
            signed_hadamard(scaled, kSignSeed);
        }
        block.rows.push_back({centre, static_cast<float>(t), static_cast<float>(norm),
                              static_cast<float>(rows.row(r).norm()), std::move(scaled)});
    }
    return block;
}

Eigen::RowVectorXd synthesize_kakeyaturbo(const BlockBasis& basis, const RowMatrix& centres, uint32_t centre, float t,
                                          float residual_norm, std::vector<float>& scaled) {
    signed_hadamard_inverse(scaled, kSignSeed);
    const double scale = residual_norm / std::sqrt(static_cast<double>(scaled.size()));
    Eigen::RowVectorXd coefficients = double{t} * centres.row(centre);
    for (Index i = 0; i < coefficients.size(); ++i) coefficients[i] += scale * scaled[static_cast<size_t>(i)];
    return basis.mean + coefficients * basis.directions;
}

}  // namespace keel::tools
