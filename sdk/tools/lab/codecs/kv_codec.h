// Published ways to code KV-cache rows, as measured against: offline, unfused, heap allowed. Every codec makes real
// bytes from rows and rows from nothing but those bytes, so that sizes are counted and not claimed.
#pragma once
#include <stdint.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace keel::tools {

// Statistics of one (layer, kv head, K|V), measured on other text than the rows that are coded.
struct KvCodecCalibration {
    std::vector<double> query_covariance;  // [head_dim][head_dim] mean of q q^T before RoPE; empty: unknown
    std::vector<float> group_scales;       // Riemann: one per coordinate group; empty: unknown
    std::vector<float> codebook;           // 2^b ascending centroids measured on other text; empty: the Gaussian's
};

// What a codec may know beside the rows. Everything in it is offline: nothing of it depends on the rows being coded.
struct KvCodecContext {
    uint32_t layer = 0, layers = 1, kv_head = 0, head_dim = 0;
    bool value = false;                               // V rows; else K rows
    const KvCodecCalibration* calibration = nullptr;  // or null
};

// A published way to code KV rows. encode() appends exactly the bytes that would be stored; decode() needs nothing
// else. Rows are [count][head_dim]; any count is legal: what a codec does with rows that do not fill a block is its own
// (most keep f16 rows). std::invalid_argument when the codec has no form for this head_dim, or decode() gets another
// number of bytes than encode() made for such a count.
class KvCodec {
  public:
    virtual ~KvCodec() = default;
    virtual std::string name() const = 0;
    // Rows coded together: positions of one head (or of all heads where pools_heads()), of V or of K.
    virtual uint32_t block_rows([[maybe_unused]] bool value) const { return 1; }
    virtual bool pools_heads() const { return false; }
    virtual bool before_rope() const { return false; }  // codes K before its rotation, as published
    virtual void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                        std::vector<uint8_t>& out) const = 0;
    virtual void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                        float* rows) const = 0;
    // Offline tables of one (layer, head, K|V), charged once per model.
    virtual uint64_t side_bytes(const KvCodecContext&) const { return 0; }
};

// "kakeya-d4:38", "tq-mse:3:nc", ...; null for an unknown name.
std::unique_ptr<KvCodec> make_kv_codec(std::string_view spec);
// The forms of names, one per line, with what they stand for: for help texts.
std::string_view kv_codec_names();

}  // namespace keel::tools
