// A draw as backends are asked for it. What sdk/run/sampler.cpp looks up while it draws is gathered here first.
#include "sdk/run/engine.h"

namespace keel {

static_assert(kMaxDrawBiases == kMaxBias && kMaxForbidden == kMaxExcluded + kMaxEndIds);

// `ids`: [kMaxForbidden]. In the sampler's work memory lie counts by id, and behind them the window.
DrawRequest draw_request(const SamplerParams& p, const SamplerInput& in, uint32_t row, void* work, uint32_t* ids) {
    DrawRequest r = {};
    r.row = row;
    r.temperature = p.temperature;
    r.top_p = p.top_p;
    r.min_p = p.min_p;
    r.typical_p = p.typical_p;
    r.repetition_penalty = p.repetition_penalty;
    r.frequency_penalty = p.frequency_penalty;
    r.presence_penalty = p.presence_penalty;
    r.top_k = p.top_k;
    const uint32_t counter[4] = {in.history_count, 0, 0, 0};
    uint32_t random[4];
    philox4x32(p.seed, counter, random);
    r.uniform = uint64_t{random[1]} << 32 | random[0];
    r.bias_count = p.bias_count;
    r.bias_ids = p.bias_ids;
    r.bias_values = p.bias_values;
    const auto forbid = [&](int32_t id) {
        bool there = static_cast<uint32_t>(id) >= in.vocabulary;
        for (uint32_t i = 0; i < r.forbidden_count && !there; ++i) there = ids[i] == static_cast<uint32_t>(id);
        if (!there) ids[r.forbidden_count++] = static_cast<uint32_t>(id);
    };
    for (uint32_t i = 0; i < p.excluded_count; ++i) forbid(p.excluded_ids[i]);
    for (uint32_t i = 0; i < in.end_count && in.sampled_count < p.min_tokens; ++i) forbid(in.end_ids[i]);
    r.forbidden = ids;
    r.mask = in.mask;
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
