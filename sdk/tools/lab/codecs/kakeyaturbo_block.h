// The numbers of one KakeyaTurbo block between its rows and its bytes. Needs Eigen.
#pragma once
#include <memory>
#include <vector>

#include "sdk/tools/lab/codecs/block_pca.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_options.h"

namespace keel::tools {

struct KakeyaturboBlock {
    struct Row {
        uint32_t centre;
        float t;                    // projection on the centre, not rounded
        float residual_norm;        // likewise
        float norm;                 // of the row itself
        std::vector<float> scaled;  // [width]
    };
    BlockBasis basis;
    RowMatrix centres;  // [k][rank], f16 values
    std::vector<Row> rows;
};

// Coordinates of a transformed residual: the power of two from `rank` on.
uint32_t kakeyaturbo_width(uint32_t rank);

// Steps 1 to 3 for the rows of one block; with `basis` the PCA is not made but taken.
KakeyaturboBlock analyse_kakeyaturbo(const RowMatrix& rows, const KakeyaturboOptions& options, const BlockBasis* basis);

// The row that these stored numbers stand for; `scaled` [width] is overwritten.
Eigen::RowVectorXd synthesize_kakeyaturbo(const BlockBasis& basis, const RowMatrix& centres, uint32_t centre, float t,
                                          float residual_norm, std::vector<float>& scaled);

}  // namespace keel::tools
