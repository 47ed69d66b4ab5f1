// Where drafts of a session come from, and how many are worth a step.
//
// Sources each propose the token behind a context: the longest suffix that stood there before (SuffixIndex), what
// followed the last tokens in any session (TokenPool), what was most likely behind the last token, by rank
// (RecycledLogits). How often a source is right depends on the length of the match, on the order and count of the
// entry, or on the rank: these make a *class*, and for each class right and wrong proposals are counted, also those
// that were never drafted, as every token drawn answers what each source would have said. Ranks are counted apart where
// another source has a token of its own: of them only counts how often they are right when that one is not.
//
// Drafts are a tree. It grows from the end of the text, each time by the proposal that is reached most often:
//
//     text ──> 0 .60 ──> 1 .45 ──> 3 .20        each with the share of steps that reach it: that of the one in front
//         └──> 2 .25                            times how often proposals of its class are right
//
//     n drafts bring   the sum of their shares                      tokens
//     they cost        what the step's sessions would write meanwhile, at the session's recent pace (DraftStep)
//
// and it ends where what it brings beyond its cost is largest. A place has more than one draft only by ranks, and only
// where a longer step costs next to nothing, as on a GPU: on a CPU trees are chains.
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
constexpr uint8_t kTextEnd = 0xff;  // as a draft's parent: the last token of the text

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
    // Writes at most `most` (up to kMaxDrafts) drafts of what follows the text that follow() was told of, and the
    // number of the draft in front of each, or kTextEnd: parents come first. parents null: each follows the one before
    // it. Returns how many are worth it.
    uint32_t draft(const int32_t* tokens, const DraftStep& step, uint32_t most, int32_t* drafts, uint8_t* parents);
    // The row of logits from which the token at `position` is drawn, one of a step. It is kept until follow() has asked
    // what was known there before.
    void see_logits(uint32_t position, const float* logits);
    // The same of the row's largest, [RecycledLogits::kWidth].
    void see_largest(uint32_t position, const int32_t* ids);
    // What became of drafts of a step.
    void verified(const DraftStep& step, uint32_t drafted, uint32_t accepted);

    uint32_t followed() const { return followed_; }

    // Classes: suffix lengths; orders of the pool times counts; ranks where no other source has a token, and ranks
    // behind another one's.
    static constexpr uint32_t kSuffixClasses = 8, kPoolCounts = 4, kRanks = RecycledLogits::kWidth;
    static constexpr uint32_t kPoolClasses = TokenPool::kOrderCount * kPoolCounts;
    static constexpr uint32_t kFirstRank = kSuffixClasses + kPoolClasses, kClasses = kFirstRank + 2 * kRanks;

  private:
    struct Proposal {
        int32_t token;
        uint32_t kind;  // class
    };
    struct Outcomes {
        uint16_t right, wrong;
    };
    static constexpr uint32_t kMostProposals = 2 + kRanks;
    // Proposals of all sources behind the tokens before `end`; `suffix`: of its match. Returns how many; the first
    // `*firsts` are of other sources than ranks, of which the most reliable is *best; ranks that name its token are
    // left out.
    uint32_t proposals(const int32_t* end, uint32_t count, const SuffixMatch& suffix, int32_t suffix_token,
                       Proposal* out, uint32_t* firsts, uint32_t* best) const;
    double reliability(uint32_t kind) const;
    void learn_at(const int32_t* tokens, uint32_t position);

    SuffixIndex suffix_;
    SharedSources sources_;
    bool teaches_;
    uint32_t followed_, taught_;  // tokens of the text; of the first ones nothing is learned
    Outcomes outcomes_[kClasses];
    DraftLedger ledger_;
    uint32_t seen_position_;  // of a row seen and not learned yet, 0: none
    int32_t seen_[RecycledLogits::kWidth];
};

}  // namespace keel
