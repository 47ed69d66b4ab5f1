// Where drafts of a session come from, and how many are worth a step.
//
// Sources each propose the token behind a context: the longest suffix that stood there before (SuffixIndex), what
// followed the last tokens in any session (TokenPool), what was most likely behind the last token (RecycledLogits). How
// often a source is right depends on the length of the match, the order and count of the entry, and on where the
// recycled logits rank it: these make a *class*, and for each class right and wrong proposals are counted, also those
// that were never drafted, as every token drawn answers what each source would have said. A chain takes the most
// reliable proposal at each place; it is cut where what it brings beyond its cost is largest.
//
//     n drafts bring   p1 + p1 p2 + ... + p1..pn   tokens
//     they cost        what the step's sessions would write meanwhile, at the session's recent pace (DraftStep)
//
// Loss is bounded (DraftLedger). All of it is a function of the session's tokens and of the steps it was in, but for
// the pool and the recycled logits, which neighbours change; the text never depends on any of it.
#pragma once
#include "sdk/draft/draft_ledger.h"
#include "sdk/draft/recycled_logits.h"
#include "sdk/draft/suffix_index.h"
#include "sdk/draft/token_pool.h"

namespace keel {

constexpr uint32_t kMaxDrafts = 15;

// Sources shared by the sessions of an engine; null: there is none.
struct SharedSources {
    TokenPool* pool;
    RecycledLogits* recycled;
};

class Drafter {
  public:
    // suffix_tokens: longest text whose suffixes are looked for; 0: none are.
    void place(Arena* arena, uint32_t suffix_tokens, int32_t index) { suffix_.place(arena, suffix_tokens, index); }
    // A text without tokens. `teaches`: what sessions share learns from it.
    void open(const SharedSources& sources, bool teaches);
    // The text is `count` tokens long now, the first ones those of before. `drawn` tells which ones were drawn, a bit
    // each: what sources would have said there is counted.
    void follow(const int32_t* tokens, uint32_t count, const uint8_t* drawn);
    // The text ends at `count` again. Its tokens are still in place.
    void rewind(const int32_t* tokens, uint32_t count);
    // Tokens [from, to) are about to be taken out; those behind them are not learned from again.
    void moved(const int32_t* tokens, uint32_t from, uint32_t to);
    // Writes at most `most` (up to kMaxDrafts) drafts of what follows the text that follow() was told of. Returns how
    // many are worth it.
    uint32_t draft(const int32_t* tokens, const DraftStep& step, uint32_t most, int32_t* drafts);
    // The row of logits from which the token at `position` is drawn. It is kept until follow() has asked what was known
    // there before: at most kMaxDrafts + 1 rows of one step.
    void see_logits(uint32_t position, const float* logits);
    // What became of drafts of a step.
    void verified(const DraftStep& step, uint32_t drafted, uint32_t accepted);

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
    void learn_at(const int32_t* tokens, uint32_t position);

    SuffixIndex suffix_;
    SharedSources sources_;
    bool teaches_;
    uint32_t followed_, taught_;  // tokens of the text; of the first ones nothing is learned
    Outcomes outcomes_[kClasses];
    DraftLedger ledger_;
    struct Row {
        uint32_t position;
        int32_t ids[RecycledLogits::kWidth];
    };
    Row rows_[kMaxDrafts + 1];  // seen and not learned yet, by position
    uint32_t row_count_;
};

}  // namespace keel
