// keel bench --columns.
#pragma once
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {

struct ColumnOptions {
    uint32_t position, repeats;
};
// What steps of 1 to KEEL_STEP_COSTS tokens cost in steps of one, by turns: of one session, all of whose logits are
// kept, and of as many sessions as there are tokens; beside what the plan predicts. By the processor's time of this
// process: of one thread it is what a step takes while it runs. Wants KEEL_STEP_COSTS sessions and rows of logits.
// After Ctrl-C what was measured until then.
void bench_columns(LoadedModel& model, const ColumnOptions& options, const Console& console);

}  // namespace keel::tools
