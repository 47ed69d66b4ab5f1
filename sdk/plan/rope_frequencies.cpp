#include "sdk/plan/rope_frequencies.h"

#include "kernels/formats/math_f64.h"

namespace keel {
namespace {

// The pair, counted in fractions, that turns so many times within the trained context; within the pairs there are.
double pair_of_turns(const ModelSpec& s, double turns) {
    constexpr double kTwoPi = 6.283185307179586;
    const double pair = s.rope_dims * kernels::log_f64(s.yarn.original_context / (turns * kTwoPi)) /
                        (2 * kernels::log_f64(s.rope_base)),
                 last = s.rope_dims - 1;
    return pair > 0 ? pair < last ? pair : last : 0;
}

// YaRN (Peng et al., arXiv:2309.00071, section 3.2): how much of a pair's frequency is not interpolated. Pairs that
// turn often within the trained context stay as they were trained, those that never turn once are stretched.
double extrapolated_share(const ModelSpec& s, uint32_t pair) {
    const double first = static_cast<int32_t>(pair_of_turns(s, s.yarn.fast_turns));
    const double slow = pair_of_turns(s, s.yarn.slow_turns);
    const double last = static_cast<int32_t>(slow) + (slow > static_cast<int32_t>(slow) ? 1 : 0);
    const double ramp = (pair - first) / (last - first > 0.001 ? last - first : 0.001);
    return s.yarn.extrapolation * (1 - (ramp > 0 ? ramp < 1 ? ramp : 1 : 0));
}

}  // namespace

double rope_frequency(const ModelSpec& s, bool local, uint32_t pair, double divisor) {
    const double base =
        kernels::exp_f64(-2.0 * pair / s.rope_dims * kernels::log_f64(local ? s.rope_base_local : s.rope_base));
    if (local) return base;
    const double stretched = base / s.rope_linear_factor / divisor;
    if (s.yarn.extrapolation == 0) return stretched;
    const double kept = extrapolated_share(s, pair);
    return stretched * (1 - kept) + base / divisor * kept;
}

}  // namespace keel
