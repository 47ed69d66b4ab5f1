#include "sdk/run/sampler.h"

#include <float.h>

#include <initializer_list>

#include "sdk/core/status.h"
#include "sdk/run/sampler_passes.h"

namespace keel {
namespace {

using kernels::ceil_fraction;
using kernels::mass_of;

// ---- order keys: smaller comes first; equal keys mean equal distances, and then the lower id comes first ----

struct ByDistance {
    using Key = uint64_t;
    Key operator()(double distance) const { return std::bit_cast<uint64_t>(distance); }  // monotone for values >= 0
};

struct ByDeviation {
    using Key = u128;
    double mean;
    Key operator()(double distance) const {
        return u128{std::bit_cast<uint64_t>(fabs(distance - mean))} << 64 | std::bit_cast<uint64_t>(distance);
    }
};

inline uint32_t bit_width(uint64_t x) {
    return static_cast<uint32_t>(std::bit_width(x));
}
inline uint32_t bit_width(u128 x) {
    return x >> 64 ? 64 + bit_width(static_cast<uint64_t>(x >> 64)) : bit_width(static_cast<uint64_t>(x));
}

// ---- edges of buckets ----

// Where bucket `number` begins, of buckets with ends, but for rounding.
double begin_of(const kernels::DistanceBuckets& b, uint32_t number) {
    constexpr uint32_t kMain = kernels::kEndBuckets, kFar = kLastBucket - kernels::kEndBuckets;
    return number < kMain  ? number / b.per_near
           : number < kFar ? b.first + (number - kMain) / b.per_main
                           : b.end + (number - kFar) / b.per_far;
}
// No distance in the bucket is below near_edge or above far_edge.
inline double edge_error(const Candidates& c) {
    return (c.buckets.end + 64) * 1e-14;
}
inline double near_edge(const Candidates& c, uint32_t bucket) {
    const double edge = begin_of(c.buckets, bucket) - edge_error(c);
    return edge < 0 ? 0 : edge;
}
inline double far_edge(const Candidates& c, uint32_t bucket) {
    return bucket >= kLastBucket ? INFINITY : begin_of(c.buckets, bucket + 1) + edge_error(c);
}

// Calls visit(position, distance, weight) for those of the `count` positions in c.gathered() that are wanted(position,
// distance).
template <class Wanted, class Visit>
void visit_weights(const Candidates& c, Weight weight, uint32_t count, Wanted wanted, Visit visit) {
    for (uint32_t i = 0; i < count;) {
        double value[kBlock], distance[kBlock];
        uint64_t mass[kBlock];
        uint32_t position[kBlock], size = 0;
        uint16_t bucket[kBlock];
        for (; i < count && size < kBlock; ++i) {
            position[size] = c.gathered()[i];
            value[size] = c.value(c.id(position[size]));
            distance[size] = (c.largest - value[size]) / c.temperature;
            size += wanted(position[size], distance[size]);
        }
        for (uint32_t j = size; j % kernels::kMassGroup; ++j) value[j] = -INFINITY;
        if (weight == Weight::kMass)
            c.kernel->exp_masses({value, size, c.largest, c.temperature, &c.buckets, mass, bucket, false, nullptr});
        for (uint32_t j = 0; j < size; ++j) visit(position[j], distance[j], weight == Weight::kMass ? mass[j] : 1);
    }
}

struct Cut {
    uint32_t position;  // of the candidate at which the target is reached
    u128 reached;       // the weight up to it
};

// Of the `count` candidates in c.gathered(), which weigh at least `target` > 0. Those of equal distance are there in
// the order of their ids.
template <class Order>
Cut find_cut(const Candidates& c, Weight weight, Order key, uint32_t count, u128 target) {
    using Key = typename Order::Key;
    const uint32_t* const positions = c.gathered();
    // Undecided are those with keys in [low, high]; `before` is the weight of those below.
    Key low = ~Key{0}, high = 0;
    for (uint32_t i = 0; i < count; ++i) {
        const Key k = key(c.distance(positions[i]));
        low = k < low ? k : low;
        high = k > high ? k : high;
    }
    u128 before = 0;
    while (low != high) {
        const Key first = low, last = high;
        const uint32_t width = bit_width(static_cast<Key>(last - first)), shift = width > 9 ? width - 9 : 0;
        const auto undecided = [=](uint32_t, double distance) {
            return key(distance) >= first && key(distance) <= last;
        };
        const auto bucket = [=](double distance) { return static_cast<uint32_t>((key(distance) - first) >> shift); };
        memset(c.round, 0, kHistogramBytes);
        visit_weights(c, weight, count, undecided,
                      [&](uint32_t, double distance, uint64_t w) { c.round[bucket(distance)] += w; });
        uint32_t cut = 0;
        for (; before + c.round[cut] < target; ++cut) before += c.round[cut];
        low = ~Key{0}, high = 0;
        for (uint32_t i = 0; i < count; ++i) {
            const double distance = c.distance(positions[i]);
            if (!undecided(0, distance) || bucket(distance) != cut) continue;
            low = key(distance) < low ? key(distance) : low;
            high = key(distance) > high ? key(distance) : high;
        }
    }
    // The undecided are equal in key and so in distance and weight: lowest ids first.
    Cut result = {0, before};
    uint64_t each = 0;
    for (uint32_t i = 0; result.reached < target; ++i) {
        const double distance = c.distance(positions[i]);
        if (key(distance) != low) continue;
        if (!each) each = weight == Weight::kMass ? mass_of(distance) : 1;
        result.reached += each;
        result.position = positions[i];
    }
    return result;
}

// Of the `count` candidates in c.gathered(), those that follow `last` in the order are candidates no more.
template <class Order>
void drop_behind(Candidates& c, Order key, uint32_t count, uint32_t last) {
    const auto cut = key(c.distance(last));
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t position = c.gathered()[i];
        const auto k = key(c.distance(position));
        if (k > cut || (k == cut && position > last)) c.bucket[position] = kNoBucket;
    }
}

// As find_cut, of the candidates of a bucket that are all at the same distance: they are counted.
Cut cut_equal(const Candidates& c, Weight weight, uint32_t bucket, double distance, u128 target) {
    const uint64_t each = weight == Weight::kMass ? mass_of(distance) : 1;
    // The target over what each weighs, rounded up.
    auto needed = static_cast<uint32_t>(static_cast<double>(target) / static_cast<double>(each));
    while (u128{needed} * each < target) ++needed;
    while (needed > 1 && u128{needed - 1} * each >= target) --needed;
    return {nth_in_bucket(c, bucket, needed), u128{needed} * each};
}

// The cut among the candidates of a bucket. Those behind it are dropped.
Cut cut_bucket(Candidates& c, Weight weight, uint32_t bucket, u128 target) {
    uint32_t one;
    if (all_equal(c, bucket, &one)) {
        const Cut cut = cut_equal(c, weight, bucket, c.distance(one), target);
        drop_equal(c, bucket, cut.position + 1);
        return cut;
    }
    const uint32_t count = gather(c, bucket, bucket);
    const Cut cut = find_cut(c, weight, ByDistance{}, count, target);
    drop_behind(c, ByDistance{}, count, cut.position);
    return cut;
}

// The end of the smallest prefix in candidate order that weighs at least `target`, a number in 1..total. Those behind
// it are dropped, or their buckets weigh nothing any more.
Cut cut_prefix(Candidates& c, Weight weight, u128 target) {
    uint32_t bucket = 0;
    u128 before = 0;
    for (; before + c.weight[bucket] < target; ++bucket) before += c.weight[bucket];
    Cut cut = cut_bucket(c, weight, bucket, target - before);
    c.weight[bucket] = cut.reached;
    for (uint32_t b = bucket + 1; b < kBuckets; ++b) c.weight[b] = 0;
    cut.reached += before;
    return cut;
}

// ---- adjusting ----

void apply_mask(const uint8_t* mask, uint32_t vocabulary, double* x) {
    for (uint32_t begin = 0; begin < vocabulary; begin += 8) {
        const uint32_t byte = mask[begin / 8];
        if (byte == 0xff) continue;
        for (uint32_t i = begin; i < vocabulary && i < begin + 8; ++i)
            if (!(byte >> (i - begin) & 1)) x[i] = -INFINITY;
    }
}

// Counts the window's ids in `counts` (vocabulary entries, of which only the window's own are touched), then adjusts
// each distinct one once. O(window). KEEL_E_ARGUMENT for an id outside the vocabulary.
keel_status apply_penalties(const SamplerParams& p, const SamplerInput& in, uint32_t* counts, double* x) {
    if (p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0) return KEEL_OK;
    const uint32_t window = p.penalty_window < in.history_count ? p.penalty_window : in.history_count;
    const int32_t* const recent = in.history + (in.history_count - window);
    for (uint32_t i = 0; i < window; ++i) {
        if (static_cast<uint32_t>(recent[i]) >= in.vocabulary) return KEEL_E_ARGUMENT;
        counts[recent[i]] = 0;
    }
    for (uint32_t i = 0; i < window; ++i) ++counts[recent[i]];
    const double repetition = p.repetition_penalty, frequency = p.frequency_penalty, presence = p.presence_penalty;
    for (uint32_t i = 0; i < window; ++i) {
        uint32_t& count = counts[recent[i]];
        if (count == 0) continue;
        double& v = x[recent[i]];
        v = v > 0 ? v / repetition : v * repetition;
        v -= frequency * count + presence;
        count = 0;
    }
    return KEEL_OK;
}

// ---- filters whose targets are not shares of the total in candidate order ----

// By the deviation from the mean. The weights of the buckets say between which two deviations the target is reached;
// what is nearer stays and what is farther goes, bucket by bucket, and the few between are looked at.
void keep_typical(Candidates& c, u128 target, double mean) {
    const auto nearest = [&](uint32_t b) {
        const double left = mean - far_edge(c, b), right = near_edge(c, b) - mean;
        return left > 0 ? left : right > 0 ? right : 0;
    };
    const auto farthest = [&](uint32_t b) {
        const double left = fabs(near_edge(c, b) - mean), right = fabs(far_edge(c, b) - mean);
        return left > right ? left : right;
    };
    // The deviation within which buckets that lie there, as `deviation` says, weigh enough.
    const auto reach = [&](auto deviation) {
        int32_t left = static_cast<int32_t>(bucket_of(c, mean)), right = left + 1;
        double result = 0;
        for (u128 sum = 0; sum < target;) {
            const double l = left >= 0 ? deviation(static_cast<uint32_t>(left)) : INFINITY;
            const double r =
                right <= static_cast<int32_t>(kLastBucket) ? deviation(static_cast<uint32_t>(right)) : INFINITY;
            const bool to_left = left >= 0 && l <= r;
            sum += c.weight[to_left ? left-- : right++];
            result = (to_left ? l : r) > result ? (to_left ? l : r) : result;
        }
        return result;
    };
    const double least = reach(nearest), most = reach(farthest);
    uint32_t between = 0, last = 0;
    for (uint32_t b = 0; b <= kLastBucket; ++b) {
        if (farthest(b) < least) {
            target -= c.weight[b];
        } else if (nearest(b) > most) {
            c.weight[b] = 0;
        } else if (c.weight[b]) {
            ++between;
            last = b;
        }
    }
    uint32_t one;
    if (between == 1 && all_equal(c, last, &one)) {
        c.weight[last] = cut_bucket(c, Weight::kMass, last, target).reached;
        return;
    }
    uint32_t count = 0;
    for (uint32_t b = 0; b <= kLastBucket; ++b) {
        if (!c.weight[b] || farthest(b) < least) continue;
        c.weight[b] = 0;
        count = gather(c, b, b, count);
    }
    const ByDeviation key = {mean};
    drop_behind(c, key, count, find_cut(c, Weight::kMass, key, count, target).position);
    visit_weights(
        c, Weight::kMass, count, [&](uint32_t position, double) { return c.bucket[position] != kNoBucket; },
        [&](uint32_t position, double, uint64_t mass) { c.weight[c.bucket[position]] += mass; });
}

// The least distance of a candidate that the typical filter left.
double nearest_left(Candidates& c) {
    uint32_t bucket = 0, one;
    while (!c.weight[bucket]) ++bucket;
    if (all_equal(c, bucket, &one)) return c.distance(one);
    double nearest = INFINITY;
    const uint32_t count = gather(c, bucket, bucket);
    for (uint32_t i = 0; i < count; ++i) {
        const double distance = c.distance(c.gathered()[i]);
        nearest = distance < nearest ? distance : nearest;
    }
    return nearest;
}

// ---- the head: most tokens are too improbable for top-p to keep them, and only their total mass has a say ----
//
// Tokens up to some distance, the reach, become candidates. The mass of all others, the tail, is estimated in f32, with
// a bound of its error. Where the targets of the smallest and of the largest possible total lead to the same candidate,
// the exact total would lead there too; where not, or where the head holds too little, more has to be looked at.

// Top-p, of the total mass of all tokens. False when the head does not tell.
bool cut_head(Candidates& c, double tail, float reach, float top_p) {
    // A mass is rounded to a whole number, by half a unit at most.
    const double units = tail * 0x1p52;
    const uint32_t n = c.vocabulary;
    const u128 head = weigh(c, Weight::kMass), least = static_cast<u128>(units * (1 - kTailError)),
               most = static_cast<u128>(units * (1 + kTailError)) + n;
    const u128 smallest_target = ceil_fraction(top_p, head + (least > n ? least - n : 0)),
               largest_target = ceil_fraction(top_p, head + most);
    if (largest_target > head) return false;
    const Cut cut = cut_prefix(c, Weight::kMass, smallest_target);
    // Nearer than any token outside of the head, whose distances are known to f32 only.
    return cut.reached >= largest_target && c.distance(cut.position) < 0.999 * static_cast<double>(reach);
}

// False for NaN.
bool in_range(float v, float low, float high) {
    return v >= low && v <= high;
}

}  // namespace

keel_status sampler_check(const SamplerParams& p, uint32_t vocabulary, keel_error* error) {
    const struct {
        const char* name;
        float value, low, high;
        const char* range;
    } numbers[] = {
        {"temperature", p.temperature, 0, FLT_MAX, "not a finite number of at least 0"},
        {"top_p", p.top_p, 0, 1, "not within 0 and 1"},
        {"min_p", p.min_p, 0, 1, "not within 0 and 1"},
        {"typical_p", p.typical_p, 0, 1, "not within 0 and 1"},
        {"repetition_penalty", p.repetition_penalty, FLT_TRUE_MIN, FLT_MAX, "not a finite number above 0"},
        {"frequency_penalty", p.frequency_penalty, -FLT_MAX, FLT_MAX, "not a finite number"},
        {"presence_penalty", p.presence_penalty, -FLT_MAX, FLT_MAX, "not a finite number"},
    };
    for (const auto& n : numbers)
        if (!in_range(n.value, n.low, n.high)) return fail(error, KEEL_E_ARGUMENT, 0, n.name, n.range);
    if (p.bias_count > kMaxBias) return fail_range(error, "bias_count", p.bias_count, 0, kMaxBias);
    if (p.excluded_count > kMaxExcluded) return fail_range(error, "excluded_count", p.excluded_count, 0, kMaxExcluded);
    const int64_t last_id = int64_t{vocabulary} - 1;
    for (uint32_t i = 0; i < p.bias_count; ++i) {
        if (static_cast<uint32_t>(p.bias_ids[i]) >= vocabulary)
            return fail_range(error, "bias_ids", p.bias_ids[i], 0, last_id);
        if (!(p.bias_values[i] < INFINITY))
            return fail(error, KEEL_E_ARGUMENT, 0, "bias_values", "one is not a number, or +infinity");
    }
    for (uint32_t i = 0; i < p.excluded_count; ++i)
        if (static_cast<uint32_t>(p.excluded_ids[i]) >= vocabulary)
            return fail_range(error, "excluded_ids", p.excluded_ids[i], 0, last_id);
    return KEEL_OK;
}

keel_status sampler_set(const keel_sampling* source, uint32_t vocabulary, SamplerParams* out, keel_error* error) {
    keel_sampling s = {};
    if (source) KEEL_TRY(read_versioned(source, &s));
    if (s.bias_count > kMaxBias) return fail_range(error, "bias_count", s.bias_count, 0, kMaxBias);
    if (s.excluded_count > kMaxExcluded) return fail_range(error, "excluded_count", s.excluded_count, 0, kMaxExcluded);
    if (s.bias_count && (!s.bias_ids || !s.bias_values))
        return fail(error, KEEL_E_ARGUMENT, 0, s.bias_ids ? "bias_values" : "bias_ids",
                    "null, though bias_count is not 0");
    if (s.excluded_count && !s.excluded_ids)
        return fail(error, KEEL_E_ARGUMENT, 0, "excluded_ids", "null, though excluded_count is not 0");
    SamplerParams p;
    memset(&p, 0, sizeof p);  // saved byte by byte
    p.temperature = s.temperature;
    p.top_p = s.top_p == 0 ? 1 : s.top_p;
    p.min_p = s.min_p;
    p.typical_p = s.typical_p == 0 ? 1 : s.typical_p;
    p.repetition_penalty = s.repetition_penalty == 0 ? 1 : s.repetition_penalty;
    p.frequency_penalty = s.frequency_penalty;
    p.presence_penalty = s.presence_penalty;
    p.top_k = s.top_k;
    p.penalty_window = s.penalty_window == 0 ? 64 : s.penalty_window;
    p.min_tokens = s.min_tokens;
    p.seed = s.seed;
    p.bias_count = s.bias_count;
    p.excluded_count = s.excluded_count;
    for (uint32_t i = 0; i < s.bias_count; ++i) p.bias_ids[i] = s.bias_ids[i], p.bias_values[i] = s.bias_values[i];
    for (uint32_t i = 0; i < s.excluded_count; ++i) p.excluded_ids[i] = s.excluded_ids[i];
    KEEL_TRY(sampler_check(p, vocabulary, error));
    *out = p;
    return KEEL_OK;
}

uint64_t sampler_work_bytes(uint32_t vocabulary) {
    return kHistogramBytes + kPartialBytes + round_up(uint64_t{vocabulary} * 8, 64) +
           round_up(uint64_t{vocabulary} * 4, 64) + round_up(uint64_t{vocabulary} * 2, 2 * kLine);
}

namespace {

// Values after bias, masks and penalties, where there are any, and the largest.
keel_status adjust(const SamplerParams& p, const SamplerInput& in, Candidates& c) {
    if (!find_largest(in.logits, in.vocabulary, &c.largest)) return KEEL_E_NUMERIC;
    const bool suppressed = in.sampled_count < p.min_tokens && in.end_count;
    const bool penalties = p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
    if (!p.bias_count && !p.excluded_count && !suppressed && !in.mask && !penalties) return KEEL_OK;
    adjust_values(c);
    double* const x = c.adjusted;
    for (uint32_t i = 0; i < p.bias_count; ++i) x[p.bias_ids[i]] += static_cast<double>(p.bias_values[i]);
    for (uint32_t i = 0; i < p.excluded_count; ++i) x[p.excluded_ids[i]] = -INFINITY;
    for (uint32_t i = 0; suppressed && i < in.end_count; ++i)
        if (static_cast<uint32_t>(in.end_ids[i]) < in.vocabulary) x[in.end_ids[i]] = -INFINITY;
    if (in.mask) apply_mask(in.mask, in.vocabulary, x);
    if (penalties) KEEL_TRY(apply_penalties(p, in, c.list, x));
    c.largest = find_largest(x, in.vocabulary);
    return KEEL_OK;
}

void keep_top_k(Candidates& c, uint32_t k) {
    if (weigh(c, Weight::kCount) <= k) return;
    const uint32_t last = c.bucket[cut_prefix(c, Weight::kCount, k).position];
    if (k > c.vocabulary / 2) {  // a list would leave no room for what is gathered
        forbid_behind(c, last);
        return;
    }
    const uint32_t count = gather(c, 0, last);
    for (uint32_t i = 0; i < count; ++i) c.list[i] = c.id(c.gathered()[i]);
    c.listed = count;
}

}  // namespace

keel_status sampler_draw(const SamplerParams& p, const SamplerInput& in, void* work, int32_t* token) {
    Candidates c(work, in.logits, in.vocabulary, *in.kernel);
    const uint32_t n = in.vocabulary;
    KEEL_TRY(adjust(p, in, c));
    if (c.largest == -INFINITY) return KEEL_E_NUMERIC;
    if (p.temperature == 0) {
        *token = static_cast<int32_t>(first_largest(c));
        return KEEL_OK;
    }

    c.temperature = p.temperature;
    const bool top_k = p.top_k && p.top_k < n, typical = p.typical_p < 1, top_p = p.top_p < 1;
    // Not worth it where there are few, or where f32 does not hold what take_head divides by.
    const bool many = n >= 4 * kGroups && p.temperature >= 1e-30f;
    if (top_k) {
        if (many && p.top_k <= kGroups / 4) take_largest(c, p.top_k);
        keep_top_k(c, p.top_k);
    }
    bool top_p_done = false;
    if (top_p && !top_k && !typical && many)
        for (const float reach : {10.f, 24.f}) {
            double tail;
            if (!take_head(c, reach, &tail)) break;
            top_p_done = cut_head(c, tail, reach, p.top_p);
            if (top_p_done) break;
            c.listed = 0;
        }
    if (!top_p_done && (typical || top_p)) {
        u128 weighted = 0;
        const u128 total = weigh(c, Weight::kMass, typical ? &weighted : nullptr);
        if (typical)
            keep_typical(c, ceil_fraction(p.typical_p, total),
                         static_cast<double>(weighted) / static_cast<double>(total));
        if (top_p) cut_prefix(c, Weight::kMass, ceil_fraction(p.top_p, total_weight(c)));
    }
    uint64_t least_mass = 1;
    if (p.min_p > 0)
        least_mass = static_cast<uint64_t>(ceil_fraction(p.min_p, mass_of(typical ? nearest_left(c) : 0.0)));
    *token = static_cast<int32_t>(race(c, typical || top_p, {p.seed, in.history_count, least_mass}));
    return KEEL_OK;
}

keel_status top_logprobs(const kernels::KernelSet& kernel, const float* logits, uint32_t vocabulary, uint32_t n,
                         void* work, int32_t* ids, float* logprobs) {
    if (n > kMaxLogprobs || n > vocabulary) return KEEL_E_ARGUMENT;
    if (n == 0) return KEEL_OK;
    Candidates c(work, logits, vocabulary, kernel);
    if (!find_largest(logits, vocabulary, &c.largest)) return KEEL_E_NUMERIC;
    if (c.largest == -INFINITY) return KEEL_E_NUMERIC;
    const double log_total = kernels::log_f64(static_cast<double>(weigh(c, Weight::kMass)) * 0x1p-52);
    const u128 finite = weigh(c, Weight::kCount);
    const uint32_t last = cut_prefix(c, Weight::kCount, n < finite ? n : finite).position;
    uint32_t count = gather(c, 0, c.bucket[last]);
    for (uint32_t id = 0; count < n; ++id)
        if (logits[id] == -INFINITY) c.list[count++] = id;
    for (uint32_t i = 0; i < n; ++i) {  // insertion sort by distance; ids are ascending, so a stable one orders ties
        const uint32_t id = c.list[i];
        uint32_t j = i;
        for (; j > 0 && logits[c.list[j - 1]] < logits[id]; --j) c.list[j] = c.list[j - 1];
        c.list[j] = id;
    }
    for (uint32_t i = 0; i < n; ++i) {
        ids[i] = static_cast<int32_t>(c.list[i]);
        logprobs[i] = static_cast<float>(-c.distance(c.list[i]) - log_total);
    }
    return KEEL_OK;
}

}  // namespace keel
