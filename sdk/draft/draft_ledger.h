// What drafts of a session brought and cost so far, and what that leaves for more of them. Costs are in tokens: those
// that the sessions of a step would write meanwhile (DraftStep). Loss is bounded: what drafts cost beyond what they
// brought may be at most kLossShare of the steps so far and a first loss, by the costs given.
#pragma once
#include <stdint.h>

namespace keel {

// Time of a step of n tokens over that of one token. Beyond `count` it goes on as between the last two.
struct StepCosts {
    const double* us;  // [count], of steps of 1, 2, ... tokens
    uint32_t count;    // at least 2

    double operator()(uint32_t tokens) const {
        if (tokens <= count) return us[tokens - 1] / us[0];
        const double last = us[count - 1], before = us[count - 2];
        return (last + (last - before) * (tokens - count)) / us[0];
    }
};

// The step that drafts are for, without them.
struct DraftStep {
    StepCosts costs;
    uint32_t tokens, sessions;  // the session's own among them

    // Tokens that all its sessions would write in so much time, one a step; time in steps of one token.
    double tokens_in(double time) const { return time * sessions / costs(sessions); }
    double cost(uint32_t drafts) const { return tokens_in(costs(tokens + drafts) - costs(tokens)); }
};

class DraftLedger {
  public:
    // first_loss: in steps.
    void open(double first_loss) {
        first_loss_ = first_loss;
        balance_ = spent_ = 0;
        pace_ = kLeastPace;
        steps_ = 0;
    }
    // The most that the next drafts may cost, if they bring nothing.
    double most_cost() const { return balance_ + first_loss_ + kLossShare * static_cast<double>(steps_); }
    // Tokens the session writes lately in the time of one: what time is worth to it.
    double pace() const { return pace_; }
    // On making drafts, before their step.
    void spend(double cost) {
        spent_ += cost;
        balance_ -= cost;
    }
    // A step that drafts made `cost` longer, of which so many were right.
    void step(double cost, uint32_t accepted) {
        balance_ += accepted - cost;
        if (balance_ > kMostBalance) balance_ = kMostBalance;
        pace_ += ((1 + accepted) / (1 + cost + spent_) - pace_) * kPaceWeight;
        if (pace_ < kLeastPace) pace_ = kLeastPace;
        spent_ = 0;
        ++steps_;
    }

  private:
    static constexpr double kLeastPace = 1.2, kPaceWeight = 1.0 / 16, kLossShare = 0.012, kMostBalance = 4;

    double first_loss_, balance_;  // tokens that drafts brought beyond their cost
    double pace_, spent_;          // since the last step
    uint64_t steps_;
};

}  // namespace keel
