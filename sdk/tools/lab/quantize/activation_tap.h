// The vectors that a model's projections multiply, of one document at a time.
#pragma once
#include <array>
#include <span>
#include <vector>

#include "keel/keel_lab.h"
#include "sdk/format/wproj.h"
#include "sdk/tools/lab/kv/kv_run.h"

namespace keel::tools {

static_assert(KEEL_LAB_ATTN_IN == static_cast<int>(kWprojAttnIn) &&
                  KEEL_LAB_FFN_HIDDEN == static_cast<int>(kWprojFfnHidden),
              "a site is a group");

class ActivationTap {
  public:
    // Watches `run` while it lives. columns[group]: of its input, 0 where the group is not wanted. Only so many layers
    // from `first_layer` on are kept.
    ActivationTap(KvRun& run, const std::array<uint32_t, kWprojGroups>& columns, uint32_t first_layer = 0,
                  uint32_t layers = UINT32_MAX);
    ActivationTap(const ActivationTap&) = delete;
    ~ActivationTap();

    // Computes `ids`; then rows() are those of this document.
    void forward(
        std::span<const int32_t> ids, const LogitsVisitor& visit = [](size_t, std::span<const float>) {});
    // f32[positions][columns]
    std::span<const float> rows(uint32_t layer, uint32_t group) const { return rows_[layer][group]; }

  private:
    void add(const keel_lab_row& row);
    KvRun& run_;
    std::array<uint32_t, kWprojGroups> columns_;
    uint32_t first_, end_;                                            // layers
    std::vector<std::array<std::vector<float>, kWprojGroups>> rows_;  // by layer
};

}  // namespace keel::tools
