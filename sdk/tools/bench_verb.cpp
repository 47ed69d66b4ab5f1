// keel bench: prefill and decode rates, the latency of single steps and of time slices, against the memory bandwidth
// measured in the same run.
#include <stdio.h>

#include <chrono>
#include <numeric>

#include "sdk/tools/model_loader.h"
#include "sdk/tools/statistics.h"
#include "sdk/tools/stream_bandwidth.h"
#include "sdk/tools/verbs.h"

namespace keel::tools {
namespace {

using Clock = std::chrono::steady_clock;
double us_since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

struct Options {
    EngineOptions engine;
    uint32_t prefill = 512, decode = 128, steps = 500, position = 256, repeats = 5;
    uint64_t budget_us = 2000, stream_mib = 0;
};

struct Latency {
    double p50 = 0, p99 = 0, p999 = 0, largest = 0;
    size_t samples = 0;
};
Latency latency_of(const std::vector<double>& us) {
    return {percentile(us, 0.5), percentile(us, 0.99), percentile(us, 0.999), percentile(us, 1), us.size()};
}

struct Results {
    Spread prefill_rate, decode_rate;  // tokens per second
    double decode_bytes = 0;           // per token, mean over the decoded positions
    Latency step, slice;               // microseconds
    double slice_overrun_us = 0;       // largest slice minus the budget
    StreamBandwidth stream{},
        stream_near{};  // beyond the caches; working set of the model (only when that fits the cache)
    uint64_t cache_bytes = 0;
};

class Bench {
  public:
    Bench(LoadedModel& model, const Options& options, const Console& console)
        : m_(model), o_(options), bar_(console, "measuring") {
        Result<Session> session = m_.engine.open();
        check(session.status, "cannot open a session");
        session_ = std::move(*session);
        // Any ids will do: the work does not depend on them. A fixed generator keeps runs alike.
        ids_.resize(std::max({o_.prefill, o_.position + 1, 1u}));
        uint64_t state = 1;
        for (int32_t& id : ids_) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            id = static_cast<int32_t>((state >> 33) % m_.file.info.vocabulary);
        }
    }

    Results run() {
        Results r;
        r.decode_bytes = decode_bytes();
        r.cache_bytes = last_level_cache_bytes();
        measure_streams(r);
        r.prefill_rate = prefill();
        r.decode_rate = decode();
        r.step = latency_of(steps());
        if (o_.budget_us) {
            const std::vector<double> slices = slices_of_a_prompt();
            r.slice = latency_of(slices);
            r.slice_overrun_us = std::max(0.0, r.slice.largest - static_cast<double>(o_.budget_us));
        }
        measure_streams(r);
        return r;
    }

  private:
    uint32_t decode_start() const { return std::min(o_.prefill, m_.plan.context_tokens - o_.decode); }
    double decode_bytes() const {
        const double mean_position = decode_start() + (o_.decode - 1) / 2.0;
        return static_cast<double>(m_.plan.decode_bytes) +
               mean_position * static_cast<double>(m_.plan.kv_bytes_per_token);
    }

    // Before and after the rest, so that a neighbour's burst of work cannot hide what the memory can do.
    void measure_streams(Results& r) {
        bar_.update(95, 100, "memory stream");
        const auto add = [&](StreamBandwidth& total, uint64_t bytes) {
            const StreamBandwidth stream = measure_stream(bytes, m_.plan.threads, o_.repeats);
            total.bytes = stream.bytes;
            total.gb_per_s.insert(total.gb_per_s.end(), stream.gb_per_s.begin(), stream.gb_per_s.end());
        };
        add(r.stream, o_.stream_mib ? o_.stream_mib << 20 : std::max<uint64_t>(4 * r.cache_bytes, 64 << 20));
        if (r.decode_bytes < static_cast<double>(r.cache_bytes))
            add(r.stream_near, static_cast<uint64_t>(r.decode_bytes));
    }

    void reset(uint32_t tokens) {
        check(session_.truncate(0), "cannot empty the session");
        if (tokens == 0) return;
        feed(tokens);
        advance();
    }
    void feed(uint32_t tokens) { check(session_.feed(std::span(ids_).first(tokens)), "cannot feed tokens"); }
    void advance() { check(m_.engine.advance(session_).status, "cannot advance"); }

    Spread prefill() {
        std::vector<double> rates;
        for (uint32_t r = 0; r < o_.repeats + 1; ++r) {
            bar_.update(r * 25, (o_.repeats + 1) * 100, "prefill");
            reset(0);
            feed(o_.prefill);
            const auto start = Clock::now();
            advance();
            if (r) rates.push_back(o_.prefill / us_since(start) * 1e6);  // the first one warms up
        }
        return spread_of(rates);
    }

    Spread decode() {
        std::vector<double> rates;
        const uint32_t first = decode_start();
        for (uint32_t r = 0; r < o_.repeats; ++r) {
            bar_.update(25 * o_.repeats + r * 25, o_.repeats * 100, "decode");
            reset(first);
            const auto start = Clock::now();
            for (uint32_t i = 0; i < o_.decode; ++i) {
                check(session_.feed(ids_[i % ids_.size()]), "cannot feed a token");
                advance();
            }
            rates.push_back(o_.decode / us_since(start) * 1e6);
        }
        return spread_of(rates);
    }

    // The same step over and over: a position is computed, timed and forgotten.
    std::vector<double> steps() {
        reset(o_.position);
        std::vector<double> us;
        us.reserve(o_.steps);
        for (uint32_t i = 0; i < o_.steps; ++i) {
            bar_.update(50 * o_.steps + i * 30, o_.steps * 100, "steps");
            check(session_.feed(ids_[o_.position]), "cannot feed a token");
            const auto start = Clock::now();
            advance();
            us.push_back(us_since(start));
            check(session_.truncate(o_.position), "cannot truncate");
        }
        return us;
    }

    // One prompt in slices of the budget, until as many slices are timed as there are repeats of it.
    std::vector<double> slices_of_a_prompt() {
        std::vector<double> us;
        for (uint32_t r = 0; r < o_.repeats; ++r) {
            bar_.update(80 * o_.repeats + r * 15, o_.repeats * 100, "time slices");
            reset(0);
            feed(o_.prefill);
            for (keel_status status = KEEL_AGAIN; status == KEEL_AGAIN;) {
                const auto start = Clock::now();
                status = m_.engine.advance(session_, o_.budget_us).status;
                us.push_back(us_since(start));
                check(status, "cannot advance");
            }
        }
        return us;
    }

    LoadedModel& m_;
    const Options& o_;
    ProgressBar bar_;
    Session session_;
    std::vector<int32_t> ids_;
};

Json spread_json(const Spread& s) {
    return {{"median", s.median}, {"lowest", s.lowest}, {"highest", s.highest}};
}
Json latency_json(const Latency& l) {
    return {{"p50_us", l.p50}, {"p99_us", l.p99}, {"p99_9_us", l.p999}, {"max_us", l.largest}, {"samples", l.samples}};
}

void bench(const Options& o, const Console& console) {
    if (o.prefill == 0 || o.decode == 0 || o.steps == 0 || o.repeats == 0)
        throw ToolError(kExitUsage, "--prefill, --decode, --steps and --repeats must be at least 1");
    EngineOptions engine = o.engine;
    if (engine.context == 0) engine.context = std::max(o.prefill + o.decode, o.position + 1);
    LoadedModel m = load_model(engine, console);
    const uint32_t context = m.plan.context_tokens;
    if (o.prefill > context || o.decode >= context || o.position >= context)
        throw ToolError(kExitUsage,
                        strf("--prefill, --decode or --position does not fit the context of %u tokens", context));

    const Results r = Bench(m, o, console).run();
    const Spread stream = spread_of(r.stream.gb_per_s), near = spread_of(r.stream_near.gb_per_s);
    const bool in_cache = near.median > 0;
    const double used_gb_per_s = r.decode_bytes * r.decode_rate.median / 1e9;
    const double percent = used_gb_per_s / (in_cache ? near.highest : stream.highest) * 100;
    Result<keel_stats> stats = m.engine.stats();
    check(stats.status, "cannot read the engine's statistics");

    if (console.json) {
        Json out = {{"model", info_json(m.file.info)},
                    {"kernel_set", stats->kernel_set},
                    {"threads", stats->threads},
                    {"weights", weights_name(m.config.weights)},
                    {"activation", activation_name(m.config.activation)},
                    {"k_format", kv_format_name(m.config.k_format)},
                    {"v_format", kv_format_name(m.config.v_format)},
                    {"repeats", o.repeats},
                    {"load_seconds", m.load_seconds},
                    {"prefill", spread_json(r.prefill_rate)},
                    {"decode", spread_json(r.decode_rate)},
                    {"step", latency_json(r.step)},
                    {"stream", {{"bytes", r.stream.bytes}, {"gb_per_s", spread_json(stream)}}}};
        out["prefill"]["tokens"] = o.prefill;
        out["decode"]["tokens"] = o.decode;
        out["decode"]["bytes_per_token"] = r.decode_bytes;
        out["decode"]["gb_per_s"] = used_gb_per_s;
        out["decode"]["percent_of_stream"] = percent;
        out["decode"]["stream_used"] = in_cache ? "working set of the model (cache-resident)" : "beyond the caches";
        out["step"]["position"] = o.position;
        if (o.budget_us) {
            out["slice"] = latency_json(r.slice);
            out["slice"]["budget_us"] = o.budget_us;
            out["slice"]["largest_overrun_us"] = r.slice_overrun_us;
        }
        if (in_cache) out["stream_working_set"] = {{"bytes", r.stream_near.bytes}, {"gb_per_s", spread_json(near)}};
        out["last_level_cache_bytes"] = r.cache_bytes;
        out["planned_bytes"] = total_bytes(m.plan);
        out["arena_allocations_after_init"] = stats->allocations_after_init;
        return print_json(out);
    }

    printf("%s, %s, %s kernels, %u threads\n\n", m.file.info.name, m.file.info.weight_types, stats->kernel_set,
           stats->threads);
    Table rates({"", "median", "lowest", "highest"});
    const auto add = [&](const std::string& name, const Spread& s, const char* unit) {
        rates.add({name, strf("%.1f %s", s.median, unit), strf("%.1f", s.lowest), strf("%.1f", s.highest)});
    };
    add(strf("prefill %u tokens", o.prefill), r.prefill_rate, "tok/s");
    add(strf("decode %u tokens", o.decode), r.decode_rate, "tok/s");
    add("memory stream, " + human_bytes(r.stream.bytes), stream, "GB/s");
    if (in_cache) add("memory stream, " + human_bytes(r.stream_near.bytes), near, "GB/s");
    fputs(rates.text().c_str(), stdout);
    printf("\ndecode moves %s per token: %.1f GB/s, %.0f %% of the fastest stream %s\n\n",
           human_bytes(static_cast<uint64_t>(r.decode_bytes)).c_str(), used_gb_per_s, percent,
           in_cache ? "over an equal working set (the model is cache-resident)" : "beyond the caches");
    Table latency({"latency", "p50", "p99", "p99.9", "max", "samples"});
    const auto row = [&](const std::string& name, const Latency& l) {
        latency.add(
            {name, human_us(l.p50), human_us(l.p99), human_us(l.p999), human_us(l.largest), strf("%zu", l.samples)});
    };
    row(strf("one token at position %u", o.position), r.step);
    if (o.budget_us) row(strf("prefill slices of %s", human_us(static_cast<double>(o.budget_us)).c_str()), r.slice);
    fputs(latency.text().c_str(), stdout);
    if (o.budget_us) printf("largest overrun of the budget: %s\n", human_us(r.slice_overrun_us).c_str());
}

}  // namespace

void add_bench_verb(CLI::App& app, Console& console) {
    auto o = std::make_shared<Options>();
    CLI::App* verb = add_verb(app, console, "bench", "rates and latencies, against this machine's memory bandwidth",
                              "  keel bench model.gguf\n"
                              "  keel bench model.gguf --prefill 1024 --decode 256 --threads 4 --json\n"
                              "  keel bench model.gguf --position 4000 --steps 2000 --budget-us 1000");
    add_engine_options(*verb, o->engine);
    const auto add = [&](const char* name, auto& value, const char* what) {
        verb->add_option(name, value, what)->capture_default_str();
    };
    add("--prefill", o->prefill, "tokens of the prompt");
    add("--decode", o->decode, "tokens decoded one by one after it");
    add("--steps", o->steps, "single steps timed for the latency table");
    add("--position", o->position, "position at which they are timed");
    add("--budget-us", o->budget_us, "time slice for the prompt; 0 skips the slices");
    add("--repeats,-r", o->repeats, "repeats of each rate");
    verb->add_option("--stream-mib", o->stream_mib, "working set of the memory stream (default: 4 x last-level cache)");
    verb->callback([o, &console] { bench(*o, console); });
}

}  // namespace keel::tools
