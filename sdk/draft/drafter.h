// Where drafts of a session come from, and how many are worth a step.
//
// Sources each propose the token behind a context: the longest suffix that stood there before (SuffixIndex), what
// followed the last tokens in any session (TokenPool), what was most likely behind the last token (RecycledLogits). How
// often a source is right depends on the length of the match, the order and count of the entry, and on where the
// recycled logits rank it: these make a *class*, and for each class right and wrong proposals are counted, also those
// that were never drafted, as every token drawn answers what each source would have said. A chain takes the most
// reliable proposal at each place; it is cut where tokens for time is best by the cost of steps.
//
//     expected tokens of n drafts   1 + p1 + p1 p2 + ... + p1..pn
//     worth it                      expected / cost(n + 1) largest, and above 1 / cost(1)
//
// Loss is bounded: what drafts cost beyond what they brought may be at most kLossShare of the steps so far and
// kFirstLossSteps, by the costs given. All of it is a function of the session's tokens, but for the pool and the
// recycled logits, which neighbours change; the text never depends on any of it.
#pragma once
#include "sdk/draft/recycled_logits.h"
#include "sdk/draft/suffix_index.h"
#include "sdk/draft/token_pool.h"

namespace keel {

constexpr uint32_t kMaxDrafts = 15;

// Time of a step of n tokens over that of one token, n in 1..count; beyond, it goes on as between the last two.
struct StepCosts {
    const float* of;  // [count], of[0] = 1
    uint32_t count;   // at least 2

    double operator()(uint32_t tokens) const;
};

// Sources shared by the sessions of an engine; null: there is none.
struct SharedSources {
    TokenPool* pool;
    RecycledLogits* recycled;
};

class Drafter {
  public:
    // For texts of at most `context` tokens.
    void place(Arena* arena, uint32_t context, int32_t index) { suffix_.place(arena, context, index); }
    // A text without tokens. `teaches`: the pool learns from it.
    void open(const SharedSources& sources, bool teaches);
    // The text is `count` tokens long now, the first ones those of before. `drawn` tells which ones were drawn, a bit
    // each: what sources would have said there is counted.
    void follow(const int32_t* tokens, uint32_t count, const uint8_t* drawn);
    // The text ends at `count` again. Its tokens are still in place.
    void rewind(const int32_t* tokens, uint32_t count);
    // Writes at most `most` (up to kMaxDrafts) drafts of what follows the text that follow() was told of, for a step
    // that computes `others` tokens beside its last one. Returns how many are worth it.
    uint32_t draft(const int32_t* tokens, const StepCosts& costs, uint32_t others, uint32_t most, int32_t* drafts);
    // What became of drafts of a step.
    void verified(uint32_t drafted, uint32_t accepted, const StepCosts& costs, uint32_t others);

    uint32_t followed() const { return followed_; }

    // Classes: suffix lengths, then orders of the pool times counts, each times ranks; then the recycled first one.
    static constexpr uint32_t kSuffixClasses = 8, kPoolCounts = 4, kRanks = 4;
    static constexpr uint32_t kPoolClasses = TokenPool::kOrderCount * kPoolCounts;
    static constexpr uint32_t kClasses = (kSuffixClasses + kPoolClasses) * kRanks + 1;

  private:
    struct Proposal {
        int32_t token;
        uint32_t kind;  // class
    };
    struct Outcomes {
        uint16_t right, wrong;
    };
    // Proposals of all sources behind the tokens before `end`; `suffix`: of its match. Returns how many.
    uint32_t proposals(const int32_t* end, uint32_t count, const SuffixMatch& suffix, int32_t suffix_token,
                       Proposal* out) const;
    double reliability(uint32_t kind) const;

    SuffixIndex suffix_;
    SharedSources sources_;
    bool teaches_;
    uint32_t followed_;
    Outcomes outcomes_[kClasses];
    double balance_;  // steps of one token that drafts saved
    uint64_t steps_;  // seen by verified
};

}  // namespace keel
