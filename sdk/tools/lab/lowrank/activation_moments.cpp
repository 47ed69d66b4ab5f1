#include "sdk/tools/lab/lowrank/activation_moments.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "sdk/core/hash.h"

namespace keel::tools {
namespace {

using Eigen::Index;

constexpr Index kBlockRows = 256;
constexpr size_t kCandidates = 64;  // massive tokens remembered; the largest
constexpr Index kMassiveClusters = 3;
constexpr double kMassiveDeviations = 3, kSameDirection = 0.8;
constexpr uint64_t kReservoirSeed = 0x6a09e667f3bcc908;

double norm_of(const float* row, Index columns) {
    double sum = 0;
    for (Index j = 0; j < columns; ++j) sum += static_cast<double>(row[j]) * row[j];
    return std::sqrt(sum);
}

}  // namespace

ActivationMoments::ActivationMoments(uint32_t columns, uint32_t held_out_capacity)
    : columns_(columns), capacity_(held_out_capacity) {
    if (!columns) throw std::invalid_argument("activations without columns");
    block_.resize(kBlockRows, columns_);
    mean_ = Eigen::VectorXd::Zero(columns_);
    scatter_ = Eigen::MatrixXd::Zero(columns_, columns_);
}

void ActivationMoments::check(std::span<const float> rows) const {
    if (rows.size() % static_cast<size_t>(columns_))
        throw std::invalid_argument("activations are no whole number of rows");
    if (!std::all_of(rows.begin(), rows.end(), [](float x) { return std::isfinite(x); }))
        throw std::invalid_argument("activations that are not finite");
}

void ActivationMoments::consider_massive(const float* row, double norm, uint64_t index) {
    if (candidates_.size() == kCandidates && norm <= candidates_.back().norm) return;
    if (candidates_.size() == kCandidates) candidates_.pop_back();
    const auto at = std::upper_bound(candidates_.begin(), candidates_.end(), norm,
                                     [](double n, const Candidate& c) { return n > c.norm; });
    candidates_.insert(at, {norm, index, std::vector<float>(row, row + columns_)});
}

void ActivationMoments::add(std::span<const float> rows) {
    check(rows);
    const size_t columns = static_cast<size_t>(columns_);
    for (const float* row = rows.data(); row != rows.data() + rows.size(); row += columns) {
        const double norm = norm_of(row, columns_), n = static_cast<double>(rows_ + 1), step = norm - norm_mean_;
        norm_mean_ += step / n;
        norm_scatter_ += step * (norm - norm_mean_);
        consider_massive(row, norm, rows_);
        const Index at = static_cast<Index>(rows_ - merged_);
        std::copy(row, row + columns, block_.data() + at * columns_);
        ++rows_;
        if (at + 1 == kBlockRows) {
            merge(block_, merged_);
            merged_ = rows_;
        }
    }
}

// The rank-one term joins the block as one more row.
void ActivationMoments::merge(const FloatRows& block, uint64_t count) {
    const double n = static_cast<double>(count), n_b = static_cast<double>(block.rows());
    Eigen::MatrixXd centred(columns_, block.rows() + 1);
    centred.leftCols(block.rows()) = block.transpose().cast<double>();
    const Eigen::VectorXd block_mean = centred.leftCols(block.rows()).rowwise().sum() / n_b, step = block_mean - mean_;
    centred.leftCols(block.rows()).colwise() -= block_mean;
    centred.rightCols(1) = step * std::sqrt(n * n_b / (n + n_b));
    scatter_.selfadjointView<Eigen::Lower>().rankUpdate(centred);
    mean_ += step * (n_b / (n + n_b));
}

void ActivationMoments::hold_out(std::span<const float> rows) {
    check(rows);
    const size_t columns = static_cast<size_t>(columns_);
    for (const float* row = rows.data(); row != rows.data() + rows.size(); row += columns) {
        ++offered_;
        if (held_out_.size() < capacity_ * columns) {
            held_out_.insert(held_out_.end(), row, row + columns);
        } else {
            const uint64_t place = hash_finish(kReservoirSeed + offered_ * 0x9e3779b97f4a7c15) % offered_;
            if (place < capacity_)
                std::copy(row, row + columns, held_out_.begin() + static_cast<std::ptrdiff_t>(place * columns));
        }
    }
}

MomentSummary ActivationMoments::summary() const {
    MomentSummary result;
    result.rows = rows_;
    result.held_out =
        Eigen::Map<const FloatRows>(held_out_.data(), static_cast<Index>(held_out_.size()) / columns_, columns_);
    result.massive.resize(0, columns_);
    if (rows_ > merged_) {
        ActivationMoments whole(*this);
        whole.merge(block_.topRows(static_cast<Index>(rows_ - merged_)), merged_);
        result.mean = std::move(whole.mean_);
        result.covariance = std::move(whole.scatter_);
    } else {
        result.mean = mean_;
        result.covariance = scatter_;
    }
    result.covariance.triangularView<Eigen::StrictlyUpper>() = result.covariance.transpose();
    if (!rows_) return result;
    result.covariance /= static_cast<double>(rows_);
    result.mean_norm = norm_mean_;
    result.norm_deviation = std::sqrt(norm_scatter_ / static_cast<double>(rows_));

    const double threshold = result.mean_norm + kMassiveDeviations * result.norm_deviation;
    std::vector<Eigen::VectorXd> leaders, sums;
    std::vector<uint64_t> counts;
    for (const Candidate& c : candidates_) {
        if (!(result.norm_deviation > 0 && c.norm >= threshold)) break;
        const Eigen::VectorXd state = Eigen::Map<const Eigen::VectorXf>(c.row.data(), columns_).cast<double>();
        const auto own = std::find_if(leaders.begin(), leaders.end(), [&](const Eigen::VectorXd& l) {
            return l.dot(state) >= kSameDirection * c.norm;
        });
        const size_t cluster = static_cast<size_t>(own - leaders.begin());
        if (own == leaders.end()) {
            if (static_cast<Index>(leaders.size()) == kMassiveClusters) continue;
            leaders.push_back(state / c.norm);
            sums.push_back(Eigen::VectorXd::Zero(columns_));
            counts.push_back(0);
        }
        sums[cluster] += state;
        ++counts[cluster];
    }
    result.massive.resize(static_cast<Index>(sums.size()), columns_);
    for (size_t i = 0; i < sums.size(); ++i)
        result.massive.row(static_cast<Index>(i)) =
            (sums[i] / static_cast<double>(counts[i])).transpose().cast<float>();
    return result;
}

}  // namespace keel::tools
