// keel profile: what each op of a step takes, against what memory delivers in the same run and what was predicted. The
// same table whatever computes.
#include <stdio.h>

#include <algorithm>
#include <map>

#include "keel/keel_lab.h"
#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/made_up_ids.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/stream_bandwidth.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    uint32_t position = 256, tokens = 1, steps = 50;
    std::string trace;
    bool every_layer = false;
};

// A dispatch over all steps.
struct Line {
    std::string name, types;
    int32_t layer;
    uint32_t count = 1;  // dispatches: more than one where layers are folded
    uint64_t bytes;      // of one step
    double begin_us, us, predicted_us;
};

std::vector<keel_lab_op_time> newest_times(const LoadedModel& m) {
    uint32_t count = 0;
    check(keel_lab_op_times(m.engine.handle(), nullptr, 0, &count), "cannot read the times");
    std::vector<keel_lab_op_time> times(count, make<keel_lab_op_time>());
    check(keel_lab_op_times(m.engine.handle(), times.data(), count, &count), "cannot read the times");
    return times;
}

// Steps at the same position: each is computed, timed and forgotten. [steps][dispatches].
std::vector<std::vector<keel_lab_op_time>> measure(LoadedModel& m, const Options& o, const Console& console) {
    ProgressBar bar(console, "measuring");
    Session session = open_session(m);
    const std::vector<int32_t> ids = made_up_ids(o.position + o.tokens, m.file.info.vocabulary);
    if (o.position) {
        check(session.feed(std::span(ids).first(o.position)), "cannot feed tokens");
        check(m.engine.advance(session).status, "cannot advance");
    }
    check(keel_lab_time_ops(m.engine.handle(), 1), "cannot time ops");
    std::vector<std::vector<keel_lab_op_time>> steps;
    constexpr uint32_t kWarmUp = 5;
    for (uint32_t i = 0; i < o.steps + kWarmUp && !interrupted(); ++i) {
        bar.draw(i, o.steps + kWarmUp);
        check(session.feed(std::span(ids).last(o.tokens)), "cannot feed tokens");
        check(m.engine.advance(session).status, "cannot advance");
        if (i >= kWarmUp) steps.push_back(newest_times(m));
        check(session.truncate(o.position), "cannot truncate");
    }
    if (steps.empty() || steps[0].empty()) throw ToolError(kExitCancelled, "no step was measured");
    // How a step is cut depends on what is learned: those that are cut like the last one count.
    const size_t dispatches = steps.back().size();
    std::erase_if(steps, [&](const auto& step) { return step.size() != dispatches; });
    return steps;
}

std::vector<Line> lines_of(const std::vector<std::vector<keel_lab_op_time>>& steps, const LoadedModel& m,
                           const Options& o) {
    const std::vector<keel_op_info> ops = plan_ops(m.file, m.config);
    std::vector<Line> lines;
    for (size_t i = 0; i < steps[0].size(); ++i) {
        const keel_lab_op_time& t = steps.back()[i];
        std::vector<double> us, begin, predicted;
        for (const auto& step : steps) {
            us.push_back(step[i].us);
            begin.push_back(step[i].begin_us);
            predicted.push_back(step[i].predicted_us);
        }
        Line line = {
            "", "", ops.at(t.op).layer, 1, 0, percentile(begin, 0.5), percentile(us, 0.5), percentile(predicted, 0.5)};
        for (uint32_t op = t.op; op < t.op + t.ops; ++op) {
            const keel_op_info& info = ops.at(op);
            line.name += (line.name.empty() ? "" : " + ") + std::string(info.name);
            const std::string type = info.weight_type;
            if (!type.empty() && line.types.find(type) == std::string::npos)
                line.types += (line.types.empty() ? "" : ", ") + type;
            line.bytes += info.fixed_bytes + info.token_bytes * o.tokens;
            if (std::string_view(info.name) == "attention")  // K and V of all positions, of one layer
                line.bytes += m.plan.kv_bytes_per_token / m.file.info.layers * (o.position + o.tokens);
        }
        lines.push_back(line);
    }
    return lines;
}

// Dispatches of the same ops and types in all layers together.
std::vector<Line> folded(const std::vector<Line>& lines) {
    std::vector<Line> out;
    for (const Line& line : lines) {
        const auto same = std::find_if(out.begin(), out.end(), [&](const Line& l) {
            return l.name == line.name && l.types == line.types && (l.layer < 0) == (line.layer < 0);
        });
        if (same == out.end()) {
            out.push_back(line);
            continue;
        }
        ++same->count;
        same->bytes += line.bytes;
        same->us += line.us;
        same->predicted_us += line.predicted_us;
    }
    return out;
}

// For chrome://tracing and ui.perfetto.dev: the last step, its layers in a row above its dispatches.
void write_trace(const std::string& path, const std::vector<Line>& lines, const std::string& model) {
    Json events = Json::array();
    const auto add = [&](const std::string& name, double begin_us, double us, int row, Json args) {
        events.push_back({{"name", name},
                          {"ph", "X"},
                          {"ts", begin_us},
                          {"dur", us},
                          {"pid", 1},
                          {"tid", row},
                          {"args", std::move(args)}});
    };
    for (size_t i = 0; i < lines.size();) {
        size_t end = i + 1;
        while (end < lines.size() && lines[end].layer == lines[i].layer) ++end;
        const Line &first = lines[i], &last = lines[end - 1];
        if (first.layer >= 0)
            add(strf("layer %d", first.layer), first.begin_us, last.begin_us + last.us - first.begin_us, 1,
                Json::object());
        for (; i < end; ++i)
            add(lines[i].name, lines[i].begin_us, lines[i].us, 2,
                {{"bytes", lines[i].bytes}, {"weights", lines[i].types}, {"predicted_us", lines[i].predicted_us}});
    }
    const Json trace = {{"displayTimeUnit", "ns"}, {"otherData", {{"model", model}}}, {"traceEvents", events}};
    write_file(path, trace.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void profile(Options o, const Console& console) {
    if (o.tokens == 0 || o.steps == 0) throw ToolError(kExitUsage, "--tokens and --steps must be at least 1");
    if (o.engine.context == 0) o.engine.context = o.position + o.tokens;
    LoadedModel m = load_model(o.engine, console);
    if (o.position + o.tokens > m.plan.context_tokens || o.tokens > m.plan.chunk_tokens)
        throw ToolError(kExitUsage, strf("--position and --tokens do not fit a context of %u tokens and steps of %u",
                                         m.plan.context_tokens, m.plan.chunk_tokens));
    double stream_gb_per_s = 0;
    if (m.on_gpu) {
        const keel_region& weights = m.memory.get()->regions[KEEL_REGION_DEVICE_WEIGHTS];
        keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
        device.ordinal = o.engine.device;
        keel_error error = make<keel_error>();
        check(o.engine.cuda->read_stream(&device, weights.data, weights.bytes, &stream_gb_per_s, &error),
              "cannot read the device's memory", &error);
    } else {
        const uint64_t bytes = std::max<uint64_t>(4 * last_level_cache_bytes(), 64 << 20);
        stream_gb_per_s = spread_of(measure_stream(bytes, m.plan.threads, 5).gb_per_s).highest;
    }
    const std::vector<Line> each = lines_of(measure(m, o, console), m, o);
    if (!o.trace.empty()) write_trace(o.trace, each, o.engine.model);
    const std::vector<Line> lines = o.every_layer ? each : folded(each);
    Line sum = {"step", "", -1, 0, 0, 0, 0, 0};
    for (const Line& line : lines) {
        sum.count += line.count;
        sum.bytes += line.bytes;
        sum.us += line.us;
        sum.predicted_us += line.predicted_us;
    }
    const auto rate = [](const Line& l) { return l.us > 0 ? static_cast<double>(l.bytes) / l.us / 1e3 : 0; };
    const keel_stats stats = stats_of(m);
    if (console.json) {
        Json ops = Json::array();
        for (const Line& l : lines)
            ops.push_back({{"ops", l.name},
                           {"weights", l.types},
                           {"layer", l.layer},
                           {"count", l.count},
                           {"us", l.us},
                           {"bytes", l.bytes},
                           {"gb_per_s", rate(l)},
                           {"percent_of_stream", rate(l) / stream_gb_per_s * 100},
                           {"predicted_us", l.predicted_us}});
        return print_json({{"model", info_json(m.file.info)},
                           {"kernel_set", stats.kernel_set},
                           {"threads", stats.threads},
                           {"position", o.position},
                           {"tokens", o.tokens},
                           {"stream_gb_per_s", stream_gb_per_s},
                           {"step_us", sum.us},
                           {"dispatches", ops}});
    }
    printf("%s, %s, %s kernels; steps of %u token%s at position %u; memory stream %.1f GB/s\n\n", m.file.info.name,
           m.file.info.weight_types, stats.kernel_set, o.tokens, o.tokens == 1 ? "" : "s", o.position, stream_gb_per_s);
    Table table({o.every_layer ? "layer" : "", "ops", "weights", "x", "time", "of all", "bytes", "GB/s", "of stream",
                 "predicted", "measured/predicted"},
                3);
    const auto add = [&](const Line& l) {
        table.add({o.every_layer && l.layer >= 0 ? strf("%d", l.layer) : "", l.name, l.types, strf("%u", l.count),
                   human_us(l.us), strf("%.1f %%", l.us / sum.us * 100), human_bytes(l.bytes), strf("%.1f", rate(l)),
                   strf("%.0f %%", rate(l) / stream_gb_per_s * 100), human_us(l.predicted_us),
                   l.predicted_us > 0 ? strf("%.2f", l.us / l.predicted_us) : ""});
    };
    for (const Line& line : lines) add(line);
    add(sum);
    fputs(table.text().c_str(), stdout);
}

}  // namespace

void add_profile_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(app, console, "profile", "what each op of a step takes, and how near to memory's speed",
                         "  keel profile model.gguf\n"
                         "  keel profile model.gguf --backend cuda --position 4000\n"
                         "  keel profile model.gguf --tokens 8 --trace step.json");
    add_engine_options(verb, o->engine);
    add_backend_options(verb, o->engine);
    const auto add = [&](const char* name, auto& value, const char* what) {
        return verb.add_option(name, value, what).capture_default_str();
    };
    add("--position", o->position, "tokens in the session before the step");
    add("--tokens", o->tokens, "tokens of the step");
    add("--steps", o->steps, "steps measured; times are medians");
    verb.add_option("--trace", o->trace, "write the step for chrome://tracing and ui.perfetto.dev");
    verb.add_flag("--layers", o->every_layer, "each layer by itself");
    verb.callback([o, &console] { profile(*o, console); });
}

}  // namespace keel::tools
