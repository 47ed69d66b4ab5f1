// One maker per family of codecs: null when the name is not one of its own.
#pragma once
#include "sdk/tools/lab/codecs/kv_peer.h"

namespace keel::tools {

std::unique_ptr<KvPeer> make_lattice_peer(std::string_view spec);     // kakeya-d4:Q kakeya-e8:Q
std::unique_ptr<KvPeer> make_absmax_peer(std::string_view spec);      // absmax:b
std::unique_ptr<KvPeer> make_turboquant_peer(std::string_view spec);  // tq-mse:b[:ls|nc|eden] tq-prod:b
std::unique_ptr<KvPeer> make_vllm_peer(std::string_view spec);  // vllm-k8v4 vllm-k4v4 vllm-k3v4 vllm-k3v3 [:skip2]
std::unique_ptr<KvPeer> make_turbo_block_peer(std::string_view spec);   // turbo2 turbo3 turbo4 :32|128
std::unique_ptr<KvPeer> make_kivi_peer(std::string_view spec);          // kivi:b
std::unique_ptr<KvPeer> make_exl3_peer(std::string_view spec);          // exl3:b
std::unique_ptr<KvPeer> make_long_trellis_peer(std::string_view spec);  // tcqL-b
std::unique_ptr<KvPeer> make_besicovitch_peer(
    std::string_view spec);                                        // besicovitch:d:m[:published|fitted][:mean[=rows]]
std::unique_ptr<KvPeer> make_riemann_peer(std::string_view spec);  // riemann:d:m[:scale][:levels][:plain][:block=rows]
std::unique_ptr<KvPeer> make_kakeyaturbo_peer(std::string_view spec);  // kakeyaturbo:...; needs Eigen

}  // namespace keel::tools
