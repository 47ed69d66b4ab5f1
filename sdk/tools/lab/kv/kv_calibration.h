// What a KV profile holds beside formats, from keys, values and queries of some text (formulas: sdk/NUMERICS.md section
// 7).
#pragma once
#include <vector>

#include "sdk/tools/files/kv_profile_file.h"
#include "sdk/tools/lab/kv/kv_row_capture.h"

namespace keel::tools {

// What attention makes of errors of the rows of one KV head that are coded: neither the first `sinks` positions nor the
// last `recent` ones before a query. A key j that query t reads with probability p moves the output o_t by
// p |v_j - o_t| times the error of its score, a value by p times its own: errors of rows count with the sums of those
// squares. Of long documents kQueries queries speak, evenly spaced.
struct KvErrorWeights {
    static constexpr uint32_t kQueries = 512;
    std::vector<double> key, value;  // [tokens]
    std::vector<double> query;       // [tokens][query heads of the KV head]: of all keys
};
KvErrorWeights kv_error_weights(const KvDocumentRows& rows, uint32_t layer, uint32_t kv_head, uint32_t sinks,
                                uint32_t recent);

// Weighed sums over positions, in f64, in the order of the text. All arrays are [layers][kv_heads][head_dim].
class KvStatistics {
  public:
    // Every position from first_position on weighs the same: those before are kept and read in f16.
    void add(const KvDocumentRows& rows, uint32_t first_position = 0);
    // They weigh as their errors do.
    void add_weighed(const KvDocumentRows& rows, uint32_t sinks, uint32_t recent);

    const KvShape& shape() const { return shape_; }
    uint32_t rope_dims() const { return rope_dims_; }
    uint64_t positions() const { return positions_; }
    // The elements of RoPE pair i.
    std::pair<uint32_t, uint32_t> pair(uint32_t i) const;
    size_t at(uint32_t layer, uint32_t kv_head) const {
        return (size_t{layer} * shape_.kv_heads + kv_head) * shape_.head_dim;
    }

    double key_mean_before(size_t i) const { return mean(key_before_, key_weight_, i); }
    double key_mean_after(size_t i) const { return mean(key_after_, key_weight_, i); }
    double value_mean(size_t i) const { return mean(value_, value_weight_, i); }
    double key_energy(size_t i) const { return mean(key_square_, key_weight_, i); }  // after RoPE
    double value_energy(size_t i) const { return mean(value_square_, value_weight_, i); }
    double query_energy(size_t i) const {
        return mean(query_square_, query_weight_, i);
    }  // after RoPE, of a query head

  private:
    void add_head(const KvDocumentRows& rows, uint32_t layer, uint32_t kv_head, const KvErrorWeights& weights);
    double mean(const std::vector<double>& sums, const std::vector<double>& weights, size_t i) const {
        const double weight = weights[i / shape_.head_dim];
        return weight > 0 ? sums[i] / weight : 0;
    }
    KvShape shape_;
    uint32_t rope_dims_ = 0;
    bool neox_ = false;
    uint64_t positions_ = 0;
    std::vector<double> key_before_, key_after_, value_, key_square_, value_square_, query_square_;
    std::vector<double> key_weight_, value_weight_, query_weight_;  // [layers][kv_heads]
};

// The `count` pairs whose removal before RoPE, instead of after it, shortens the coded keys most: one after the other,
// each the largest sum over heads of ln(energy left before / energy left after). Ascending.
std::vector<uint32_t> choose_mean_pairs(const KvStatistics& statistics, uint32_t count);
// K means: of `profile.pairs` before RoPE, of all other elements after it.
void set_key_means(const KvStatistics& statistics, KvProfile* profile);
void set_value_means(const KvStatistics& statistics, KvProfile* profile);

// Squares of the elements of queries and of what is coded of keys, which is keys less the means of `profile`: as they
// weigh as errors of keys, up to a factor for each head. Arrays as those of KvStatistics.
class KvKeyMoments {
  public:
    // weighed: of all documents, those that are added here among them.
    KvKeyMoments(const KvStatistics& weighed, const KvProfile& profile, uint32_t sinks, uint32_t recent)
        : weighed_(weighed), profile_(profile), sinks_(sinks), recent_(recent) {}
    void add(const KvDocumentRows& rows);
    double key(size_t i) const { return key_[i]; }
    double query(size_t i) const { return weighed_.query_energy(i); }
    const KvShape& shape() const { return weighed_.shape(); }

  private:
    const KvStatistics& weighed_;
    const KvProfile& profile_;
    uint32_t sinks_, recent_;
    std::vector<double> key_;
};
// gain^4 of an element = its moment of keys / that of queries, the geometric mean of a head's gains being 1: the least
// error of outputs when that of a row is spread evenly over its elements. Within 1/8 .. 8.
void set_gains(const KvKeyMoments& moments, KvProfile* profile);

// Energy of what is coded over the energy of the rows themselves, of one layer: 1 where no mean is removed. Means
// may be others than those of the statistics.
double coded_key_share(const KvStatistics& statistics, const KvProfile& profile, uint32_t layer);
double coded_value_share(const KvStatistics& statistics, const KvProfile& profile, uint32_t layer);

}  // namespace keel::tools
