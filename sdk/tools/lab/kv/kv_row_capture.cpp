#include "sdk/tools/lab/kv/kv_row_capture.h"

#include <algorithm>

#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {

void KvRowCapture::begin(keel_session, uint32_t tokens, uint32_t) {
    rows_.tokens = tokens;
    const size_t positions = size_t{rows_.shape.layers} * tokens * rows_.shape.head_dim;
    for (std::vector<float>* kv : {&rows_.k_before, &rows_.k_after, &rows_.v})
        kv->resize(positions * rows_.shape.kv_heads);
    for (std::vector<float>* q : {&rows_.q_before, &rows_.q_after}) q->resize(positions * rows_.shape.heads);
    rows_.cos_sin.resize(positions);
    rows_.window.resize(rows_.shape.layers);
}

void KvRowCapture::heads(const keel_lab_heads& h) {
    const bool after = h.stage == KEEL_LAB_AFTER_ROPE;
    const uint32_t dim = rows_.shape.head_dim;
    const size_t row = rows_.kv_row(h.layer, h.position, h.kv_head);
    std::copy_n(h.k, dim, &(after ? rows_.k_after : rows_.k_before)[row]);
    std::copy_n(h.q, size_t{h.query_heads} * dim,
                &(after ? rows_.q_after : rows_.q_before)[rows_.q_row(h.layer, h.position, h.kv_head * h.query_heads)]);
    if (!after) return;
    std::copy_n(h.v, dim, &rows_.v[row]);
    if (h.kv_head) return;
    if (h.position == 0) rows_.window[h.layer] = h.window;
    if (h.layer == 0 && h.position == 0) {
        rows_.rope_dims = h.rope_dims;
        rows_.neox = h.rope_neox;
        rows_.attention_scale = h.attention_scale;
        rows_.attention_softcap = h.attention_softcap;
    }
    std::copy_n(h.cos_sin, h.rope_dims, &rows_.cos_sin[rows_.rope_row(h.layer, h.position)]);
}

void capture_rows(const EngineOptions& options, const std::string& file, uint32_t documents, uint32_t tokens,
                  const std::function<void(const KvDocumentRows&)>& visit) {
    KvRun run(options, exact_kv(), tokens);
    KvRowCapture capture(run.shape());
    run.set_tap(&capture);
    for (const std::vector<int32_t>& ids : tokenize_documents(run.model().engine, file, documents, tokens)) {
        stop_if_interrupted();
        run.forward(ids, [](size_t, std::span<const float>) {});
        visit(capture.rows());
    }
}

}  // namespace keel::tools
