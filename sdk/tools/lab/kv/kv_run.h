// Forward passes for the laboratory: one engine, one way to store K and V, whole documents from an empty session.
#pragma once
#include <functional>
#include <memory>
#include <span>

#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/lab/kv/kv_spec.h"
#include "sdk/tools/lab/kv/kv_tap.h"

namespace keel::tools {

// Most engines that may be open at once; the library has room for a few more.
constexpr size_t kMaxLabEngines = 12;
constexpr uint32_t kLabChunk = 128;       // columns of a step; logits of all of them are kept
constexpr uint32_t kLabBlockChunk = 512;  // of codecs that code blocks of positions

// What two ways to store K and V are compared with: activations in f32, unless the options name a kind. Eight-bit ones
// round to other integers as soon as anything differs, which looks like a loss of 0.2 % where there is none.
EngineOptions with_exact_activations(EngineOptions options);

using LogitsVisitor = std::function<void(size_t position, std::span<const float> logits)>;

class KvRun {
  public:
    // `options` names model, threads and the like; its KV options are those of `spec`. profile: a profile in memory
    // instead of a file, or null; it has to live as long as this. chunk: columns of a step, before options.chunk; 0 and
    // 0: kLabChunk.
    KvRun(EngineOptions options, const KvSpec& spec, uint32_t context_tokens, const keel_reader* profile = nullptr,
          uint32_t chunk = 0);

    const keel_model_info& info() const { return model_.file.info; }
    const keel_memory_plan& plan() const { return model_.plan; }
    LoadedModel& model() { return model_; }
    KvShape shape() const;

    // Who watches the next forward passes; null: nobody. It has to live as long. Ends the open session.
    void set_tap(KvTap* tap);
    // Which products the next forward passes use; the engine's configuration says it for the first ones.
    void set_variant(keel_variant variant) { model_.variant = variant; }
    // Computes `ids` from an empty session and shows the logits of every position in order.
    void forward(std::span<const int32_t> ids, const LogitsVisitor& visit);
    // After forward(ids): takes positions [prefix, n) back and computes them again one by one.
    void decode_again(std::span<const int32_t> ids, uint32_t prefix, const LogitsVisitor& visit);
    // The session of the last forward(); its rows can be read until the next one.
    keel_session session() const { return session_.handle(); }
    // Ends the session of the last forward().
    void close() { session_ = {}; }

  private:
    void feed(std::span<const int32_t> ids, size_t first_position, const LogitsVisitor& visit);

    LoadedModel model_;
    Session session_;  // before its engine
    KvTap* tap_ = nullptr;
};

// Bytes that storing K and V of one sequence of `context_tokens` takes.
struct KvBytes {
    uint64_t page_bytes = 0, pages = 0;  // of the arena; 0 for published codecs
    uint64_t precise_bytes = 0;          // rows of sinks and recent positions, once per sequence
    uint64_t side_bytes = 0;             // once per engine: means, gains, tables
    double total_bytes = 0;              // of the sequence, side_bytes included
    double per_token = 0;
    double ratio = 0;  // f16's total, counted in the same way, over this one
};
// As the plan counts them: whole pages, and what the plan says lies beside them.
KvBytes planned_kv_bytes(const keel_memory_plan& plan);
// f16 without a profile, for the model and context of `options`.
KvBytes reference_kv_bytes(EngineOptions options, uint32_t context_tokens);

}  // namespace keel::tools
