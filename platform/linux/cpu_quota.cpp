#include "platform/linux/cpu_quota.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

namespace keel::platform {
namespace {

// The beginning of a small file as a string, empty when it cannot be read.
template <size_t N>
void read_text(const char* path, char (&text)[N]) {
    size_t length = 0;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        for (ssize_t got = 1; got > 0 && length + 1 < N; length += got > 0 ? static_cast<size_t>(got) : 0)
            got = read(file, text + length, N - 1 - length);
        close(file);
    }
    text[length] = 0;
}

// A decimal number at *at, which moves behind it and the blanks that follow; -1 when there is none ("max", "-1").
int64_t take_number(const char** at) {
    if (**at < '0' || **at > '9') return -1;
    int64_t value = 0;
    for (; **at >= '0' && **at <= '9'; ++*at)
        if (value < INT64_MAX / 16) value = value * 10 + (**at - '0');  // else it is as good as no limit
    while (**at == ' ' || **at == '\n') ++*at;
    return value;
}

struct Path {
    char text[1024];
    size_t length = 0;
    bool fits = true;
    void add(const char* part, size_t bytes) {
        fits = fits && length + bytes < sizeof text;
        if (!fits) return;
        memcpy(text + length, part, bytes);
        length += bytes;
        text[length] = 0;
    }
    void add(const char* part) { add(part, strlen(part)); }
};

int64_t number_in(const Path& directory, const char* name, int64_t* second) {
    Path path = directory;
    path.add(name);
    if (!path.fits) return -1;
    char text[64];
    read_text(path.text, text);
    const char* at = text;
    const int64_t first = take_number(&at);
    if (second) *second = take_number(&at);
    return first;
}

// The tightest limit of `group` (a path below `mount`/`hierarchy`) and the groups above it.
uint32_t tightest(const char* mount, const char* hierarchy, const char* group, size_t bytes, bool v2) {
    uint32_t cores = kNoQuota;
    for (;;) {
        Path directory;
        directory.add(mount);
        directory.add(hierarchy);
        directory.add(group, bytes);
        int64_t quota_us, period_us;
        if (v2) {
            quota_us = number_in(directory, "/cpu.max", &period_us);
        } else {
            quota_us = number_in(directory, "/cpu.cfs_quota_us", nullptr);
            period_us = number_in(directory, "/cpu.cfs_period_us", nullptr);
        }
        if (quota_us > 0 && period_us > 0) {
            const int64_t whole = quota_us / period_us;
            if (whole < cores) cores = whole < 1 ? 1 : static_cast<uint32_t>(whole);
        }
        if (bytes == 0) return cores;
        while (bytes > 0 && group[--bytes] != '/') {
        }
    }
}

// Whether "cpu" is one of the comma-separated names.
bool names_cpu(const char* names, size_t bytes) {
    for (size_t begin = 0, end; begin < bytes; begin = end + 1) {
        for (end = begin; end < bytes && names[end] != ',';) ++end;
        if (end - begin == 3 && memcmp(names + begin, "cpu", 3) == 0) return true;
    }
    return false;
}

}  // namespace

uint32_t quota_cores(const char* groups, const char* mount) {
    char text[4096];
    read_text(groups, text);
    uint32_t cores = kNoQuota;
    // Lines of "hierarchy number:controllers:path"; version 2 is number 0 and names no controllers.
    for (const char* line = text; *line;) {
        const size_t rest = strlen(line);
        const char* newline = static_cast<const char*>(memchr(line, '\n', rest));
        const char* end = newline ? newline : line + rest;
        const char* names = static_cast<const char*>(memchr(line, ':', static_cast<size_t>(end - line)));
        const char* group =
            names ? static_cast<const char*>(memchr(names + 1, ':', static_cast<size_t>(end - names - 1))) : nullptr;
        if (group) {
            const size_t name_bytes = static_cast<size_t>(group - ++names);
            size_t bytes = static_cast<size_t>(end - ++group);
            while (bytes > 0 && group[bytes - 1] == '/') --bytes;
            uint32_t limits[2] = {kNoQuota, kNoQuota};
            if (name_bytes == 0) {
                limits[0] = tightest(mount, "", group, bytes, true);
                limits[1] = tightest(mount, "/unified", group, bytes, true);
            } else if (names_cpu(names, name_bytes)) {
                limits[0] = tightest(mount, "/cpu", group, bytes, false);
                limits[1] = tightest(mount, "/cpu,cpuacct", group, bytes, false);
            }
            for (uint32_t limit : limits) cores = limit < cores ? limit : cores;
        }
        line = newline ? newline + 1 : end;
    }
    return cores;
}

}  // namespace keel::platform
