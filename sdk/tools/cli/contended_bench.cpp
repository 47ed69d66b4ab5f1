#include "sdk/tools/cli/contended_bench.h"

#include <stdio.h>

#include <atomic>
#include <thread>

#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/made_up_ids.h"
#include "sdk/tools/common/statistics.h"

namespace keel::tools {
namespace {

using Clock = std::chrono::steady_clock;

// Threads that compute without a pause and touch no memory: the scheduler's share is all they take.
class BusyNeighbours {
  public:
    explicit BusyNeighbours(uint32_t count) {
        for (uint32_t i = 0; i < count; ++i)
            threads_.emplace_back([this] {
                while (!stop_.load(std::memory_order_relaxed)) {
                }
            });
    }
    ~BusyNeighbours() {
        stop_.store(true);
        for (std::thread& thread : threads_) thread.join();
    }

  private:
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

struct Row {
    uint32_t neighbours;
    std::vector<double> rates, steps_us;  // of each repeat; of each step
};

void measure(LoadedModel& m, Session& session, std::span<const int32_t> ids, const ContendedOptions& o, Row* row) {
    check(session.truncate(0), "cannot empty the session");
    check(session.feed(ids.first(o.position)), "cannot feed tokens");
    if (o.position) check(m.engine.advance(session).status, "cannot advance");
    const auto start = Clock::now();
    auto before = start;
    for (uint32_t i = 0; i < o.decode && !interrupted(); ++i) {
        check(session.feed(ids[o.position + i]), "cannot feed a token");
        check(m.engine.advance(session).status, "cannot advance");
        const auto now = Clock::now();
        row->steps_us.push_back(std::chrono::duration<double, std::micro>(now - before).count());
        before = now;
    }
    if (!interrupted()) row->rates.push_back(o.decode / std::chrono::duration<double>(before - start).count());
}

}  // namespace

void bench_contended(LoadedModel& m, const ContendedOptions& o, const Console& console) {
    if (o.decode == 0 || uint64_t{o.position} + o.decode > m.plan.context_tokens)
        throw ToolError(kExitUsage,
                        strf("--contended decodes --decode tokens from --position on, within the context of %u",
                             m.plan.context_tokens));
    Session session = open_session(m);
    const std::vector<int32_t> ids = made_up_ids(o.position + o.decode, m.file.info.vocabulary);

    std::vector<Row> rows;
    for (const uint32_t neighbours : {0u, 1u, m.plan.threads, 2 * m.plan.threads})
        if (rows.empty() || neighbours > rows.back().neighbours) rows.push_back({neighbours, {}, {}});
    {
        // Every load once a round, so that what happens on the machine meanwhile happens to all of them.
        ProgressBar bar(console, "measuring");
        for (uint32_t repeat = 0; repeat < o.repeats; ++repeat)
            for (size_t i = 0; i < rows.size() && !interrupted(); ++i) {
                bar.draw(repeat * rows.size() + i, o.repeats * rows.size(), strf("%u neighbours", rows[i].neighbours));
                const BusyNeighbours busy(rows[i].neighbours);
                measure(m, session, ids, o, &rows[i]);
            }
    }
    std::erase_if(rows, [](const Row& row) { return row.rates.empty(); });
    if (console.json) {
        Json out = {{"model", info_json(m.file.info)}, {"kernel_set", cpu_name(m.plan.cpu)},
                    {"threads", m.plan.threads},       {"decode_tokens", o.decode},
                    {"position", o.position},          {"repeats", o.repeats},
                    {"contended", Json::array()}};
        for (const Row& row : rows) {
            const Spread rate = spread_of(row.rates);
            out["contended"].push_back(
                {{"neighbours", row.neighbours},
                 {"tokens_per_second", {{"median", rate.median}, {"lowest", rate.lowest}, {"highest", rate.highest}}},
                 {"step_us",
                  {{"p50", percentile(row.steps_us, 0.5)},
                   {"p99", percentile(row.steps_us, 0.99)},
                   {"max", percentile(row.steps_us, 1)}}}});
        }
        return print_json(out);
    }
    printf("%s, %s, %s kernels, %u threads; decoding %u tokens at position %u, %u rounds\n\n", m.file.info.name,
           m.file.info.weight_types, cpu_name(m.plan.cpu), m.plan.threads, o.decode, o.position, o.repeats);
    Table table({"busy neighbours", "tok/s", "lowest", "highest", "step p50", "p99", "max"});
    for (const Row& row : rows) {
        const Spread rate = spread_of(row.rates);
        table.add({strf("%u", row.neighbours), strf("%.1f", rate.median), strf("%.1f", rate.lowest),
                   strf("%.1f", rate.highest), human_us(percentile(row.steps_us, 0.5)),
                   human_us(percentile(row.steps_us, 0.99)), human_us(percentile(row.steps_us, 1))});
    }
    fputs(table.text().c_str(), stdout);
}

}  // namespace keel::tools
