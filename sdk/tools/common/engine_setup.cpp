#include "sdk/tools/common/engine_setup.h"

#include <algorithm>

#include "sdk/core/hash.h"
#include "sdk/format/bytes.h"

namespace keel::tools {
namespace {

std::string hash_of(const keel_reader& reader) {
    std::vector<char> bytes(1 << 20);
    uint64_t hash = kHashSeed;
    for (uint64_t at = 0; at < reader.size_bytes; at += bytes.size()) {
        const uint64_t count = std::min<uint64_t>(bytes.size(), reader.size_bytes - at);
        check(read_at(reader, at, bytes.data(), count), "cannot read a part");
        hash = hash_update(hash, bytes.data(), count);
    }
    return hex64(hash_finish(hash));
}

}  // namespace

Json engine_setup(const EngineOptions& options, const keel_config& config, const keel_memory_plan& plan) {
    Json parts = Json::array();
    for (uint32_t i = 0; i < config.part_count; ++i)
        parts.push_back({{"kind", static_cast<int>(config.parts[i].kind)}, {"hash", hash_of(*config.parts[i].reader)}});
    return {{"keel", keel_version()},
            {"kernels", cpu_name(plan.cpu)},
            {"backend", config.backend ? "cuda" : "cpu"},
            {"numerics", static_cast<int>(config.numerics)},
            {"activation", activation_name(config.activation)},
            {"context", plan.context_tokens},
            {"k_format", kv_format_name(config, config.k_format)},
            {"v_format", kv_format_name(config, config.v_format)},
            {"sinks", config.kv_sink_tokens},
            {"recent", config.kv_recent_tokens},
            {"rollback", config.kv_rollback_tokens},
            {"pre_tokenizer", options.pre_tokenizer},
            {"variant", options.low_rank ? "low-rank" : "dense"},
            {"wproj_key", options.wproj_key},
            {"wproj_error", options.wproj_error},
            {"lora_scale", options.lora_scale},
            {"parts", parts}};
}

}  // namespace keel::tools
