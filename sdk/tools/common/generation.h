// Sampling options and the generation loop that `run` and `chat` share. The loop makes no heap allocation.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "keel/keel.hpp"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/model_loader.h"

namespace CLI {
class App;
}

namespace keel::tools {

struct SamplingOptions {
    float temperature = 0.8f, top_p = 0, min_p = 0, typical = 0;
    float repeat_penalty = 1.1f, frequency_penalty = 0, presence_penalty = 0;
    uint32_t top_k = 0, penalty_window = 0, max_tokens = 256, min_tokens = 0;
    uint64_t seed = 1;
    std::vector<std::string> stops, biases;  // biases: "ID=VALUE"
};
void add_sampling_options(CLI::App& verb, SamplingOptions& options);  // verb_options.cpp
void add_case_operators_option(CLI::App& verb, bool& on);             // there, too

// Of a model that reads its texts behind case operators (case_operators.h): what is compared with its output, encoded.
SamplingOptions with_case_operators(SamplingOptions options);

// The options checked and converted, ready to be given to sessions without allocating.
class PreparedSampling {
  public:
    explicit PreparedSampling(const SamplingOptions& options);  // throws ToolError (kExitUsage)
    void apply(Session& session) const;                         // throws ToolError

  private:
    SamplingOptions options_;
    std::vector<int32_t> bias_ids_;
    std::vector<float> bias_values_;
    std::vector<const char*> stops_;
    std::vector<size_t> stop_bytes_;
    keel_sampling sampling_ = make<keel_sampling>();
};

// Where generated text goes. Called with whole UTF-8 characters; must not allocate to keep the count honest.
struct TextSink {
    void (*write)(void* context, std::string_view text);
    void* context;
};

enum class StopReason { kMaxTokens, kStopString, kEndOfSequence, kContextFull, kCancelled };
const char* stop_reason_text(StopReason reason);

struct Generation {
    uint32_t prompt_tokens = 0, generated_tokens = 0;
    uint32_t prefill_tokens = 0, decode_steps = 0;  // columns computed; forward steps behind the prompt
    double prefill_seconds = 0, decode_seconds = 0;
    StopReason reason = StopReason::kMaxTokens;

    double prefill_rate() const { return prefill_seconds > 0 ? prefill_tokens / prefill_seconds : 0; }
    uint32_t decode_tokens() const { return generated_tokens ? generated_tokens - 1 : 0; }
    double decode_rate() const { return decode_seconds > 0 ? decode_tokens() / decode_seconds : 0; }
};
// Feeds `prompt` to the session and generates until a stop, `max_tokens` or the end of the context. Ctrl-C stops it
// through keel_cancel. Throws ToolError when the library fails.
Generation generate(LoadedModel& model, Session& session, std::span<const int32_t> prompt, uint32_t max_tokens,
                    TextSink sink);

// What "allocations after init: N" counts.
struct AllocationCount {
    bool heap_counted;
    uint64_t heap, arena;  // calls of malloc or new since init; placements refused by sealed arenas
    uint64_t total() const { return heap + arena; }
};
AllocationCount allocations_since(uint64_t heap_at_init, const keel_stats& stats);
std::string allocation_text(const AllocationCount& count);

Json generation_json(const Generation& generation, const AllocationCount& allocations, const keel_stats& stats);
std::string generation_text(const Generation& generation, const AllocationCount& allocations, const keel_stats& stats);

}  // namespace keel::tools
