#include "sdk/run/sampler_passes.h"

#include <algorithm>
#include <type_traits>

#include "kernels/formats/race.h"

namespace keel {
namespace {

constexpr uint32_t kLanes = 64;  // of passes of which compilers make vector code
constexpr uint32_t kPart = 32;   // tokens that are looked at one by one where one of them counts

// visit(values by id): of doubles or of floats.
template <class Visit>
auto with_values(const Candidates& c, Visit visit) {
    return c.adjusted ? visit(static_cast<const double*>(c.adjusted)) : visit(c.logits);
}

// Spreads most of them over the distances of a sample, but for the nearest and the farthest few of it: one that lies
// far from all others does not make a bucket wide.
void choose_buckets(Candidates& c, bool ends) {
    constexpr uint32_t kSamples = 256;
    double sample[kSamples];
    const uint32_t n = c.count(), taken = n < kSamples ? n : kSamples;
    uint32_t random = 1, found = 0;  // anywhere in the i-th part, so that the vocabulary's order has no say
    for (uint32_t i = 0; i < taken; ++i) {
        random = random * 1664525 + 1013904223;
        const uint64_t begin = uint64_t{i} * n / taken, size = uint64_t{i + 1} * n / taken - begin;
        sample[found] = c.distance(static_cast<uint32_t>(begin + (size * random >> 32)));
        found += sample[found] < INFINITY;
    }
    double low = 0, high = 0;
    if (found) {
        const uint32_t left_out = found / 64;
        std::nth_element(sample, sample + left_out, sample + found);
        low = sample[left_out];
        std::nth_element(sample, sample + (found - 1 - left_out), sample + found);
        high = sample[found - 1 - left_out];
    }
    // Widths are normal numbers, and a bucket many times as wide as the step from one number to the next.
    constexpr double kLeast = 1e-290, kMassesEnd = 64;
    double width = high - low > high * 1e-11 ? high - low : high * 1e-11;
    width = width > kLeast ? width : kLeast;
    const uint32_t main = ends ? kLastBucket - 2 * kernels::kEndBuckets : kLastBucket + 1;
    const double margin = width / main, first = low > margin ? low - margin : 0;
    const double end = high + 2 * margin, rest = kMassesEnd - end;
    c.buckets.ends = ends;
    c.buckets.first = first;
    c.buckets.end = end;
    c.buckets.per_near = kernels::kEndBuckets / (first > kLeast ? first : kLeast);
    c.buckets.per_main = main / (end - first);
    c.buckets.per_far = kernels::kEndBuckets / (rest > 1 ? rest : 1);
}

// One block: buckets, and weights added to c.partial or c.weight. *weighted, where it is not null, grows by the sum of
// rint(w * d * 2^52).
void weigh_block(Candidates& c, Weight weight, uint32_t begin, uint32_t size, u128* weighted) {
    double value[kBlock];
    uint64_t mass[kBlock];
    uint16_t* const bucket = c.bucket + begin;
    value[0] = 0;
    if (c.listed)
        for (uint32_t i = 0; i < size; ++i) value[i] = c.value(c.list[begin + i]);
    else
        with_values(c, [&](const auto* values) {
            const auto* const source = values + begin;
            for (uint32_t i = 0; i < size; ++i) value[i] = static_cast<double>(source[i]);
        });
    // A block of equal values: masked tokens, mostly.
    bool equal = value[0] == value[size / 2] && value[0] == value[size - 1];
    for (uint32_t i = 0; equal && i < size; ++i) equal = value[i] == value[0];
    const uint32_t computed = equal ? 1 : size;
    for (uint32_t i = computed; i % kernels::kMassGroup; ++i) value[i] = -INFINITY;
    uint64_t sum;
    c.kernel->exp_masses({value, computed, c.largest, c.temperature, &c.buckets, mass, bucket, weight == Weight::kCount,
                          weighted ? &sum : nullptr});
    if (weighted) *weighted += u128{sum} * (equal ? size : 1);
    if (equal) {
        for (uint32_t i = 1; i < size; ++i) bucket[i] = bucket[0];
        c.weight[bucket[0]] += u128{mass[0]} * size;
        return;
    }
    // Four sums a bucket, so that equal neighbours do not wait for each other.
    uint32_t i = 0;
    for (; i + 4 <= size; i += 4)
        for (uint32_t j = 0; j < 4; ++j) c.partial[j][bucket[i + j]] += mass[i + j];
    for (; i < size; ++i) c.partial[0][bucket[i]] += mass[i];
}

// How many positions of a line are of a bucket that is `wanted`: a loop that compilers make vector code of.
template <class Wanted>
inline uint32_t count_line(const uint16_t* line, Wanted wanted) {
    constexpr uint32_t kLanes = 8;
    uint16_t lane[kLanes] = {};
    for (uint32_t i = 0; i < kLine; i += kLanes)
        for (uint32_t l = 0; l < kLanes; ++l) lane[l] = static_cast<uint16_t>(lane[l] + wanted(line[i + l]));
    uint32_t found = 0;
    for (uint16_t v : lane) found += v;
    return found;
}
inline uint32_t in_line(const uint16_t* line, uint16_t bucket) {
    return count_line(line, [=](uint16_t number) { return number == bucket; });
}
inline uint32_t in_line(const uint16_t* line, uint16_t first, uint16_t buckets) {
    return count_line(line, [=](uint16_t number) { return static_cast<uint16_t>(number - first) < buckets; });
}

// 2^t for t <= 0, as 2^-126 below that.
inline float exp2_estimate(float t) {
    constexpr float kRound = 0x1.8p23f;
    t = t > -126.f ? t : -126.f;
    const float rounded = t + kRound, f = t - (rounded - kRound);
    const float y =
        1.f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * (0.00961813f + f * 0.00133336f))));
    return std::bit_cast<float>(std::bit_cast<uint32_t>(y) + (std::bit_cast<uint32_t>(rounded) << 23));
}

template <class Value>
bool list_head(Candidates& c, const Value* values, float reach, double* tail) {
    constexpr uint32_t kLanes = 8, kSamples = 256;
    const uint32_t n = c.vocabulary;
    uint32_t near = 0;
    for (uint32_t i = 0; i < kSamples; ++i)
        near += static_cast<double>(values[uint64_t{i} * n / kSamples]) >=
                c.largest - static_cast<double>(reach) * c.temperature;
    if (near > kSamples / 3) return false;
    const float per_temperature = static_cast<float>(1.0 / c.temperature);
    uint32_t count = 0;
    *tail = 0;
    for (uint32_t begin = 0; begin < n; begin += kBlock) {
        const uint32_t size = n - begin < kBlock ? n - begin : kBlock;
        const Value* const value = values + begin;
        float distance[kBlock], lane[kLanes] = {};
        for (uint32_t i = 0; i < size; ++i)
            distance[i] = static_cast<float>(c.largest - static_cast<double>(value[i])) * per_temperature;
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
    c.listed = count;
    return true;
}

template <class Value>
bool list_largest(Candidates& c, const Value* x, uint32_t k) {
    static_assert(kGroups * sizeof(double) <= kPartialBytes);
    // Every kGroups-th token is of one group.
    Value* const group = reinterpret_cast<Value*>(c.round);
    const uint32_t n = c.vocabulary;
    for (uint32_t g = 0; g < kGroups; ++g) group[g] = x[g];
    const auto larger = [](Value a, Value b) { return a > b ? a : b; };
    uint32_t begin = kGroups;
    for (; begin + 4 * kGroups <= n; begin += 4 * kGroups) {  // groups are read and written once for four rows
        const Value* const row = x + begin;
        for (uint32_t g = 0; g < kGroups; ++g)
            group[g] = larger(
                group[g], larger(larger(row[g], row[g + kGroups]), larger(row[g + 2 * kGroups], row[g + 3 * kGroups])));
    }
    for (; begin < n; begin += kGroups) {
        const Value* const row = x + begin;
        const uint32_t size = n - begin < kGroups ? n - begin : kGroups;
        for (uint32_t g = 0; g < size; ++g) group[g] = larger(group[g], row[g]);
    }
    std::nth_element(group, group + (k - 1), group + kGroups, [](Value a, Value b) { return a > b; });
    // Values this little below may be at the same distance, and then the lower id comes first.
    const double kth = static_cast<double>(group[k - 1]),
                 least = kth == -INFINITY ? kth : kth - (c.largest - kth) * 1e-12;
    uint32_t count = 0;
    for (begin = 0; begin < n; begin += kPart) {
        const uint32_t size = n - begin < kPart ? n - begin : kPart;
        const Value* const part = x + begin;
        uint32_t any = 0;  // most parts have none
        for (uint32_t i = 0; i < size; ++i) any |= static_cast<double>(part[i]) >= least;
        for (uint32_t i = 0; any && i < size; ++i) {
            c.list[count] = begin + i;
            count += static_cast<uint32_t>(static_cast<double>(part[i]) >= least) & (part[i] != -INFINITY);
        }
        if (count > n / 2) return false;
    }
    c.listed = count;
    return true;
}

}  // namespace

void adjust_values(Candidates& c) {
    if (c.adjusted) return;
    const float* const logits = c.logits;
    double* const x = reinterpret_cast<double*>(c.partial + 4);
    for (uint32_t i = 0; i < c.vocabulary; ++i) x[i] = static_cast<double>(logits[i]);
    c.adjusted = x;
}

bool find_largest(const float* x, uint32_t n, double* largest) {
    float lane[kLanes];
    for (float& v : lane) v = -INFINITY;
    uint32_t bad[kLanes] = {};
    const float* const end = x + n;
    for (; end - x >= kLanes; x += kLanes) {
        for (uint32_t l = 0; l < kLanes; ++l) lane[l] = x[l] > lane[l] ? x[l] : lane[l];
        for (uint32_t l = 0; l < kLanes; ++l) bad[l] |= !(x[l] < INFINITY);
    }
    for (; x != end; ++x) {
        lane[0] = *x > lane[0] ? *x : lane[0];
        bad[0] |= !(*x < INFINITY);
    }
    for (uint32_t l = 1; l < kLanes; ++l) {
        lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
        bad[0] |= bad[l];
    }
    *largest = static_cast<double>(lane[0]);
    return !bad[0];
}

double find_largest(const double* x, uint32_t n) {
    constexpr uint32_t kDoubles = kLanes / 4;  // in registers
    double lane[kDoubles];
    for (double& v : lane) v = -INFINITY;
    const double* const end = x + n;
    for (; end - x >= kDoubles; x += kDoubles)
        for (uint32_t l = 0; l < kDoubles; ++l) lane[l] = x[l] > lane[l] ? x[l] : lane[l];
    for (; x != end; ++x) lane[0] = *x > lane[0] ? *x : lane[0];
    for (double v : lane) lane[0] = v > lane[0] ? v : lane[0];
    return lane[0];
}

uint32_t first_largest(const Candidates& c) {
    return with_values(c, [&](const auto* values) {
        using Value = std::remove_cvref_t<decltype(*values)>;
        const auto largest = static_cast<Value>(c.largest);
        for (uint32_t begin = 0;; begin += kBlock) {
            const uint32_t size = c.vocabulary - begin < kBlock ? c.vocabulary - begin : kBlock;
            const Value* const block = values + begin;
            uint32_t found = 0;
            for (uint32_t i = 0; i < size; ++i) found |= block[i] == largest;
            for (uint32_t i = 0; found && i < size; ++i)
                if (block[i] == largest) return begin + i;
        }
    });
}

u128 total_weight(const Candidates& c) {
    u128 total = 0;
    for (uint32_t b = 0; b <= kLastBucket; ++b) total += c.weight[b];
    return total;
}

u128 weigh(Candidates& c, Weight weight, u128* weighted) {
    constexpr uint32_t kPart = 4 * 2048;  // so many masses fit four sums of 64 bits
    static_assert(kPart % kBlock == 0 && kBlock % 4 == 0);
    choose_buckets(c, weighted != nullptr);
    c.equal_bucket = kNoBucket;
    memset(c.weight, 0, kHistogramBytes);
    const uint32_t n = c.count();
    for (uint32_t part = 0; part < n; part += kPart) {
        memset(c.partial, 0, kPartialBytes);
        const uint32_t part_end = n - part < kPart ? n : part + kPart;
        for (uint32_t begin = part; begin < part_end; begin += kBlock)
            weigh_block(c, weight, begin, part_end - begin < kBlock ? part_end - begin : kBlock, weighted);
        for (uint32_t b = 0; b < kBuckets; ++b)
            c.weight[b] += u128{c.partial[0][b]} + c.partial[1][b] + c.partial[2][b] + c.partial[3][b];
    }
    for (uint32_t i = n; i % kLine; ++i) c.bucket[i] = kNoBucket;
    return total_weight(c);
}

uint32_t gather(const Candidates& c, uint32_t first, uint32_t last, uint32_t count) {
    const auto low = static_cast<uint16_t>(first), buckets = static_cast<uint16_t>(last - first + 1);
    uint32_t* const out = c.gathered();
    for (uint32_t line = 0; line < c.count(); line += kLine) {
        const uint32_t end =
            count + (first == last ? in_line(c.bucket + line, low) : in_line(c.bucket + line, low, buckets));
        for (uint32_t i = line; count < end; ++i) {
            out[count] = i;
            count += static_cast<uint16_t>(c.bucket[i] - low) < buckets;
        }
    }
    return count;
}

bool all_equal(Candidates& c, uint32_t bucket, uint32_t* position) {
    const auto number = static_cast<uint16_t>(bucket);
    // The first few tell, usually.
    double value = 0;
    uint32_t members = 0;
    for (uint32_t line = 0; line < c.count() && members < 2; line += kLine) {
        const uint32_t found = in_line(c.bucket + line, number);
        for (uint32_t i = line, left = found; left; ++i) {
            if (c.bucket[i] != number) continue;
            --left;
            const double v = c.value(c.id(i));
            if (members++ == 0) value = v, *position = i;
            if (v != value) return false;
        }
    }
    if (bucket == c.equal_bucket) return true;
    uint32_t equal = 0;
    members = 0;
    for (uint32_t line = 0; line < c.count(); line += kLine) members += in_line(c.bucket + line, number);
    if (c.listed)
        for (uint32_t i = 0; i < c.listed; ++i) equal += c.value(c.list[i]) == value;
    else
        with_values(c, [&](const auto* values) {
            using Value = std::remove_cvref_t<decltype(*values)>;
            const Value one = static_cast<Value>(value), *const end = values + c.vocabulary;
            uint32_t lane[kLanes] = {};
            for (; end - values >= kLanes; values += kLanes)
                for (uint32_t l = 0; l < kLanes; ++l) lane[l] += values[l] == one;
            for (; values != end; ++values) lane[0] += *values == one;
            for (uint32_t l : lane) equal += l;
        });
    if (equal != members) return false;
    c.equal_bucket = bucket;
    return true;
}

uint32_t nth_in_bucket(const Candidates& c, uint32_t bucket, uint32_t n) {
    const auto number = static_cast<uint16_t>(bucket);
    uint32_t position = 0, before = 0;
    for (uint32_t found; before + (found = in_line(c.bucket + position, number)) < n; position += kLine)
        before += found;
    while ((before += c.bucket[position] == number) < n) ++position;
    return position;
}

void drop_equal(Candidates& c, uint32_t bucket, uint32_t position) {
    const auto number = static_cast<uint16_t>(bucket);
    for (uint16_t *b = c.bucket + position, *end = c.bucket + c.count(); b != end; ++b)
        *b = *b == number ? kNoBucket : *b;
}

void forbid_behind(Candidates& c, uint32_t last) {
    adjust_values(c);
    const uint16_t* const bucket = c.bucket;
    double* const x = c.adjusted;
    for (uint32_t i = 0; i < c.vocabulary; ++i) x[i] = bucket[i] <= last ? x[i] : -INFINITY;
}

bool take_head(Candidates& c, float reach, double* tail) {
    return with_values(c, [&](const auto* values) { return list_head(c, values, reach, tail); });
}

bool take_largest(Candidates& c, uint32_t k) {
    return with_values(c, [&](const auto* values) { return list_largest(c, values, k); });
}

uint32_t race(const Candidates& c, bool by_bucket, const RaceOf& of) {
    kernels::RaceBest best = kernels::kNobody;
    double value[kBlock];
    uint32_t ids[kBlock] = {}, size = 0;
    kernels::RaceArgs args = {value, 0,           c.largest, c.temperature, ids,
                              0,     of.position, of.seed,   of.least_mass, kernels::race_reach(of.least_mass),
                              &best};
    const auto run = [&] {
        args.n = size;
        for (; size % kernels::kMassGroup; ++size) value[size] = -INFINITY;
        c.kernel->race(args);
        size = 0;
    };
    double behind[kBuckets + 1];  // what is taken off values: of buckets that are left nothing, of others all
    for (uint32_t b = 0; b < kBuckets; ++b) behind[b] = !by_bucket || c.weight[b] ? 0 : INFINITY;
    behind[kBuckets] = INFINITY;
    const auto behind_of = [&](uint32_t i) { return behind[c.bucket[i] < kBuckets ? c.bucket[i] : kBuckets]; };
    if (c.listed) {
        for (uint32_t i = 0; i < c.listed; ++i) {
            if (by_bucket && behind_of(i) > 0) continue;
            ids[size] = c.list[i];
            value[size] = c.value(c.list[i]);
            if (++size == kBlock) run();
        }
        if (size) run();
        return best.id;
    }
    args.ids = nullptr;
    with_values(c, [&](const auto* values) {
        for (; args.first < c.vocabulary; args.first += kBlock) {
            const auto* const block = values + args.first;
            size = c.vocabulary - args.first < kBlock ? c.vocabulary - args.first : kBlock;
            for (uint32_t i = 0; i < size; ++i) value[i] = static_cast<double>(block[i]);
            for (uint32_t i = 0; by_bucket && i < size; ++i) value[i] -= behind_of(args.first + i);
            run();
        }
    });
    return best.id;
}

}  // namespace keel
