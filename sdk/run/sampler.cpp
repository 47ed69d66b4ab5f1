#include "sdk/run/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <bit>

#include "kernels/formats/math_f64.h"
#include "sdk/core/status.h"

namespace keel {
namespace {

// Every filter and the draw itself ask one question: in a given order, at which candidate does the running weight first
// reach a target? Masses are integers (NUMERICS section 6), so sums may be taken in any order, and nothing is ever
// sorted. weigh() looks at every candidate once: it makes buckets by distance and sums the weight of each. That tells
// all buckets in front of the target; only the candidates of the one in which it is reached are gathered, and looked at
// closer until they are told apart (find_cut). A bucket is 1/32 of an octave, so that those are few; at the worst, when
// all candidates are in it, they are looked at twice or three times, whatever the logits are.
//
// Work memory:
//     | u128 weight[1024] | u128 round[1024] | f64 distance[vocabulary] | u32 list[vocabulary] |
// each part rounded up to 64 bytes. distance holds the adjusted logits first, list the penalty counts.
__extension__ using u128 = unsigned __int128;
constexpr uint32_t kBuckets = 1024;
constexpr uint32_t kBlock = 256;  // candidates whose masses are computed at once

constexpr uint64_t round64(uint64_t bytes) {
    return (bytes + 63) & ~uint64_t{63};
}
constexpr uint64_t kHistogramBytes = kBuckets * sizeof(u128);
static_assert(kHistogramBytes % 64 == 0);

// All ids, of which those at an infinite distance are no candidates; or those of a list, ascending.
struct Candidates {
    u128* weight;  // of each bucket
    u128* round;   // the same of a closer look
    double* distance;
    uint32_t* list;
    uint32_t listed;  // 0: all ids
    uint32_t vocabulary;
    bool values;  // distance holds values yet, of all ids
    double largest, temperature;

    void (*exp_distances)(const double* value, uint32_t n, double largest, double temperature, double* distance,
                          double* w);

    Candidates(void* work, uint32_t n, const kernels::KernelSet& kernel)
        : weight(static_cast<u128*>(work)),
          round(weight + kBuckets),
          distance(reinterpret_cast<double*>(round + kBuckets)),
          list(reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(distance) + round64(uint64_t{n} * 8))),
          listed(0),
          vocabulary(n),
          values(true),
          largest(0),
          temperature(1),
          exp_distances(kernel.exp_distances) {}
    uint32_t count() const { return listed ? listed : vocabulary; }
    uint32_t id(uint32_t i) const { return listed ? list[i] : i; }
    uint32_t* gathered() const { return list + listed; }
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
    return fixed52(kernels::exp_f64(-clamp64(distance)));
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

// ---- buckets of distances: 32 to an octave from 2^-26 to 2^6, and what lies before and behind ----

constexpr uint32_t kBucketShift = 52 - 5;
constexpr int32_t kFirstBucket = static_cast<int32_t>(std::bit_cast<uint64_t>(0x1p-26) >> kBucketShift);

inline uint32_t bucket_of(double distance) {
    const int32_t b = static_cast<int32_t>(std::bit_cast<uint64_t>(distance) >> kBucketShift) - kFirstBucket;
    const int32_t last = static_cast<int32_t>(kBuckets) - 1;
    return static_cast<uint32_t>(b < 0 ? 0 : b > last ? last : b);
}
// Its distances are at least edge(bucket) and below edge(bucket + 1).
inline double edge(uint32_t bucket) {
    if (bucket == 0) return 0;
    if (bucket == kBuckets) return INFINITY;
    return std::bit_cast<double>(static_cast<uint64_t>(kFirstBucket + static_cast<int32_t>(bucket)) << kBucketShift);
}

enum class Weight { kCount, kMass };

u128 total_weight(const Candidates& c) {
    u128 total = 0;
    for (uint32_t b = 0; b < kBuckets; ++b) total += c.weight[b];
    return total;
}

// Sums the weights of all candidates by bucket, makes distances of values, and returns the total. For masses *weighted,
// where it is not null, becomes the sum of rint(w * d * 2^52).
template <Weight weight>
u128 weigh(Candidates& c, u128* weighted = nullptr) {
    // First in sums of 64 bits, two a bucket so that equal neighbours do not wait for each other; 2048 masses fit one.
    constexpr uint32_t kPart = 4096;
    static_assert(kPart % kBlock == 0 && sizeof(uint64_t[2][kBuckets]) == kHistogramBytes);
    auto* const partial = reinterpret_cast<uint64_t(*)[kBuckets]>(c.round);
    memset(c.weight, 0, kHistogramBytes);
    const uint32_t n = c.count();
    for (uint32_t part = 0; part < n; part += kPart) {
        memset(partial, 0, kHistogramBytes);
        const uint32_t part_end = n - part < kPart ? n : part + kPart;
        for (uint32_t begin = part; begin < part_end; begin += kBlock) {
            const uint32_t size = part_end - begin < kBlock ? part_end - begin : kBlock;
            double value[kBlock], distance[kBlock], w[kBlock];
            if (!c.values)
                for (uint32_t i = 0; i < size; ++i) value[i] = -c.distance[c.id(begin + i)];
            c.exp_distances(c.values ? c.distance + begin : value, size, c.largest, c.temperature, distance, w);
            if (c.values) memcpy(c.distance + begin, distance, size * sizeof(double));
            if (weight == Weight::kCount)
                for (uint32_t i = 0; i < size; ++i) partial[i % 2][bucket_of(distance[i])] += distance[i] != INFINITY;
            else
                for (uint32_t i = 0; i < size; ++i) partial[i % 2][bucket_of(distance[i])] += fixed52(w[i]);
            if (!weighted) continue;
            uint64_t sum = 0;
            for (uint32_t i = 0; i < size; ++i) sum += fixed52(w[i] * clamp64(distance[i]));
            *weighted += sum;
        }
        for (uint32_t b = 0; b < kBuckets; ++b) c.weight[b] += u128{partial[0][b]} + partial[1][b];
    }
    c.values = false, c.largest = 0, c.temperature = 1;
    return total_weight(c);
}

// Appends the ids of candidates with low <= distance < high to the `count` ids in c.gathered(), and returns how many
// there are now.
uint32_t gather(const Candidates& c, double low, double high, uint32_t count = 0) {
    // Distances are not negative, so their bits order as they do.
    const uint64_t first = std::bit_cast<uint64_t>(low), span = std::bit_cast<uint64_t>(high) - first;
    uint32_t* const out = c.gathered();
    const auto take = [&](uint32_t id) {
        out[count] = id;
        count += std::bit_cast<uint64_t>(c.distance[id]) - first < span;
    };
    if (c.listed)
        for (uint32_t i = 0; i < c.listed; ++i) take(c.list[i]);
    else
        for (uint32_t id = 0; id < c.vocabulary; ++id) take(id);
    return count;
}

// Calls visit(id, distance, weight) for those of the `count` ids in c.gathered() whose distances are `wanted`.
template <Weight weight, class Wanted, class Visit>
void visit_weights(const Candidates& c, uint32_t count, Wanted wanted, Visit visit) {
    for (uint32_t i = 0; i < count;) {
        double value[kBlock], distance[kBlock], w[kBlock];
        uint32_t id[kBlock], size = 0;
        for (; i < count && size < kBlock; ++i) {
            id[size] = c.gathered()[i];
            value[size] = -c.distance[id[size]];
            size += wanted(-value[size]);
        }
        c.exp_distances(value, size, 0, 1, distance, w);
        for (uint32_t j = 0; j < size; ++j) visit(id[j], distance[j], weight == Weight::kMass ? fixed52(w[j]) : 1);
    }
}

struct Cut {
    uint32_t id;   // the candidate at which the target is reached
    u128 reached;  // the weight up to it
};

// Of the `count` candidates in c.gathered(), which weigh at least `target` > 0. Those of equal distance are there in
// the order of their ids.
template <Weight weight, class Order>
Cut find_cut(const Candidates& c, Order key, uint32_t count, u128 target) {
    using Key = typename Order::Key;
    const uint32_t* const ids = c.gathered();
    // Undecided are those with keys in [low, high]; `before` is the weight of those below.
    Key low = ~Key{0}, high = 0;
    for (uint32_t i = 0; i < count; ++i) {
        const Key k = key(c.distance[ids[i]]);
        low = k < low ? k : low;
        high = k > high ? k : high;
    }
    u128 before = 0;
    while (low != high) {
        const Key first = low, last = high;
        const uint32_t width = bit_width(static_cast<Key>(last - first)), shift = width > 10 ? width - 10 : 0;
        const auto undecided = [=](double distance) { return key(distance) >= first && key(distance) <= last; };
        const auto bucket = [=](double distance) { return static_cast<uint32_t>((key(distance) - first) >> shift); };
        memset(c.round, 0, kHistogramBytes);
        visit_weights<weight>(c, count, undecided,
                              [&](uint32_t, double distance, uint64_t w) { c.round[bucket(distance)] += w; });
        uint32_t cut = 0;
        for (; before + c.round[cut] < target; ++cut) before += c.round[cut];
        low = ~Key{0}, high = 0;
        for (uint32_t i = 0; i < count; ++i) {
            const double distance = c.distance[ids[i]];
            if (!undecided(distance) || bucket(distance) != cut) continue;
            low = key(distance) < low ? key(distance) : low;
            high = key(distance) > high ? key(distance) : high;
        }
    }
    // The undecided are equal in key and so in distance and weight: lowest ids first.
    Cut result = {0, before};
    uint64_t each = 0;
    for (uint32_t i = 0; result.reached < target; ++i) {
        const double distance = c.distance[ids[i]];
        if (key(distance) != low) continue;
        if (!each) each = weight == Weight::kMass ? mass_of(distance) : 1;
        result.reached += each;
        result.id = ids[i];
    }
    return result;
}

// Of the `count` candidates in c.gathered(), those that follow `last` in the order are candidates no more.
template <class Order>
void drop_behind(Candidates& c, Order key, uint32_t count, uint32_t last) {
    const auto cut = key(c.distance[last]);
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t id = c.gathered()[i];
        const auto k = key(c.distance[id]);
        if (k > cut || (k == cut && id > last)) c.distance[id] = INFINITY;
    }
}

// The end of the smallest prefix in candidate order that weighs at least `target`, a number in 1..total. `drop`: what
// lies behind it is dropped, but candidates of other buckets than its own stay where they are and only weigh nothing.
template <Weight weight>
Cut cut_prefix(Candidates& c, u128 target, bool drop) {
    uint32_t bucket = 0;
    u128 before = 0;
    for (; before + c.weight[bucket] < target; ++bucket) before += c.weight[bucket];
    const uint32_t count = gather(c, edge(bucket), edge(bucket + 1));
    Cut cut = find_cut<weight>(c, ByDistance{}, count, target - before);
    if (drop) {
        drop_behind(c, ByDistance{}, count, cut.id);
        c.weight[bucket] = cut.reached;
        for (uint32_t b = bucket + 1; b < kBuckets; ++b) c.weight[b] = 0;
    }
    cut.reached += before;
    return cut;
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

// ---- filters whose targets are not shares of the total in candidate order ----

// By the deviation from the mean. The weights of the buckets say between which two deviations the target is reached;
// what is nearer stays and what is farther goes, bucket by bucket, and the few between are looked at.
void keep_typical(Candidates& c, u128 target, double mean) {
    const auto nearest = [=](uint32_t b) {
        return edge(b + 1) <= mean ? mean - edge(b + 1) : edge(b) >= mean ? edge(b) - mean : 0;
    };
    const auto farthest = [=](uint32_t b) {
        const double left = fabs(edge(b) - mean), right = fabs(edge(b + 1) - mean);
        return left > right ? left : right;
    };
    // The deviation within which buckets that lie there, as `deviation` says, weigh enough.
    const auto reach = [&](auto deviation) {
        int32_t left = static_cast<int32_t>(bucket_of(mean)), right = left + 1;
        double result = 0;
        for (u128 sum = 0; sum < target;) {
            const double l = left >= 0 ? deviation(static_cast<uint32_t>(left)) : INFINITY;
            const double r =
                right < static_cast<int32_t>(kBuckets) ? deviation(static_cast<uint32_t>(right)) : INFINITY;
            const bool to_left = left >= 0 && l <= r;
            sum += c.weight[to_left ? left-- : right++];
            result = (to_left ? l : r) > result ? (to_left ? l : r) : result;
        }
        return result;
    };
    const double least = reach(nearest), most = reach(farthest);
    uint32_t count = 0;
    for (uint32_t b = 0, next; b < kBuckets; b = next) {
        const auto within = [=](uint32_t i) { return farthest(i) < least; };
        const auto between = [=](uint32_t i) { return i < kBuckets && !within(i) && nearest(i) <= most; };
        for (next = b; between(next); ++next) c.weight[next] = 0;
        if (next > b) {
            count = gather(c, edge(b), edge(next), count);
        } else {
            if (within(b))
                target -= c.weight[b];
            else
                c.weight[b] = 0;
            ++next;
        }
    }
    const ByDeviation key = {mean};
    drop_behind(c, key, count, find_cut<Weight::kMass>(c, key, count, target).id);
    visit_weights<Weight::kMass>(
        c, count, [](double distance) { return distance != INFINITY; },
        [&](uint32_t, double distance, uint64_t mass) { c.weight[bucket_of(distance)] += mass; });
}

void keep_min_p(Candidates& c, float min_p) {
    uint32_t bucket = 0;
    while (!c.weight[bucket]) ++bucket;
    double first = INFINITY;
    const uint32_t firsts = gather(c, edge(bucket), edge(bucket + 1));
    for (uint32_t i = 0; i < firsts; ++i) {
        const double distance = c.distance[c.gathered()[i]];
        first = distance < first ? distance : first;
    }
    const uint64_t least = static_cast<uint64_t>(ceil_fraction(min_p, mass_of(first)));
    // Masses are rounded, by half at most: up to `sure` every one is at least `least`, behind `over` none is.
    const double units = static_cast<double>(least);
    const double sure = kernels::log_f64(0x1p52 / (units + 1)) - 1e-9,
                 over = kernels::log_f64(0x1p52 / (units - 0.75)) + 1e-9;
    const uint32_t from = bucket_of(sure > 0 ? sure : 0), to = bucket_of(over);
    for (uint32_t b = to + 1; b < kBuckets; ++b) c.weight[b] = 0;
    const uint32_t count = gather(c, edge(from), edge(to + 1));
    visit_weights<Weight::kMass>(
        c, count, [](double) { return true; },
        [&](uint32_t id, double distance, uint64_t mass) {
            u128& weight = c.weight[bucket_of(distance)];
            if (mass >= least || !weight) return;  // 0: its bucket was dropped before
            weight -= mass;
            c.distance[id] = INFINITY;
        });
}

// The `count` ids in c.list, whose values become distances, are the candidates.
void make_list(Candidates& c, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
        double& x = c.distance[c.list[i]];
        x = (c.largest - x) / c.temperature;
    }
    c.listed = count;
    c.values = false, c.largest = 0, c.temperature = 1;
}

// ---- the head: most tokens are too improbable to be drawn, and only their total mass has a say ----
//
// Tokens up to some distance, the reach, become candidates. The mass of all others, the tail, is estimated in f32, with
// a bound of its error. Where the targets of the smallest and of the largest possible total lead to the same candidate,
// the exact total would lead there too; where not, or where the head holds too little, more has to be looked at.

// The error of the estimate is below 1e-5: the f32 distance and its product with log2(e) are within 5e-7 of their
// value, which matters d-fold in the mass and is 2e-5 at d = 40, where masses end; the polynomial is within 3e-6.
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

// Lists the tokens at a distance of at most `reach`, give or take 1e-5 of it, with their distances. *tail: the
// estimated sum of exp(-d) over the others. False when they are more than a quarter of all, which is not worth it, and
// nothing has changed.
bool take_head(Candidates& c, float reach, double* tail) {
    constexpr uint32_t kLanes = 8, kPart = 32, kSamples = 256;
    const uint32_t n = c.vocabulary;
    uint32_t near = 0;
    for (uint32_t i = 0; i < kSamples; ++i)
        near += c.distance[uint64_t{i} * n / kSamples] >= c.largest - static_cast<double>(reach) * c.temperature;
    if (near > kSamples / 3) return false;
    const float per_temperature = static_cast<float>(1.0 / c.temperature);
    uint32_t count = 0;
    *tail = 0;
    for (uint32_t begin = 0; begin < n; begin += kBlock) {
        const uint32_t size = n - begin < kBlock ? n - begin : kBlock;
        const double* value = c.distance + begin;
        float distance[kBlock], lane[kLanes] = {};
        for (uint32_t i = 0; i < size; ++i) distance[i] = static_cast<float>(c.largest - value[i]) * per_temperature;
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
            for (uint32_t i = part; any && i < part + kPart; ++i)
                if (distance[i] <= reach) c.list[count++] = begin + i;
        }
        if (count > n / 4) return false;
    }
    make_list(c, count);
    return true;
}

// Cuts by mass at the target that the total mass of all tokens leads to. False when the head does not tell.
template <class Target>
bool cut_head(Candidates& c, double tail, float reach, Target target, bool drop, uint32_t* last) {
    // A mass is rounded to a whole number, by half a unit at most.
    const double units = tail * 0x1p52;
    const uint32_t n = c.vocabulary;
    const u128 head = weigh<Weight::kMass>(c), least = static_cast<u128>(units * (1 - kTailError)),
               most = static_cast<u128>(units * (1 + kTailError)) + n;
    const u128 smallest_target = target(head + (least > n ? least - n : 0)), largest_target = target(head + most);
    if (largest_target > head) return false;
    const Cut cut = cut_prefix<Weight::kMass>(c, smallest_target, drop);
    *last = cut.id;
    // Nearer than any token outside of the head, whose distances are known to f32 only.
    return cut.reached >= largest_target && c.distance[cut.id] < 0.999 * static_cast<double>(reach);
}

// Lists at least k tokens, the first k in candidate order among them: all that are not below the k-th largest of the
// largest values of kGroups groups. k is at most kGroups / 4, the vocabulary at least 4 * kGroups. False when they are
// more than half of all, and nothing has changed.
constexpr uint32_t kGroups = 1024;
bool take_largest(Candidates& c, uint32_t k) {
    static_assert(kGroups * sizeof(double) <= kHistogramBytes);
    const double* const x = c.distance;
    double* const group = reinterpret_cast<double*>(c.round);
    const uint32_t n = c.vocabulary, size = (n + kGroups - 1) / kGroups, groups = (n + size - 1) / size;
    for (uint32_t g = 0; g < groups; ++g) {
        double best = -INFINITY;
        for (uint32_t i = g * size; i < n && i < (g + 1) * size; ++i) best = x[i] > best ? x[i] : best;
        group[g] = best;
    }
    std::nth_element(group, group + (k - 1), group + groups, [](double a, double b) { return a > b; });
    // Values this little below may be at the same distance, and then the lower id comes first.
    const double kth = group[k - 1], least = kth == -INFINITY ? kth : kth - (c.largest - kth) * 1e-12;
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; ++i) {
        if (x[i] < least || x[i] == -INFINITY) continue;
        if (count == n / 2) return false;
        c.list[count++] = i;
    }
    make_list(c, count);
    return true;
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
    return 2 * kHistogramBytes + round64(uint64_t{vocabulary} * 8) + round64(uint64_t{vocabulary} * 4);
}

namespace {

// Values of all tokens after bias, masks and penalties, in c.distance.
keel_status adjust(const SamplerParams& p, const SamplerInput& in, Candidates& c) {
    double* const x = c.distance;
    c.listed = 0;
    c.values = true;
    if (!widen(in.logits, in.vocabulary, x)) return KEEL_E_NUMERIC;
    for (uint32_t i = 0; i < p.bias_count; ++i) x[p.bias_ids[i]] += static_cast<double>(p.bias_values[i]);
    for (uint32_t i = 0; i < p.excluded_count; ++i) x[p.excluded_ids[i]] = -INFINITY;
    if (in.sampled_count < p.min_tokens)
        for (uint32_t i = 0; i < in.end_count; ++i)
            if (static_cast<uint32_t>(in.end_ids[i]) < in.vocabulary) x[in.end_ids[i]] = -INFINITY;
    if (in.mask) apply_mask(in.mask, in.vocabulary, x);
    return apply_penalties(p, in, c.list, x);
}

void keep_top_k(Candidates& c, uint32_t k) {
    if (weigh<Weight::kCount>(c) <= k) return;
    const double last = c.distance[cut_prefix<Weight::kCount>(c, k, true).id];
    for (uint32_t i = 0; i < c.count(); ++i) {
        double& distance = c.distance[c.id(i)];
        distance = distance > last ? INFINITY : distance;
    }
}

}  // namespace

keel_status sampler_draw(const SamplerParams& p, const SamplerInput& in, void* work, int32_t* token) {
    Candidates c(work, in.vocabulary, *in.kernel);
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
    const auto begin = [&] { c.largest = top.value, c.temperature = temperature; };
    begin();
    const bool top_k = p.top_k && p.top_k < n, typical = p.typical_p < 1, top_p = p.top_p<1, min_p = p.min_p> 0;
    bool top_p_done = false;
    uint32_t last;
    if (n < 4 * kGroups || temperature < 1e-30) {
        // Nothing to gain, or f32 does not hold what take_head divides by.
    } else if (top_k) {
        if (p.top_k <= kGroups / 4) take_largest(c, p.top_k);
    } else if (!typical) {
        const bool all_above = min_p && !top_p;  // where the reach of keep_min_p is known: no total is needed
        const double min_p_reach = all_above && p.min_p > 1e-8f ? 3.0 - kernels::log_f64(p.min_p) : 100.0;
        for (const float reach : {10.f, 24.f}) {
            if (all_above && min_p_reach > static_cast<double>(reach)) continue;
            double tail;
            if (!take_head(c, reach, &tail) || all_above) break;
            if (top_p) {
                top_p_done = cut_head(c, tail, reach, top_p_target, true, &last);
            } else if (cut_head(c, tail, reach, draw_target, false, &last)) {
                *token = static_cast<int32_t>(last);
                return KEEL_OK;
            }
            if (top_p_done) break;
            KEEL_TRY(adjust(p, in, c));
            begin();
        }
    }
    if (top_k) keep_top_k(c, p.top_k);
    if (!top_p_done) {
        u128 weighted = 0;
        const u128 total = weigh<Weight::kMass>(c, typical ? &weighted : nullptr);
        if (typical)
            keep_typical(c, ceil_fraction(p.typical_p, total),
                         static_cast<double>(weighted) / static_cast<double>(total));
        if (top_p) cut_prefix<Weight::kMass>(c, top_p_target(total_weight(c)), true);
    }
    if (min_p) keep_min_p(c, p.min_p);
    last = cut_prefix<Weight::kMass>(c, draw_target(total_weight(c)), false).id;
    *token = static_cast<int32_t>(last);
    return KEEL_OK;
}

keel_status top_logprobs(const kernels::KernelSet& kernel, const float* logits, uint32_t vocabulary, uint32_t n,
                         void* work, int32_t* ids, float* logprobs) {
    if (n > kMaxLogprobs || n > vocabulary) return KEEL_E_ARGUMENT;
    if (n == 0) return KEEL_OK;
    Candidates c(work, vocabulary, kernel);
    if (!widen(logits, vocabulary, c.distance)) return KEEL_E_NUMERIC;
    c.largest = find_largest(c.distance, vocabulary).value;
    if (c.largest == -INFINITY) return KEEL_E_NUMERIC;
    const double log_total = kernels::log_f64(static_cast<double>(weigh<Weight::kMass>(c)) * 0x1p-52);
    const u128 finite = weigh<Weight::kCount>(c);
    const uint32_t last = cut_prefix<Weight::kCount>(c, n < finite ? n : finite, true).id;
    const double behind = std::bit_cast<double>(std::bit_cast<uint64_t>(c.distance[last]) + 1);
    uint32_t count = gather(c, 0, behind);
    for (uint32_t id = 0; count < n; ++id)
        if (logits[id] == -INFINITY) c.list[count++] = id;
    for (uint32_t i = 0; i < n; ++i) {  // insertion sort by distance; ids are ascending, so a stable one orders ties
        const uint32_t id = c.list[i];
        uint32_t j = i;
        for (; j > 0 && c.distance[c.list[j - 1]] > c.distance[id]; --j) c.list[j] = c.list[j - 1];
        c.list[j] = id;
    }
    for (uint32_t i = 0; i < n; ++i) {
        ids[i] = static_cast<int32_t>(c.list[i]);
        logprobs[i] = static_cast<float>(-c.distance[c.list[i]] - log_total);
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
