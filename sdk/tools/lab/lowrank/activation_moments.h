// What the solvers have to know of the vectors x a group of projections multiplies: mean, centred covariance, the
// states of massive activations, and rows held out for measuring errors. Streamed; needs Eigen.
#pragma once
#include <stdint.h>

#include <Eigen/Core>
#include <span>
#include <vector>

namespace keel::tools {

using FloatRows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct MomentSummary {
    uint64_t rows = 0;           // tokens seen, held-out ones not counted
    Eigen::VectorXd mean;        // m = E[x], [columns]
    Eigen::MatrixXd covariance;  // S = E[(x - m)(x - m)^T], [columns][columns], both triangles; zeros without rows
    double mean_norm = 0, norm_deviation = 0;  // of |x| over tokens
    // Mean states of the tokens with |x| >= mean_norm + 3 norm_deviation, by direction: the token of largest norm leads
    // a cluster, those with a cosine of at least 0.8 to it are its own, the next of the others leads the next. [at most
    // 3][columns]
    FloatRows massive;
    FloatRows held_out;  // [at most the capacity][columns]
};

// Blocks of 256 rows, each centred about its own mean in f64, are merged by Chan's formula
//     M += M_b + (m_b - m)(m_b - m)^T n n_b / (n + n_b),    m += (m_b - m) n_b / (n + n_b),
// so that a mean far larger than the deviations costs no digits. What comes out depends on the sequence of rows, not on
// the calls.
class ActivationMoments {
  public:
    // held_out_capacity: rows kept for errors. std::invalid_argument for no columns.
    ActivationMoments(uint32_t columns, uint32_t held_out_capacity);

    // f32[count][columns], whole rows. std::invalid_argument for a partial row or a number that is not finite; nothing
    // is added then.
    void add(std::span<const float> rows);
    // Rows of other texts, for errors only: a uniform sample of `capacity` of all that come (Vitter's algorithm R,
    // fixed seed).
    void hold_out(std::span<const float> rows);

    // Copies; the stream may go on.
    MomentSummary summary() const;

  private:
    struct Candidate {
        double norm;
        uint64_t index;
        std::vector<float> row;
    };
    void check(std::span<const float> rows) const;
    void merge(const FloatRows& block, uint64_t count);
    void consider_massive(const float* row, double norm, uint64_t index);

    Eigen::Index columns_;
    uint32_t capacity_;
    uint64_t rows_ = 0, merged_ = 0, offered_ = 0;
    FloatRows block_;
    Eigen::VectorXd mean_;
    Eigen::MatrixXd scatter_;  // lower triangle: sum (x - m)(x - m)^T of merged rows
    double norm_mean_ = 0, norm_scatter_ = 0;
    std::vector<Candidate> candidates_;  // tokens of largest norm, descending; equals by index
    std::vector<float> held_out_;
};

}  // namespace keel::tools
