// One draw over a whole vocabulary, and for scale the same filters by sorting all of it. Bytes are those of the logits.
#include <benchmark/benchmark.h>
#include <math.h>

#include <algorithm>
#include <new>
#include <random>
#include <vector>

#include "kernels/cpu/isa.h"
#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/run/sampler.h"

namespace {

using namespace keel;

// A language model's shape; standard deviation 0.1; all equal; one of two values; one far above many that differ in
// their last bits; ascending by 0.001.
enum Logits { kPeaked, kFlat, kEqual, kTwoValues, kCluster, kAscending };

std::vector<float> make_logits(Logits kind, size_t vocabulary) {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal(0, kind == kPeaked    ? 2.5f
                                              : kind == kFlat    ? 0.1f
                                              : kind == kCluster ? 1.f
                                                                 : 0.f);
    std::vector<float> logits(vocabulary);
    for (float& x : logits)
        x = kind == kTwoValues ? static_cast<float>(rng() % 2)
            : kind == kCluster ? 1 + 1e-3f * normal(rng)
                               : normal(rng);
    if (kind == kCluster) logits[vocabulary / 2] = 8;
    if (kind == kAscending)
        for (size_t i = 0; i < vocabulary; ++i) logits[i] = 1e-3f * static_cast<float>(i);
    if (kind == kPeaked)
        for (int i = 0; i < 30; ++i) logits[rng() % vocabulary] = 12 + normal(rng);
    return logits;
}

keel_sampling sampling(float temperature) {
    keel_sampling s = {};
    s.struct_size = sizeof s;
    s.temperature = temperature;
    return s;
}
keel_sampling greedy() {
    return sampling(0);
}
keel_sampling plain() {
    return sampling(1);
}
keel_sampling top_k40() {
    keel_sampling s = sampling(0.8f);
    s.top_k = 40;
    return s;
}
keel_sampling top_p95() {
    keel_sampling s = sampling(0.8f);
    s.top_p = 0.95f;
    return s;
}
keel_sampling min_p05() {
    keel_sampling s = sampling(0.8f);
    s.min_p = 0.05f;
    return s;
}
keel_sampling typical95() {
    keel_sampling s = sampling(0.8f);
    s.typical_p = 0.95f;
    return s;
}
keel_sampling chat() {  // what most front ends send
    keel_sampling s = sampling(0.8f);
    s.top_k = 40, s.top_p = 0.95f, s.min_p = 0.05f, s.repetition_penalty = 1.1f;
    return s;
}

const kernels::KernelSet* best_set() {
    const kernels::KernelSet* best = &kernels::kScalarSet;
    for (uint32_t isa = kernels::kScalar; isa < kernels::kIsaLimit; ++isa)
        if (const kernels::KernelSet* set = find_kernel_set(isa)) best = set;
    return best;
}

void BM_draw(benchmark::State& state, keel_sampling (*make)(), Logits kind) {
    const auto vocabulary = static_cast<uint32_t>(state.range(0));
    const std::vector<float> logits = make_logits(kind, vocabulary);
    std::vector<int32_t> history(1024);
    for (size_t i = 0; i < history.size(); ++i) history[i] = static_cast<int32_t>(i * 7919 % vocabulary);
    const keel_sampling s = make();
    SamplerParams params;
    if (sampler_set(&s, vocabulary, &params) != KEEL_OK) return state.SkipWithError("sampler_set");
    SamplerInput in = {};
    in.logits = logits.data(), in.vocabulary = vocabulary;
    in.history = history.data(), in.history_count = static_cast<uint32_t>(history.size());
    in.kernel = best_set();
    void* work = ::operator new (sampler_work_bytes(vocabulary), std::align_val_t{64});
    int32_t token = 0;
    for (auto _ : state) {
        ++params.seed;
        if (sampler_draw(params, in, work, &token) != KEEL_OK) state.SkipWithError("sampler_draw");
        benchmark::DoNotOptimize(token);
    }
    ::operator delete (work, std::align_val_t{64});
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * vocabulary * 4);
}

// Top-p as it is often written: softmax in f64 with the platform's exp, std::sort of everything, prefix sum, draw.
void BM_sorted_top_p95(benchmark::State& state, Logits kind) {
    const auto vocabulary = static_cast<size_t>(state.range(0));
    const std::vector<float> logits = make_logits(kind, vocabulary);
    struct Candidate {
        double p;
        uint32_t id;
    };
    std::vector<Candidate> c(vocabulary);
    std::mt19937_64 rng(1);
    for (auto _ : state) {
        const double largest = *std::max_element(logits.begin(), logits.end());
        double total = 0;
        for (size_t i = 0; i < vocabulary; ++i) {
            c[i] = {exp((logits[i] - largest) / 0.8), static_cast<uint32_t>(i)};
            total += c[i].p;
        }
        std::sort(c.begin(), c.end(),
                  [](const Candidate& a, const Candidate& b) { return a.p > b.p || (a.p == b.p && a.id < b.id); });
        double sum = 0;
        size_t n = 0;
        while (n < vocabulary && sum < 0.95 * total) sum += c[n++].p;
        double left = std::uniform_real_distribution<double>(0, sum)(rng);
        size_t i = 0;
        while (i + 1 < n && (left -= c[i].p) > 0) ++i;
        benchmark::DoNotOptimize(c[i].id);
    }
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * vocabulary * 4));
}

void BM_top_logprobs(benchmark::State& state) {
    const auto vocabulary = static_cast<uint32_t>(state.range(0));
    const std::vector<float> logits = make_logits(kPeaked, vocabulary);
    void* work = ::operator new (sampler_work_bytes(vocabulary), std::align_val_t{64});
    int32_t ids[20];
    float logprobs[20];
    for (auto _ : state) {
        if (top_logprobs(*best_set(), logits.data(), vocabulary, 20, work, ids, logprobs) != KEEL_OK)
            state.SkipWithError("failed");
        benchmark::DoNotOptimize(ids);
    }
    ::operator delete (work, std::align_val_t{64});
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * vocabulary * 4);
}

void vocabularies(benchmark::internal::Benchmark* b) {
    b->Arg(32000)->Arg(49152)->Arg(152064)->Arg(262144)->Unit(benchmark::kMicrosecond);
}

BENCHMARK_CAPTURE(BM_draw, greedy, greedy, kPeaked)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, plain_peaked, plain, kPeaked)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, plain_flat, plain, kFlat)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, plain_equal, plain, kEqual)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, plain_ascending, plain, kAscending)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, top_k40, top_k40, kPeaked)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, top_p95_peaked, top_p95, kPeaked)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, top_p95_flat, top_p95, kFlat)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, top_p95_equal, top_p95, kEqual)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, top_p95_two_values, top_p95, kTwoValues)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, top_p95_cluster, top_p95, kCluster)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, min_p05, min_p05, kPeaked)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, typical95_peaked, typical95, kPeaked)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, typical95_flat, typical95, kFlat)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, typical95_equal, typical95, kEqual)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, typical95_two_values, typical95, kTwoValues)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, typical95_cluster, typical95, kCluster)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_draw, chat, chat, kPeaked)->Apply(vocabularies);
BENCHMARK(BM_top_logprobs)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_sorted_top_p95, peaked, kPeaked)->Apply(vocabularies);
BENCHMARK_CAPTURE(BM_sorted_top_p95, flat, kFlat)->Apply(vocabularies);

}  // namespace

BENCHMARK_MAIN();
