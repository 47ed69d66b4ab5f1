// The candidates of a draw and the passes over them, in a file of their own, which is compiled for speed (the rest of
// the sampler looks at few).
#pragma once
#include <math.h>
#include <string.h>

#include <bit>

#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/sampling.h"

namespace keel {

// Every filter asks one question: in a given order, at which candidate does the running weight first reach a target?
// Masses are integers (NUMERICS section 6), so sums may be taken in any order, and nothing is ever sorted. weigh()
// looks at every candidate once: it puts them into buckets by distance and sums the weight of each. That tells all
// buckets in front of the target; only the candidates of the one in which it is reached are gathered, and looked at
// closer until they are told apart (find_cut). Where the buckets lie follows from a sample of the distances, so that
// the one in question holds few, however close together all are; where many are equal, they are only counted.
//
// Work memory:
//     | u128 weight[512] | u64 partial[4][512] | f64 adjusted[n] | u32 list[n] | u16 bucket[n] |     n = vocabulary
// each part rounded up to 64 bytes. list holds the penalty counts first.
using kernels::kLastBucket;
using kernels::u128;
constexpr uint32_t kBuckets = kLastBucket + 1;
constexpr uint32_t kBlock = kernels::kMassBlock;  // candidates whose masses are computed at once
constexpr uint32_t kLine = 64;                    // bucket numbers that are compared at once

constexpr uint64_t round_up(uint64_t bytes, uint64_t multiple) {
    return (bytes + multiple - 1) / multiple * multiple;
}
constexpr uint64_t kHistogramBytes = kBuckets * sizeof(u128);
constexpr uint64_t kPartialBytes = 4 * kBuckets * sizeof(uint64_t);
static_assert(kLine % kernels::kMassGroup == 0 && kHistogramBytes % 64 == 0 && kHistogramBytes <= kPartialBytes);

constexpr uint16_t kNoBucket = 0xffff;

// All ids, or those of a list, ascending. The position of a candidate is its place in the list, or its id. Those at an
// infinite distance are none: they weigh nothing and lie behind all others.
struct Candidates {
    u128* weight;                   // of each bucket
    uint64_t (*partial)[kBuckets];  // sums of 64 bits on their way there
    u128* round;                    // of a closer look, in the same place
    double* adjusted;               // values by id; null: they are the logits
    uint32_t* list;
    uint16_t* bucket;  // by position, filled up to a whole line; kNoBucket: none, or dropped
    const float* logits;
    uint32_t listed;  // 0: all ids
    uint32_t vocabulary;
    uint32_t equal_bucket;  // its candidates are known to be all of one value; or kNoBucket
    double largest, temperature;
    kernels::DistanceBuckets buckets;

    const kernels::KernelSet* kernel;

    Candidates(void* work, const float* values, uint32_t n, const kernels::KernelSet& set)
        : weight(static_cast<u128*>(work)),
          partial(reinterpret_cast<uint64_t (*)[kBuckets]>(weight + kBuckets)),
          round(weight + kBuckets),
          adjusted(nullptr),
          list(reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(partial + 4) + round_up(uint64_t{n} * 8, 64))),
          bucket(reinterpret_cast<uint16_t*>(reinterpret_cast<uint8_t*>(list) + round_up(uint64_t{n} * 4, 64))),
          logits(values),
          listed(0),
          vocabulary(n),
          equal_bucket(kNoBucket),
          largest(0),
          temperature(1),
          buckets{},
          kernel(&set) {}
    uint32_t count() const { return listed ? listed : vocabulary; }
    uint32_t id(uint32_t position) const { return listed ? list[position] : position; }
    double value(uint32_t id) const { return adjusted ? adjusted[id] : static_cast<double>(logits[id]); }
    double distance(uint32_t position) const { return (largest - value(id(position))) / temperature; }
    uint32_t* gathered() const { return list + listed; }
};

enum class Weight { kCount, kMass };

// The values become numbers of their own, which may be changed.
void adjust_values(Candidates& c);

// The largest of the logits. False when one is NaN or +inf.
bool find_largest(const float* x, uint32_t n, double* largest);
double find_largest(const double* x, uint32_t n);
// The first id that has the largest value.
uint32_t first_largest(const Candidates& c);

inline uint32_t bucket_of(const Candidates& c, double distance) {
    return c.buckets.ends ? kernels::bucket_number<true>(distance, c.buckets)
                          : kernels::bucket_number<false>(distance, c.buckets);
}
// Sums the weights of all candidates by bucket and returns the total. For masses *weighted, where it is not null,
// becomes the sum of rint(w * d * 2^52).
u128 weigh(Candidates& c, Weight weight, u128* weighted = nullptr);
u128 total_weight(const Candidates& c);

// Appends the positions of candidates in buckets first..last to the `count` ones in c.gathered(), and returns how many
// there are now.
uint32_t gather(const Candidates& c, uint32_t first, uint32_t last, uint32_t count = 0);
// True when the candidates of a bucket, which has some, are all of one value. *position: one of them.
bool all_equal(Candidates& c, uint32_t bucket, uint32_t* position);
// The position of the n-th candidate, from 1 on, of a bucket that has so many.
uint32_t nth_in_bucket(const Candidates& c, uint32_t bucket, uint32_t n);

// Those of a bucket from a position on are candidates no more.
void drop_equal(Candidates& c, uint32_t bucket, uint32_t position);
// Without a list: the values of those in buckets behind `last`, and of those dropped, become -INFINITY.
void forbid_behind(Candidates& c, uint32_t last);

// Lists the tokens at a distance of at most `reach`, give or take 1e-5 of it. *tail: the estimated sum of exp(-d) over
// the others. False when they are more than a quarter of all, which is not worth it, and nothing is listed.
bool take_head(Candidates& c, float reach, double* tail);
// The error of the estimate is below 1e-5: the f32 distance and its product with log2(e) are within 5e-7 of their
// value, which matters d-fold in the mass and is 2e-5 at d = 40, where masses end; the polynomial is within 3e-6.
constexpr double kTailError = 1e-4;

// Lists at least k tokens, the first k in candidate order among them: all that are not below the k-th largest of the
// largest values of kGroups groups. k is at most kGroups / 4, the vocabulary at least 4 * kGroups. False when they are
// more than half of all, and nothing is listed.
constexpr uint32_t kGroups = 1024;
bool take_largest(Candidates& c, uint32_t k);

struct RaceOf {
    uint64_t seed;
    uint32_t position;
    uint64_t least_mass;  // above 0
};
// The winner's id among the candidates whose mass is at least least_mass, one of which there is: `by_bucket`, those
// that weigh() and what followed left, otherwise all. One pass, in which only a token that may be ahead of all before
// it is looked at closely. A token is ahead with probability w / (sum of w up to it), w = exp(-d), which is at most the
// growth of the sum's logarithm: for n tokens in any order 1 + ln n + 37 are expected to be, as masses end at d = 37.
// The usual case is a dozen. Only logits that are made for the random bits may have every token looked at.
uint32_t race(const Candidates& c, bool by_bucket, const RaceOf& of);

}  // namespace keel
