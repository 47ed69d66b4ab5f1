#include "sdk/tools/lab/kv/kv_stored_row.h"

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel::tools {

keel_status kv_stored_row(keel_session session, uint32_t layer, uint32_t kv_head, uint32_t position, bool value,
                          float* row) {
    Engine* e;
    Session* s;
    KEEL_TRY(enter(session, &e, &s));
    const uint32_t dim = e->spec.head_dim;
    if (!row || layer >= e->spec.layers || kv_head >= e->spec.kv_heads || position >= s->computed)
        return KEEL_E_ARGUMENT;
    const KvLayer& formats = e->geometry.layer[layer];
    const kernels::KvPlane plane = value ? formats.v_head(kv_head) : formats.k_head(kv_head);
    const uint8_t* page = s->kv.pages[position / kPageTokens];
    const uint64_t at = position % kPageTokens;
    e->config.kernels->kv_decode[plane.format](page + plane.codes + at * plane.code_bytes,
                                               page + plane.scales + at * plane.scale_bytes, dim, row);
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

}  // namespace keel::tools
