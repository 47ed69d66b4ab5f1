// Context shift: tokens in the middle of a session are forgotten and what follows moves down. RoPE turns a key by its
// position times a frequency, so a key that moves down by n positions is turned back by n times it.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

// Whether stored keys can be turned: not where they are coded coarser than f16, or were changed behind RoPE.
bool keys_can_be_turned(const Engine& e) {
    if (e.config.kv.has_profile || e.f16_window.recent_tokens) return false;
    for (uint32_t layer = 0; layer < e.geometry.layers; ++layer) {
        const kernels::KvFormat format = e.geometry.layer[layer].k.format;
        if (format != kernels::kKvF16 && format != kernels::kKvF32) return false;
    }
    return true;
}

// Which frequencies a layer's keys are turned by.
uint32_t rope_set_of(const Engine& e, uint32_t layer) {
    const OpList& list = e.plan.variant[KEEL_VARIANT_DENSE];
    for (uint32_t i = 0; i < list.count; ++i)
        if (list.ops[i].kind == OpKind::kKvAppend && list.ops[i].layer == static_cast<int32_t>(layer))
            return list.ops[i].rope_set;
    return 0;
}

constexpr uint32_t kTurnedBytes = 16 * 1024;  // rows that are turned at once: as a rule, those of a page

// Turns the keys of the rows from `slot` on that lie in one page, `count` at most, all heads of one layer. Gives how
// many these are.
keel_status turn_keys(Engine* e, const Session& s, uint32_t layer, uint32_t slot, uint32_t* count,
                      const float* cos_sin) {
    const ModelSpec& spec = e->spec;
    const kernels::KernelSet& kernel = *e->config.kernels;
    const KvLayer& formats = e->geometry.layer[layer];
    const KvPart& part = e->kv_of(layer);
    const uint64_t page = part.page_offset(s.kv.ids[slot / kPageTokens]);
    const uint32_t row_bytes = formats.k.code_bytes, most = kTurnedBytes / row_bytes,
                   in_page = kPageTokens - slot % kPageTokens;
    if (*count > in_page) *count = in_page;
    if (*count > most) *count = most;
    for (uint32_t head = 0; head < spec.kv_heads; ++head) {
        const kernels::KvPlane plane = formats.k_head(head);
        const uint64_t at = page + plane.codes + slot % kPageTokens * row_bytes, bytes = uint64_t{*count} * row_bytes;
        uint8_t codes[kTurnedBytes];
        float row[kernels::kMaxHeadDim];
        KEEL_TRY(download_kv(e, codes, part, at, bytes));
        for (uint8_t* code = codes; code < codes + bytes; code += row_bytes) {
            kernel.kv_decode[plane.format](code, nullptr, spec.head_dim, row);
            kernel.rope(row, spec.rope_dims / 2, cos_sin, e->rope_neox);
            kernel.kv_encode[plane.format](row, spec.head_dim, formats.k_scale, code, nullptr);
        }
        KEEL_TRY(upload_kv(e, part, at, codes, bytes));
    }
    return KEEL_OK;
}

// Rows behind `to` move down by `by`, ascending: none is overwritten before it has moved.
keel_status move_rows(Engine* e, const Session& s, uint32_t to, uint32_t by) {
    const uint32_t pairs = e->spec.rope_dims / 2;
    float cos_sin[2][kernels::kMaxHeadDim];
    for (uint32_t set = 0; set < e->plan.rope_sets; ++set) {
        e->config.kernels->rope_table(e->frequencies + uint64_t{set} * pairs, pairs, by, 1.0f, cos_sin[set]);
        for (uint32_t i = 0; i < pairs; ++i) cos_sin[set][2 * i + 1] = -cos_sin[set][2 * i + 1];
    }
    KvRowMove moves[kPageTokens];
    for (uint32_t slot = to; slot < s.computed;) {
        uint32_t count = 0;
        for (; count < kPageTokens && slot < s.computed; ++slot) moves[count++] = {slot - by, slot};
        KEEL_TRY(move_kv_rows(e, s, moves, count));
    }
    for (uint32_t layer = 0; layer < e->geometry.layers; ++layer) {
        const uint32_t set = rope_set_of(*e, layer);
        for (uint32_t slot = to - by, count; slot < s.computed - by; slot += count) {
            count = s.computed - by - slot;
            KEEL_TRY(turn_keys(e, s, layer, slot, &count, cos_sin[set]));
        }
    }
    return KEEL_OK;
}

// The books of tokens [from, to), and of those behind them.
void move_tokens(Session* s, uint32_t from, uint32_t to) {
    const uint32_t by = to - from;
    memmove(s->tokens + from, s->tokens + to, (s->token_count - to) * sizeof(int32_t));
    const auto drawn = [s](uint32_t i) { return s->drawn[i / 8] >> i % 8 & 1; };
    for (uint32_t i = from; i < to; ++i) s->sampled -= drawn(i);
    for (uint32_t i = to; i < s->token_count; ++i) {
        uint8_t& byte = s->drawn[(i - by) / 8];
        const uint32_t bit = (i - by) % 8;
        byte = static_cast<uint8_t>((byte & ~(1u << bit)) | static_cast<uint32_t>(drawn(i)) << bit);
    }
    s->token_count -= by;
    s->computed -= by;
    s->fed_from = s->fed_from >= to ? s->fed_from - by : s->fed_from > from ? from : s->fed_from;
    text_stream_shift(&s->text, from, to);
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" keel_status keel_session_shift(keel_session session, uint32_t from, uint32_t to) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (to > s->computed) return bad_range(e, "to", to, 0, s->computed);
    if (from > to) return bad_range(e, "from", from, 0, to);
    if (s->in_step) return KEEL_E_BUSY;
    if (from == to) return KEEL_OK;
    const bool in_grammar = s->grammar_from < KEEL_GRAMMAR_NEXT;
    if (in_grammar && to > s->grammar_from) return KEEL_E_STATE;
    if (!keys_can_be_turned(*e) || from < e->f16_window.sink_tokens) return KEEL_E_UNSUPPORTED;
    // Full pages have to be the session's own. One that is not full yet may be shared with a fork: it becomes that.
    if (!kv_owns(e->pool, s->kv, from / kPageTokens, s->computed / kPageTokens)) return KEEL_E_STATE;
    if (s->computed % kPageTokens) KEEL_TRY(kv_make_writable(&e->pool, &s->kv, s->computed, s->computed + 1));
    StepLimits no_limits = {};
    KEEL_TRY(copy_page(e, &s->kv, &no_limits));
    KEEL_TRY(move_rows(e, *s, to, to - from));
    if (s->drafter) s->drafter->moved(s->tokens, from, to);
    move_tokens(s, from, to);
    if (in_grammar) s->grammar_from -= to - from;
    s->draw = Session::kNoDraw;  // a draw depends on its position
    s->proposed = s->accepted = 0;
    kv_truncate(&e->pool, &s->kv, s->computed);
    return KEEL_OK;
}
