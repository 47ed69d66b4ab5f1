#include "sdk/tools/common/pack_text.h"

#include "keel/keel.hpp"
#include "sdk/tools/common/console.h"

#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif

namespace keel::tools {

#ifdef KEEL_HAVE_PACK

std::vector<uint8_t> expand_text(keel_reader* section, const std::string& path) {
    keel_error error = make<keel_error>();
    keel_pack_text_info info = make<keel_pack_text_info>();
    check(keel_pack_inspect_text(section, &info, &error), "cannot use " + path, &error);
    std::vector<uint8_t> text(info.text_bytes);
    std::vector<uint64_t> work((info.work_bytes + 7) / 8);
    check(keel_pack_expand_text(section, text.data(), text.size(), work.data(), work.size() * 8, &error),
          "cannot use " + path, &error);
    return text;
}

#else

std::vector<uint8_t> expand_text(keel_reader*, const std::string& path) {
    throw ToolError(KEEL_E_UNSUPPORTED,
                    path + ": its text is packed with zstd, which this build of keel has not (libzstd-dev)");
}

#endif

}  // namespace keel::tools
