#include "sdk/tools/cli/column_bench.h"

#include <stdio.h>
#include <time.h>

#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/made_up_ids.h"
#include "sdk/tools/common/statistics.h"

namespace keel::tools {
namespace {

constexpr uint32_t kMost = KEEL_STEP_COSTS;

double process_us() {
    return static_cast<double>(clock()) * (1e6 / CLOCKS_PER_SEC);
}

class ColumnBench {
  public:
    ColumnBench(LoadedModel& model, const ColumnOptions& options)
        : m_(model), o_(options), ids_(made_up_ids(o_.position + kMost, m_.file.info.vocabulary)) {
        for (uint32_t i = 0; i < kMost; ++i) {
            sessions_.push_back(open_session(m_));
            handles_.push_back(sessions_.back().handle());
            check(sessions_[i].feed(std::span(ids_).first(o_.position)), "cannot feed tokens");
        }
        results_.resize(kMost);
        if (o_.position) advance(kMost);
    }
    double of_one_session(uint32_t tokens) {
        check(sessions_[0].feed(std::span(ids_).subspan(o_.position, tokens), KEEL_FEED_ALL_LOGITS), "cannot feed");
        return timed(1);
    }
    double of_sessions(uint32_t count) {
        for (uint32_t i = 0; i < count; ++i) check(sessions_[i].feed(ids_[o_.position]), "cannot feed a token");
        return timed(count);
    }

  private:
    void advance(uint32_t sessions) {
        check(m_.engine.advance(std::span(handles_).first(sessions), std::span(results_).first(sessions)),
              "cannot advance");
    }
    double timed(uint32_t sessions) {
        const double begin = process_us();
        advance(sessions);
        const double us = process_us() - begin;
        for (uint32_t i = 0; i < sessions; ++i) check(sessions_[i].truncate(o_.position), "cannot truncate");
        return us;
    }

    LoadedModel& m_;
    const ColumnOptions& o_;
    std::vector<int32_t> ids_;
    std::vector<Session> sessions_;
    std::vector<keel_session> handles_;
    std::vector<keel_advance_result> results_;
};

}  // namespace

void bench_columns(LoadedModel& m, const ColumnOptions& o, const Console& console) {
    if (uint64_t{o.position} + kMost > m.plan.context_tokens || m.plan.chunk_tokens < kMost)
        throw ToolError(kExitUsage, strf("--columns needs %u tokens behind --position, within the context of %u", kMost,
                                         m.plan.context_tokens));
    ColumnBench bench(m, o);
    std::vector<double> tokens[kMost], sessions[kMost];
    {
        ProgressBar bar(console, "measuring");
        for (uint32_t repeat = 0; repeat < o.repeats; ++repeat)
            for (uint32_t n = 1; n <= kMost && !interrupted(); ++n) {
                bar.draw(repeat * kMost + n - 1, o.repeats * kMost, strf("%u tokens", n));
                tokens[n - 1].push_back(bench.of_one_session(n));
                sessions[n - 1].push_back(bench.of_sessions(n));
            }
    }
    const auto cost = [](const std::vector<double>* us, uint32_t n) {
        return spread_of(us[n]).lowest / spread_of(us[0]).lowest;
    };
    uint32_t measured = 0;
    while (measured < kMost && !tokens[measured].empty()) ++measured;
    if (console.json) {
        Json out = {{"model", info_json(m.file.info)},
                    {"kernel_set", cpu_name(m.plan.cpu)},
                    {"threads", m.plan.threads},
                    {"position", o.position},
                    {"repeats", o.repeats},
                    {"columns", Json::array()}};
        for (uint32_t n = 0; n < measured; ++n)
            out["columns"].push_back({{"tokens", n + 1},
                                      {"us", spread_of(tokens[n]).lowest},
                                      {"cost", cost(tokens, n)},
                                      {"cost_of_sessions", cost(sessions, n)},
                                      {"planned", m.plan.step_us[n] / m.plan.step_us[0]}});
        return print_json(out);
    }
    printf("%s, %s, %s kernels, %u threads; steps at position %u, least of %u turns, processor time\n\n",
           m.file.info.name, m.file.info.weight_types, cpu_name(m.plan.cpu), m.plan.threads, o.position, o.repeats);
    Table table({"tokens", "a step", "in steps of one", "of sessions", "planned"});
    for (uint32_t n = 0; n < measured; ++n)
        table.add({strf("%u", n + 1), human_us(spread_of(tokens[n]).lowest), strf("%.2f", cost(tokens, n)),
                   strf("%.2f", cost(sessions, n)), strf("%.2f", m.plan.step_us[n] / m.plan.step_us[0])});
    fputs(table.text().c_str(), stdout);
}

}  // namespace keel::tools
