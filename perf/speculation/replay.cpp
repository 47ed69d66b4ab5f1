#include "perf/speculation/replay.h"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "sdk/draft/drafter.h"

namespace keel_speculation {
namespace {

using keel::Arena;

// Times of steps of 1, 2, ... tokens: measured on AVX2 (perf/RESULTS.md), and those of a machine that waits for memory,
// which are predicted.
const struct {
    const char* name;
    std::vector<double> us;
} kCosts[] = {
    {"smollm2", {1, 1.51, 2.09, 2.14, 2.88, 2.96, 3.55, 3.61, 4.38, 4.41, 5.08, 5.18, 5.91, 6.04, 6.56, 6.67}},
    {"1b", {1, 1.20, 1.5, 1.67, 2.20, 2.3, 2.6, 2.68, 3.1, 3.2, 3.5, 3.6}},
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

void add(const Recorded& answer, const ReplayOptions& o, const keel::StepCosts& costs, keel::TokenPool* pool,
         bool counts, Sum* sum) {
    const auto& text = answer.tokens;
    const uint32_t count = static_cast<uint32_t>(text.size());
    Placed<keel::Drafter> drafter(count, 0);
    drafter->open({pool, nullptr}, true);
    std::vector<uint8_t> drawn(count / 8 + 1);
    const keel::DraftStep step = {costs, 1, 1};
    double time = 0;
    for (uint32_t at = answer.prompt; at < count;) {
        drafter->follow(text.data(), at, drawn.data());
        int32_t drafts[keel::kMaxDrafts];
        const uint32_t n = drafter->draft(text.data(), step, std::min(o.drafts, count - at - 1), drafts);
        uint32_t right = 0;
        while (right < n && drafts[right] == text[at + right]) ++right;
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

}  // namespace

std::vector<Recorded> read_recorded(const std::string& path) {
    std::ifstream in(path);
    if (!in) stop("cannot open " + path);
    std::vector<Recorded> answers;
    for (std::string line; std::getline(in, line);) {
        Recorded answer;
        std::istringstream numbers(line);
        numbers >> answer.prompt;
        for (int32_t id; numbers >> id;) answer.tokens.push_back(id);
        if (answer.prompt == 0 || answer.prompt > answer.tokens.size()) stop(path + ": a line that is no answer");
        if (answer.tokens.size() > answer.prompt + 8) answers.push_back(std::move(answer));
    }
    return answers;
}

void replay(const ReplayOptions& o) {
    std::vector<std::string> tables = o.costs;
    if (tables.empty())
        for (const auto& known : kCosts) tables.push_back(known.name);
    printf("%-24s %-8s %8s %8s %8s %8s %8s %8s\n", "file", "costs", "answers", "drafted", "accepted", "tok/step",
           "speed", "least");
    for (const std::string& file : o.files) {
        const std::vector<Recorded> answers = read_recorded(file);
        for (const std::string& table : tables) {
            const std::vector<double> us = costs_of(table);
            Placed<keel::TokenPool> pool(uint64_t{1} << 20);
            pool->clear();
            Sum sum;
            uint32_t counted = 0;
            for (uint32_t i = 0; i < answers.size(); ++i) {
                const bool counts = i % o.folds == o.fold;
                add(answers[i], o, {us.data(), static_cast<uint32_t>(us.size())}, o.pool ? pool.get() : nullptr, counts,
                    &sum);
                counted += counts;
            }
            const double steps = static_cast<double>(std::max<uint64_t>(sum.steps, 1));
            printf("%-24s %-8s %8u %8.2f %8.2f %8.2f %8.3f %8.3f\n", file.substr(file.rfind('/') + 1).c_str(),
                   table.substr(0, 8).c_str(), counted, static_cast<double>(sum.drafted) / steps,
                   sum.drafted ? static_cast<double>(sum.accepted) / static_cast<double>(sum.drafted) : 0.0,
                   static_cast<double>(sum.tokens) / steps, static_cast<double>(sum.tokens) / sum.time, sum.least);
        }
    }
}

}  // namespace keel_speculation
