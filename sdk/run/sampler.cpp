#include "sdk/run/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <bit>

#include "sdk/core/math_f64.h"
#include "sdk/core/status.h"

namespace keel {
namespace {

// Every filter and the draw itself ask one question: in a given order, where does the running weight first reach a
// target? Masses are integers (NUMERICS section 6), so sums may be taken in any order, and no candidate list is ever
// sorted: select_prefix() histograms the order's keys, finds the bucket in which the target is reached, and looks
// closer at that bucket only. A 64-bit key is decided after eight rounds at most, whatever the logits are; usually it
// takes two or three.
//
// Work memory:
//     | u128 histogram[1024] | f64 distance[vocabulary] | u32 ids[vocabulary] |      each part rounded up to 64 bytes
// distance holds the adjusted logits first. ids holds the penalty counts first. A filter compacts both in place and
// keeps ids ascending, which settles ties.
__extension__ using u128 = unsigned __int128;
constexpr uint32_t kBuckets = 1024;
constexpr uint32_t kBlock = 256;  // candidates whose masses are computed at once; 256 masses fit a u64 sum

constexpr uint64_t round64(uint64_t bytes) {
    return (bytes + 63) & ~uint64_t{63};
}
constexpr uint64_t kHistogramBytes = kBuckets * sizeof(u128);
static_assert(kHistogramBytes % 64 == 0);

struct Candidates {
    u128* histogram;
    double* distance;
    uint32_t* ids;
    uint32_t count;

    Candidates(void* work, uint32_t vocabulary)
        : histogram(static_cast<u128*>(work)),
          distance(reinterpret_cast<double*>(static_cast<uint8_t*>(work) + kHistogramBytes)),
          ids(reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(distance) + round64(uint64_t{vocabulary} * 8))),
          count(vocabulary) {}
};

// rint(x * 2^52) for 0 <= x <= 1: the addition rounds to a multiple of 2^-52.
inline uint64_t fixed52(double x) {
    return std::bit_cast<uint64_t>(x + 1.0) - std::bit_cast<uint64_t>(1.0);
}
// Beyond a distance of 64 a mass, and the mass times the distance, are 0.
inline double clamp64(double distance) {
    return distance < 64.0 ? distance : 64.0;
}
inline uint64_t mass_of(double distance) {
    return fixed52(exp_f64(-clamp64(distance)));
}

// ceil(fraction * total) without rounding, at least 1; 0 < fraction <= 1, total < 2^84.
u128 ceil_fraction(float fraction, u128 total) {
    const uint32_t bits = std::bit_cast<uint32_t>(fraction);
    const uint32_t mantissa = (bits & 0x7fffff) | 0x800000;
    const uint32_t shift = 150 - (bits >> 23);  // fraction = mantissa * 2^-shift
    if (shift > 126) return 1;                  // total * mantissa < 2^108; subnormal fractions end here, too
    const u128 target = (total * mantissa + ((u128{1} << shift) - 1)) >> shift;
    return target ? target : 1;
}

// ---- order keys: smaller comes first; equal keys mean equal distances, and then the lower id comes first ----

struct ByDistance {
    using Key = uint64_t;
    Key operator()(double distance) const { return std::bit_cast<uint64_t>(distance); }  // monotone for values >= 0
    static uint64_t leading(Key key) { return key; }
};

struct ByDeviation {
    using Key = u128;
    double mean;
    Key operator()(double distance) const {
        return u128{std::bit_cast<uint64_t>(fabs(distance - mean))} << 64 | std::bit_cast<uint64_t>(distance);
    }
    static uint64_t leading(Key key) { return static_cast<uint64_t>(key >> 64); }
};

inline uint32_t bit_width(uint64_t x) {
    return static_cast<uint32_t>(std::bit_width(x));
}
inline uint32_t bit_width(u128 x) {
    return x >> 64 ? 64 + bit_width(static_cast<uint64_t>(x >> 64)) : bit_width(static_cast<uint64_t>(x));
}

// Buckets of the first round: 64 to an octave from 2^-8 to 2^8, which is where distances are; the rest goes to both
// ends.
inline uint32_t first_bucket(uint64_t key) {
    constexpr uint64_t kBase = std::bit_cast<uint64_t>(0x1p-8);
    constexpr uint32_t kShift = 52 - 6;
    const uint64_t bucket = key < kBase ? 0 : (key - kBase) >> kShift;
    return static_cast<uint32_t>(bucket < kBuckets ? bucket : kBuckets - 1);
}

enum class Weight { kCount, kMass };
enum class Keep { kPrefix, kLastOnly };

// Keeps the smallest prefix, in the order of `key`, whose weight is at least target(total weight of all candidates), a
// number in 1..total. Keep::kLastOnly keeps the last member of that prefix alone.
template <Weight weight, Keep keep, class Order, class Target>
void select_prefix(Candidates& c, Order key, Target target) {
    using Key = typename Order::Key;
    u128* const histogram = c.histogram;
    const auto weigh = [](double distance) -> uint64_t { return weight == Weight::kMass ? mass_of(distance) : 1; };

    memset(histogram, 0, kHistogramBytes);
    for (uint32_t begin = 0; begin < c.count; begin += kBlock) {
        const uint32_t n = c.count - begin < kBlock ? c.count - begin : kBlock;
        const double* distance = c.distance + begin;
        uint64_t weights[kBlock];
        for (uint32_t i = 0; i < n; ++i) weights[i] = weigh(distance[i]);
        for (uint32_t i = 0; i < n; ++i) histogram[first_bucket(Order::leading(key(distance[i])))] += weights[i];
    }
    u128 wanted = 0;  // weight still to be found among the undecided candidates
    for (uint32_t b = 0; b < kBuckets; ++b) wanted += histogram[b];
    wanted = target(wanted);

    // A round ends with the keys of the undecided candidates in [low, high]; what is kept already lies below low, what
    // lay above high is gone.
    Key low = 0, high = 0;
    // The loop over the buckets ends: the target is at most the total.
    const auto end_round = [&](auto bucket_of) {
        uint32_t cut = 0;
        for (; histogram[cut] < wanted; ++cut) wanted -= histogram[cut];
        const Key round_low = low;
        low = ~Key{0}, high = 0;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < c.count; ++i) {
            const double distance = c.distance[i];
            const Key k = key(distance);
            const bool undecided = k >= round_low;
            const uint32_t bucket = undecided ? bucket_of(k) : 0;
            if (undecided && bucket == cut) {
                low = k < low ? k : low;
                high = k > high ? k : high;
            } else if (keep == Keep::kLastOnly || (undecided && bucket > cut)) {
                continue;
            }
            c.distance[kept] = distance;
            c.ids[kept++] = c.ids[i];
        }
        c.count = kept;
    };

    end_round([](Key k) { return first_bucket(Order::leading(k)); });
    while (low != high) {
        const uint32_t width = bit_width(static_cast<Key>(high - low)), shift = width > 10 ? width - 10 : 0;
        const Key base = low;
        const auto bucket_of = [=](Key k) { return static_cast<uint32_t>((k - base) >> shift); };
        memset(histogram, 0, kHistogramBytes);
        for (uint32_t i = 0; i < c.count; ++i) {
            const Key k = key(c.distance[i]);
            if (k >= low) histogram[bucket_of(k)] += weigh(c.distance[i]);
        }
        end_round(bucket_of);
    }

    // The undecided are equal in key and so in distance and weight: lowest ids first.
    uint32_t kept = 0;
    uint64_t weight_of_each = 0;
    bool weighed = false;
    for (uint32_t i = 0; i < c.count; ++i) {
        const double distance = c.distance[i];
        if (key(distance) == low) {
            if (wanted == 0) continue;
            if (!weighed) weight_of_each = weigh(distance), weighed = true;
            wanted = wanted > weight_of_each ? wanted - weight_of_each : 0;
            if (keep == Keep::kLastOnly && wanted) continue;
        }
        c.distance[kept] = distance;
        c.ids[kept++] = c.ids[i];
    }
    c.count = kept;
}

// ---- adjusting ----

// Widens the logits. False when one is NaN or +inf.
bool widen(const float* logits, uint32_t n, double* x) {
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n; ++i) {
        x[i] = static_cast<double>(logits[i]);
        bad |= !(logits[i] < INFINITY);
    }
    return !bad;
}

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

struct Largest {
    double value;
    uint32_t id;  // the lowest that has it
};
Largest find_largest(const double* x, uint32_t n) {
    constexpr uint32_t kLanes = 8;
    Largest best = {-INFINITY, 0};
    uint32_t best_begin = 0;
    for (uint32_t begin = 0; begin < n; begin += kBlock) {
        const uint32_t end = n - begin < kBlock ? n : begin + kBlock;
        double lane[kLanes];
        for (double& v : lane) v = -INFINITY;
        uint32_t i = begin;
        for (; i + kLanes <= end; i += kLanes)
            for (uint32_t l = 0; l < kLanes; ++l) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
        for (; i < end; ++i) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
        double largest = lane[0];
        for (double v : lane) largest = v > largest ? v : largest;
        if (largest > best.value) best.value = largest, best_begin = begin;
    }
    for (best.id = best_begin; best.id < n && x[best.id] != best.value;) ++best.id;
    return best;
}

// ---- filters that are not prefixes of the candidate order ----

void keep_typical(Candidates& c, float typical_p) {
    u128 total = 0, weighted = 0;
    for (uint32_t begin = 0; begin < c.count; begin += kBlock) {
        const uint32_t n = c.count - begin < kBlock ? c.count - begin : kBlock;
        uint64_t block_total = 0, block_weighted = 0;
        for (uint32_t i = 0; i < n; ++i) {
            const double distance = clamp64(c.distance[begin + i]), w = exp_f64(-distance);
            block_total += fixed52(w);
            block_weighted += fixed52(w * distance);
        }
        total += block_total;
        weighted += block_weighted;
    }
    const double mean = static_cast<double>(weighted) / static_cast<double>(total);
    select_prefix<Weight::kMass, Keep::kPrefix>(c, ByDeviation{mean},
                                                [=](u128 sum) { return ceil_fraction(typical_p, sum); });
}

void keep_min_p(Candidates& c, float min_p) {
    double first = c.distance[0];
    for (uint32_t i = 1; i < c.count; ++i) first = c.distance[i] < first ? c.distance[i] : first;
    const uint64_t least = static_cast<uint64_t>(ceil_fraction(min_p, mass_of(first)));
    // A mass is off by half a unit at most, so whoever has the least mass has w > min_p * w(first) / 3. Beyond that
    // distance, with room to spare, no exp is needed to know.
    const double reach = first + 2.0 - log_f64(min_p > 0x1p-100f ? min_p : 0x1p-100f);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c.count; ++i) {
        const double distance = c.distance[i];
        if (distance > reach || mass_of(distance) < least) continue;
        c.distance[kept] = distance;
        c.ids[kept++] = c.ids[i];
    }
    c.count = kept;
}

// ---- the head: most tokens are too improbable to be drawn, and only their total mass has a say ----
//
// Tokens up to some distance, the reach, become candidates. The mass of all others, the tail, is estimated in f32, with
// a bound of its error. Where the targets of the smallest and of the largest possible total lead to the same candidate,
// the exact total would lead there too; where not, or where the head holds too little, more has to be looked at.

// The error of the estimate is below 1e-5: the f32 distance and its product with log2(e) are within 5e-7 of their value,
// which matters d-fold in the mass and is 2e-5 at d = 40, where masses end; the polynomial is within 3e-6.
constexpr double kTailError = 1e-4;

// 2^t for t <= 0, as 2^-126 below that.
inline float exp2_estimate(float t) {
    constexpr float kRound = 0x1.8p23f;
    t = t > -126.f ? t : -126.f;
    const float rounded = t + kRound, f = t - (rounded - kRound);
    const float y =
        1.f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * (0.00961813f + f * 0.00133336f))));
    return std::bit_cast<float>(std::bit_cast<uint32_t>(y) + (std::bit_cast<uint32_t>(rounded) << 23));
}

// Makes candidates of the tokens at a distance of at most `reach`, give or take 1e-5 of it, of the n values in c.distance.
// *tail: the estimated sum of exp(-d) over the others. False when they are more than a quarter of all, which is not
// worth it; the values are gone either way.
bool take_head(uint32_t n, double largest, double temperature, float reach, Candidates& c, double* tail) {
    constexpr uint32_t kLanes = 8, kPart = 32;
    const float per_temperature = static_cast<float>(1.0 / temperature);
    uint32_t count = 0;
    *tail = 0;
    for (uint32_t begin = 0; begin < n; begin += kBlock) {
        const uint32_t size = n - begin < kBlock ? n - begin : kBlock;
        const double* value = c.distance + begin;
        float distance[kBlock], lane[kLanes] = {};
        for (uint32_t i = 0; i < size; ++i) distance[i] = static_cast<float>(largest - value[i]) * per_temperature;
        for (uint32_t i = size; i < kBlock; ++i) distance[i] = INFINITY;
        for (uint32_t i = 0; i < kBlock; i += kLanes)
            for (uint32_t l = 0; l < kLanes; ++l) {
                const float mass = exp2_estimate(distance[i + l] * -1.44269504f);
                lane[l] += distance[i + l] > reach ? mass : 0.f;
            }
        for (float sum : lane) *tail += static_cast<double>(sum);
        for (uint32_t part = 0; part < size; part += kPart) {
            uint32_t any = 0;  // most parts have none
            for (uint32_t i = part; i < part + kPart; ++i) any |= distance[i] <= reach;
            for (uint32_t i = part; any && i < part + kPart; ++i) {
                if (!(distance[i] <= reach)) continue;
                c.distance[count] = (largest - value[i]) / temperature;
                c.ids[count++] = begin + i;
            }
        }
        if (count > n / 4) return false;
    }
    c.count = count;
    return true;
}

// select_prefix by mass over all n tokens, of which the head is in `c`. False when the head does not tell.
template <class Target>
bool select_in_head(Candidates& c, double tail, uint32_t n, float reach, Target target) {
    u128 largest_target = 0;
    bool enough = true;
    select_prefix<Weight::kMass, Keep::kPrefix>(c, ByDistance{}, [&](u128 head) {
        // A mass is rounded to a whole number, by half a unit at most.
        const double units = tail * 0x1p52;
        const u128 least = static_cast<u128>(units * (1 - kTailError)),
                   most = static_cast<u128>(units * (1 + kTailError)) + n;
        const u128 smallest_target = target(head + (least > n ? least - n : 0));
        largest_target = target(head + most);
        enough = largest_target <= head;
        return enough ? smallest_target : head;
    });
    u128 mass = 0;
    double farthest = 0;
    for (uint32_t i = 0; i < c.count; ++i) {
        mass += mass_of(c.distance[i]);
        farthest = c.distance[i] > farthest ? c.distance[i] : farthest;
    }
    // Nearer than any token outside of the head, whose distances are known to f32 only.
    return enough && mass >= largest_target && farthest < 0.999 * static_cast<double>(reach);
}

// Makes candidates of at least k of the n values in c.distance, the first k in candidate order among them: all that are
// not below the k-th largest of the largest values of kGroups groups. k is at most kGroups / 4, n at least 4 * kGroups.
constexpr uint32_t kGroups = 1024;
void take_largest(uint32_t n, uint32_t k, double largest, double temperature, Candidates& c) {
    static_assert(kGroups * sizeof(double) <= kHistogramBytes);
    double* const x = c.distance;
    double* const group = reinterpret_cast<double*>(c.histogram);
    const uint32_t size = (n + kGroups - 1) / kGroups, groups = (n + size - 1) / size;
    for (uint32_t g = 0; g < groups; ++g) {
        double best = -INFINITY;
        for (uint32_t i = g * size; i < n && i < (g + 1) * size; ++i) best = x[i] > best ? x[i] : best;
        group[g] = best;
    }
    std::nth_element(group, group + (k - 1), group + groups, [](double a, double b) { return a > b; });
    // Values this little below may be at the same distance, and then the lower id comes first.
    const double kth = group[k - 1], least = kth == -INFINITY ? kth : kth - (largest - kth) * 1e-12;
    c.count = 0;
    for (uint32_t i = 0; i < n; ++i) {
        if (x[i] < least || x[i] == -INFINITY) continue;
        c.distance[c.count] = (largest - x[i]) / temperature;
        c.ids[c.count++] = i;
    }
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
    return kHistogramBytes + round64(uint64_t{vocabulary} * 8) + round64(uint64_t{vocabulary} * 4);
}

namespace {

// Values of all tokens after bias, masks and penalties, in c.distance.
keel_status adjust(const SamplerParams& p, const SamplerInput& in, Candidates& c) {
    double* const x = c.distance;
    if (!widen(in.logits, in.vocabulary, x)) return KEEL_E_NUMERIC;
    for (uint32_t i = 0; i < p.bias_count; ++i) x[p.bias_ids[i]] += static_cast<double>(p.bias_values[i]);
    for (uint32_t i = 0; i < p.excluded_count; ++i) x[p.excluded_ids[i]] = -INFINITY;
    if (in.sampled_count < p.min_tokens)
        for (uint32_t i = 0; i < in.end_count; ++i)
            if (static_cast<uint32_t>(in.end_ids[i]) < in.vocabulary) x[in.end_ids[i]] = -INFINITY;
    if (in.mask) apply_mask(in.mask, in.vocabulary, x);
    return apply_penalties(p, in, c.ids, x);
}

// Makes candidates of all values in c.distance that are not -inf.
void take_all(uint32_t n, double largest, double temperature, Candidates& c) {
    double* const x = c.distance;
    for (uint32_t i = 0; i < n; ++i) x[i] = (largest - x[i]) / temperature;
    for (uint32_t i = 0; i < n; ++i) c.ids[i] = i;
    uint32_t count = 0;
    while (count < n && x[count] != INFINITY) ++count;
    for (uint32_t i = count; i < n; ++i) {
        x[count] = x[i];
        c.ids[count] = i;
        count += x[i] != INFINITY;
    }
    c.count = count;
}

// Leaves the last one in candidate order.
void keep_last(Candidates& c) {
    uint32_t last = 0;
    for (uint32_t i = 1; i < c.count; ++i)
        if (c.distance[i] >= c.distance[last]) last = i;  // ids ascend
    c.distance[0] = c.distance[last];
    c.ids[0] = c.ids[last];
    c.count = 1;
}

}  // namespace

keel_status sampler_draw(const SamplerParams& p, const SamplerInput& in, void* work, int32_t* token) {
    Candidates c(work, in.vocabulary);
    const uint32_t n = in.vocabulary;
    KEEL_TRY(adjust(p, in, c));
    const Largest top = find_largest(c.distance, n);
    if (top.value == -INFINITY) return KEEL_E_NUMERIC;
    if (p.temperature == 0) {
        *token = static_cast<int32_t>(top.id);
        return KEEL_OK;
    }

    const uint32_t counter[4] = {in.history_count, 0, 0, 0};
    uint32_t random[4];
    philox4x32(p.seed, counter, random);
    const uint64_t uniform = uint64_t{random[1]} << 32 | random[0];
    const auto draw_target = [=](u128 sum) {
        const u128 low = (u128{static_cast<uint64_t>(sum)} * uniform) >> 64;
        return (sum >> 64) * uniform + low + 1;  // floor(sum * uniform / 2^64) + 1
    };
    const auto top_p_target = [&](u128 sum) { return ceil_fraction(p.top_p, sum); };

    const double temperature = p.temperature;
    const bool top_k = p.top_k && p.top_k < n, typical = p.typical_p < 1, top_p = p.top_p<1, min_p = p.min_p> 0;
    enum { kValues, kCandidates, kTopP, kDrawn } done = kValues;  // what c holds
    if (n < 4 * kGroups || temperature < 1e-30) {
        // Nothing to gain, or f32 does not hold what take_head divides by.
    } else if (top_k) {
        if (p.top_k <= kGroups / 4) take_largest(n, p.top_k, top.value, temperature, c), done = kCandidates;
    } else if (!typical) {
        const bool all_above = min_p && !top_p;  // where the reach of keep_min_p is known: no total is needed
        const double min_p_reach = all_above && p.min_p > 1e-8f ? 3.0 - log_f64(p.min_p) : 100.0;
        for (const float reach : {10.f, 24.f}) {
            if (all_above && min_p_reach > static_cast<double>(reach)) continue;
            double tail;
            const bool taken = take_head(n, top.value, temperature, reach, c, &tail);
            if (taken && all_above)
                done = kCandidates;
            else if (taken && top_p)
                done = select_in_head(c, tail, n, reach, top_p_target) ? kTopP : kValues;
            else if (taken)
                done = select_in_head(c, tail, n, reach, draw_target) ? kDrawn : kValues;
            if (done != kValues) break;
            KEEL_TRY(adjust(p, in, c));
            if (!taken) break;
        }
    }
    if (done == kValues) take_all(n, top.value, temperature, c);
    if (done == kDrawn) {
        keep_last(c);
    } else {
        if (top_k && p.top_k < c.count)
            select_prefix<Weight::kCount, Keep::kPrefix>(c, ByDistance{}, [&](u128) { return u128{p.top_k}; });
        if (typical) keep_typical(c, p.typical_p);
        if (top_p && done != kTopP) select_prefix<Weight::kMass, Keep::kPrefix>(c, ByDistance{}, top_p_target);
        if (min_p) keep_min_p(c, p.min_p);
        select_prefix<Weight::kMass, Keep::kLastOnly>(c, ByDistance{}, draw_target);
    }
    *token = static_cast<int32_t>(c.ids[0]);
    return KEEL_OK;
}

keel_status top_logprobs(const float* logits, uint32_t vocabulary, uint32_t n, void* work, int32_t* ids,
                         float* logprobs) {
    if (n > kMaxLogprobs || n > vocabulary) return KEEL_E_ARGUMENT;
    if (n == 0) return KEEL_OK;
    Candidates c(work, vocabulary);
    if (!widen(logits, vocabulary, c.distance)) return KEEL_E_NUMERIC;
    const Largest top = find_largest(c.distance, vocabulary);
    if (top.value == -INFINITY) return KEEL_E_NUMERIC;
    u128 total = 0;
    for (uint32_t begin = 0; begin < vocabulary; begin += kBlock) {
        const uint32_t end = vocabulary - begin < kBlock ? vocabulary : begin + kBlock;
        uint64_t block_total = 0;
        for (uint32_t i = begin; i < end; ++i) {
            c.ids[i] = i;
            c.distance[i] = top.value - c.distance[i];
            block_total += mass_of(c.distance[i]);
        }
        total += block_total;
    }
    const double log_total = log_f64(static_cast<double>(total) * 0x1p-52);
    if (n < vocabulary) select_prefix<Weight::kCount, Keep::kPrefix>(c, ByDistance{}, [=](u128) { return u128{n}; });
    for (uint32_t i = 0; i < n; ++i) {  // insertion sort by distance; ids are ascending, so a stable one orders ties
        const double distance = c.distance[i];
        const uint32_t id = c.ids[i];
        uint32_t j = i;
        for (; j > 0 && c.distance[j - 1] > distance; --j) {
            c.distance[j] = c.distance[j - 1];
            c.ids[j] = c.ids[j - 1];
        }
        c.distance[j] = distance;
        c.ids[j] = id;
    }
    for (uint32_t i = 0; i < n; ++i) {
        ids[i] = static_cast<int32_t>(c.ids[i]);
        logprobs[i] = static_cast<float>(-c.distance[i] - log_total);
    }
    return KEEL_OK;
}

void philox4x32(uint64_t key, const uint32_t counter[4], uint32_t out[4]) {
    constexpr uint64_t kMultiplier0 = 0xd2511f53, kMultiplier1 = 0xcd9e8d57;
    constexpr uint32_t kWeyl0 = 0x9e3779b9, kWeyl1 = 0xbb67ae85;
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = kMultiplier0 * c0, p1 = kMultiplier1 * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
        k0 += kWeyl0;
        k1 += kWeyl1;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

}  // namespace keel
