// The key of a W_proj cache: 64 bits over everything that decides its contents. The same description gives the same key
// on any machine, and a cache whose header has it can be used without looking further.
#pragma once
#include "sdk/format/wproj.h"

namespace keel {

// How the ranks of the layers were chosen, and what rank_value says of it.
enum WprojRankPolicy : uint32_t {
    kWprojRankUniform,  // the rank
    kWprojRankBytes,    // byte budget of all factors
    kWprojRankEnergy,   // share of energy to keep, in millionths
    kWprojRankError,    // largest relative squared output error, in millionths
};

struct WprojKeyDesc {
    uint32_t format;       // 1 or 2
    uint64_t fingerprint;  // of the GGUF (keel_model_info)
    WprojRankPolicy rank_policy;
    uint64_t rank_value;
    uint32_t slots;                    // bit i: slot i (WprojSlot) may have a record
    uint64_t calibration_hash;         // of the calibration text; 0: weights only
    const char* solver;                // its name, NUL-terminated
    uint32_t solver_version;           // changes whenever its results do
    uint32_t basis_type, record_type;  // kernels::WeightType
};

// Never 0, which wproj_open takes for "not known".
uint64_t wproj_key(const WprojKeyDesc& desc);

// "ott_wproj_cache_0A2337F6.bin": the low 32 bits of the key.
constexpr uint32_t kWprojFileNameBytes = 29;
void wproj_file_name(uint64_t key, char (&out)[kWprojFileNameBytes]);
// The low 32 bits in a name of that form, either case; false for other names.
bool wproj_file_tag(const char* name, uint32_t* tag);

}  // namespace keel
