#include "sdk/tools/common/scored_text.h"

#include <math.h>

namespace keel::tools {

ScoredText scored_text(std::string_view text, std::string_view decoded, size_t begin, std::optional<size_t> end) {
    ScoredText scored;
    scored.lossy = decoded != text;
    // Places in `decoded` are places in the text, but for a lossy one.
    const auto place = [&](size_t at) -> uint64_t {
        if (!scored.lossy || at == 0) return at;
        scored.estimated = true;
        if (decoded.empty()) return 0;
        return static_cast<uint64_t>(
            llround(static_cast<double>(text.size()) * static_cast<double>(at) / static_cast<double>(decoded.size())));
    };
    const uint64_t last = end ? place(*end) : text.size(), first = place(begin);
    scored.bytes = last - first;
    return scored;
}

}  // namespace keel::tools
