#include "sdk/tools/lab/codecs/kv_codec.h"

#include "sdk/tools/lab/codecs/codec_makers.h"

namespace keel::tools {

std::unique_ptr<KvCodec> make_kv_codec(std::string_view spec) {
    constexpr std::unique_ptr<KvCodec> (*kMakers[])(std::string_view) = {
        make_lattice_codec,     make_absmax_codec,  make_turboquant_codec, make_vllm_codec,
        make_turbo_block_codec, make_kivi_codec,    make_exl3_codec,       make_long_trellis_codec,
        make_besicovitch_codec, make_riemann_codec,
#ifdef KEEL_HAVE_EIGEN
        make_kakeyaturbo_codec,
#endif
    };
    for (const auto make : kMakers)
        if (std::unique_ptr<KvCodec> codec = make(spec)) return codec;
    return nullptr;
}

std::string_view kv_codec_names() {
    return "kakeya-d4:Q, kakeya-e8:Q   KakeyaLattice, Q = 1..32767 lattice units per largest coordinate; K before "
           "RoPE\n"
           "absmax:B                   Hadamard and a grid of 2^B - 1 levels, B = 2..8 (what KakeyaLattice's tables "
           "call TurboQuant)\n"
           "tq-mse:B[:ls|nc|eden]      TurboQuant-mse, B = 1..8; scale: the norm, least squares, norm-correcting or "
           "unbiased\n"
           "tq-prod:B                  TurboQuant-prod, B = 2..8: B - 1 bits of tq-mse and one of QJL\n"
           "vllm-k8v4|k4v4|k3v4|k3v3[:skip2]\n"
           "                           the presets of vLLM; skip2 keeps the first and last two layers in f16\n"
           "turbo2|turbo3|turbo4:32|128\n"
           "                           TurboQuant blocks of llama.cpp's forks, 32 or 128 values each\n"
           "kivi:B                     KIVI, B = 2..8: K per channel over 32 positions, V per 32 channels\n"
           "exl3:B                     the cache of exllamav3, B = 2..8: 32-wide Hadamard, absmax per 32\n"
           "tcqL-B                     the trellis of tcq-B with states of L = 8, 10 or 12 bits, B = 2..4 (12: 2, 3): "
           "same bytes, longer search\n"
           "besicovitch:D:M[:published|fitted][:mean[=ROWS]]\n"
           "                           pairs as D = 1..8 bits of direction and M = 1..8 bits (or f16) of length; "
           "published levels leave half\n"
           "                           unused; mean: less the mean of a block, of 1024 rows where not given\n"
           "riemann:D:M[:pct99|pct95|pct99.9|rms|trace][:calibrated|quantile|own][:plain][:block=ROWS]\n"
           "                           whitened pairs with fixed scales: needs a query covariance (not with plain) and "
           "group scales\n"
#ifdef KEEL_HAVE_EIGEN
           "kakeyaturbo:NAME[:published-bytes][:per-head]\n"
           "                           block PCA, clusters, rotation, Lloyd-Max; NAME = v1.2 v1.3 v1.4-pareto p6 b3 r3 "
           "v1.3-ppl f1 f2;\n"
           "                           most K need a query covariance. published-bytes: laid out in the size that was "
           "charged\n"
           "kakeyaturbo:K[/V[/LAYERS@BOUNDARY]]\n"
           "                           the same by options: "
           "pca=exact|rsvd,vr=0.95,rank=64,k=16,bits=3,outlier=2.0,bs=512,share=1,pool=0,qp=1,\n"
           "                           "
           "skip=LAYERS,metric=mse|ip,codebook=gaussian|own|ds|qwen3,rope=pre|post,bytes=minimum|published;\n"
           "                           LAYERS like 0+1+Ldiv2+-1; K, V also besicovitch:... or riemann:..., BOUNDARY "
           "also f16\n"
#else
           "kakeyaturbo:...            not in this build: Eigen was missing\n"
#endif
        ;
}

}  // namespace keel::tools
