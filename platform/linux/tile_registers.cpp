#include <sys/syscall.h>
#include <unistd.h>

#include "platform/platform.h"

namespace keel::platform {

bool allow_tile_registers() {
#if defined(__x86_64__)
    constexpr long kRequestPermission = 0x1023,
                   kTileData = 18;  // ARCH_REQ_XCOMP_PERM of arch_prctl(2), component of XCR0
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace keel::platform
