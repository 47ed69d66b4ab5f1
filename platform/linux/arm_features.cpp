#include "platform/platform.h"
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace keel::platform {

bool have_arm_integer_products() {
#if defined(__aarch64__)
    constexpr unsigned long kNeeded = HWCAP_ASIMD | HWCAP_ASIMDDP, kNeeded2 = HWCAP2_I8MM;
    return (getauxval(AT_HWCAP) & kNeeded) == kNeeded && (getauxval(AT_HWCAP2) & kNeeded2) == kNeeded2;
#else
    return false;
#endif
}

}  // namespace keel::platform
