// Runs a test body in a forked child, where it may seal itself: from then on an allocation or a system call ends it.
// The verdict travels through shared memory, so that giving it needs no system call; standard output and error go to
// files that must be empty in the end.
#pragma once
#include <string>

#include "keel/keel.h"

namespace keel_test {

struct ChildResult {
    bool ok, skipped;
    std::string text;  // why it failed or was skipped
};

// Passes when body returns within the time limit and nothing has been written or is left in stdio's buffers.
ChildResult run_in_child(void (*body)(), unsigned limit_seconds = 300);

// The following are for the body.
[[noreturn]] void child_fail(const char* file, int line, const char* what, const char* detail);
[[noreturn]] void child_skip(const char* why);
void child_forbid_allocation();  // until child_allow_allocation
void child_allow_allocation();
void child_forbid_system_calls();  // for good; skips the test when the kernel cannot

}  // namespace keel_test

#define CHILD_CHECK(condition) \
    ((condition) ? void() : keel_test::child_fail(__FILE__, __LINE__, #condition, "is false"))
#define CHILD_STATUS(expected, call)                                                                            \
    do {                                                                                                        \
        const keel_status child_status_ = (call);                                                               \
        if (child_status_ != (expected))                                                                        \
            keel_test::child_fail(__FILE__, __LINE__, #call " != " #expected, keel_status_name(child_status_)); \
    } while (0)
