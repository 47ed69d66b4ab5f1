#include "sdk/tools/files/wproj_zstd.h"

#include "keel/keel.hpp"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj.h"
#include "sdk/tools/common/console.h"

#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif

namespace keel::tools {

bool wproj_is_packed(const keel_reader& reader) {
    WprojHeader2 h;
    return read_at(reader, 0, &h, sizeof h) == KEEL_OK && h.magic == kWprojMagic2 && h.version == 2 &&
           h.codec == kWprojZstd;
}

#ifdef KEEL_HAVE_PACK

std::vector<uint8_t> unpack_wproj(const keel_reader& packed) {
    keel_error error = make<keel_error>();
    keel_pack_info info = make<keel_pack_info>();
    check(keel_pack_inspect(&packed, &info, &error), "cannot unpack the W_proj cache", &error);
    std::vector<uint8_t> plain(info.plain_bytes);
    std::vector<uint64_t> work((info.work_bytes + 7) / 8);
    check(keel_pack_expand(&packed, plain.data(), plain.size(), work.data(), work.size() * 8, &error),
          "cannot unpack the W_proj cache", &error);
    return plain;
}

#else

std::vector<uint8_t> unpack_wproj(const keel_reader&) {
    throw ToolError(KEEL_E_UNSUPPORTED, "this build of keel has no zstd");
}

#endif

}  // namespace keel::tools
