#include "platform/platform.h"
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace keel::platform {

ArmFeatures arm_features() {
#if defined(__aarch64__)
    const unsigned long has = getauxval(AT_HWCAP), has2 = getauxval(AT_HWCAP2);
    return {(has & HWCAP_ASIMD) != 0, (has & HWCAP_ASIMDDP) != 0, (has2 & HWCAP2_I8MM) != 0};
#else
    return {};
#endif
}

}  // namespace keel::platform
