#include <atomic>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

struct Registry {
    std::atomic<uint64_t> serial;
    std::atomic<uint32_t> claimed[kMaxEngines];
    std::atomic<uint64_t> id[kMaxEngines];
    std::atomic<Engine*> engine[kMaxEngines];
    std::atomic<uintptr_t> begin[kMaxEngines][KEEL_REGION_COUNT], end[kMaxEngines][KEEL_REGION_COUNT];
};
constinit Registry registry = {};

constexpr uint64_t kSerialMask = (uint64_t{1} << 48) - 1;

uint32_t engine_slot(uint64_t id) {
    return static_cast<uint32_t>(id >> 56) - 1;
}

}  // namespace

uint64_t registry_serial() {
    return (registry.serial.fetch_add(1, std::memory_order_relaxed) + 1) & kSerialMask;
}

keel_status registry_claim(const keel_region* regions, uint32_t* out) {
    uint32_t slot = 0;
    while (slot < kMaxEngines && registry.claimed[slot].exchange(1, std::memory_order_acq_rel)) ++slot;
    if (slot == kMaxEngines) return KEEL_E_SLOTS_FULL;
    // Each says what it takes before it looks at the others (in one order for all threads), so that of two who come at
    // the same time at least one sees the other.
    for (uint32_t i = 0; i < KEEL_REGION_COUNT; ++i) {
        const uintptr_t begin = reinterpret_cast<uintptr_t>(regions[i].data);
        registry.begin[slot][i].store(begin);
        registry.end[slot][i].store(begin + regions[i].bytes);
    }
    for (uint32_t other = 0; other < kMaxEngines; ++other)
        for (uint32_t i = 0; other != slot && i < KEEL_REGION_COUNT; ++i) {
            const uintptr_t begin = registry.begin[other][i].load(), end = registry.end[other][i].load();
            for (uint32_t k = 0; k < KEEL_REGION_COUNT; ++k)
                if (registry.begin[slot][k].load() < end && begin < registry.end[slot][k].load()) {
                    registry_give_up(slot);
                    return KEEL_E_ARGUMENT;
                }
        }
    *out = slot;
    return KEEL_OK;
}

void registry_give_up(uint32_t slot) {
    for (uint32_t i = 0; i < KEEL_REGION_COUNT; ++i) {
        registry.end[slot][i].store(0);
        registry.begin[slot][i].store(0);
    }
    registry.claimed[slot].store(0, std::memory_order_release);
}

uint64_t registry_publish(uint32_t slot, Engine* engine) {
    const uint64_t id = uint64_t{slot + 1} << 56 | registry_serial();
    engine->id = id;
    registry.engine[slot].store(engine, std::memory_order_release);
    registry.id[slot].store(id, std::memory_order_release);
    return id;
}

void registry_hide(uint64_t id) {
    const uint32_t slot = engine_slot(id);
    registry.id[slot].store(0, std::memory_order_release);
    registry.engine[slot].store(nullptr, std::memory_order_release);
}

void registry_remove(uint64_t id) {
    registry_give_up(engine_slot(id));
}

Engine* registry_engine(uint64_t id) {
    const uint32_t slot = engine_slot(id);
    if (id == 0 || slot >= kMaxEngines || registry.id[slot].load(std::memory_order_acquire) != id) return nullptr;
    return registry.engine[slot].load(std::memory_order_acquire);
}

Engine* registry_session(uint64_t id, Session** session) {
    const uint32_t slot = engine_slot(id), index = static_cast<uint32_t>(id >> 48 & 0xff) - 1;
    if (slot >= kMaxEngines || registry.id[slot].load(std::memory_order_acquire) == 0) return nullptr;
    Engine* engine = registry.engine[slot].load(std::memory_order_acquire);
    if (!engine || index >= engine->config.max_sessions ||
        engine->sessions[index].id.load(std::memory_order_acquire) != id)
        return nullptr;
    *session = &engine->sessions[index];
    return engine;
}

keel_status enter(keel_engine handle, Engine** engine) {
    *engine = registry_engine(handle.id);
    if (!*engine) return KEEL_E_HANDLE;
    return (*engine)->poisoned.load(std::memory_order_acquire) ? KEEL_E_POISONED : KEEL_OK;
}

keel_status enter(keel_session handle, Engine** engine, Session** session) {
    *engine = registry_session(handle.id, session);
    if (!*engine) return KEEL_E_HANDLE;
    return (*engine)->poisoned.load(std::memory_order_acquire) ? KEEL_E_POISONED : KEEL_OK;
}

keel_status enter(keel_session handle, Engine** engine, SessionUse* use) {
    Session* session;
    KEEL_TRY(enter(handle, engine, &session));
    return use->claim(session) ? KEEL_OK : KEEL_E_BUSY;
}

keel_status keep_error(Engine* engine, keel_status status, const keel_error& error) {
    TryLock lock(&engine->last_error.taken);
    if (lock.held() && status != KEEL_OK && error.status == status) engine->last_error.error = error;
    return status;
}

keel_status bad_argument(Engine* engine, const char* field, const char* reason) {
    keel_error error = {};
    error.struct_size = sizeof error;
    return keep_error(engine, fail(&error, KEEL_E_ARGUMENT, 0, field, reason), error);
}

keel_status bad_range(Engine* engine, const char* field, int64_t value, int64_t low, int64_t high) {
    keel_error error = {};
    error.struct_size = sizeof error;
    return keep_error(engine, fail_range(&error, field, value, low, high), error);
}

keel_status poison(Engine* engine, const char* where) {
    if (engine->poisoned.exchange(1, std::memory_order_acq_rel) == 0 && engine->hooks.fault)
        engine->hooks.fault(engine->hooks.user_data, where);
    return KEEL_E_POISONED;
}

}  // namespace keel
