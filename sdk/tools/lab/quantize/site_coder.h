// The matrices that multiply the same vectors, coded by the second moment of these (gptq.h, trellis_gptq.h). Needs
// Eigen.
#pragma once
#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "sdk/format/wproj.h"
#include "sdk/model/architecture.h"
#include "sdk/tools/lab/quantize/correction.h"
#include "sdk/tools/lab/quantize/gptq.h"

namespace keel::tools {

// What a matrix multiplies: a site of its layer (keel_lab_site), the head's input, or nothing.
constexpr uint32_t kHeadInput = kWprojGroups, kNoInput = UINT32_MAX;
uint32_t input_of(TensorSlot slot, bool tied);

// Mean of x x^T over rows.
class SecondMoment {
  public:
    explicit SecondMoment(uint32_t columns) : sum_(Sum::Zero(columns, columns)) {}
    void add(std::span<const float> rows, uint32_t threads);  // f32[count][columns]
    // Of rows whose columns are divided so.
    SecondMoment divided(std::span<const float> columns) const;
    Eigen::MatrixXd mean() const {
        const Eigen::MatrixXd sum = sum_.selfadjointView<Eigen::Lower>();
        return sum / static_cast<double>(std::max<uint64_t>(rows_, 1));
    }

  private:
    using Sum = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    Sum sum_;  // lower triangle
    uint64_t rows_ = 0;
};

struct CalibratedMatrix {
    std::vector<uint8_t>
        bytes;  // empty: not calibrated, because its type does not change or nothing is multiplied by it
    // sum e H e^T / sum w H w^T over the rows: of nearest codes, and of these.
    double nearest_error = 0, error = 0;
    // Of the input's channels (channel_scales.h), for which these codes are, and the power that they are of; empty and
    // 0: no scales. nearest_error is without.
    std::vector<float> scales;
    double scaling = 0;
    // Of what the codes lose; rank 0: none. corrected_error: the error beside it.
    LowRankCorrection correction;
    double corrected_error = 0;
};

class SiteCoder {
  public:
    // nearest: codes are the nearest, and the moment only measures them.
    SiteCoder(SecondMoment moment, const GptqOptions& options, bool nearest = false)
        : moment_(std::move(moment)), options_(options), nearest_(nearest) {}
    // values [rows][columns] in codes of `type`: those by the moment or the nearest, whichever err less. row_step: of
    // one grid for each row (row_steps.h); 0: scales of the type's own. std::invalid_argument as GptqFactor and its
    // quantize.
    CalibratedMatrix code(uint32_t type, std::span<const float> values, uint64_t columns, double row_step = 0);
    // Gives codes of these values a correction of the rank, or of the smaller side of the matrix.
    void correct(uint32_t type, std::span<const float> values, uint64_t columns, uint32_t rank,
                 CalibratedMatrix* matrix);
    // From now on only codes of scalar types, if there were any: what else is held in memory goes.
    void keep_scalar_codes();

  private:
    const GptqFactor& factor_of(bool trellis);
    std::optional<SecondMoment> moment_;
    GptqOptions options_;
    bool nearest_;
    std::optional<GptqFactor> plain_, coding_order_;  // of trellis types, by the order in which they are coded
};

}  // namespace keel::tools
