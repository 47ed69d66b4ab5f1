#include "sdk/tools/common/text_rows.h"

#include "sdk/tools/common/console.h"

namespace keel::tools {

void TextRows::start(std::span<const int32_t> ids) {
    check(session_.feed(ids, KEEL_FEED_ALL_LOGITS), "cannot feed the text");
    row_ = rows_ = 0;
}

uint32_t TextRows::next() {
    if (row_ == rows_) {
        const keel_advance_result step = engine_.advance(session_);
        if (after_step_) after_step_();
        check(step.status, "cannot compute the text");
        if (step.logits_rows == 0) throw ToolError(kExitRuntime, "a step kept no logits");
        row_ = 0, rows_ = step.logits_rows;
    }
    return row_++;
}

std::span<const float> TextRows::next_logits() {
    const Result<std::span<const float>> logits = session_.logits(next());
    check(logits.status, "cannot read logits");
    return *logits;
}

}  // namespace keel::tools
