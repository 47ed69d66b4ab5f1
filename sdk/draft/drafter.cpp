#include "sdk/draft/drafter.h"

#include <string.h>

namespace keel {
namespace {

constexpr uint32_t kMostProposals = 3;
constexpr uint32_t kMostOutcomes = 256;  // then old ones count half
constexpr double kPriorWeight = 4;       // proposals
constexpr double kLeastReach = 0.03;     // a draft that is reached less often is not looked for
constexpr double kFirstLossSteps = 1;

// Share of right proposals before any was seen. Measured on answers of a small chat model (perf/RESULTS.md); only the
// first few drafts of a session depend on them.
constexpr double kSuffixPrior[Drafter::kSuffixClasses] = {0.3, 0.5, 0.6, 0.65, 0.7, 0.8, 0.85, 0.95};
constexpr double kPoolPrior[TokenPool::kOrderCount] = {0.5, 0.35, 0.2};
constexpr double kRankFactor[Drafter::kRanks] = {1, 0.3, 0.9, 1.2};
constexpr double kRecycledPrior = 0.25;

uint32_t suffix_class(uint32_t length) {
    return length < 6 ? length - SuffixIndex::kLeastLength : length < 8 ? 4 : length < 12 ? 5 : length < 20 ? 6 : 7;
}
uint32_t pool_class(const PoolMatch& match) {
    const uint32_t count = match.count;
    return match.order * Drafter::kPoolCounts + (count < 2 ? 0 : count < 4 ? 1 : count < 10 ? 2 : 3);
}
// Unknown, absent, among them, first.
uint32_t rank_class(const RecycledLogits* recycled, int32_t token, int32_t next) {
    const uint32_t rank = recycled ? recycled->rank(token, next) : RecycledLogits::kUnknown;
    return rank == RecycledLogits::kUnknown ? 0 : rank == RecycledLogits::kAbsent ? 1 : rank ? 2 : 3;
}

double prior(uint32_t kind) {
    if (kind == Drafter::kClasses - 1) return kRecycledPrior;
    const uint32_t source = kind / Drafter::kRanks;
    const double base = source < Drafter::kSuffixClasses
                            ? kSuffixPrior[source]
                            : kPoolPrior[(source - Drafter::kSuffixClasses) / Drafter::kPoolCounts];
    const double p = base * kRankFactor[kind % Drafter::kRanks];
    return p < 0.95 ? p : 0.95;
}

}  // namespace

void Drafter::open(const SharedSources& sources, bool teaches) {
    sources_ = sources;
    teaches_ = teaches;
    suffix_.clear();
    followed_ = taught_ = 0;
    memset(outcomes_, 0, sizeof outcomes_);
    row_count_ = 0;
    ledger_.open(kFirstLossSteps);
}

double Drafter::reliability(uint32_t kind) const {
    const Outcomes& o = outcomes_[kind];
    return (o.right + kPriorWeight * prior(kind)) / (o.right + o.wrong + kPriorWeight);
}

uint32_t Drafter::proposals(const int32_t* end, uint32_t count, const SuffixMatch& suffix, int32_t suffix_token,
                            Proposal* out) const {
    uint32_t n = 0;
    if (count == 0) return 0;
    const auto add = [&](int32_t token, uint32_t source) {
        out[n++] = {token, source * kRanks + rank_class(sources_.recycled, end[-1], token)};
    };
    if (suffix.length) add(suffix_token, suffix_class(suffix.length));
    if (sources_.pool) {
        const PoolMatch match = sources_.pool->find(end, count);
        if (match.count) add(match.token, kSuffixClasses + pool_class(match));
    }
    if (sources_.recycled && sources_.recycled->first(end[-1]) >= 0)
        out[n++] = {sources_.recycled->first(end[-1]), kClasses - 1};
    return n;
}

void Drafter::follow(const int32_t* tokens, uint32_t count, const uint8_t* drawn) {
    for (uint32_t p = followed_; p < count; ++p) {
        if (p >= taught_ && drawn[p / 8] >> (p % 8) & 1) {
            Proposal proposal[kMostProposals];
            const SuffixMatch suffix = suffix_.find(tokens, p);
            const uint32_t n = proposals(tokens + p, p, suffix, suffix.length ? tokens[suffix.next] : 0, proposal);
            for (uint32_t i = 0; i < n; ++i) {
                Outcomes& o = outcomes_[proposal[i].kind];
                ++(proposal[i].token == tokens[p] ? o.right : o.wrong);
                if (o.right + o.wrong >= kMostOutcomes) o.right /= 2, o.wrong /= 2;
            }
        }
        suffix_.add(tokens, p + 1);
        if (teaches_ && p >= taught_) learn_at(tokens, p);
    }
    followed_ = count > followed_ ? count : followed_;
    row_count_ = 0;
}

// What the token at `position` tells of those before it.
void Drafter::learn_at(const int32_t* tokens, uint32_t position) {
    if (sources_.pool) sources_.pool->learn(tokens + position, position, tokens[position]);
    for (uint32_t i = 0; i < row_count_; ++i)
        if (rows_[i].position == position && position) sources_.recycled->learn(tokens[position - 1], rows_[i].ids);
}

void Drafter::see_logits(uint32_t position, const float* logits) {
    if (!sources_.recycled || !teaches_ || row_count_ > kMaxDrafts) return;
    rows_[row_count_].position = position;
    sources_.recycled->largest(logits, rows_[row_count_++].ids);
}

void Drafter::rewind(const int32_t* tokens, uint32_t count) {
    if (count >= followed_) return;
    suffix_.rewind(tokens, count);
    followed_ = count;
    row_count_ = 0;
    if (taught_ > count) taught_ = count;
}

void Drafter::moved(const int32_t* tokens, uint32_t from, uint32_t to) {
    const uint32_t followed = followed_;
    rewind(tokens, from);
    if (followed > to) taught_ = followed - (to - from);
}

uint32_t Drafter::draft(const int32_t* tokens, const DraftStep& step, uint32_t most, int32_t* drafts) {
    const double most_cost = ledger_.most_cost();
    // The last tokens of the text, and drafts behind them.
    constexpr uint32_t kTail = TokenPool::kMostOrder;
    int32_t text[kTail + kMaxDrafts];
    const uint32_t tail = followed_ < kTail ? followed_ : kTail;
    memcpy(text, tokens + (followed_ - tail), tail * sizeof *text);
    SuffixMatch suffix = suffix_.find(tokens, followed_);
    double reach = 1, expected = 0, best = 0;
    uint32_t worth = 0;
    for (uint32_t n = 0; n < most && n < kMaxDrafts && step.cost(n + 1) <= most_cost; ++n) {
        // A match that has come to the end of the text goes on with the drafts.
        const int32_t suffix_token = suffix.length == 0        ? 0
                                     : suffix.next < followed_ ? tokens[suffix.next]
                                                               : text[tail + (suffix.next - followed_)];
        Proposal proposal[kMostProposals];
        const uint32_t count = proposals(text + tail + n, tail + n, suffix, suffix_token, proposal);
        const Proposal* chosen = nullptr;
        for (uint32_t i = 0; i < count; ++i)
            if (!chosen || reliability(proposal[i].kind) > reliability(chosen->kind)) chosen = &proposal[i];
        if (!chosen) break;
        reach *= reliability(chosen->kind);
        if (reach < kLeastReach) break;
        expected += reach;
        text[tail + n] = drafts[n] = chosen->token;
        if (suffix.length && suffix_token == chosen->token)
            ++suffix.next, ++suffix.length;
        else
            suffix = {0, 0};
        const double gain = expected - ledger_.pace() * step.cost(n + 1);
        if (gain <= best) continue;
        best = gain;
        worth = n + 1;
    }
    return worth;
}

void Drafter::verified(const DraftStep& step, uint32_t drafted, uint32_t accepted) {
    ledger_.step(step.cost(drafted), accepted);
}

}  // namespace keel
