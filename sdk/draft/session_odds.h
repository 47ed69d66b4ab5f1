// How many drafts of another session, or of the session's own low-rank pass, are worth making: each takes a step of
// what drafts, and makes the step that verifies it longer. How often they are right is counted by their place in the
// chain.
//
//     n drafts bring   p1 + p1 p2 + ... + p1..pn                  tokens
//     they cost        catching up + (n - 1) steps of what drafts, and a longer step
//
// Unlike the sources of Drafter what drafts is asked only where it pays, and learned of only then.
#pragma once
#include "sdk/draft/draft_ledger.h"

namespace keel {

class SessionOdds {
  public:
    void open();
    // Drafts worth making, at most `most`. catch_up, each: time of the first draft and of a further one, in steps of
    // one token of the session.
    uint32_t worth(const DraftStep& step, double catch_up, double each, uint32_t most) const;
    // So much time went into drafts.
    void spend(const DraftStep& step, double time) { ledger_.spend(step.tokens_in(time)); }
    // What became of them, or of a step without any.
    void verified(const DraftStep& step, uint32_t drafted, uint32_t accepted);

  private:
    static constexpr uint32_t kPlaces = 4;  // the last one stands for all behind it
    double right_share(uint32_t place) const;

    struct Outcomes {
        uint16_t right, wrong;
    };
    Outcomes outcomes_[kPlaces];
    DraftLedger ledger_;
};

}  // namespace keel
