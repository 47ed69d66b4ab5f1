#include "sdk/tools/lab/kv/kv_run.h"

#include "sdk/tools/common/text_rows.h"

namespace keel::tools {
namespace {

EngineOptions with_formats(EngineOptions options, const KvSpec& spec, uint32_t context_tokens) {
    options.context = context_tokens;
    options.sessions = 1;
    options.k_format = spec.native ? spec.k_format : KEEL_KV_F32;
    options.v_format = spec.native ? spec.v_format : KEEL_KV_F32;
    options.sinks = spec.sinks;
    options.recent = spec.recent;
    options.kv_profile = spec.profile;
    options.packed_profile = false;  // `spec` names what is used
    options.prefer_mapped = true;    // engines share the file's pages
    return options;
}

}  // namespace

EngineOptions with_exact_activations(EngineOptions options) {
    if (options.activation == KEEL_ACTIVATION_DEFAULT) options.activation = KEEL_ACTIVATION_F32;
    return options;
}

KvRun::KvRun(EngineOptions options, const KvSpec& spec, uint32_t context_tokens, const keel_reader* profile,
             uint32_t chunk) {
    options = with_formats(std::move(options), spec, context_tokens);
    if (chunk || options.chunk == 0) options.chunk = chunk ? chunk : kLabChunk;
    options.kv_profile_reader = profile;
    model_ = load_model(options, Console{}, [](keel_config& config) { config.logits_rows = config.chunk_tokens; });
}

KvShape KvRun::shape() const {
    const keel_model_info& i = info();
    return {i.layers, i.kv_heads, i.heads, i.head_dim, plan().context_tokens};
}

void KvRun::set_tap(KvTap* tap) {
    close();
    tap_ = tap;
    check(keel_lab_set_tap(model_.engine.handle(), tap ? KvTap::call : nullptr, tap), "cannot watch the forward pass");
}

void KvRun::feed(std::span<const int32_t> ids, size_t first_position, const LogitsVisitor& visit) {
    TextRows rows(model_.engine, session_, [this] {
        if (tap_) tap_->rethrow();
    });
    rows.start(ids);
    for (size_t i = 0; i < ids.size(); ++i) visit(first_position + i, rows.next_logits());
}

void KvRun::forward(std::span<const int32_t> ids, const LogitsVisitor& visit) {
    close();
    session_ = open_session(model_);
    if (tap_) tap_->begin(session_.handle(), static_cast<uint32_t>(ids.size()), model_.plan.chunk_tokens);
    feed(ids, 0, visit);
    if (tap_) tap_->end();
}

void KvRun::decode_again(std::span<const int32_t> ids, uint32_t prefix, const LogitsVisitor& visit) {
    check(session_.truncate(prefix), "cannot take tokens back");
    for (size_t position = prefix; position < ids.size(); ++position) feed(ids.subspan(position, 1), position, visit);
}

KvBytes planned_kv_bytes(const keel_memory_plan& plan) {
    KvBytes bytes;
    bytes.page_bytes = plan.kv_page_bytes;
    bytes.pages = (plan.context_tokens + plan.kv_page_tokens - 1) / plan.kv_page_tokens;
    bytes.side_bytes = plan.kv_side_bytes;
    // And what sessions share: the recent rows that a step reads.
    bytes.precise_bytes = plan.kv_session_bytes;
    for (keel_region_kind kind : {KEEL_REGION_KV, KEEL_REGION_DEVICE_KV})
        bytes.precise_bytes += plan.regions[kind].bytes - plan.regions[kind].padding_bytes;
    bytes.precise_bytes -= plan.kv_pages * plan.kv_page_bytes + plan.max_sessions * plan.kv_session_bytes;
    bytes.total_bytes = static_cast<double>(bytes.page_bytes * bytes.pages + bytes.precise_bytes + bytes.side_bytes);
    bytes.per_token = bytes.total_bytes / plan.context_tokens;
    return bytes;
}

KvBytes reference_kv_bytes(EngineOptions options, uint32_t context_tokens) {
    KvSpec f16;
    f16.k_format = f16.v_format = KEEL_KV_F16;
    options = with_formats(std::move(options), f16, context_tokens);
    ConfigParts parts;
    KvBytes bytes = planned_kv_bytes(plan_memory(open_model(options.model), make_config(options, parts)));
    bytes.ratio = 1;
    return bytes;
}

}  // namespace keel::tools
