// The parts of a configuration, checked: optional files, at most one of each kind, but for adapters.
#pragma once
#include "keel/keel.h"
#include "sdk/model/adapter_file.h"

namespace keel {

constexpr uint32_t kPartKinds = KEEL_PART_ADAPTER + 1;

struct Part {
    bool given;
    uint32_t index;  // in config.parts
    keel_reader reader;
    const void* options;  // the caller's struct, or null
};
struct Parts {
    Part of[kPartKinds];  // by keel_part_kind
    Part adapter[kMaxAdapters];
    uint32_t adapter_count;
};
// Errors as keel_part says. The files are not looked at yet.
keel_status read_parts(const keel_config& config, Parts* out, keel_error* error);

// fail() with the field "config.parts[index]" and what follows it: "", ".reader", ... `offset`: in the part's file.
keel_status fail_part(keel_error* error, keel_status status, uint32_t index, const char* field, const char* reason,
                      uint64_t offset = 0);
// The same for a field of the part's file, which the reason begins with.
keel_status fail_part(keel_error* error, keel_status status, uint32_t index, const keel_error& detail);

}  // namespace keel
