// keel bench: prefill and decode rates, the latency of single steps and of time slices, against the memory bandwidth
// measured in the same run.
#include <stdio.h>
#if __has_include(<sys/resource.h>)
#include <sys/resource.h>
#define KEEL_HAS_RUSAGE 1
#endif

#include <algorithm>
#include <chrono>

#include "sdk/tools/cli/column_bench.h"
#include "sdk/tools/cli/contended_bench.h"
#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/made_up_ids.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/stream_bandwidth.h"

namespace keel::tools {
namespace {

using Clock = std::chrono::steady_clock;
double us_since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

struct Options {
    EngineOptions engine;
    std::vector<uint32_t> prefill = {512}, depth;  // an empty depth: the longest prompt
    uint32_t decode = 128, steps = 500, position = 256, repeats = 5, turns = 0;
    uint64_t budget_us = 2000, stream_mib = 0;
    bool contended = false, columns = false;
    uint32_t longest_prefill() const { return prefill.empty() ? 0 : *std::max_element(prefill.begin(), prefill.end()); }
};

// What the operating system did to this process, all threads counted.
struct Interruptions {
    int64_t voluntary_switches = 0, involuntary_switches = 0, minor_faults = 0, major_faults = 0;
    bool known = false;
};
Interruptions interruptions() {
#if defined(KEEL_HAS_RUSAGE)
    rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        return {usage.ru_nvcsw, usage.ru_nivcsw, usage.ru_minflt, usage.ru_majflt, true};
#endif
    return {};
}
Interruptions operator-(const Interruptions& a, const Interruptions& b) {
    return {a.voluntary_switches - b.voluntary_switches, a.involuntary_switches - b.involuntary_switches,
            a.minor_faults - b.minor_faults, a.major_faults - b.major_faults, a.known && b.known};
}

struct Latency {
    double p50 = 0, p90 = 0, p99 = 0, p999 = 0, largest = 0;
    std::vector<HistogramBin> histogram;
    size_t samples = 0;
};
constexpr uint32_t kBinsPerOctave = 64;
constexpr uint64_t kMostSteps = 10'000'000;  // their times are kept
Latency latency_of(const std::vector<double>& us) {
    return {percentile(us, 0.5),
            percentile(us, 0.9),
            percentile(us, 0.99),
            percentile(us, 0.999),
            percentile(us, 1),
            histogram_of(us, kBinsPerOctave),
            us.size()};
}

// Arithmetic that touches no memory and calls nothing, of a length that is given: where it is late, the machine is.
class Control {
  public:
    explicit Control(double us) {
        do rounds_ *= 2;
        while (timed() < kLeastUs);
        std::vector<double> times;
        for (int i = 0; i < kTrials; ++i) times.push_back(timed());
        rounds_ = static_cast<uint64_t>(static_cast<double>(rounds_) * us / percentile(times, 0.5)) + 1;
    }
    double timed() {
        const auto start = Clock::now();
        for (uint64_t i = 0; i < rounds_; ++i) state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        kept_ = state_;
        return us_since(start);
    }

  private:
    static constexpr double kLeastUs = 50;
    static constexpr int kTrials = 31;
    uint64_t rounds_ = 1, state_ = 1;
    volatile uint64_t kept_ = 0;
};

struct PrefillResult {
    uint32_t tokens;
    std::vector<double> rates;  // tokens per second
};
struct DecodeResult {
    uint32_t depth, sessions;
    double bytes_per_step;      // weights once, and K and V of every session, mean over the decoded positions
    std::vector<double> rates;  // tokens per second of all sessions together
};

struct Results {
    std::vector<PrefillResult> prefill;
    std::vector<DecodeResult> decode;
    Latency step, control, slice;  // microseconds; control: arithmetic as long as a step, one thread only
    std::vector<double> turns[2];  // microseconds of single steps by turns, dense and low-rank
    Interruptions step_interruptions;
    double slice_overrun_us = 0;  // largest slice minus the budget
    StreamBandwidth stream{},
        stream_near{};  // beyond the caches; working set of the model (only when that fits the cache)
    uint64_t cache_bytes = 0;
};

class Bench {
  public:
    Bench(LoadedModel& model, const Options& options, const Console& console)
        : m_(model), o_(options), bar_(console, "measuring") {
        for (uint32_t i = 0; i < std::max(o_.engine.sessions, 1u); ++i) {
            sessions_.push_back(open_session(m_));
            handles_.push_back(sessions_.back().handle());
        }
        results_.resize(sessions_.size());
        ids_ = made_up_ids(m_.plan.context_tokens, m_.file.info.vocabulary);
    }

    Results run() {
        Results r;
        r.cache_bytes = last_level_cache_bytes();
        for (const uint32_t tokens : o_.prefill) r.prefill.push_back({tokens, {}});
        if (o_.decode)
            for (const uint32_t depth : o_.depth)
                for (const uint32_t count : session_counts())
                    r.decode.push_back({depth, count, bytes_per_step(depth, count), {}});
        measure_streams(r);
        // Enough to touch weights and buffers once; a whole prompt of thousands of tokens would take as long as
        // measuring it.
        reach(std::min(std::max(o_.longest_prefill(), 16u), std::min(512u, m_.plan.context_tokens)), 1);
        for (uint32_t repeat = 0; repeat < o_.repeats && !interrupted(); ++repeat) {
            bar_.draw(repeat * 60, o_.repeats * 100, "rates");
            for (PrefillResult& prefill : r.prefill) prefill.rates.push_back(prefill_rate(prefill.tokens));
            for (DecodeResult& decode : r.decode) decode.rates.push_back(decode_rate(decode.depth, decode.sessions));
        }
        if (o_.steps && !interrupted()) time_steps(r);
        if (o_.turns && !interrupted()) by_turns(r.turns);
        if (o_.budget_us && o_.longest_prefill() && !interrupted()) {
            const std::vector<double> slices = slices_of_a_prompt();
            r.slice = latency_of(slices);
            r.slice_overrun_us = std::max(0.0, r.slice.largest - static_cast<double>(o_.budget_us));
        }
        if (interrupted()) {
            // After Ctrl-C what was measured until then is the result.
            std::erase_if(r.prefill, [](const PrefillResult& p) { return p.rates.empty(); });
            std::erase_if(r.decode, [](const DecodeResult& d) { return d.rates.empty(); });
            return r;
        }
        measure_streams(r);
        return r;
    }

  private:
    // One session alone, and all of them together.
    std::vector<uint32_t> session_counts() const {
        const auto all = static_cast<uint32_t>(sessions_.size());
        return all > 1 ? std::vector<uint32_t>{1, all} : std::vector<uint32_t>{1};
    }
    double bytes_per_step(uint32_t depth, uint32_t sessions) const {
        const double mean_position = depth + (o_.decode - 1) / 2.0;
        const uint64_t weights = m_.variant == KEEL_VARIANT_LOW_RANK ? m_.plan.low_rank_decode_bytes
                                 : m_.lora_scale != 0                ? m_.plan.adapter_decode_bytes
                                                                     : m_.plan.decode_bytes;
        return static_cast<double>(weights) +
               sessions * mean_position * static_cast<double>(m_.plan.kv_bytes_per_token);
    }

    // Before and after the rest, so that a neighbour's burst of work cannot hide what the memory can do.
    void measure_streams(Results& r) {
        if (m_.on_gpu) return;  // perf/device.sh reads a device's memory
        bar_.draw(95, 100, "memory stream");
        const auto add = [&](StreamBandwidth& total, uint64_t bytes) {
            const StreamBandwidth stream = measure_stream(bytes, m_.plan.threads, std::clamp(o_.repeats, 5u, 25u));
            total.bytes = stream.bytes;
            total.gb_per_s.insert(total.gb_per_s.end(), stream.gb_per_s.begin(), stream.gb_per_s.end());
        };
        add(r.stream, o_.stream_mib ? o_.stream_mib << 20 : std::max<uint64_t>(4 * r.cache_bytes, 64 << 20));
        double most = 0;
        for (const DecodeResult& decode : r.decode)
            if (decode.sessions == 1) most = std::max(most, decode.bytes_per_step);
        if (most > 0 && most < static_cast<double>(r.cache_bytes)) add(r.stream_near, static_cast<uint64_t>(most));
    }

    void feed(Session& session, std::span<const int32_t> tokens) { check(session.feed(tokens), "cannot feed tokens"); }
    void advance(uint32_t sessions = 1) {
        check(m_.engine.advance(std::span(handles_).first(sessions), std::span(results_).first(sessions)),
              "cannot advance");
    }

    // The first `sessions` sessions hold exactly `depth` computed tokens; what they have is used.
    void reach(uint32_t depth, uint32_t sessions) {
        bool missing = false;
        for (uint32_t i = 0; i < sessions; ++i) {
            const uint32_t have = sessions_[i].info()->token_count;
            if (have > depth) check(sessions_[i].truncate(depth), "cannot truncate");
            if (have >= depth) continue;
            feed(sessions_[i], std::span(ids_).subspan(have, depth - have));
            missing = true;
        }
        if (missing) advance(sessions);
    }

    double prefill_rate(uint32_t tokens) {
        reach(0, 1);
        feed(sessions_[0], std::span(ids_).first(tokens));
        const auto start = Clock::now();
        advance();
        return tokens / us_since(start) * 1e6;
    }

    double decode_rate(uint32_t depth, uint32_t sessions) {
        reach(depth, sessions);
        const auto start = Clock::now();
        for (uint32_t i = 0; i < o_.decode; ++i) {
            for (uint32_t s = 0; s < sessions; ++s)
                feed(sessions_[s], std::span(ids_).subspan((i + s) % ids_.size(), 1));
            advance(sessions);
        }
        return 1.0 * o_.decode * sessions / us_since(start) * 1e6;
    }

    // A position is computed, timed and forgotten.
    double timed_step() {
        feed(sessions_[0], std::span(ids_).subspan(o_.position, 1));
        const auto start = Clock::now();
        advance();
        const double us = us_since(start);
        check(sessions_[0].truncate(o_.position), "cannot truncate");
        return us;
    }

    // The same step over and over; with one thread in turn with a control. During that others would fall asleep.
    void time_steps(Results& r) {
        reach(o_.position, 1);
        // Written now, so that storing a time faults no page in.
        std::vector<double> us(o_.steps), control_us(m_.plan.threads == 1 && !m_.on_gpu ? o_.steps : 0);
        std::vector<double> first;
        while (first.size() < 15) first.push_back(timed_step());
        Control control(percentile(first, 0.5));
        const Interruptions before = interruptions();
        uint32_t done = 0;
        for (; done < o_.steps && !interrupted(); ++done) {
            bar_.draw(60 * o_.steps + done * 20, o_.steps * 100, "steps");
            us[done] = timed_step();
            if (!control_us.empty()) control_us[done] = control.timed();
        }
        r.step_interruptions = interruptions() - before;
        us.resize(done);
        r.step = latency_of(us);
        if (control_us.empty()) return;
        control_us.resize(done);
        r.control = latency_of(control_us);
    }

    // A step at the same position in one variant and then in the other: what disturbs the machine for longer than a
    // step disturbs both.
    void by_turns(std::vector<double> (&us)[2]) {
        reach(o_.position, 1);
        for (uint32_t i = 0; i < o_.turns + 2 && !interrupted(); ++i)
            for (const keel_variant variant : {KEEL_VARIANT_DENSE, KEEL_VARIANT_LOW_RANK}) {
                check(sessions_[0].set_variant(variant), "cannot choose the variant");
                feed(sessions_[0], std::span(ids_).subspan(o_.position, 1));
                const auto start = Clock::now();
                advance();
                const double taken = us_since(start);
                if (i >= 2)
                    us[variant == KEEL_VARIANT_LOW_RANK].push_back(taken);  // two rounds touch the weights of both
                check(sessions_[0].truncate(o_.position), "cannot truncate");
            }
    }

    // The longest prompt in slices of the budget, as often as there are repeats.
    std::vector<double> slices_of_a_prompt() {
        std::vector<double> us;
        for (uint32_t r = 0; r < o_.repeats && !interrupted(); ++r) {
            bar_.draw(80 * o_.repeats + r * 15, o_.repeats * 100, "time slices");
            reach(0, 1);
            feed(sessions_[0], std::span(ids_).first(o_.longest_prefill()));
            for (keel_status status = KEEL_AGAIN; status == KEEL_AGAIN && !interrupted();) {
                const auto start = Clock::now();
                status = m_.engine.advance(sessions_[0], o_.budget_us).status;
                us.push_back(us_since(start));
                check(status, "cannot advance");
            }
        }
        return us;
    }

    LoadedModel& m_;
    const Options& o_;
    ProgressBar bar_;
    std::vector<Session> sessions_;
    std::vector<keel_session> handles_;  // of the same sessions
    std::vector<keel_advance_result> results_;
    std::vector<int32_t> ids_;
};

Json spread_json(const Spread& s) {
    return {{"median", s.median}, {"lowest", s.lowest}, {"highest", s.highest}};
}
// Bytes a token and microseconds of both variants; ratios are low-rank over dense, that of times of each pair of steps.
struct Turns {
    double bytes[2];
    Spread us[2], ratio;
    double byte_ratio() const { return bytes[1] / bytes[0]; }
};
Turns turns_of(const Results& r, const keel_memory_plan& plan, uint32_t position) {
    const double kv = position * static_cast<double>(plan.kv_bytes_per_token);
    std::vector<double> ratios;
    for (size_t i = 0; i < r.turns[0].size(); ++i) ratios.push_back(r.turns[1][i] / r.turns[0][i]);
    return {{static_cast<double>(plan.decode_bytes) + kv, static_cast<double>(plan.low_rank_decode_bytes) + kv},
            {spread_of(r.turns[0]), spread_of(r.turns[1])},
            spread_of(ratios)};
}
Json turns_json(const Turns& t) {
    const auto variant = [&t](int i) { return Json{{"bytes", t.bytes[i]}, {"us", spread_json(t.us[i])}}; };
    return {{"dense", variant(0)},
            {"low_rank", variant(1)},
            {"byte_ratio", t.byte_ratio()},
            {"time_ratio", spread_json(t.ratio)}};
}
Json latency_json(const Latency& l) {
    Json bins = Json::array();
    for (const HistogramBin& bin : l.histogram) bins.push_back({bin.low, bin.count});
    return {{"p50_us", l.p50},
            {"p90_us", l.p90},
            {"p99_us", l.p99},
            {"p99_9_us", l.p999},
            {"max_us", l.largest},
            {"samples", l.samples},
            {"histogram", {{"bins_per_octave", kBinsPerOctave}, {"low_us_and_count", bins}}}};
}

// Checks the options against each other and fills in those that follow from others.
void complete(Options& o) {
    if (o.repeats == 0) throw ToolError(kExitUsage, "--repeats must be at least 1");
    std::erase(o.prefill, 0u);  // --prefill 0: none
    const uint32_t longest = o.longest_prefill();
    const uint32_t deepest = o.depth.empty() ? longest : *std::max_element(o.depth.begin(), o.depth.end());
    if (o.engine.context == 0)
        o.engine.context =
            std::max({longest, deepest + o.decode, o.steps || o.turns ? o.position + 1 : 0,
                      o.contended ? o.position + o.decode : 0, o.columns ? o.position + KEEL_STEP_COSTS : 0, 1u});
    if (o.columns) o.engine.sessions = std::max<uint32_t>(o.engine.sessions, KEEL_STEP_COSTS);
}
void check_context(Options& o, uint32_t context) {
    if (o.depth.empty() && o.decode <= context) o.depth = {std::min(o.longest_prefill(), context - o.decode)};
    bool fits = o.longest_prefill() <= context && o.decode <= context &&
                ((o.steps == 0 && o.turns == 0) || o.position < context);
    for (const uint32_t depth : o.depth) fits = fits && uint64_t{depth} + o.decode <= context;
    if (!fits)
        throw ToolError(
            kExitUsage,
            strf("--prefill, --depth with --decode, or --position does not fit the context of %u tokens", context));
}

void bench(Options o, const Console& console) {
    complete(o);
    LoadedModel m = load_model(o.engine, console, [&o](keel_config& config) {
        if (o.columns) config.logits_rows = KEEL_STEP_COSTS;
    });
    if (o.columns) return bench_columns(m, {o.position, o.repeats}, console);
    if (o.contended && uint64_t{o.position} + o.decode > m.plan.context_tokens)
        throw ToolError(kExitUsage,
                        strf("--position and --decode do not fit the context of %u tokens", m.plan.context_tokens));
    if (o.contended) return bench_contended(m, {o.decode, o.position, o.repeats}, console);
    check_context(o, m.plan.context_tokens);
    if (o.turns && m.plan.low_rank_op_count == 0)
        throw ToolError(kExitUsage, "--turns needs a W_proj cache that fits: --wproj");
    if (o.turns && m.lora_scale != 0) throw ToolError(kExitUsage, "--turns goes without --lora");

    const Results r = Bench(m, o, console).run();
    const Spread stream = spread_of(r.stream.gb_per_s), near = spread_of(r.stream_near.gb_per_s);
    const bool in_cache = near.median > 0, streamed = stream.median > 0;
    const keel_stats stats = stats_of(m);
    struct Bandwidth {
        double gb_per_s, percent;
    };
    const auto bandwidth = [&](const DecodeResult& d) -> Bandwidth {
        const double used = d.bytes_per_step * spread_of(d.rates).median / d.sessions / 1e9;
        return {used, used / (in_cache ? near.highest : stream.highest) * 100};
    };

    if (console.json) {
        Json prefill = Json::array(), decode = Json::array();
        for (const PrefillResult& p : r.prefill) {
            Json entry = spread_json(spread_of(p.rates));
            entry["tokens"] = p.tokens;
            prefill.push_back(entry);
        }
        for (const DecodeResult& d : r.decode) {
            Json entry = spread_json(spread_of(d.rates));
            entry["depth"] = d.depth;
            entry["tokens"] = o.decode;
            entry["sessions"] = d.sessions;
            entry["bytes_per_step"] = d.bytes_per_step;
            entry["gb_per_s"] = bandwidth(d).gb_per_s;
            if (streamed) entry["percent_of_stream"] = bandwidth(d).percent;
            if (streamed)
                entry["stream_used"] = in_cache ? "working set of the model (cache-resident)" : "beyond the caches";
            decode.push_back(entry);
        }
        Json out = {
            {"model", info_json(m.file.info)},
            {"version", strf("%u.%u.%u", keel_version() >> 16, keel_version() >> 8 & 0xff, keel_version() & 0xff)},
            {"kernel_set", stats.kernel_set},
            {"threads", stats.threads},
            {"weights", weights_name(m.config.weights)},
            {"activation", activation_name(m.config.activation)},
            {"k_format", kv_format_name(m.config, m.config.k_format)},
            {"v_format", kv_format_name(m.config, m.config.v_format)},
            {"repeats", o.repeats},
            {"load_seconds", m.load_seconds},
            {"prefill", prefill},
            {"decode", decode}};
        if (streamed) out["stream"] = {{"bytes", r.stream.bytes}, {"gb_per_s", spread_json(stream)}};
        if (r.step.samples) {
            out["step"] = latency_json(r.step);
            out["step"]["position"] = o.position;
            if (r.control.samples) out["step"]["control"] = latency_json(r.control);
            if (r.step_interruptions.known)
                out["step"]["interruptions"] = {{"voluntary_switches", r.step_interruptions.voluntary_switches},
                                                {"involuntary_switches", r.step_interruptions.involuntary_switches},
                                                {"minor_faults", r.step_interruptions.minor_faults},
                                                {"major_faults", r.step_interruptions.major_faults}};
        }
        if (!r.turns[1].empty()) out["turns"] = turns_json(turns_of(r, m.plan, o.position));
        if (r.slice.samples) {
            out["slice"] = latency_json(r.slice);
            out["slice"]["budget_us"] = o.budget_us;
            out["slice"]["largest_overrun_us"] = r.slice_overrun_us;
        }
        if (in_cache) out["stream_working_set"] = {{"bytes", r.stream_near.bytes}, {"gb_per_s", spread_json(near)}};
        out["last_level_cache_bytes"] = r.cache_bytes;
        out["planned_bytes"] = total_bytes(m.plan);
        out["arena_allocations_after_init"] = stats.allocations_after_init;
        return print_json(out);
    }

    printf("%s, %s, %s kernels, %u threads\n\n", m.file.info.name, m.file.info.weight_types, stats.kernel_set,
           stats.threads);
    Table rates({"", "median", "lowest", "highest"});
    const auto add = [&](const std::string& name, const Spread& s, const char* unit) {
        rates.add({name, strf("%.1f %s", s.median, unit), strf("%.1f", s.lowest), strf("%.1f", s.highest)});
    };
    const auto decode_name = [&](const DecodeResult& d) {
        const std::string name = strf("decode %u tokens at %u", o.decode, d.depth);
        return d.sessions == 1 ? name : name + strf(", %u sessions", d.sessions);
    };
    for (const PrefillResult& p : r.prefill) add(strf("prefill %u tokens", p.tokens), spread_of(p.rates), "tok/s");
    for (const DecodeResult& d : r.decode) add(decode_name(d), spread_of(d.rates), "tok/s");
    if (streamed) add("memory stream, " + human_bytes(r.stream.bytes), stream, "GB/s");
    if (in_cache) add("memory stream, " + human_bytes(r.stream_near.bytes), near, "GB/s");
    fputs(rates.text().c_str(), stdout);
    if (!r.decode.empty()) printf("\n");
    for (const DecodeResult& d : r.decode) {
        printf("%s: a step moves %s, %.1f GB/s", decode_name(d).c_str(),
               human_bytes(static_cast<uint64_t>(d.bytes_per_step)).c_str(), bandwidth(d).gb_per_s);
        if (streamed)
            printf(", %.0f %% of the fastest stream %s", bandwidth(d).percent,
                   in_cache ? "over an equal working set (the model is cache-resident)" : "beyond the caches");
        printf("\n");
    }
    if (!r.turns[1].empty()) {
        const Turns t = turns_of(r, m.plan, o.position);
        printf("by turns: dense %s a step, low-rank %s; %.3f of the time (fastest steps: %.3f) for %.3f of the bytes\n",
               human_us(t.us[0].median).c_str(), human_us(t.us[1].median).c_str(), t.ratio.median,
               t.us[1].lowest / t.us[0].lowest, t.byte_ratio());
    }
    if (r.step.samples == 0 && r.slice.samples == 0) return;
    Table latency({"latency", "p50", "p90", "p99", "p99.9", "max", "samples"});
    const auto row = [&](const std::string& name, const Latency& l) {
        latency.add({name, human_us(l.p50), human_us(l.p90), human_us(l.p99), human_us(l.p999), human_us(l.largest),
                     strf("%zu", l.samples)});
    };
    if (r.step.samples) row(strf("one token at position %u", o.position), r.step);
    if (r.control.samples) row("arithmetic of that length", r.control);
    if (r.slice.samples) row(strf("prefill slices of %s", human_us(static_cast<double>(o.budget_us)).c_str()), r.slice);
    printf("\n%s", latency.text().c_str());
    if (r.step.samples && r.step_interruptions.known)
        printf(
            "during the steps: %lld voluntary and %lld involuntary context switches, %lld minor and %lld major page "
            "faults\n",
            static_cast<long long>(r.step_interruptions.voluntary_switches),
            static_cast<long long>(r.step_interruptions.involuntary_switches),
            static_cast<long long>(r.step_interruptions.minor_faults),
            static_cast<long long>(r.step_interruptions.major_faults));
    if (r.slice.samples) printf("largest overrun of the budget: %s\n", human_us(r.slice_overrun_us).c_str());
}

}  // namespace

void add_bench_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb =
        add_verb(app, console, "bench", "rates and latencies, against this machine's memory bandwidth",
                 "  keel bench model.gguf\n"
                 "  keel bench model.gguf --prefill 128,512,2048 --depth 2048,512,0 --decode 32 --threads 4 --json\n"
                 "  keel bench model.gguf --prefill 0 --depth 0 --sessions 4 --steps 0\n"
                 "  keel bench model.gguf --prefill 0 --decode 0 --position 4000 --steps 10000\n"
                 "  keel bench model.gguf --contended --decode 64 --repeats 3\n"
                 "  keel bench model.gguf --columns --threads 1 --position 128 --repeats 9");
    add_engine_options(verb, o->engine);
    add_backend_options(verb, o->engine);
    const auto add = [&](const char* name, auto& value, const char* what) {
        return verb.add_option(name, value, what).capture_default_str();
    };
    add("--prefill", o->prefill, "prompts of so many tokens, separated by commas; 0 measures none").delimiter(',');
    add("--decode", o->decode, "tokens decoded one by one; 0 measures none");
    verb.add_option("--depth", o->depth,
                    "tokens in the session before the decoded ones, separated by commas (default: the longest "
                    "prompt); from deep "
                    "to shallow, what one has computed serves the next")
        .delimiter(',');
    add("--sessions", o->engine.sessions, "more than 1: decode also with so many sessions together");
    add("--steps", o->steps, "single steps timed for the latency table; 0 measures none")
        .range(uint64_t{0}, kMostSteps);
    add("--position", o->position, "position at which they are timed");
    add("--turns", o->turns,
        "single steps at that position timed in the dense and the low-rank variant by turns; 0 measures none");
    add("--budget-us", o->budget_us, "time slice for the longest prompt; 0 skips the slices");
    add("--repeats,-r", o->repeats, "repeats of each rate, one after the other in turn");
    verb.add_flag("--contended", o->contended,
                  "instead of all that: decoding from --position on while other threads keep the cores busy");
    verb.add_flag("--columns", o->columns,
                  "instead of all that: what steps of 1 to 16 tokens cost in steps of one, and what was planned");
    verb.add_option("--stream-mib", o->stream_mib, "working set of the memory stream (default: 4 x last-level cache)");
    verb.callback([o, &console] { bench(*o, console); });
}

}  // namespace keel::tools
