#include "sdk/tools/files/zstd_frame.h"

#include "sdk/tools/common/console.h"

#ifdef KEEL_HAVE_PACK
#include <zstd.h>

#include <memory>
#endif

namespace keel::tools {

#ifdef KEEL_HAVE_PACK

bool has_zstd() {
    return true;
}

std::vector<uint8_t> zstd_frame(std::span<const uint8_t> data, int level) {
    const std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx*)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
    if (!context) throw std::bad_alloc();
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
    std::vector<uint8_t> frame(ZSTD_compressBound(data.size()));
    const size_t bytes = ZSTD_compress2(context.get(), frame.data(), frame.size(), data.data(), data.size());
    if (ZSTD_isError(bytes)) throw ToolError(kExitRuntime, std::string("zstd: ") + ZSTD_getErrorName(bytes));
    frame.resize(bytes);
    return frame;
}

#else

bool has_zstd() {
    return false;
}

std::vector<uint8_t> zstd_frame(std::span<const uint8_t>, int) {
    throw ToolError(KEEL_E_UNSUPPORTED, "this build of keel has no zstd");
}

#endif

}  // namespace keel::tools
