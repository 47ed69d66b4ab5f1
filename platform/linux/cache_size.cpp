// The caches as the kernel lists them.
#include <fcntl.h>
#include <unistd.h>

#include "platform/platform.h"

namespace keel::platform {

uint64_t last_level_cache_bytes() {
    uint64_t largest = 0;
    char path[] = "/sys/devices/system/cpu/cpu0/cache/index0/size";
    for (char index = '0'; index < '8'; ++index) {
        path[sizeof path - sizeof "0/size"] = index;
        const int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0) continue;
        char text[32];  // "1024K", "32M"
        const ssize_t length = read(file, text, sizeof text);
        close(file);
        uint64_t bytes = 0;
        ssize_t i = 0;
        for (; i < length && i < 12 && text[i] >= '0' && text[i] <= '9'; ++i)
            bytes = bytes * 10 + static_cast<uint64_t>(text[i] - '0');
        if (i < length && text[i] == 'K') bytes <<= 10;
        if (i < length && text[i] == 'M') bytes <<= 20;
        if (bytes > largest) largest = bytes;
    }
    return largest;
}

}  // namespace keel::platform
