// What a KV profile holds beside formats, from keys, values and queries of some text (formulas: sdk/NUMERICS.md section
// 7).
#pragma once
#include <vector>

#include "sdk/tools/files/kv_profile_file.h"
#include "sdk/tools/lab/kv/kv_row_capture.h"

namespace keel::tools {

// Sums over positions, in f64, in the order of the text. All arrays are [layers][kv_heads][head_dim].
class KvStatistics {
  public:
    // Positions before first_position are left out: those that are kept and read in f16.
    void add(const KvDocumentRows& rows, uint32_t first_position = 0);

    const KvShape& shape() const { return shape_; }
    uint32_t rope_dims() const { return rope_dims_; }
    uint64_t positions() const { return positions_; }
    // The elements of RoPE pair i.
    std::pair<uint32_t, uint32_t> pair(uint32_t i) const;
    size_t at(uint32_t layer, uint32_t kv_head) const {
        return (size_t{layer} * shape_.kv_heads + kv_head) * shape_.head_dim;
    }

    double key_mean_before(size_t i) const { return mean(key_before_, i); }
    double key_mean_after(size_t i) const { return mean(key_after_, i); }
    double value_mean(size_t i) const { return mean(value_, i); }
    double key_energy(size_t i) const { return mean(key_square_, i); }  // after RoPE
    double value_energy(size_t i) const { return mean(value_square_, i); }
    double query_energy(size_t i) const {
        return mean(query_square_, i) / shape_.group();
    }  // after RoPE, of a query head

  private:
    double mean(const std::vector<double>& sums, size_t i) const { return sums[i] / static_cast<double>(positions_); }
    KvShape shape_;
    uint32_t rope_dims_ = 0;
    bool neox_ = false;
    uint64_t positions_ = 0;
    std::vector<double> key_before_, key_after_, value_, key_square_, value_square_, query_square_;
};

// The `count` pairs whose removal before RoPE, instead of after it, shortens the coded keys most: one after the other,
// each the largest sum over heads of ln(energy left before / energy left after). Ascending.
std::vector<uint32_t> choose_mean_pairs(const KvStatistics& statistics, uint32_t count);
// K means: of `profile.pairs` before RoPE, of all other elements after it.
void set_key_means(const KvStatistics& statistics, KvProfile* profile);
void set_value_means(const KvStatistics& statistics, KvProfile* profile);
// gain^2 of a pair ~ sqrt(E|k|^2 / E|q|^2) of what is coded of K, the geometric mean of a head's gains being 1: the
// least expected error of scores when the error of a row is spread evenly over its elements. Within 1/8 .. 8.
void set_gains(const KvStatistics& statistics, KvProfile* profile);

// Energy of what is coded over the energy of the rows themselves, of one layer: 1 where no mean is removed.
double coded_key_share(const KvStatistics& statistics, const KvProfile& profile, uint32_t layer);
double coded_value_share(const KvStatistics& statistics, const KvProfile& profile, uint32_t layer);

}  // namespace keel::tools
