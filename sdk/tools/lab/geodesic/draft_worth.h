// What drafts from records would be worth beside those that cost nothing to keep: answers drafted again, without a
// model, by step costs. Exact, as drafts never change a text.
//
// At each step the answer's own longest suffix that stood there before drafts what followed it: 3 tokens behind 5 or
// more, 1 behind 2 to 4. Else one token is drafted, of the table, of what most of the nearest records say, or of the
// surer of both, where its estimated chance reaches a threshold.
#pragma once
#include <vector>

#include "sdk/tools/lab/geodesic/draft_measure.h"

namespace keel::geodesic {

struct WorthCosts {
    std::vector<double> steps = {1, 1.04, 1.27, 1.44};  // of 1, 2, 3, 4 tokens, in steps of one
    double lookup = 0;                                  // of records, in steps of one token
};
// Speed over decoding without drafts, each by the best of four thresholds.
struct DraftWorth {
    double suffixes = 0, table = 0, records = 0, surer = 0;
};
// `measure` is what measure_drafts said of these queries alone. std::invalid_argument: of others; fewer than 4 costs.
DraftWorth draft_worth(const TraceTape& queries, const DraftMeasure& measure, const TokenTable& table,
                       const WorthCosts& costs);

}  // namespace keel::geodesic
