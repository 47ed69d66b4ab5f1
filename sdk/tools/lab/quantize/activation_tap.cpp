#include "sdk/tools/lab/quantize/activation_tap.h"

#include <algorithm>

namespace keel::tools {

ActivationTap::ActivationTap(KvRun& run, const std::array<uint32_t, kWprojGroups>& columns, uint32_t first_layer,
                             uint32_t layers)
    : run_(run),
      columns_(columns),
      first_(first_layer),
      end_(first_layer + std::min(layers, run.info().layers - first_layer)),
      rows_(run.info().layers) {
    run_.close();
    check(keel_lab_set_row_tap(
              run_.model().engine.handle(),
              [](void* self, const keel_lab_row* row) { static_cast<ActivationTap*>(self)->add(*row); }, this),
          "cannot watch the forward pass");
}

ActivationTap::~ActivationTap() {
    run_.close();
    keel_lab_set_row_tap(run_.model().engine.handle(), nullptr, nullptr);
}

void ActivationTap::forward(std::span<const int32_t> ids, const LogitsVisitor& visit) {
    for (uint32_t layer = first_; layer < end_; ++layer)
        for (uint32_t group = 0; group < kWprojGroups; ++group)
            rows_[layer][group].assign(ids.size() * columns_[group], 0.0f);
    run_.forward(ids, visit);
}

// Parts of different threads are different places of the same row.
void ActivationTap::add(const keel_lab_row& row) {
    if (columns_[row.site] != row.total || row.layer < first_ || row.layer >= end_) return;
    std::copy(
        row.x, row.x + row.count,
        rows_[row.layer][row.site].begin() + static_cast<ptrdiff_t>(uint64_t{row.position} * row.total + row.first));
}

}  // namespace keel::tools
