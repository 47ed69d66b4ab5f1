// KV row codecs, the reference for every other set.
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_impl.h"

namespace keel::kernels {
namespace {

// A row of KEEL_KV_FORMATS can ask for bits that its family has no code or no table for, and would still compile.
constexpr bool every_format_has_a_codec() {
    for (const KvFormatInfo& f : kKvFormats) {
        const bool lattice = (f.bits >= 2 && f.bits <= 6) || (f.bits == 8 && !f.integer);
        const bool trellis = f.bits >= 2 && f.bits - 2u < sizeof kTrellisTables / sizeof kTrellisTables[0];
        if (f.family == KvFamily::kBlock32 && f.bits != 4 && f.bits != 8) return false;
        if (f.family == KvFamily::kLattice && !lattice) return false;
        if (f.family == KvFamily::kTrellis && !trellis) return false;
    }
    return true;
}
static_assert(every_format_has_a_codec(), "blocks of 32 have 4 or 8 bits, lattices 2 to 6 or 8, trellises a table");

}  // namespace

KEEL_DEFINE_KV_CODECS(scalar)
#define KEEL_INSTANTIATE(format, ...) KEEL_INSTANTIATE_KV(scalar, kKv##format)
KEEL_KV_FORMATS(KEEL_INSTANTIATE)
}  // namespace keel::kernels
