// The kernels that draw a token against the host's sampler, which tests of its own compare with a plain sort.
#include <map>

#include "sdk/run/sampler.h"
#include "tests/simt/launch.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

using namespace keel::cuda;

// What a draw depends on.
struct Draw {
    std::vector<float> logits;
    keel::SamplerParams params = {};
    std::vector<int32_t> history;
    std::vector<uint8_t> mask;  // empty: none

    uint32_t vocabulary() const { return static_cast<uint32_t>(logits.size()); }
};

// -1: an error.
int32_t host_token(const Draw& draw) {
    keel::SamplerInput in = {};
    in.logits = draw.logits.data();
    in.vocabulary = draw.vocabulary();
    in.history = draw.history.data();
    in.history_count = static_cast<uint32_t>(draw.history.size());
    in.mask = draw.mask.empty() ? nullptr : draw.mask.data();
    in.kernel = &kScalarSet;
    Buffer work(keel::sampler_work_bytes(draw.vocabulary()));
    int32_t token = -1;
    const keel_status status = keel::sampler_draw(draw.params, in, work.data(), &token);
    EXPECT_TRUE(status == KEEL_OK || status == KEEL_E_NUMERIC);
    return status == KEEL_OK ? token : -1;
}

template <class T>
Buffer fenced_array(const std::vector<T>& values) {
    Buffer copy(values.size() * sizeof(T), alignof(T));
    if (!values.empty()) memcpy(copy.data(), values.data(), values.size() * sizeof(T));
    return copy;
}

int32_t device_token(const Draw& draw, simt::Order order) {
    const keel::SamplerParams& p = draw.params;
    const uint32_t n = draw.vocabulary(), history = static_cast<uint32_t>(draw.history.size());
    std::vector<TokenBias> biases;
    for (uint32_t i = 0; i < p.bias_count; ++i)
        biases.push_back({static_cast<uint32_t>(p.bias_ids[i]), p.bias_values[i]});
    std::vector<uint32_t> forbidden(p.excluded_ids, p.excluded_ids + p.excluded_count);
    std::map<uint32_t, uint32_t> counts;
    for (uint32_t i = p.penalty_window < history ? history - p.penalty_window : 0; i < history; ++i)
        ++counts[static_cast<uint32_t>(draw.history[i])];
    std::vector<TokenCount> counted;
    for (const auto& [id, count] : counts) counted.push_back({id, count});

    Buffer logits = fenced(draw.logits), mask = fenced_array(draw.mask), bias = fenced_array(biases),
           ids = fenced_array(forbidden), window = fenced_array(counted), distance(n * 8, 8), mass(n * 8, 8),
           weighted(n * 8, 8), list(n * 4, 4), best(sample_blocks(n) * sizeof(SampleBest), 8),
           left(sizeof(SampleLeft), 8), result(sizeof(SampleResult), 4);
    SampleArgs a = {};
    a.logits = logits.floats();
    a.mask = draw.mask.empty() ? nullptr : mask.data();
    a.bias = reinterpret_cast<const TokenBias*>(bias.data());
    a.forbidden = reinterpret_cast<const uint32_t*>(ids.data());
    a.window = reinterpret_cast<const TokenCount*>(window.data());
    a.bias_count = p.bias_count;
    a.forbidden_count = p.excluded_count;
    a.window_count = static_cast<uint32_t>(counted.size());
    a.vocabulary = n;
    a.repetition = p.repetition_penalty;
    a.frequency = p.frequency_penalty;
    a.presence = p.presence_penalty;
    a.temperature = p.temperature;
    a.top_p = p.top_p;
    a.min_p = p.min_p;
    a.typical_p = p.typical_p;
    a.top_k = p.top_k;
    a.position = history;
    a.seed = p.seed;
    a.distance = reinterpret_cast<double*>(distance.data());
    a.mass = reinterpret_cast<uint64_t*>(mass.data());
    a.weighted = reinterpret_cast<uint64_t*>(weighted.data());
    a.list = reinterpret_cast<uint32_t*>(list.data());
    a.best = reinterpret_cast<SampleBest*>(best.data());
    a.left = reinterpret_cast<SampleLeft*>(left.data());
    a.result = reinterpret_cast<SampleResult*>(result.data());
    launch(kernel_sample_adjust, a, sample_shape(a), order);
    if (p.temperature > 0) launch(kernel_sample_weigh, a, sample_shape(a), order);
    launch(kernel_sample_select, a, select_shape(a), order);
    if (p.temperature > 0) {
        launch(kernel_sample_race, a, sample_shape(a), order);
        launch(kernel_sample_finish, a, finish_shape(a), order);
    }
    return a.result->status == SampleStatus::kDrawn ? static_cast<int32_t>(a.result->token) : -1;
}

// Logits of shapes that selections find hard: ordinary, in few values, all equal, in a cluster with one far above,
// forbidden ones, numbers that are none.
std::vector<float> some_logits(Random& random, uint32_t n) {
    std::vector<float> x(n);
    const uint32_t shape = random.below(6);
    const float scale = random.uniform(0.1f, 12);
    for (float& v : x)
        v = shape == 0   ? 3.5f
            : shape == 1 ? static_cast<float>(random.below(5)) * 0.5f
            : shape == 2 ? 1 + random.normal() * 1e-6f
                         : random.normal() * scale;
    if (shape == 2) x[random.below(n)] = 8;
    if (random.below(3) == 0)
        for (float& v : x) v = random.below(3) ? v : -INFINITY;
    if (random.below(20) == 0) x[random.below(n)] = random.below(2) ? NAN : INFINITY;
    return x;
}

Draw some_draw(Random& random, uint32_t n) {
    Draw d;
    d.logits = some_logits(random, n);
    std::vector<int32_t> bias_ids, excluded;
    std::vector<float> bias_values;
    const auto any_id = [&] { return static_cast<int32_t>(random.below(n)); };
    const auto rarely = [&] { return random.below(3) == 0; };
    keel_sampling s = {};
    s.struct_size = sizeof s;
    s.temperature = random.below(8) ? random.uniform(0.05f, 3) : 0;
    if (rarely()) s.top_k = 1 + random.below(n + 4);
    if (rarely()) s.top_p = random.uniform(0.001f, 1);
    if (rarely()) s.min_p = random.below(2) ? random.uniform(0, 1) : 1e-12f;
    if (rarely()) s.typical_p = random.uniform(0.001f, 1);
    s.seed = random.bits();
    if (rarely()) {
        for (uint32_t i = 0; i < 40; ++i) d.history.push_back(any_id());
        s.repetition_penalty = random.uniform(0.5f, 2);
        s.frequency_penalty = random.normal();
        s.presence_penalty = random.normal();
        s.penalty_window = random.between(1, 50);
    }
    if (rarely())
        for (uint32_t i = random.between(1, 9); i; --i)
            bias_ids.push_back(any_id()), bias_values.push_back(random.normal() * 4);
    for (uint32_t i = 1; i < bias_ids.size(); i += 2) bias_ids[i] = bias_ids[0];
    if (rarely())
        for (uint32_t id = 0; id < n && excluded.size() < 30; id += 1 + random.below(7))
            excluded.push_back(static_cast<int32_t>(id));
    if (rarely())
        for (uint32_t i = 0; i < (n + 7) / 8; ++i)
            d.mask.push_back(static_cast<uint8_t>(random.bits() | random.bits()));
    s.bias_ids = bias_ids.data(), s.bias_values = bias_values.data();
    s.bias_count = static_cast<uint32_t>(bias_ids.size());
    s.excluded_ids = excluded.data(), s.excluded_count = static_cast<uint32_t>(excluded.size());
    EXPECT_EQ(keel::sampler_set(&s, n, &d.params), KEEL_OK);
    return d;
}

TEST(SimtSample, DrawsTheHostsToken) {
    Random random(1);
    uint32_t drawn = 0, refused = 0;
    for (uint32_t i = 0; i < 120; ++i) {
        const uint32_t sizes[] = {1, 7, 300, 1024, 1500, 2500}, n = sizes[i % 6];
        const Draw draw = some_draw(random, n);
        const simt::Order order = orders()[i % orders().size()];
        const int32_t want = host_token(draw);
        EXPECT_EQ(device_token(draw, order), want) << "case " << i << ", " << n << " tokens";
        ++(want < 0 ? refused : drawn);
    }
    EXPECT_GT(drawn, 80u);
    EXPECT_GT(refused, 5u);
}

// Sums of masses beyond 64 bits: more than 4,096 tokens about as probable as the first.
TEST(SimtSample, SumsBeyond64Bits) {
    Random random(3);
    for (uint32_t filter = 0; filter < 4; ++filter) {
        Draw draw;
        draw.logits.resize(9000);
        for (float& v : draw.logits) v = random.uniform(0, 0.01f);
        keel_sampling s = {};
        s.struct_size = sizeof s;
        s.temperature = 1;
        s.seed = 7 + filter;
        if (filter == 1) s.top_p = 0.97f;
        if (filter == 2) s.typical_p = 0.9f;
        if (filter == 3) s.typical_p = 0.02f;
        ASSERT_EQ(keel::sampler_set(&s, draw.vocabulary(), &draw.params), KEEL_OK);
        EXPECT_EQ(device_token(draw, orders()[filter % orders().size()]), host_token(draw)) << filter;
    }
}

// Each filter by itself, on logits of many equal values: ties go to the lowest ids.
TEST(SimtSample, TiesGoToTheLowestIds) {
    Random random(2);
    for (uint32_t filter = 0; filter < 5; ++filter)
        for (uint32_t i = 0; i < 4; ++i) {
            Draw draw;
            draw.logits.resize(1300);
            for (float& v : draw.logits) v = i % 2 ? 0.f : static_cast<float>(random.below(2));
            keel_sampling s = {};
            s.struct_size = sizeof s;
            s.temperature = 1;
            s.seed = random.bits();
            if (filter == 1) s.top_k = 700;
            if (filter == 2) s.top_p = 0.4f;
            if (filter == 3) s.typical_p = 0.3f;
            if (filter == 4) s.min_p = 0.6f;
            ASSERT_EQ(keel::sampler_set(&s, draw.vocabulary(), &draw.params), KEEL_OK);
            EXPECT_EQ(device_token(draw, orders()[i % orders().size()]), host_token(draw)) << filter << " " << i;
        }
}

}  // namespace
}  // namespace keel_test
