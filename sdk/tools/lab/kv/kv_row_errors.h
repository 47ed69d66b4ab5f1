// How far stored rows lie from the rows that were to be stored, of the same forward pass.
#pragma once
#include <vector>

#include "sdk/tools/lab/kv/kv_tap.h"

namespace keel::tools {

// Squared errors and energies of rows, kept per row so that sums do not depend on the order of threads.
class KvRowErrors {
  public:
    explicit KvRowErrors(const KvShape& shape);
    // One row; each by one thread at a time.
    void set(bool value, uint32_t layer, uint32_t kv_head, uint32_t position, double squared_error, double energy);
    // Adds rows [0, tokens) of every head to the sums below.
    void add_document(uint32_t tokens);
    // Sum of squared errors over sum of energies, per layer; 0 where nothing was stored. Energies are of whole rows,
    // means included.
    std::vector<double> relative_mse(bool value) const;

  private:
    struct Sum {
        double squared_error = 0, energy = 0;
    };
    KvShape shape_;
    std::vector<Sum> rows_[2];  // [K|V][layers][kv_heads][context]
    std::vector<Sum> layers_[2];
};

// Watches an engine of native formats: what it sees after RoPE is compared with what lies in the arena at the end.
class KvStoredErrors final : public KvTap {
  public:
    explicit KvStoredErrors(const KvShape& shape);
    void begin(keel_session session, uint32_t tokens, uint32_t chunk) override;
    void heads(const keel_lab_heads& heads) override;
    void end() override;
    const KvRowErrors& errors() const { return errors_; }

  private:
    KvShape shape_;
    KvRowErrors errors_;
    keel_session session_{};
    uint32_t tokens_ = 0;
    std::vector<float> k_, v_;      // [layers][kv_heads][context][head_dim], exact
    std::vector<double> k_energy_;  // [layers][kv_heads][context], before a mean is taken from it
};

double squared_norm(const float* row, uint32_t n);
double squared_distance(const float* a, const float* b, uint32_t n);

}  // namespace keel::tools
