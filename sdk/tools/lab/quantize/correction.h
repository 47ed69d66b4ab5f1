// Low-rank correction of codes (LQER, Zhang et al. 2024): beside codes that decode to W' the model computes with
// W' + B A. Of all B A of rank R, with H the second moment of what the rows multiply and E = W - W', least of
//     tr((E - B A) H (E - B A)^T)
// is left by the truncated SVD of E H^(1/2):  B A = U U^T E,  U the R eigenvectors of E H E^T of largest eigenvalue.
// Written as an adapter of the coded model, as LoRA files are (sdk/model/adapter_file.h). Needs Eigen.
#pragma once
#include <stdint.h>

#include <Eigen/Core>
#include <string>
#include <utility>
#include <vector>

#include "sdk/tools/lab/quantize/fast_product.h"

namespace keel::tools {

struct LowRankCorrection {
    uint32_t rank = 0;
    std::vector<uint8_t> a,
        b;  // F16, a [rank][columns], b [rows][rank]; of each pair of a row and a column equal norms
    FloatRows product() const;  // B A as it is stored. [rows][columns]
};

// error: E [rows][columns]; moment: H [columns][columns]. rank: at most so much, since no more than the smaller side is
// of use. std::invalid_argument: shapes, or a number that is not finite.
LowRankCorrection correction_of(const FloatRows& error, const Eigen::MatrixXd& moment, uint32_t rank, uint32_t threads);

struct CorrectedTensor {
    std::string name;
    uint64_t rows, columns;
    const LowRankCorrection* correction;
};

// An adapter of scale 1 for models of an architecture. notes: entries keel.quantize.NAME. Returns its bytes; throws as
// AtomicFile.
uint64_t write_correction(const std::string& path, const std::string& architecture,
                          const std::vector<std::pair<std::string, std::string>>& notes,
                          const std::vector<CorrectedTensor>& tensors);

}  // namespace keel::tools
