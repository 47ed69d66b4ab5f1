// Ctrl-C: the first one asks the work under way to stop, a second one ends the process.
#pragma once
#include "keel/keel.h"

namespace keel::tools {

// From now on. Calls of the system that wait, such as reading a line, come back with EINTR.
void watch_interrupts();
bool interrupted();
// Throws ToolError (kExitCancelled) when interrupted.
void stop_if_interrupted();
// As if Ctrl-C had not been pressed: an answer was stopped, the conversation goes on.
void forget_interrupt();

// While one exists, Ctrl-C also cancels its session, whatever that computes.
class CancelOnInterrupt {
  public:
    explicit CancelOnInterrupt(keel_session session);
    CancelOnInterrupt(const CancelOnInterrupt&) = delete;
    ~CancelOnInterrupt();
};

}  // namespace keel::tools
