#include <atomic>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

struct Registry {
    std::atomic<uint64_t> serial;
    std::atomic<uint64_t> id[kMaxEngines];
    std::atomic<Engine*> engine[kMaxEngines];
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

keel_status registry_add(Engine* engine, uint64_t* id) {
    for (uint32_t slot = 0; slot < kMaxEngines; ++slot) {
        Engine* expected = nullptr;
        if (!registry.engine[slot].compare_exchange_strong(expected, engine, std::memory_order_acq_rel)) continue;
        *id = uint64_t{slot + 1} << 56 | registry_serial();
        registry.id[slot].store(*id, std::memory_order_release);
        return KEEL_OK;
    }
    return KEEL_E_SLOTS_FULL;
}

void registry_remove(uint64_t id) {
    const uint32_t slot = engine_slot(id);
    registry.id[slot].store(0, std::memory_order_release);
    registry.engine[slot].store(nullptr, std::memory_order_release);
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

keel_status poison(Engine* engine, const char* where) {
    if (engine->poisoned.exchange(1, std::memory_order_acq_rel) == 0 && engine->hooks.fault)
        engine->hooks.fault(engine->hooks.user_data, where);
    return KEEL_E_POISONED;
}

}  // namespace keel
