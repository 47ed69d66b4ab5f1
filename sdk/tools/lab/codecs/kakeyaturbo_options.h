// Every choice of a KakeyaTurbo block code.
#pragma once
#include <stdint.h>

#include <optional>
#include <string_view>

#include "sdk/tools/lab/codecs/layer_set.h"

namespace keel::tools {

struct KakeyaturboOptions {
    enum class Pca { exact, randomized } pca = Pca::exact;  // pca=exact|rsvd
    double variance_ratio = 0.95;  // vr=0.95: of the trace that the kept directions hold, (0, 1]
    uint32_t rank = 0;             // rank=64: most directions kept; 0: all of them (exact), half of head_dim (rsvd)
    uint32_t centres = 16;         // k=16: unit directions of coefficients, 1..1024
    uint32_t bits = 3;             // bits=3: of a coordinate of the residual, 1..4
    double outlier = 0;            // outlier=2.0: scaled coordinates beyond it are stored as f16; 0: none
    uint32_t block = 512;          // bs=512: rows of a block, of all heads where they are pooled
    bool share_basis = false;      // share=1: the first block's PCA serves all blocks of a call
    bool pooled = true;            // pool=0: blocks of one head
    bool whitened = false;         // qp=1: K is coded as K L (query_whitening.h)
    LayerSet plain_layers;         // skip=0+-1: layers where it is not
    // metric=mse|ip: published, the second lost the residual's norm in decoding; here it decodes the same, and differs
    // only in which number stands in which field when bytes are laid out as published.
    bool inner_product = false;
    // codebook=gaussian: Lloyd-Max of N(0,1). own: KvCodecCalibration::codebook, the Gaussian one where that has not
    // 2^bits levels. ds, qwen3: published tables of DeepSeek-R1-Distill-Qwen-1.5B and Qwen3-4B; they were fitted to
    // another quantity than they code (coefficients before the centre's part was taken out). Gaussian for the side, K
    // or V, that has none.
    enum class Codebook { gaussian, own, ds, qwen3 } codebook = Codebook::gaussian;
    bool before_rope = false;  // rope=pre|post: K before or after its rotation
    // bytes=published: 10 bytes a row beside the codes, as was charged (u32 segment, reserved f16, f16 t, f16 norm).
    // bytes=minimum: what decoding needs.
    bool published_bytes = false;
};

// "key=value,key=value" with the keys above; nothing for anything else, also where a published table has no such bits.
std::optional<KakeyaturboOptions> parse_kakeyaturbo_options(std::string_view text);

}  // namespace keel::tools
