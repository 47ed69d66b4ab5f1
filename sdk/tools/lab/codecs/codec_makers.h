// One maker per family of codecs: null when the name is not one of its own.
#pragma once
#include "sdk/tools/lab/codecs/kv_codec.h"

namespace keel::tools {

std::unique_ptr<KvCodec> make_lattice_codec(std::string_view spec);     // kakeya-d4:Q kakeya-e8:Q
std::unique_ptr<KvCodec> make_absmax_codec(std::string_view spec);      // absmax:b
std::unique_ptr<KvCodec> make_turboquant_codec(std::string_view spec);  // tq-mse:b[:ls|nc|eden] tq-prod:b
std::unique_ptr<KvCodec> make_vllm_codec(std::string_view spec);  // vllm-k8v4 vllm-k4v4 vllm-k3v4 vllm-k3v3 [:skip2]
std::unique_ptr<KvCodec> make_turbo_block_codec(std::string_view spec);   // turbo2 turbo3 turbo4 :32|128
std::unique_ptr<KvCodec> make_kivi_codec(std::string_view spec);          // kivi:b
std::unique_ptr<KvCodec> make_exl3_codec(std::string_view spec);          // exl3:b
std::unique_ptr<KvCodec> make_long_trellis_codec(std::string_view spec);  // tcqL-b
std::unique_ptr<KvCodec> make_besicovitch_codec(
    std::string_view spec);  // besicovitch:d:m[:published|fitted][:mean[=rows]]
std::unique_ptr<KvCodec> make_riemann_codec(
    std::string_view spec);  // riemann:d:m[:scale][:levels][:plain][:block=rows]
std::unique_ptr<KvCodec> make_kakeyaturbo_codec(std::string_view spec);  // kakeyaturbo:...; needs Eigen

}  // namespace keel::tools
