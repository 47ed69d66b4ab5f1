#include "sdk/tools/lab/geodesic/draft_worth.h"

#include <algorithm>
#include <stdexcept>

namespace keel::geodesic {
namespace {

enum class Source { kNone, kTable, kRecords, kSurer };
constexpr double kThresholds[] = {0.1, 0.2, 0.3, 0.4};

struct Replay {
    const WorthCosts& costs;
    Source source;
    double threshold;
    double time = 0, tokens = 0;

    // One token; -1: none is sure enough.
    int32_t draft_of(const Continuation& table, const Continuation& records) const {
        // Counts of few say little: a table's are taken as of two more that were wrong, a vote's as of one.
        const double by_table = static_cast<double>(table.count) / (table.of + 2),
                     by_records = static_cast<double>(records.count) / (kVoters + 1);
        const bool record = source == Source::kRecords || (source == Source::kSurer && by_records > by_table);
        if (source == Source::kNone) return -1;
        return (record ? by_records : by_table) >= threshold ? (record ? records : table).token : -1;
    }

    // votes[i]: behind the first i + 2 tokens.
    void add(const std::vector<int32_t>& text, const std::vector<Continuation>& votes, const TokenTable& table) {
        for (size_t known = 2; known < text.size();) {
            const EarlierSuffix suffix = earlier_suffix(std::span(text).first(known));
            int32_t drafts[3];
            size_t count = 0;
            const size_t most = suffix.length >= 5 ? 3 : suffix.length >= 2 ? 1 : 0;
            for (; count < most && suffix.next + count < known; ++count) drafts[count] = text[suffix.next + count];
            if (count == 0) {
                const auto all = static_cast<uint32_t>(known);
                drafts[0] = draft_of(table.longest(text.data() + known, all, all), votes[known - 2]);
                count = drafts[0] >= 0;
                if (source == Source::kRecords || source == Source::kSurer) time += costs.lookup;
            }
            size_t right = 0;
            while (right < count && known + right < text.size() && drafts[right] == text[known + right]) ++right;
            time += costs.steps[count];
            known += right + 1;
        }
        if (text.size() > 2) tokens += static_cast<double>(text.size() - 2);
    }
};

}  // namespace

DraftWorth draft_worth(const TraceTape& queries, const DraftMeasure& measure, const TokenTable& table,
                       const WorthCosts& costs) {
    const std::vector<std::vector<int32_t>> texts = texts_of(queries);
    if (costs.steps.size() < 4) throw std::invalid_argument("costs of steps of 1, 2, 3 and 4 tokens are needed");
    if (measure.texts.size() != texts.size()) throw std::invalid_argument("a measure of other queries");
    const auto best = [&](Source source) {
        double most = 0;
        for (const double threshold : kThresholds) {
            Replay replay{costs, source, threshold};
            for (size_t t = 0; t < texts.size(); ++t) {
                if (measure.texts[t].votes.size() + 2 != std::max<size_t>(texts[t].size(), 2))
                    throw std::invalid_argument("a measure of other queries");
                replay.add(texts[t], measure.texts[t].votes, table);
            }
            most = std::max(most, replay.time > 0 ? replay.tokens / replay.time : 0);
        }
        return most;
    };
    return {best(Source::kNone), best(Source::kTable), best(Source::kRecords), best(Source::kSurer)};
}

}  // namespace keel::geodesic
