#include "sdk/tools/common/interrupt.h"

#include <signal.h>

#include <atomic>

#include "sdk/tools/common/console.h"

namespace keel::tools {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<uint64_t> g_session{0};

void on_interrupt(int) {
    g_interrupted.store(true);
    if (const uint64_t id = g_session.exchange(0)) keel_cancel(keel_session{id});
}

}  // namespace

void watch_interrupts() {
#ifdef _WIN32
    signal(SIGINT, on_interrupt);  // the system takes it away after one
#else
    struct sigaction action {};
    action.sa_handler = on_interrupt;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, nullptr);
#endif
}

bool interrupted() {
    return g_interrupted.load();
}

void stop_if_interrupted() {
    if (interrupted()) throw ToolError(kExitCancelled, "stopped by Ctrl-C");
}

void forget_interrupt() {
    if (g_interrupted.exchange(false)) watch_interrupts();
}

CancelOnInterrupt::CancelOnInterrupt(keel_session session) {
    g_session.store(session.id);
    // Pressed before there was a session.
    if (interrupted()) keel_cancel(session);
}

CancelOnInterrupt::~CancelOnInterrupt() {
    g_session.store(0);
}

}  // namespace keel::tools
