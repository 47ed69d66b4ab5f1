// From a file name to a running engine: reader, inspect, plan, memory, init, with the options every verb shares.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "keel/keel.hpp"
#include "keel/keel_cuda.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/engine_names.h"
#include "sdk/tools/common/model_file.h"

namespace CLI {
class App;
}

namespace keel::tools {

// The functions of keel_cuda.h, in programs that have the CUDA backend.
struct CudaCalls {
    const keel_backend* backend;
    decltype(&keel_cuda_memory) memory;
    decltype(&keel_cuda_memory_release) release;
    decltype(&keel_cuda_read_stream) read_stream;
};
// Those of this program, or null. Each program of verbs defines it (cli/cuda_calls.cpp, no_cuda_calls.cpp).
const CudaCalls* cuda_calls();

// Options that end up in a keel_config; 0 means the library's default.
struct EngineOptions {
    std::string model;
    uint32_t threads = 0, context = 0, chunk = 0, sessions = 1;
    keel_kv_format k_format = KEEL_KV_DEFAULT, v_format = KEEL_KV_DEFAULT;
    keel_weights weights = KEEL_WEIGHTS_DEFAULT;
    bool prefer_mapped = false;  // weights that are left open stay in the file, where they can be used there
    keel_activation activation = KEEL_ACTIVATION_DEFAULT;
    keel_cpu cpu = KEEL_CPU_AUTO;
    bool pin = false;
    const CudaCalls* cuda = nullptr;  // null: the CPU computes
    int32_t device = 0;               // of it, as its driver counts
    bool device_numerics = false;     // KEEL_NUMERICS_DEVICE
    uint32_t sinks = 0, recent = 0;   // positions kept in f16
    uint32_t rollback = 0;            // kv_rollback_tokens
    std::string kv_profile;           // file name
    bool packed_profile = true;       // a pack's KV profile is used where none is named
    std::string wproj;                // W_proj cache: file name, or "auto" to look for one
    uint64_t wproj_key = 0;           // it has to have; 0: any of the model
    bool wproj_any_key = false;
    double wproj_error = 0;            // records of a larger error stay dense; 0: no bound
    bool low_rank = false;             // sessions run in the low-rank variant
    std::string chat_template;         // file name, or a family's
    std::string grammar, json_schema;  // file names; at most one
    std::string pre_tokenizer;         // in place of the file's; empty: the file's
    uint32_t draft_tokens = 0;         // most drafts of a step, of Keel's own drafters; 0: none
    std::string lora;                  // adapter of sessions: file name
    float lora_scale = 1;
    std::string draft_pool;       // what their pool begins with: file name
    std::string draft_model;      // a faster model of the same vocabulary that drafts, too: file name
    bool draft_low_rank = false;  // the low-rank variant drafts, too
    uint32_t max_text_bytes = 0;  // see make_room_for
    // Files in memory, instead of those above.
    const keel_reader* kv_profile_reader = nullptr;
    const keel_reader* wproj_reader = nullptr;
    mutable std::shared_ptr<FileReader> wproj_file;  // opened by the first make_config: it may have been searched for
};
void add_engine_options(CLI::App& verb, EngineOptions& options);   // verb_options.cpp
void add_grammar_options(CLI::App& verb, EngineOptions& options);  // likewise
// Holds what the session samples from now on to the grammar of the options, if there is one. Throws ToolError.
void hold_to_grammar(Session& session, const EngineOptions& options);
// The engine will tokenize `text`, however long its stretches without (or of nothing but) white space are.
void make_room_for(EngineOptions& options, std::string_view text);

// What a configuration points to; it has to outlive keel_plan and keel_engine_init with it, and an engine of mapped
// weights.
class ConfigParts {
  public:
    ConfigParts() = default;
    ConfigParts(const ConfigParts&) = delete;
    ConfigParts& operator=(const ConfigParts&) = delete;
    // Opens the files that `options` name and points `config` to them; where the model is a pack, to its parts as well,
    // but for kinds that the options name, a draft pool where nothing is to be drafted, a KV profile that the options
    // do not want, and adapters, which programs choose.
    void add_to(keel_config& config, const EngineOptions& options);

  private:
    void add_packed(const EngineOptions& options);
    std::vector<std::shared_ptr<FileReader>> files_;
    std::unique_ptr<PackFile> pack_;
    std::vector<keel_part> parts_;
    keel_cuda_device device_{};
    keel_wproj_options wproj_{};
    keel_grammar_options grammar_{};
    keel_reader chat_name_{};
};
keel_config make_config(const EngineOptions& options, ConfigParts& parts);

keel_memory_plan plan_memory(const ModelFile& file, const keel_config& config);
std::vector<keel_op_info> plan_ops(const ModelFile& file, const keel_config& config);
// Why a part is not used, as keel_plan would have said it.
keel_error part_error(const keel_memory_plan& plan);
// Sum over the regions.
uint64_t total_bytes(const keel_memory_plan& plan);

// Memory for every region of a plan: keel_memory_default where this build has it, else aligned blocks of the C++ heap;
// of a device what `cuda` gives.
class RegionMemory {
  public:
    RegionMemory() = default;
    RegionMemory(const keel_memory_plan& plan, const CudaCalls* cuda, int32_t device);
    RegionMemory(RegionMemory&& other) noexcept;
    RegionMemory& operator=(RegionMemory&& other) noexcept;
    ~RegionMemory();
    const keel_memory* get() const { return &memory_; }

  private:
    void take_host(const keel_memory_plan& plan);
    void release_host();
    void release();
    keel_memory memory_{};
    const CudaCalls* cuda_ = nullptr;
    keel_cuda_device device_{};
    uint64_t align_bytes_[KEEL_REGION_SLOTS] = {};
};

struct LoadedModel {
    ModelFile file;
    std::unique_ptr<ConfigParts> parts;
    keel_config config{};
    keel_memory_plan plan{};
    bool on_gpu = false;
    RegionMemory memory;
    std::unique_ptr<LoadedModel> drafter;  // of options.draft_model
    Session draft_session;                 // of it
    bool low_rank_drafts = false;
    Engine engine;                              // last: closed before its memory goes
    keel_variant variant = KEEL_VARIANT_DENSE;  // of sessions
    float lora_scale = 0;                       // of the adapter of sessions; 0: none
    double load_seconds = 0;
    uint64_t heap_at_init = 0;  // heap_allocations() the moment keel_engine_init returned
};
// `adjust` may change the configuration before it is planned (logits rows and the like); `before_init` is the place to
// allocate what will be needed after init.
LoadedModel load_model(const EngineOptions& options, const Console& console,
                       const std::function<void(keel_config&)>& adjust = {},
                       const std::function<void(const keel_memory_plan&)>& before_init = {});

// Statistics whose kernel set is that of what computes. Throws ToolError.
keel_stats stats_of(const LoadedModel& model);
// Has the draft model, or the low-rank variant, propose tokens for the session, if there is one. Throws ToolError.
void draft(const LoadedModel& model, Session& session);
// A session in the model's variant. Throws ToolError.
Session open_session(LoadedModel& model);

// Reusable pieces of reports.
Json plan_json(const keel_memory_plan& plan);
Json info_json(const keel_model_info& info);
// Planned, used and high-water bytes per region.
Json regions_json(const keel_stats& stats);
std::string regions_text(const keel_stats& stats);

// Token ids of `text`; throws with the model's name when the text cannot be encoded.
std::vector<int32_t> tokenize(const Engine& engine, std::string_view text, uint32_t flags);
std::string detokenize(const Engine& engine, std::span<const int32_t> ids, uint32_t flags = 0);

}  // namespace keel::tools
