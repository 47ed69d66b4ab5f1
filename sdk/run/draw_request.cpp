// A draw as backends are asked for it. What sdk/run/sampler.cpp looks up while it draws is gathered here first.
#include "sdk/run/engine.h"

namespace keel {

static_assert(kMaxForbidden == kMaxExcluded + kMaxEndIds);

// `ids`: [kMaxForbidden]. In the sampler's work memory lie counts by id, and behind them the window.
DrawRequest draw_request(const SamplerParams& p, const SamplerInput& in, uint32_t row, void* work, uint32_t* ids) {
    DrawRequest r = {p, row, 0, 0, in.history_count, ids, nullptr, in.mask};
    const auto forbid = [&](int32_t id) {
        bool there = static_cast<uint32_t>(id) >= in.vocabulary;
        for (uint32_t i = 0; i < r.forbidden_count && !there; ++i) there = ids[i] == static_cast<uint32_t>(id);
        if (!there) ids[r.forbidden_count++] = static_cast<uint32_t>(id);
    };
    for (uint32_t i = 0; i < p.excluded_count; ++i) forbid(p.excluded_ids[i]);
    for (uint32_t i = 0; i < in.end_count && in.sampled_count < p.min_tokens; ++i) forbid(in.end_ids[i]);
    if (p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0) return r;
    const uint32_t size = p.penalty_window < in.history_count ? p.penalty_window : in.history_count;
    const int32_t* const recent = in.history + (in.history_count - size);
    uint32_t* const counts = static_cast<uint32_t*>(work);
    TokenUses* const window = reinterpret_cast<TokenUses*>(counts + (in.vocabulary + 1) / 2 * 2);
    for (uint32_t i = 0; i < size; ++i) counts[recent[i]] = 0;
    for (uint32_t i = 0; i < size; ++i) ++counts[recent[i]];
    for (uint32_t i = 0; i < size; ++i) {
        uint32_t& count = counts[recent[i]];
        if (count) window[r.window_count++] = {static_cast<uint32_t>(recent[i]), count};
        count = 0;
    }
    r.window = window;
    return r;
}

}  // namespace keel
