// keel_lab.h: what laboratories see of the forward pass.
#include "keel/keel_lab.h"
#include "sdk/core/status.h"
#include "sdk/run/engine.h"

using namespace keel;

namespace {

keel_status enter_closed(keel_engine engine, Engine** e) {
    KEEL_TRY(enter(engine, e));
    for (uint32_t i = 0; i < (*e)->config.max_sessions; ++i)
        if ((*e)->sessions[i].id.load(std::memory_order_acquire)) return KEEL_E_STATE;
    return KEEL_OK;
}

}  // namespace

extern "C" {

keel_status keel_lab_set_row_tap(keel_engine engine, void (*tap)(void* user_data, const keel_lab_row* row),
                                 void* user_data) {
    Engine* e;
    KEEL_TRY(enter_closed(engine, &e));
    if (e->config.host_layer) return KEEL_E_UNSUPPORTED;
    e->row_tap = tap;
    e->row_tap_user_data = user_data;
    return KEEL_OK;
}

keel_status keel_lab_set_tap(keel_engine engine, void (*tap)(void* user_data, const keel_lab_heads* heads),
                             void* user_data) {
    Engine* e;
    KEEL_TRY(enter_closed(engine, &e));
    if (e->config.host_layer) return KEEL_E_UNSUPPORTED;
    e->tap = tap;
    e->tap_user_data = user_data;
    return KEEL_OK;
}

keel_status keel_lab_time_ops(keel_engine engine, uint32_t on) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    TryLock lock(&e->advancing);
    if (!lock.held()) return KEEL_E_BUSY;
    if (e->progress.active) return KEEL_E_BUSY;
    if (!e->backend->times) return KEEL_E_UNSUPPORTED;
    e->time_ops = on != 0;
    return KEEL_OK;
}

keel_status keel_lab_op_times(keel_engine engine, keel_lab_op_time* out, uint32_t capacity, uint32_t* count) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!count) return bad_argument(e, "count", "null");
    if (!out) capacity = 0;
    if (capacity) KEEL_TRY(check_versioned(out));
    TryLock lock(&e->advancing);
    if (!lock.held()) return KEEL_E_BUSY;
    *count = 0;
    if (!e->time_ops || e->progress.active) return KEEL_OK;
    uint32_t first = 0;
    for (uint32_t i = 0; i < e->finished_list; ++i) first += e->plan.variant[i].count;
    OpTime t;
    *count = e->backend->times(e->device, 0, &t);
    for (uint32_t i = 0; i < *count && i < capacity; ++i) {
        e->backend->times(e->device, i, &t);
        const keel_lab_op_time r = {0, first + t.op, t.ops, 0, t.begin_us, t.us, t.predicted_us};
        KEEL_TRY(write_versioned(r, out, i));
    }
    return capacity && capacity < *count ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

keel_status keel_lab_kv_row(keel_session session, uint32_t layer, uint32_t kv_head, uint32_t position, int value,
                            float** row) {
    Engine* e;
    Session* s;
    KEEL_TRY(enter(session, &e, &s));
    if (!row || layer >= e->spec.layers || kv_head >= e->spec.kv_heads || position >= s->kv.count * kPageTokens ||
        s->kv.ids[position / kPageTokens] == kNoPage)
        return KEEL_E_ARGUMENT;
    const KvLayer& formats = e->geometry.layer[layer];
    const kernels::KvPlane plane = value ? formats.v_head(kv_head) : formats.k_head(kv_head);
    if (plane.format != kernels::kKvF32 || e->config.kv.has_profile || e->backend != default_backend())
        return KEEL_E_STATE;
    uint8_t* page = e->region[KEEL_REGION_KV] + e->kv_of(layer).page_offset(s->kv.ids[position / kPageTokens]);
    *row = reinterpret_cast<float*>(page + plane.codes + uint64_t{position % kPageTokens} * plane.code_bytes);
    return KEEL_OK;
}

keel_status keel_lab_decode_kv_row(keel_session session, uint32_t layer, uint32_t kv_head, uint32_t position, int value,
                                   float* row) {
    Engine* e;
    Session* s;
    KEEL_TRY(enter(session, &e, &s));
    const uint32_t dim = e->spec.head_dim;
    if (!row || layer >= e->spec.layers || kv_head >= e->spec.kv_heads || position >= s->computed ||
        s->kv.ids[position / kPageTokens] == kNoPage)
        return KEEL_E_ARGUMENT;
    if (s->in_step) return KEEL_E_BUSY;  // rows of its last page may be on their way
    const KvLayer& formats = e->geometry.layer[layer];
    const kernels::KvPlane plane = value ? formats.v_head(kv_head) : formats.k_head(kv_head);
    const KvPart& part = e->kv_of(layer);
    const uint64_t page = part.page_offset(s->kv.ids[position / kPageTokens]), at = position % kPageTokens;
    alignas(64) uint8_t codes[kernels::kMaxHeadDim * sizeof(float)], scales[kernels::kMaxKvScales * sizeof(float)];
    KEEL_TRY(download_kv(e, codes, part, page + plane.codes + at * plane.code_bytes, plane.code_bytes));
    KEEL_TRY(download_kv(e, scales, part, page + plane.scales + at * plane.scale_bytes, plane.scale_bytes));
    e->config.kernels->kv_decode[plane.format](codes, scales, dim, row);
    if (kernels::kKvFormats[plane.format].rotated) e->config.kernels->kv_unrotate(row, dim);
    const KvTransform& t = e->transform;
    if (value) {
        if (t.value_mean) add_row(row, t.value_mean + t.at(layer, kv_head), dim);
        return KEEL_OK;
    }
    if (t.gain) multiply_row(row, t.gain + t.at(layer, kv_head), dim);
    if (t.key_mean) {
        float removed[kernels::kMaxHeadDim] = {};  // less the mean
        remove_key_mean_after_rope(t, layer, kv_head, e->spec.rope_dims / 2, e->rope_neox, removed);
        subtract_row(row, removed, dim);
    }
    return KEEL_OK;
}

}  // extern "C"
