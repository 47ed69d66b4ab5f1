// Draws a token: logits in, its id out (NUMERICS section 6). Masses are integers, so that no sum has an order.
//
// sample_adjust and sample_weigh go over the vocabulary in blocks and make of each logit its value, its distance from
// the largest and its mass: exponentials in f64 are what needs all multiprocessors. sample_select is one block, and
// asks of every filter: at which candidate, in an order, does the running weight reach a target? A histogram over 1024
// ranges of keys tells the range, whose candidates are looked at in the next round, until one is left. sample_race has
// the candidates of each block race, sample_finish the winners.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sample_args.h"
#include "kernels/formats/race.h"

namespace keel::cuda {
namespace {

constexpr double kInfinity = __builtin_inf();
constexpr SampleBest kNoEntry = {-kInfinity, UINT32_MAX, 0};

KEEL_GPU SampleBest better(const SampleBest& a, const SampleBest& b) {
    SampleBest best = b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
    best.bad = a.bad | b.bad;
    return best;
}
// The best of what the threads of the block have. Nobody else uses shared memory.
KEEL_GPU SampleBest block_best(const SampleBest& mine) {
    SampleBest* shared = reinterpret_cast<SampleBest*>(shared_memory());
    sync_block();
    shared[thread_x()] = mine;
    for (uint32_t half = kSampleThreads / 2; half; half /= 2) {
        sync_block();
        if (thread_x() < half) shared[thread_x()] = better(shared[thread_x()], shared[thread_x() + half]);
    }
    sync_block();
    return shared[0];
}
// The best token of all, out of the blocks'.
KEEL_GPU SampleBest best_of_all(const SampleArgs& a, uint32_t threads) {
    SampleBest best = kNoEntry;
    for (uint32_t i = thread_x(); i < sample_blocks(a.vocabulary); i += threads) best = better(best, a.best[i]);
    return best;
}

// Of a candidate that is left; 0 of others.
KEEL_GPU uint64_t mass_left(const SampleArgs& a, const SampleLeft& left, uint32_t id) {
    const double d = a.distance[id];
    const bool ahead = d < left.last_distance || (d == left.last_distance && id <= left.last_id);
    const uint64_t m = a.mass[id];
    return ahead && m >= left.least_mass ? m : 0;
}

}  // namespace

KEEL_GPU_KERNEL(sample_adjust) {
    const uint32_t begin = block_x() * kSampleTokens, left = args.vocabulary - begin,
                   end = begin + (left < kSampleTokens ? left : kSampleTokens);
    const auto here = [&](uint32_t id) { return id >= begin && id < end; };
    double* value = args.distance;
    uint32_t bad = 0;
    for (uint32_t i = begin + thread_x(); i < end; i += kSampleThreads) {
        const double logit = args.logits[i];
        bad |= !(logit < kInfinity);
        value[i] = !args.mask || args.mask[i / 8] >> i % 8 & 1 ? logit : -kInfinity;
    }
    sync_block();
    for (uint32_t j = thread_x(); j < args.bias_count; j += kSampleThreads) {
        const uint32_t id = args.bias[j].id;
        bool first = here(id);
        for (uint32_t i = 0; first && i < j; ++i) first = args.bias[i].id != id;
        if (!first) continue;
        double v = value[id];
        for (uint32_t i = j; i < args.bias_count; ++i)
            if (args.bias[i].id == id) v = add_f64(v, args.bias[i].bias);
        value[id] = v;
    }
    sync_block();
    for (uint32_t j = thread_x(); j < args.forbidden_count; j += kSampleThreads)
        if (here(args.forbidden[j])) value[args.forbidden[j]] = -kInfinity;
    sync_block();
    for (uint32_t j = thread_x(); j < args.window_count; j += kSampleThreads) {
        const TokenCount& seen = args.window[j];
        if (!here(seen.id)) continue;
        const double v = value[seen.id], repeated = v > 0 ? v / args.repetition : mul_f64(v, args.repetition);
        value[seen.id] = add_f64(repeated, -add_f64(mul_f64(args.frequency, seen.count), args.presence));
    }
    sync_block();
    SampleBest best = {-kInfinity, UINT32_MAX, bad};
    for (uint32_t i = begin + thread_x(); i < end; i += kSampleThreads) best = better(best, {value[i], i, 0});
    best = block_best(best);
    if (thread_x() == 0) args.best[block_x()] = best;
}

KEEL_GPU_KERNEL(sample_weigh) {
    const SampleBest best = block_best(best_of_all(args, kSampleThreads));
    if (best.bad || best.value == -kInfinity) return;
    const uint32_t begin = block_x() * kSampleTokens, left = args.vocabulary - begin,
                   end = begin + (left < kSampleTokens ? left : kSampleTokens);
    for (uint32_t i = begin + thread_x(); i < end; i += kSampleThreads) {
        const double d = add_f64(best.value, -args.distance[i]) / args.temperature, near = clamp64(d),
                     w = exp_f64(-near);
        args.distance[i] = d;
        args.mass[i] = fixed52(w);
        if (args.typical_p < 1) args.weighted[i] = fixed52(mul_f64(w, near));
    }
}

namespace {

// A range of a histogram: its number, what weighs less, how many candidates it has.
struct Bin {
    uint32_t number, count;
    u128 before;
};

// The state of a selection; every thread of the block has the same.
struct Select {
    const SampleArgs& a;
    SelectShared& shared;
    SampleLeft left;
    // Candidates weigh their mass, or 1 each; and come in the order of their distances, or of how far these are from a
    // mean.
    bool by_count, by_deviation;
    double mean;

    KEEL_GPU uint64_t weight(uint32_t id) const {
        if (by_count) return a.distance[id] < kInfinity ? 1 : 0;
        return mass_left(a, left, id);
    }
    KEEL_GPU u128 key(uint32_t id) const {
        const double d = a.distance[id];
        return by_deviation ? u128{f64_bits(__builtin_fabs(add_f64(d, -mean)))} << 64 | f64_bits(d) : f64_bits(d);
    }

    // What add() fills: no thread is reading any more, and all bins are 0.
    KEEL_GPU void clear() {
        sync_block();
        for (uint32_t i = thread_x(); i < kSelectBins; i += kSelectThreads)
            shared.low[i] = shared.high[i] = shared.count[i] = 0;
        if (thread_x() == 0) shared.listed = 0;
        sync_block();
    }
    KEEL_GPU void add(uint32_t bin, uint64_t weight) {
        atomic_add(&shared.low[bin], weight & UINT32_MAX);
        if (weight >> 32) atomic_add(&shared.high[bin], weight >> 32);
        atomic_add(&shared.count[bin], 1u);
    }
    KEEL_GPU static u128 both(uint64_t low, uint64_t high) { return (u128{high} << 32) + low; }

    // Behind the last add(). Sums of 32 bins each; returns that of all.
    KEEL_GPU u128 sum_parts() {
        sync_block();
        if (thread_x() < 32) {
            uint64_t low = 0, high = 0;
            for (uint32_t i = 32 * thread_x(); i < 32 * thread_x() + 32; ++i)
                low += shared.low[i], high += shared.high[i];
            shared.part_low[thread_x()] = low;
            shared.part_high[thread_x()] = high;
        }
        sync_block();
        uint64_t low = 0, high = 0;
        for (uint32_t i = 0; i < 32; ++i) low += shared.part_low[i], high += shared.part_high[i];
        return both(low, high);
    }
    // The bin in which the target, at most the sum of all, is reached; whatever the target, there is one.
    KEEL_GPU Bin find(u128 target) const {
        u128 before = 0, next = 0;
        uint32_t part = 0;
        for (; part < 31 && (next = before + both(shared.part_low[part], shared.part_high[part])) < target; ++part)
            before = next;
        uint32_t bin = 32 * part;
        for (; bin < 32 * part + 31 && (next = before + both(shared.low[bin], shared.high[bin])) < target; ++bin)
            before = next;
        return {bin, shared.count[bin], before};
    }

    // Of the first n ids of the list (null: of all), those with keys in [first, first + 2^width) weigh at least
    // `target`. The one at which it is reached: ranges of keys until one is left; of equal keys ranges of ids.
    KEEL_GPU_CALLED uint32_t narrow(const uint32_t* list, uint32_t n, u128 first, uint32_t width, u128 target) {
        uint32_t first_id = 0, id_width = 30, count = 0;
        do {
            const bool by_id = width == 0;
            (by_id ? id_width : width) -= by_id || width > 10 ? 10 : width;
            clear();
            for (uint32_t j = thread_x(); j < n; j += kSelectThreads) {
                const uint32_t id = list ? list[j] : j;
                const u128 above = (key(id) - first) >> width;
                const uint64_t at = !by_id  ? (above < kSelectBins ? static_cast<uint64_t>(above) : kSelectBins)
                                    : above ? kSelectBins
                                            : (id - first_id) >> id_width;
                const uint64_t w = at < kSelectBins ? weight(id) : 0;
                if (w) add(static_cast<uint32_t>(at), w);
            }
            sum_parts();
            const Bin bin = find(target);
            target -= bin.before;
            count = bin.count;
            if (by_id)
                first_id += bin.number << id_width;
            else
                first += u128{bin.number} << width;
        } while (count > 1 && id_width);
        for (uint32_t j = thread_x(); j < n; j += kSelectThreads) {
            const uint32_t id = list ? list[j] : j;
            if ((key(id) - first) >> width == 0 && (id - first_id) >> id_width == 0 && weight(id)) shared.cut = id;
        }
        sync_block();
        return shared.cut;
    }

    // A histogram over the buckets of distances; returns the weight of all candidates.
    KEEL_GPU_CALLED u128 weigh() {
        clear();
        for (uint32_t id = thread_x(); id < a.vocabulary; id += kSelectThreads)
            if (const uint64_t w = weight(id)) add(bucket_of(a.distance[id]), w);
        return sum_parts();
    }
    // The candidate at which the target is reached in candidate order, behind weigh().
    KEEL_GPU_CALLED uint32_t cut(u128 target) {
        const Bin bin = find(target);
        const uint64_t begin = bucket_begin(bin.number), end = bucket_begin(bin.number + 1);
        for (uint32_t id = thread_x(); id < a.vocabulary; id += kSelectThreads) {
            const uint64_t at = f64_bits(a.distance[id]);
            if (at >= begin && at < end && weight(id)) a.list[atomic_add(&shared.listed, 1u)] = id;
        }
        sync_block();
        const uint32_t listed = shared.listed, width = 64 - static_cast<uint32_t>(__builtin_clzll(end - begin - 1));
        return narrow(a.list, listed, begin, width, target - bin.before);
    }
    KEEL_GPU void end_at(uint32_t id) { left.last_distance = a.distance[id], left.last_id = id; }

    KEEL_GPU void keep_top_k() {
        by_count = true;
        if (weigh() > a.top_k) end_at(cut(a.top_k));
        by_count = false;
    }

    // What is dropped has no mass any more.
    KEEL_GPU void keep_typical() {
        const u128 total = weigh();
        clear();
        for (uint32_t id = thread_x(); id < a.vocabulary; id += kSelectThreads)
            if (weight(id)) add(id % kSelectBins, a.weighted[id]);
        mean = f64_of(sum_parts()) / f64_of(total);
        by_deviation = true;
        const uint32_t last = narrow(nullptr, a.vocabulary, 0, 128, ceil_fraction(a.typical_p, total));
        const u128 end = key(last);
        for (uint32_t id = thread_x(); id < a.vocabulary; id += kSelectThreads) {
            const u128 k = key(id);
            if (k > end || (k == end && id > last)) a.mass[id] = 0;
        }
        by_deviation = false;
    }
    // Rounded once, to nearest even, as the host's conversion.
    KEEL_GPU_CALLED static double f64_of(u128 x) {
        const uint64_t high = static_cast<uint64_t>(x >> 64);
        const uint32_t shift = high ? 64 - static_cast<uint32_t>(__builtin_clzll(high)) : 0;
        uint64_t top = static_cast<uint64_t>(x >> shift);
        if ((u128{top} << shift) != x) top |= 1;  // what is cut off only says on which side of a tie it lies
        return mul_f64(static_cast<double>(top), f64_from_bits(static_cast<uint64_t>(1023 + shift) << 52));
    }

    KEEL_GPU void keep_min_p() {
        uint64_t largest = 0;
        for (uint32_t id = thread_x(); id < a.vocabulary; id += kSelectThreads) {
            const uint64_t m = weight(id);
            largest = m > largest ? m : largest;
        }
        shared.largest[thread_x()] = largest;
        for (uint32_t half = kSelectThreads / 2; half; half /= 2) {
            sync_block();
            const uint64_t other = thread_x() < half ? shared.largest[thread_x() + half] : 0;
            if (other > shared.largest[thread_x()]) shared.largest[thread_x()] = other;
        }
        sync_block();
        left.least_mass = static_cast<uint64_t>(ceil_fraction(a.min_p, shared.largest[0]));
    }
};

}  // namespace

KEEL_GPU_KERNEL(sample_select) {
    SelectShared& shared = *reinterpret_cast<SelectShared*>(shared_memory());
    SampleBest* const bests = reinterpret_cast<SampleBest*>(shared_memory());
    bests[thread_x()] = best_of_all(args, kSelectThreads);
    for (uint32_t half = kSelectThreads / 2; half; half /= 2) {
        sync_block();
        if (thread_x() < half) bests[thread_x()] = better(bests[thread_x()], bests[thread_x() + half]);
    }
    sync_block();
    const SampleBest best = bests[0];
    SampleResult result = {best.id, SampleStatus::kDrawn};
    if (best.bad || best.value == -kInfinity) {
        result.status = best.bad ? SampleStatus::kBadLogit : SampleStatus::kNothingAllowed;
    } else if (args.temperature > 0) {
        Select select = {args, shared, {kInfinity, 1, UINT32_MAX}, false, false, 0};
        if (args.top_k && args.top_k < args.vocabulary) select.keep_top_k();
        if (args.typical_p < 1) select.keep_typical();
        if (args.top_p < 1) select.end_at(select.cut(ceil_fraction(args.top_p, select.weigh())));
        if (args.min_p > 0) select.keep_min_p();
        if (thread_x() == 0) *args.left = select.left;
    }
    if (thread_x() == 0) *args.result = result;
}

namespace {

KEEL_GPU_CALLED SampleBest race_entry(const SampleArgs& a, uint32_t id) {
    const uint64_t w = uint64_t{race_word(a.seed, a.position, id, 0)} << 32 | race_word(a.seed, a.position, id, 1);
    return {-race_score(a.distance[id], w), id, 0};
}

}  // namespace

// Four tokens a thread, which have their random words in common.
KEEL_GPU_KERNEL(sample_race) {
    if (args.result->status != SampleStatus::kDrawn) return;
    const SampleLeft left = *args.left;
    const uint32_t group = block_x() * kSampleThreads + thread_x(), first = 4 * group;
    static_assert(kSampleTokens == 4 * kSampleThreads);
    uint32_t high[4] = {args.position, group, 0, 0};
    philox4x32(args.seed, high[0], high[1], high[2], high[3]);
    // The least bound is likely the winner's. Its score leaves few others to be computed.
    float bound[4];
    SampleBest likely = kNoEntry;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t id = first + i;
        const bool runs = id < args.vocabulary && mass_left(args, left, id);
        bound[i] = runs ? race_bound(static_cast<float>(args.distance[id]), high[i]) : kInf32;
        if (runs) likely = better(likely, {-static_cast<double>(bound[i]), id, 0});
    }
    likely = block_best(likely);
    SampleBest best = likely.id / 4 == group ? race_entry(args, likely.id) : kNoEntry;
    const float most = static_cast<float>(-block_best(best).value);
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i)
        if (bound[i] < kInf32 && bound[i] <= most && first + i != likely.id)
            best = better(best, race_entry(args, first + i));
    best = block_best(best);
    if (thread_x() == 0) args.best[block_x()] = best;
}

KEEL_GPU_KERNEL(sample_finish) {
    if (args.result->status != SampleStatus::kDrawn) return;
    const SampleBest best = block_best(best_of_all(args, kSampleThreads));
    if (thread_x() == 0) args.result->token = best.id;
}

}  // namespace keel::cuda
