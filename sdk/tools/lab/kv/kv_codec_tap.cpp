#include "sdk/tools/lab/kv/kv_codec_tap.h"

#include <string.h>

#include <algorithm>

#include "kernels/formats/numeric.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/lab/codecs/calibrated_codec.h"

namespace keel::tools {

void apply_rope(float* row, uint32_t rope_dims, bool neox, const float* cos_sin) {
    const uint32_t pairs = rope_dims / 2;
    for (uint32_t i = 0; i < pairs; ++i) {
        float& x0 = row[neox ? i : 2 * i];
        float& x1 = row[neox ? i + pairs : 2 * i + 1];
        const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], y0 = x0 * c - x1 * s, y1 = x0 * s + x1 * c;
        x0 = y0;
        x1 = y1;
    }
}

// K or V of all layers and heads.
class KvCodecTap::Side {
  public:
    Side(const KvShape& shape, bool value, std::shared_ptr<const KvCodec> codec, const KvCodecTables* tables,
         KvRowErrors& errors)
        : shape_(shape),
          value_(value),
          codec_(std::move(codec)),
          errors_(errors),
          stage_(!value && codec_ && codec_->before_rope() ? KEEL_LAB_BEFORE_ROPE : KEEL_LAB_AFTER_ROPE) {
        blocks_ = codec_ && (codec_->pools_heads() || codec_->block_rows(false) > 1 || codec_->block_rows(true) > 1);
        pooled_ = blocks_ && codec_->pools_heads();
        bytes_.resize(shape.rows());
        if (blocks_) {
            rows_.resize(shape.rows() * shape.head_dim);
            const uint32_t rows = codec_->block_rows(value), together = pooled_ ? shape.kv_heads : 1;
            // One row, or a stream: the codec decides what belongs together.
            whole_ = rows == 1 || rows % together != 0 || rows / together > shape.context_tokens;
            block_positions_ = whole_ ? 0 : rows / together;
        }
        if (tables)
            for (uint32_t layer = 0; layer < shape.layers; ++layer) {
                const auto first =
                    tables->begin() + static_cast<ptrdiff_t>((size_t{value} * shape.layers + layer) * shape.kv_heads);
                tables_.insert(tables_.end(), first, first + shape.kv_heads);
                if (pooled_) pooled_tables_.push_back(pooled_calibration(std::span(tables_).last(shape.kv_heads)));
            }
    }

    bool blocks() const { return blocks_; }
    uint64_t side_bytes() const {
        uint64_t bytes = 0;
        for (uint32_t layer = 0; codec_ && layer < shape_.layers; ++layer)
            for (uint32_t head = 0; head < (pooled_ ? 1 : shape_.kv_heads); ++head)
                bytes += codec_->side_bytes(context(layer, head));
        return bytes;
    }

    void begin(keel_session session, uint32_t tokens, uint32_t chunk) {
        session_ = session;
        tokens_ = tokens;
        chunk_ = chunk;
        std::fill(bytes_.begin(), bytes_.end(), 0);
        coded_.assign(size_t{shape_.layers} * shape_.kv_heads, 0);
    }

    void heads(const keel_lab_heads& h) {
        if (h.stage != stage_) return;
        float* row = value_ ? h.v : h.k;
        if (blocks_) return wait(h, row);
        const size_t at = shape_.row(h.layer, h.kv_head, h.position);
        std::vector<float> exact(row, row + shape_.head_dim);
        if (codec_) {
            std::vector<uint8_t> bytes;
            codec_->encode(exact.data(), 1, context(h.layer, h.kv_head), bytes);
            codec_->decode(bytes, 1, context(h.layer, h.kv_head), row);
            bytes_[at] = bytes.size();
        } else {
            round_to_f16(row);
            bytes_[at] = 2 * uint64_t{shape_.head_dim};
        }
        errors_.set(value_, h.layer, h.kv_head, h.position, squared_distance(row, exact.data(), shape_.head_dim),
                    squared_norm(exact.data(), shape_.head_dim));
    }

    // Bytes of the whole document.
    uint64_t end() {
        uint64_t sum = 0;
        for (const uint64_t bytes : bytes_) sum += bytes;
        return sum + left_rows() * 2 * shape_.head_dim;
    }
    // Of this document, in f16 because their block is not complete.
    uint64_t left_rows() const {
        uint64_t rows = 0;
        if (blocks_ && !whole_)
            for (const uint32_t coded : coded_) rows += tokens_ - coded;
        return rows;
    }

  private:
    KvCodecContext context(uint32_t layer, uint32_t kv_head) const {
        KvCodecContext c;
        c.layer = layer;
        c.layers = shape_.layers;
        c.kv_head = pooled_ ? 0 : kv_head;
        c.head_dim = shape_.head_dim;
        c.value = value_;
        if (!tables_.empty())
            c.calibration = pooled_ ? &pooled_tables_[layer] : &tables_[size_t{layer} * shape_.kv_heads + kv_head];
        return c;
    }
    void round_to_f16(float* row) const {
        for (uint32_t i = 0; i < shape_.head_dim; ++i) row[i] = kernels::f16_to_f32(kernels::f32_to_f16(row[i]));
    }
    void keep_rotation(const keel_lab_heads& h) {
        rope_dims_ = h.rope_dims;
        neox_ = h.rope_neox;
        if (h.kv_head == 0) rotations_.resize(size_t{shape_.layers} * shape_.context_tokens * h.rope_dims);
        std::copy_n(h.cos_sin, h.rope_dims,
                    &rotations_[(size_t{h.layer} * shape_.context_tokens + h.position) * h.rope_dims]);
    }
    size_t row_at(uint32_t layer, uint32_t head, uint32_t position) const {
        return shape_.row(layer, head, position) * shape_.head_dim;
    }

    // A row that becomes part of a block.
    void wait(const keel_lab_heads& h, float* row) {
        if (stage_ == KEEL_LAB_BEFORE_ROPE) keep_rotation(h);
        std::copy_n(row, shape_.head_dim, &rows_[row_at(h.layer, h.kv_head, h.position)]);
        const std::vector<float> exact(row, row + shape_.head_dim);
        round_to_f16(row);
        errors_.set(value_, h.layer, h.kv_head, h.position, squared_distance(row, exact.data(), shape_.head_dim),
                    squared_norm(exact.data(), shape_.head_dim));
        const bool step_ends = (h.position + 1) % chunk_ == 0 || h.position + 1 == tokens_;
        if (!step_ends || (pooled_ && h.kv_head + 1 != shape_.kv_heads)) return;
        const uint32_t first = pooled_ ? 0 : h.kv_head, last = pooled_ ? shape_.kv_heads : h.kv_head + 1;
        code(h, row, first, last);
    }

    // Codes complete blocks of heads [first, last) up to this position.
    void code(const keel_lab_heads& h, float* current, uint32_t first, uint32_t last) {
        const uint32_t heads = last - first, from = whole_ ? 0 : coded_[size_t{h.layer} * shape_.kv_heads + first];
        const uint32_t to = whole_ ? h.position + 1 : (h.position + 1) / block_positions_ * block_positions_;
        const uint32_t step = whole_ ? to : block_positions_, dim = shape_.head_dim;
        std::vector<float> block, decoded;
        for (uint32_t begin = from; begin < to; begin += step) {
            block.clear();
            for (uint32_t p = begin; p < begin + step; ++p)  // positions outside, heads inside
                for (uint32_t head = first; head < last; ++head)
                    block.insert(block.end(), &rows_[row_at(h.layer, head, p)], &rows_[row_at(h.layer, head, p)] + dim);
            decoded.resize(block.size());
            std::vector<uint8_t> bytes;
            codec_->encode(block.data(), step * heads, context(h.layer, first), bytes);
            codec_->decode(bytes, step * heads, context(h.layer, first), decoded.data());
            bytes_[shape_.row(h.layer, first, begin)] = bytes.size();
            for (uint32_t p = begin; p < begin + step; ++p)
                for (uint32_t head = first; head < last; ++head) {
                    const size_t at = (size_t{p - begin} * heads + head - first) * dim;
                    errors_.set(value_, h.layer, head, p, squared_distance(&decoded[at], &block[at], dim),
                                squared_norm(&block[at], dim));
                    if (p == h.position && head == h.kv_head)
                        std::copy_n(&decoded[at], dim, current);
                    else
                        rewrite(h, head, p, &decoded[at]);
                }
        }
        for (uint32_t head = first; head < last; ++head)
            coded_[size_t{h.layer} * shape_.kv_heads + head] = std::max(from, to);
    }

    void rewrite(const keel_lab_heads& h, uint32_t head, uint32_t position, float* decoded) {
        float* stored;
        check(keel_lab_kv_row(session_, h.layer, head, position, value_, &stored), "cannot change the KV arena");
        if (stage_ == KEEL_LAB_BEFORE_ROPE)
            apply_rope(decoded, rope_dims_, neox_,
                       &rotations_[(size_t{h.layer} * shape_.context_tokens + position) * rope_dims_]);
        std::copy_n(decoded, shape_.head_dim, stored);
    }

    KvShape shape_;
    bool value_;
    std::shared_ptr<const KvCodec> codec_;
    KvRowErrors& errors_;
    keel_lab_stage stage_;  // where K is coded; V after RoPE
    bool blocks_ = false, pooled_ = false, whole_ = false;
    uint32_t block_positions_ = 0;
    std::vector<KvCodecCalibration> tables_, pooled_tables_;
    keel_session session_{};
    uint32_t tokens_ = 0, chunk_ = 1;
    std::vector<uint64_t> bytes_;   // per row, or of a block at its first one
    std::vector<uint32_t> coded_;   // [layers][kv_heads] positions in complete blocks
    std::vector<float> rows_;       // [layers][kv_heads][context][head_dim] as they came
    std::vector<float> rotations_;  // [layers][context][rope_dims]
    uint32_t rope_dims_ = 0;
    bool neox_ = false;
};

KvCodecTap::KvCodecTap(const KvShape& shape, std::shared_ptr<const KvCodec> k, std::shared_ptr<const KvCodec> v,
                       const KvCodecTables* tables)
    : shape_(shape), errors_(shape) {
    sides_[0] = std::make_unique<Side>(shape, false, std::move(k), tables, errors_);
    sides_[1] = std::make_unique<Side>(shape, true, std::move(v), tables, errors_);
}
KvCodecTap::~KvCodecTap() = default;

bool KvCodecTap::one_thread() const {
    return sides_[0]->blocks() || sides_[1]->blocks();
}
uint64_t KvCodecTap::side_bytes() const {
    return sides_[0]->side_bytes() + sides_[1]->side_bytes();
}

double KvCodecTap::rows_left_in_f16() const {
    const uint64_t rows = tokens_ * 2 * shape_.layers * shape_.kv_heads;
    return rows ? static_cast<double>(left_rows_) / static_cast<double>(rows) : 0;
}

void KvCodecTap::begin(keel_session session, uint32_t tokens, uint32_t chunk) {
    document_tokens_ = tokens;
    for (const auto& side : sides_) side->begin(session, tokens, chunk);
}
void KvCodecTap::heads(const keel_lab_heads& heads) {
    for (const auto& side : sides_) side->heads(heads);
}
void KvCodecTap::end() {
    for (const auto& side : sides_) {
        bytes_ += side->end();
        left_rows_ += side->left_rows();
    }
    tokens_ += document_tokens_;
    if (counts_errors_) errors_.add_document(document_tokens_);
}

}  // namespace keel::tools
