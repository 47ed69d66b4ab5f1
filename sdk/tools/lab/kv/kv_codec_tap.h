// Published codecs in the forward pass: an arena of f32, and between it and the model a codec's encode() and decode().
//
//   row codecs    each row is coded on its way into the arena; any number of threads
//   block codecs  rows wait, as f16, until their block is complete, and are then rewritten in the arena. Blocks are
//                 looked at where a step ends: positions of one step see each other's complete blocks coded, earlier
//                 ones too, and rows of an incomplete block as f16. Codecs whose blocks share something (kakeyaturbo
//                 with a shared basis) code the whole document anew at every such point.
#pragma once
#include <map>
#include <memory>

#include "sdk/tools/lab/codecs/kv_codec.h"
#include "sdk/tools/lab/kv/kv_row_errors.h"

namespace keel::tools {

// Offline tables of codecs: [layers][kv_heads] of K, then of V.
using KvCodecTables = std::vector<KvCodecCalibration>;

class KvCodecTap final : public KvTap {
  public:
    // A null codec is f16. tables may be null; they have to live as long as this.
    KvCodecTap(const KvShape& shape, std::shared_ptr<const KvCodec> k, std::shared_ptr<const KvCodec> v,
               const KvCodecTables* tables);
    ~KvCodecTap() override;
    bool one_thread() const override;
    void begin(keel_session session, uint32_t tokens, uint32_t chunk) override;
    void heads(const keel_lab_heads& heads) override;
    void end() override;

    const KvRowErrors& errors() const { return errors_; }
    // Whether the next documents count in errors().
    void count_errors(bool on) { counts_errors_ = on; }
    // What encode() returned for all documents so far, over their positions.
    double bytes_per_token() const { return tokens_ ? static_cast<double>(bytes_) / static_cast<double>(tokens_) : 0; }
    uint64_t side_bytes() const;
    bool codes_blocks() const { return one_thread(); }
    // Of the rows of all documents so far, the share that no block was complete for: read in f16 to the end, and
    // counted so in bytes_per_token().
    double rows_left_in_f16() const;

  private:
    class Side;
    KvShape shape_;
    KvRowErrors errors_;
    std::unique_ptr<Side> sides_[2];  // K, V
    uint64_t bytes_ = 0, tokens_ = 0, left_rows_ = 0;
    uint32_t document_tokens_ = 0;
    bool counts_errors_ = true;
};

// RoPE of one row, pairs as keel_lab_heads has them: y0 = x0 c - x1 s, y1 = x0 s + x1 c.
void apply_rope(float* row, uint32_t rope_dims, bool neox, const float* cos_sin);

}  // namespace keel::tools
