// Keys, values and queries of one document at a time, as the model computes them.
#pragma once
#include <functional>
#include <vector>

#include "sdk/tools/lab/kv/kv_run.h"

namespace keel::tools {

// Rows in f32. Q has the model's query heads, in order; "before" and "after" are the sides of RoPE.
struct KvDocumentRows {
    KvShape shape;
    uint32_t tokens = 0, rope_dims = 0;
    bool neox = false;
    std::vector<float> k_before, k_after, v;  // [layers][tokens][kv_heads][head_dim]
    std::vector<float> q_before, q_after;     // [layers][tokens][heads][head_dim]
    std::vector<float> cos_sin;               // [layers][tokens][head_dim], rope_dims of them
    std::vector<uint32_t> window;             // [layers]; 0: all positions are seen
    float attention_scale = 1, attention_softcap = 0;

    size_t kv_row(uint32_t layer, uint32_t token, uint32_t kv_head) const {
        return ((size_t{layer} * tokens + token) * shape.kv_heads + kv_head) * shape.head_dim;
    }
    size_t rope_row(uint32_t layer, uint32_t token) const { return (size_t{layer} * tokens + token) * shape.head_dim; }
    size_t q_row(uint32_t layer, uint32_t token, uint32_t head) const {
        return ((size_t{layer} * tokens + token) * shape.heads + head) * shape.head_dim;
    }
};

class KvRowCapture final : public KvTap {
  public:
    explicit KvRowCapture(const KvShape& shape) { rows_.shape = shape; }
    void begin(keel_session session, uint32_t tokens, uint32_t chunk) override;
    void heads(const keel_lab_heads& heads) override;
    const KvDocumentRows& rows() const { return rows_; }

  private:
    KvDocumentRows rows_;
};

// Computes the documents in an arena of f32 and shows the rows of each.
void capture_rows(const EngineOptions& options, const std::string& file, uint32_t documents, uint32_t tokens,
                  const std::function<void(const KvDocumentRows&)>& visit);

}  // namespace keel::tools
