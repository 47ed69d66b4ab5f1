#include "sdk/tools/common/generation.h"

#include <math.h>
#include <stdlib.h>

#include <chrono>

#include "sdk/tools/common/allocation_counter.h"
#include "sdk/tools/common/case_operators.h"
#include "sdk/tools/common/interrupt.h"

namespace keel::tools {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

SamplingOptions with_case_operators(SamplingOptions options) {
    for (std::string& stop : options.stops) stop = encode_case(stop);
    return options;
}

PreparedSampling::PreparedSampling(const SamplingOptions& o) : options_(o) {
    if (o.biases.size() > 256) throw ToolError(kExitUsage, "more than 256 --logit-bias are given");
    for (const std::string& bias : o.biases) {
        char *id_end = nullptr, *value_end = nullptr;
        const long id = strtol(bias.c_str(), &id_end, 10);
        const float value = *id_end == '=' ? strtof(id_end + 1, &value_end) : 0;
        if (id_end == bias.c_str() || !value_end || value_end == id_end + 1 || *value_end || id < 0 || id > INT32_MAX)
            throw ToolError(kExitUsage, "--logit-bias '" + bias + "' is not ID=VALUE");
        bias_ids_.push_back(static_cast<int32_t>(id));
        bias_values_.push_back(value);
    }
    for (const std::string& stop : options_.stops) {
        stops_.push_back(stop.data());
        stop_bytes_.push_back(stop.size());
    }
    sampling_.temperature = o.temperature;
    sampling_.top_k = o.top_k;
    sampling_.top_p = o.top_p;
    sampling_.min_p = o.min_p;
    sampling_.typical_p = o.typical;
    sampling_.repetition_penalty = o.repeat_penalty;
    sampling_.frequency_penalty = o.frequency_penalty;
    sampling_.presence_penalty = o.presence_penalty;
    sampling_.penalty_window = o.penalty_window;
    sampling_.min_tokens = o.min_tokens;
    sampling_.seed = o.seed;
    sampling_.bias_ids = bias_ids_.data();
    sampling_.bias_values = bias_values_.data();
    sampling_.bias_count = static_cast<uint32_t>(bias_ids_.size());
}

void PreparedSampling::apply(Session& session) const {
    const keel_status status = session.set_sampling(sampling_);
    if (status == KEEL_E_ARGUMENT)
        throw ToolError(kExitUsage,
                        "a sampling option is out of range (probabilities lie in 0..1, ids in the vocabulary)");
    check(status, "cannot set up sampling");
    if (session.set_stops(stops_, stop_bytes_) != KEEL_OK)
        throw ToolError(kExitUsage, "--stop: at most 16 texts of 1 to 128 bytes each");
}

const char* stop_reason_text(StopReason reason) {
    static const char* const kTexts[] = {"max tokens", "stop string", "end of sequence", "context full", "cancelled"};
    return kTexts[static_cast<int>(reason)];
}

Generation generate(LoadedModel& model, Session& session, std::span<const int32_t> prompt, uint32_t max_tokens,
                    TextSink sink) {
    Generation g;
    g.prompt_tokens = static_cast<uint32_t>(prompt.size());
    const CancelOnInterrupt cancel(session.handle());

    auto start = Clock::now();
    check(session.feed(prompt, KEEL_FEED_SAMPLE), "cannot feed the prompt");
    keel_advance_result step = model.engine.advance(session);
    g.prefill_seconds = seconds_since(start);
    g.prefill_tokens = g.prompt_tokens - step.pending_tokens;
    if (step.status == KEEL_E_CANCELLED) {
        g.reason = StopReason::kCancelled;
        return g;
    }
    check(step.status, "cannot compute the prompt");

    start = Clock::now();
    bool hold_back = true;                  // text held back for a possible stop string is still to be shown at the end
    const auto show = [&](int32_t token) {  // false: the text ends with it
        ++g.generated_tokens;
        const Result<Session::Text> text = session.text(token);
        check(text.status, "cannot write text");
        sink.write(sink.context, text->shown);
        if (text->stopped) {
            g.reason = text->stopped == 1 ? StopReason::kStopString : StopReason::kEndOfSequence;
            hold_back = text->stopped != 1;
        }
        return !text->stopped && g.generated_tokens < max_tokens;
    };
    for (;;) {
        // Drafts that were right are tokens of the session already; one more was drawn behind them.
        const uint32_t kept = static_cast<uint32_t>(session.tokens()->size()) - step.accepted_tokens;
        uint32_t shown = 0;
        bool more = max_tokens > 0;  // the token that ends a text is not the session's
        while (more && shown < step.accepted_tokens) more = show((*session.tokens())[kept + shown++]);
        if (!more) {
            check(session.truncate(kept + (shown ? shown - 1 : 0)), "cannot forget what stands behind the end");
            break;
        }
        const Result<int32_t> token = session.sample();
        check(token.status, "cannot sample");
        if (!show(*token)) break;
        const keel_status fed = session.feed(*token, KEEL_FEED_SAMPLE);
        if (fed == KEEL_E_CONTEXT_FULL) {
            g.reason = StopReason::kContextFull;
            break;
        }
        check(fed, "cannot continue");
        draft(model, session);
        step = model.engine.advance(session);
        if (step.status == KEEL_E_CANCELLED || step.status == KEEL_E_KV_FULL) {
            g.reason = step.status == KEEL_E_CANCELLED ? StopReason::kCancelled : StopReason::kContextFull;
            break;
        }
        check(step.status, "cannot continue");
        ++g.decode_steps;
    }
    g.decode_seconds = seconds_since(start);
    if (hold_back) {
        const Result<Session::Text> rest = session.flush_text();
        check(rest.status, "cannot write text");
        sink.write(sink.context, rest->shown);
    }
    return g;
}

AllocationCount allocations_since(uint64_t heap_at_init, const keel_stats& stats) {
    return {heap_is_counted(), heap_allocations() - heap_at_init, stats.allocations_after_init};
}

std::string allocation_text(const AllocationCount& count) {
    const auto arena = static_cast<unsigned long long>(count.arena);
    if (!count.heap_counted) return strf("arena placements after init: %llu (this build cannot count the heap)", arena);
    return strf("allocations after init: %llu (heap calls of this process %llu, arena placements %llu)",
                static_cast<unsigned long long>(count.total()), static_cast<unsigned long long>(count.heap), arena);
}

Json generation_json(const Generation& g, const AllocationCount& allocations, const keel_stats& stats) {
    Json heap = nullptr;
    if (allocations.heap_counted) heap = allocations.heap;
    return {{"prompt_tokens", g.prompt_tokens},
            {"generated_tokens", g.generated_tokens},
            {"stop", stop_reason_text(g.reason)},
            {"prefill",
             {{"tokens", g.prefill_tokens}, {"seconds", g.prefill_seconds}, {"tokens_per_second", g.prefill_rate()}}},
            {"decode",
             {{"tokens", g.decode_tokens()},
              {"steps", g.decode_steps},
              {"seconds", g.decode_seconds},
              {"tokens_per_second", g.decode_rate()}}},
            {"regions", regions_json(stats)},
            {"heap_allocations_after_init", heap},
            {"arena_allocations_after_init", allocations.arena},
            {"kernel_set", stats.kernel_set},
            {"threads", stats.threads}};
}

std::string generation_text(const Generation& g, const AllocationCount& allocations, const keel_stats& stats) {
    std::string text;
    text += strf("prefill %6u tokens in %10s  %9.1f tok/s\n", g.prefill_tokens,
                 human_us(g.prefill_seconds * 1e6).c_str(), g.prefill_rate());
    text += strf("decode  %6u tokens in %10s  %9.1f tok/s  (%u steps, %s kernels, %u threads; stopped: %s)\n\n",
                 g.decode_tokens(), human_us(g.decode_seconds * 1e6).c_str(), g.decode_rate(), g.decode_steps,
                 stats.kernel_set, stats.threads, stop_reason_text(g.reason));
    return text + regions_text(stats) + "\n" + allocation_text(allocations) + "\n";
}

}  // namespace keel::tools
