#include "sdk/draft/drafter.h"

#include <string.h>

namespace keel {
namespace {

constexpr uint32_t kMostOutcomes = 256;  // then old ones count half
constexpr double kPriorWeight = 4;       // proposals
constexpr double kLeastReach = 0.03;     // a draft that is reached less often is not looked for
constexpr double kFirstLossSteps = 1;
// Steps of 8 tokens, in steps of one, up to which a place may have several drafts. They bring 3 to 8 % at 1.14, nothing
// at 1.45 (perf/RESULTS.md).
constexpr double kMostTreeCost = 1.25;

// Share of right proposals before any was seen. Measured on answers of a small chat model (perf/RESULTS.md); only the
// first few drafts of a session depend on them.
constexpr double kSuffixPrior[Drafter::kSuffixClasses] = {0.3, 0.5, 0.6, 0.65, 0.7, 0.8, 0.85, 0.95};
constexpr double kPoolPrior[TokenPool::kOrderCount] = {0.5, 0.35, 0.2};
// By rank: where no other source has a token, and where another one's is wrong.
constexpr double kRankPrior[2][Drafter::kRanks] = {{0.22, 0.08, 0.054, 0.026, 0.024, 0.014, 0.016, 0.01},
                                                   {0.25, 0.21, 0.12, 0.07, 0.04, 0.03, 0.03, 0.02}};

uint32_t suffix_class(uint32_t length) {
    return length < 6 ? length - SuffixIndex::kLeastLength : length < 8 ? 4 : length < 12 ? 5 : length < 20 ? 6 : 7;
}
uint32_t pool_class(const PoolMatch& match) {
    const uint32_t count = match.count;
    return match.order * Drafter::kPoolCounts + (count < 2 ? 0 : count < 4 ? 1 : count < 10 ? 2 : 3);
}

double prior(uint32_t kind) {
    if (kind < Drafter::kSuffixClasses) return kSuffixPrior[kind];
    if (kind < Drafter::kFirstRank) return kPoolPrior[(kind - Drafter::kSuffixClasses) / Drafter::kPoolCounts];
    const uint32_t rank = kind - Drafter::kFirstRank;
    return kRankPrior[rank / Drafter::kRanks][rank % Drafter::kRanks];
}

}  // namespace

void Drafter::open(const SharedSources& sources, bool teaches) {
    sources_ = sources;
    teaches_ = teaches;
    suffix_.clear();
    followed_ = taught_ = 0;
    memset(outcomes_, 0, sizeof outcomes_);
    seen_position_ = 0;
    ledger_.open(kFirstLossSteps);
}

double Drafter::reliability(uint32_t kind) const {
    const Outcomes& o = outcomes_[kind];
    return (o.right + kPriorWeight * prior(kind)) / (o.right + o.wrong + kPriorWeight);
}

uint32_t Drafter::proposals(const int32_t* end, uint32_t count, const SuffixMatch& suffix, int32_t suffix_token,
                            Proposal* out, uint32_t* firsts, uint32_t* best) const {
    uint32_t n = 0;
    *firsts = *best = 0;
    if (count == 0) return 0;
    if (suffix.length) out[n++] = {suffix_token, suffix_class(suffix.length)};
    if (sources_.pool) {
        const PoolMatch match = sources_.pool->find(end, count);
        if (match.count) out[n++] = {match.token, kSuffixClasses + pool_class(match)};
    }
    *firsts = n;
    if (n == 2 && reliability(out[1].kind) > reliability(out[0].kind)) *best = 1;
    for (uint32_t rank = 0; sources_.recycled && rank < kRanks; ++rank) {
        const int32_t token = sources_.recycled->at(end[-1], rank);
        if (token < 0) break;
        if (*firsts && token == out[*best].token) continue;
        out[n++] = {token, kFirstRank + (*firsts ? kRanks : 0) + rank};
    }
    return n;
}

void Drafter::follow(const int32_t* tokens, uint32_t count, const uint8_t* drawn) {
    for (uint32_t p = followed_; p < count; ++p) {
        if (p >= taught_ && drawn[p / 8] >> (p % 8) & 1) {
            Proposal proposal[kMostProposals];
            uint32_t firsts, best;
            const SuffixMatch suffix = suffix_.find(tokens, p);
            const uint32_t n =
                proposals(tokens + p, p, suffix, suffix.length ? tokens[suffix.next] : 0, proposal, &firsts, &best);
            const bool first_right = firsts && proposal[best].token == tokens[p];
            for (uint32_t i = 0; i < (first_right ? firsts : n); ++i) {
                Outcomes& o = outcomes_[proposal[i].kind];
                ++(proposal[i].token == tokens[p] ? o.right : o.wrong);
                if (o.right + o.wrong >= kMostOutcomes) o.right /= 2, o.wrong /= 2;
            }
        }
        suffix_.add(tokens, p + 1);
        if (teaches_ && p >= taught_) learn_at(tokens, p);
    }
    followed_ = count > followed_ ? count : followed_;
    seen_position_ = 0;
}

// What the token at `position` tells of those before it.
void Drafter::learn_at(const int32_t* tokens, uint32_t position) {
    if (sources_.pool) sources_.pool->learn(tokens + position, position, tokens[position]);
    if (seen_position_ == position && position) sources_.recycled->learn(tokens[position - 1], seen_);
}

void Drafter::see_logits(uint32_t position, const float* logits) {
    int32_t ids[RecycledLogits::kWidth];
    sources_.recycled->largest(logits, ids);
    see_largest(position, ids);
}

void Drafter::see_largest(uint32_t position, const int32_t* ids) {
    seen_position_ = position;
    memcpy(seen_, ids, sizeof seen_);
}

void Drafter::rewind(const int32_t* tokens, uint32_t count) {
    if (seen_position_ > count) seen_position_ = 0;  // also behind what is followed: accepted drafts
    if (count >= followed_) return;
    suffix_.rewind(tokens, count);
    followed_ = count;
    if (taught_ > count) taught_ = count;
}

void Drafter::moved(const int32_t* tokens, uint32_t from, uint32_t to) {
    const uint32_t followed = followed_;
    rewind(tokens, from);
    if (followed > to) taught_ = followed - (to - from);
}

uint32_t Drafter::draft(const int32_t* tokens, const DraftStep& step, uint32_t most, int32_t* drafts,
                        uint8_t* parents) {
    struct Node {  // the end of the text, or a draft
        int32_t token;
        uint8_t number, parent;
        SuffixMatch suffix;  // behind it
        double reach;
    };
    const double most_cost = ledger_.most_cost();
    const bool branches = parents && step.costs(8) <= kMostTreeCost;
    // The last tokens of the text, and the drafts up to the one that is looked behind.
    constexpr uint32_t kTail = TokenPool::kMostOrder;
    int32_t text[kTail + kMaxDrafts];
    const uint32_t tail = followed_ < kTail ? followed_ : kTail;
    memcpy(text, tokens + (followed_ - tail), tail * sizeof *text);
    uint8_t before[kMaxDrafts], depth[kMaxDrafts];
    Node open[kMaxDrafts * kMostProposals];  // what may be drafted next
    uint32_t opened = 0;
    const auto look_behind = [&](const Node& node) {
        const uint32_t count = node.number == kTextEnd ? 0 : depth[node.number] + 1u;
        uint8_t at = node.number;
        for (uint32_t i = count; i-- > 0; at = before[at]) text[tail + i] = drafts[at];
        // A match that has come to the end of the text goes on with the drafts.
        const SuffixMatch& suffix = node.suffix;
        const int32_t suffix_token = suffix.length == 0        ? 0
                                     : suffix.next < followed_ ? tokens[suffix.next]
                                                               : text[tail + (suffix.next - followed_)];
        Proposal proposal[kMostProposals];
        uint32_t firsts, best;
        const uint32_t n = proposals(text + tail + count, tail + count, suffix, suffix_token, proposal, &firsts, &best);
        const double wrong = firsts ? 1 - reliability(proposal[best].kind) : 1;
        for (uint32_t i = 0; i < n; ++i) {
            if (i < firsts && i != best) continue;
            const double reach = node.reach * reliability(proposal[i].kind) * (i < firsts ? 1 : wrong);
            if (reach < kLeastReach) continue;
            const bool goes_on = suffix.length && suffix_token == proposal[i].token;
            open[opened++] = {proposal[i].token, 0, node.number,
                              goes_on ? SuffixMatch{suffix.next + 1, suffix.length + 1} : SuffixMatch{0, 0}, reach};
        }
    };
    look_behind({0, kTextEnd, kTextEnd, suffix_.find(tokens, followed_), 1});
    double expected = 0, best_gain = 0;
    uint32_t worth = 0;
    for (uint32_t n = 0; n < most && n < kMaxDrafts && opened && step.cost(n + 1) <= most_cost; ++n) {
        uint32_t next = 0;
        for (uint32_t i = 1; i < opened; ++i)
            if (open[i].reach > open[next].reach) next = i;
        Node node = open[next];
        node.number = static_cast<uint8_t>(n);
        open[next] = open[--opened];
        drafts[n] = node.token;
        before[n] = node.parent;
        depth[n] = node.parent == kTextEnd ? 0 : static_cast<uint8_t>(depth[node.parent] + 1);
        if (parents) parents[n] = node.parent;
        if (!branches) opened = 0;
        expected += node.reach;
        const double gain = expected - ledger_.pace() * step.cost(n + 1);
        if (gain > best_gain) {
            best_gain = gain;
            worth = n + 1;
        }
        if (n + 1 < most) look_behind(node);
    }
    return worth;
}

void Drafter::verified(const DraftStep& step, uint32_t drafted, uint32_t accepted) {
    ledger_.step(step.cost(drafted), accepted);
}

}  // namespace keel
