#include "perf/speculation/replay.h"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>

#include "sdk/draft/drafter.h"

namespace keel_speculation {
namespace {

using keel::Arena;

// Times of steps of 1, 2, ... tokens: measured on AVX2 and AVX-512 (perf/RESULTS.md), and those of a machine that waits
// for memory, which are predicted. Of the H200, 8B Q4_K_M, 1 and 8 tokens were measured; what lies between is a line.
const struct {
    const char* name;
    std::vector<double> us;
} kCosts[] = {
    {"smollm2", {1, 1.07, 1.31, 1.57, 1.85, 2.16, 2.78, 3.04, 3.35}},
    {"smollm2-avx512", {1, 1.04, 1.27, 1.44, 1.68, 1.94, 2.18, 2.48, 2.80, 3.05, 3.36, 3.64, 3.92, 4.21, 4.49, 4.78}},
    {"1b-avx512", {1, 1.01, 1.14, 1.24, 1.55, 1.69, 2.03, 2.20, 2.56, 2.73, 2.99, 3.15, 3.46, 3.59, 3.95, 4.12}},
    {"1b", {1, 1.20, 1.5, 1.67, 2.20, 2.3, 2.6, 2.68, 3.1, 3.2, 3.5, 3.6}},
    {"h200", {1, 1.02, 1.04, 1.06, 1.08, 1.10, 1.12, 1.14}},
    {"memory", {1, 1.07, 1.13, 1.2, 1.26, 1.32, 1.39, 1.45, 1.54, 1.64, 1.73, 1.83, 1.92, 2.0, 2.1, 2.2}},
};

[[noreturn]] void stop(const std::string& what) {
    fprintf(stderr, "keel_speculation: %s\n", what.c_str());
    exit(1);
}

std::vector<double> costs_of(const std::string& text) {
    for (const auto& known : kCosts)
        if (text == known.name) return known.us;
    std::vector<double> us;
    std::istringstream in(text);
    for (std::string number; std::getline(in, number, ',');) us.push_back(atof(number.c_str()));
    if (us.size() < 2 || us[0] <= 0) stop(text + " is no table of costs");
    return us;
}

// An object of the library with memory of its own.
template <class T>
class Placed {
  public:
    template <class... Args>
    explicit Placed(Args... args) {
        Arena counting;
        object_.place(&counting, args...);
        memory_.resize(counting.used_bytes() / sizeof(Line) + 1);
        Arena arena(memory_.data(), memory_.size() * sizeof(Line));
        object_.place(&arena, args...);
    }
    T* operator->() { return &object_; }
    T* get() { return &object_; }

  private:
    struct alignas(64) Line {
        char bytes[64];
    };
    std::vector<Line> memory_;
    T object_;
};

struct Sum {
    double time = 0, least = 1e9;
    uint64_t tokens = 0, steps = 0, drafted = 0, accepted = 0;
};

// What drafts: sources, and whether their drafts may be a tree. The pool and what was likely are shared by the answers
// of a file.
struct ReplayedWay {
    const char* name;
    bool suffix, pool, logits, trees;
};
constexpr ReplayedWay kWays[] = {
    {"suffix", true, false, false, false},
    {"suffix+pool", true, true, false, false},
    {"logits-chain", false, false, true, false},
    {"logits", false, false, true, true},
    {"suffix+logits-chain", true, false, true, false},
    {"suffix+logits", true, false, true, true},
    {"all-chain", true, true, true, false},
    {"all", true, true, true, true},
};

// How many of the drafts at the beginning of a path are what `next` goes on with.
uint32_t right_drafts(const int32_t* drafts, const uint8_t* parents, uint32_t count, const int32_t* next) {
    uint32_t right = 0, last = keel::kTextEnd;
    for (uint32_t i = 0; i < count; ++i)
        if (parents[i] == last && drafts[i] == next[right]) last = i, ++right;
    return right;
}

void add(const Recorded& answer, const ReplayOptions& o, const keel::StepCosts& costs, const ReplayedWay& way,
         const keel::SharedSources& sources, bool counts, Sum* sum) {
    const auto& text = answer.tokens;
    const uint32_t count = static_cast<uint32_t>(text.size());
    Placed<keel::Drafter> drafter(way.suffix ? count : 0, 0);
    drafter->open(sources, true);
    std::vector<uint8_t> drawn(count / 8 + 1);
    const keel::DraftStep step = {costs, 1, 1};
    double time = 0;
    for (uint32_t at = answer.prompt; at < count;) {
        drafter->follow(text.data(), at, drawn.data());
        int32_t drafts[keel::kMaxDrafts];
        uint8_t parents[keel::kMaxDrafts] = {keel::kTextEnd};
        for (uint8_t i = 1; !way.trees && i < keel::kMaxDrafts; ++i) parents[i] = static_cast<uint8_t>(i - 1);
        const uint32_t n = drafter->draft(text.data(), step, std::min(o.drafts, count - at - 1), drafts,
                                          way.trees ? parents : nullptr);
        const uint32_t right = right_drafts(drafts, parents, n, text.data() + at);
        if (sources.recycled)
            drafter->see_largest(at + right, answer.likeliest.data() + (at + right - answer.prompt) * kRecordedRanks);
        drafter->verified(step, n, right);
        time += costs(n + 1);
        for (uint32_t i = 0; i <= right; ++i, ++at) drawn[at / 8] = static_cast<uint8_t>(drawn[at / 8] | 1 << at % 8);
        if (counts) ++sum->steps, sum->drafted += n, sum->accepted += right;
    }
    drafter->follow(text.data(), count, drawn.data());
    if (!counts) return;
    const uint32_t tokens = count - answer.prompt;
    sum->time += time;
    sum->tokens += tokens;
    if (tokens >= 128) sum->least = std::min(sum->least, tokens / time);
}

void replay(const ReplayOptions& o, const std::string& file, const std::vector<Recorded>& answers,
            const std::string& table, const ReplayedWay& way) {
    const std::vector<double> us = costs_of(table);
    int32_t most = 0;
    for (const Recorded& answer : answers)
        for (const auto* ids : {&answer.tokens, &answer.likeliest})
            for (const int32_t id : *ids) most = std::max(most, id);
    Placed<keel::TokenPool> pool(uint64_t{1} << 20);
    Placed<keel::RecycledLogits> recycled(static_cast<uint32_t>(most) + 1);
    pool->clear();
    recycled->clear();
    const keel::SharedSources sources = {way.pool ? pool.get() : nullptr, way.logits ? recycled.get() : nullptr};
    Sum sum;
    uint32_t counted = 0;
    for (uint32_t i = 0; i < answers.size(); ++i) {
        const bool counts = i % o.folds == o.fold;
        add(answers[i], o, {us.data(), static_cast<uint32_t>(us.size())}, way, sources, counts, &sum);
        counted += counts;
    }
    const double steps = static_cast<double>(std::max<uint64_t>(sum.steps, 1));
    printf("%-16s %-8s %-20s %8u %8.2f %8.2f %8.2f %8.3f %8.3f\n", file.substr(file.rfind('/') + 1).c_str(),
           table.substr(0, 8).c_str(), way.name, counted, static_cast<double>(sum.drafted) / steps,
           sum.drafted ? static_cast<double>(sum.accepted) / static_cast<double>(sum.drafted) : 0.0,
           static_cast<double>(sum.tokens) / steps, static_cast<double>(sum.tokens) / sum.time, sum.least);
}

}  // namespace

static_assert(kRecordedRanks == keel::RecycledLogits::kWidth);

bool wanted(const std::string& list, const char* name) {
    std::istringstream in(list);
    for (std::string one; std::getline(in, one, ',');)
        if (one == name) return true;
    return list.empty();
}

std::vector<int32_t> likeliest(const float* logits, uint32_t vocabulary) {
    std::vector<int32_t> ids(vocabulary);
    std::iota(ids.begin(), ids.end(), 0);
    std::partial_sort(ids.begin(), ids.begin() + kRecordedRanks, ids.end(), [logits](int32_t a, int32_t b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    ids.resize(kRecordedRanks);
    return ids;
}

std::vector<Recorded> read_recorded(const std::string& path) {
    std::ifstream in(path);
    if (!in) stop("cannot open " + path);
    std::vector<Recorded> answers;
    for (std::string line; std::getline(in, line);) {
        Recorded answer;
        std::istringstream numbers(line);
        numbers >> answer.prompt;
        for (int32_t id; numbers >> id;) answer.tokens.push_back(id);
        numbers.clear();
        if (char bar; numbers >> bar)
            for (int32_t id; numbers >> id;) answer.likeliest.push_back(id);
        if (answer.prompt == 0 || answer.prompt > answer.tokens.size() ||
            (!answer.likeliest.empty() &&
             answer.likeliest.size() != (answer.tokens.size() - answer.prompt) * kRecordedRanks))
            stop(path + ": a line that is no answer");
        if (answer.tokens.size() > answer.prompt + 8) answers.push_back(std::move(answer));
    }
    return answers;
}

void replay(const ReplayOptions& o) {
    std::vector<std::string> tables = o.costs;
    if (tables.empty())
        for (const auto& known : kCosts) tables.push_back(known.name);
    printf("%-16s %-8s %-20s %8s %8s %8s %8s %8s %8s\n", "file", "costs", "drafter", "answers", "drafted", "accepted",
           "tok/step", "speed", "least");
    for (const std::string& file : o.files) {
        const std::vector<Recorded> answers = read_recorded(file);
        const bool rows = std::none_of(answers.begin(), answers.end(), [](auto& a) { return a.likeliest.empty(); });
        for (const std::string& table : tables)
            for (const ReplayedWay& way : kWays)
                if ((rows || !way.logits) && wanted(o.only, way.name)) replay(o, file, answers, table, way);
    }
}

}  // namespace keel_speculation
