// Measures profiles that exist in memory only: predictions on a slice of text against an arena of f32.
#pragma once
#include "sdk/tools/files/kv_profile_file.h"
#include "sdk/tools/lab/kv/kv_cost_table.h"
#include "sdk/tools/lab/kv/kv_quality.h"

namespace keel::tools {

class KvMeter {
  public:
    // Documents of `file`, `tokens` positions of each. Sinks and recent positions are those of the options.
    KvMeter(const EngineOptions& options, const std::string& file, uint32_t documents, uint32_t tokens);

    // Mean KL in nats, and pooled change of NLL, with the profile's formats, means and gains. Where costs are kept
    // (kv_cost_table.h) the KL alone may come from there: kl().
    struct Reading {
        double kl = 0;
        PairedDelta delta;
    };
    Reading measure(const KvProfile& profile);
    double kl(const KvProfile& profile, KvCostTable* kept);
    uint64_t tokens() const;
    uint32_t measurements() const { return measurements_; }

  private:
    EngineOptions options_;
    uint32_t context_;
    std::vector<KvReference> references_;
    std::vector<uint32_t> sources_;
    uint32_t measurements_ = 0;
};

}  // namespace keel::tools
