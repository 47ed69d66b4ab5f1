#include "sdk/tools/kv_peers/kv_peer.h"

#include "sdk/tools/kv_peers/peer_makers.h"

namespace keel::tools {

std::unique_ptr<KvPeer> make_kv_peer(std::string_view spec) {
    constexpr std::unique_ptr<KvPeer> (*kMakers[])(std::string_view) = {
        make_lattice_peer, make_absmax_peer, make_turboquant_peer, make_vllm_peer, make_turbo_block_peer, make_kivi_peer, make_exl3_peer,
    };
    for (const auto make : kMakers)
        if (std::unique_ptr<KvPeer> peer = make(spec)) return peer;
    return nullptr;
}

std::string_view kv_peer_names() {
    return "kakeya-d4:Q, kakeya-e8:Q   KakeyaLattice, Q = 1..32767 lattice units per largest coordinate; K before RoPE\n"
           "absmax:B                   Hadamard and a grid of 2^B - 1 levels, B = 2..8 (what KakeyaLattice's tables call TurboQuant)\n"
           "tq-mse:B[:ls|nc|eden]      TurboQuant-mse, B = 1..8; scale: the norm, least squares, norm-correcting or unbiased\n"
           "tq-prod:B                  TurboQuant-prod, B = 2..8: B - 1 bits of tq-mse and one of QJL\n"
           "vllm-k8v4|k4v4|k3v4|k3v3[:skip2]\n"
           "                           the presets of vLLM; skip2 keeps the first and last two layers in f16\n"
           "turbo2|turbo3|turbo4:32|128\n"
           "                           TurboQuant blocks of llama.cpp's forks, 32 or 128 values each\n"
           "kivi:B                     KIVI, B = 2..8: K per channel over 32 positions, V per 32 channels\n"
           "exl3:B                     the cache of exllamav3, B = 2..8: 32-wide Hadamard, absmax per 32\n";
}

}  // namespace keel::tools
