#include "sdk/format/wproj_key.h"

#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/format/wproj_v2.h"

namespace keel {
namespace {

constexpr char kPrefix[] = "ott_wproj_cache_", kSuffix[] = ".bin", kDigits[] = "0123456789ABCDEF";
constexpr uint32_t kPrefixBytes = sizeof kPrefix - 1;
static_assert(kPrefixBytes + 8 + sizeof kSuffix == kWprojFileNameBytes);

// Continues a hash over a number as 8 bytes, least significant first: no padding, and the same on any machine.
uint64_t add(uint64_t state, uint64_t value) {
    char bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> 8 * i & 0xff);
    return hash_update(state, bytes, 8);
}

}  // namespace

uint64_t wproj_key(const WprojKeyDesc& d) {
    uint64_t state = kHashSeed;
    const uint64_t fields[] = {uint64_t{d.format},
                               d.fingerprint,
                               uint64_t{d.rank_policy},
                               d.rank_value,
                               uint64_t{d.slots},
                               d.calibration_hash,
                               hash64(d.solver, strlen(d.solver)),
                               uint64_t{d.solver_version},
                               uint64_t{wproj_number_of_type(d.basis_type)},
                               uint64_t{wproj_number_of_type(d.record_type)}};
    for (const uint64_t field : fields) state = add(state, field);
    const uint64_t key = hash_finish(state);
    return key ? key : 1;
}

void wproj_file_name(uint64_t key, char (&out)[kWprojFileNameBytes]) {
    memcpy(out, kPrefix, kPrefixBytes);
    for (uint32_t i = 0; i < 8; ++i) out[kPrefixBytes + i] = kDigits[key >> (28 - 4 * i) & 15];
    memcpy(out + kPrefixBytes + 8, kSuffix, sizeof kSuffix);
}

bool wproj_file_tag(const char* name, uint32_t* tag) {
    if (strlen(name) != kWprojFileNameBytes - 1 || memcmp(name, kPrefix, kPrefixBytes) != 0 ||
        strcmp(name + kPrefixBytes + 8, kSuffix) != 0)
        return false;
    uint32_t value = 0;
    for (uint32_t i = 0; i < 8; ++i) {
        const char c = name[kPrefixBytes + i];
        const char upper = c >= 'a' && c <= 'f' ? static_cast<char>(c - 'a' + 'A') : c;
        const void* digit = memchr(kDigits, upper, 16);
        if (!digit) return false;
        value = value << 4 | static_cast<uint32_t>(static_cast<const char*>(digit) - kDigits);
    }
    *tag = value;
    return true;
}

}  // namespace keel
