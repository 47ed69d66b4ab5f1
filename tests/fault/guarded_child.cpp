#include "tests/fault/guarded_child.h"

#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "tests/fault/alloc_guard.h"
#include "tests/fault/syscall_guard.h"

namespace {

enum : int { kPassed = 0, kFailed = 1, kSkipped = 2 };

struct Verdict {
    std::atomic<int> given;  // the first thread to fail speaks
    char text[1024];
    const void* address;  // of a trapped call; the parent, the same image, can name it
};
Verdict* verdict;

[[noreturn]] void finish(int code) {
    for (;;) syscall(SYS_exit_group, code);
}

// Only string and integer conversions: those neither allocate nor call the system.
[[noreturn]] void give_verdict(int code, const void* address, const char* a, int number, const char* b, const char* c) {
    if (verdict->given.exchange(1) == 0) {
        keel_test::alloc_guard_disarm();
        snprintf(verdict->text, sizeof(verdict->text), "%s:%d: %s %s", a, number, b, c);
        verdict->address = address;
        finish(code);
    }
    for (;;) {  // another thread is about to end the process
    }
}

void on_allocation(const keel_test::Allocation& allocation) {
    give_verdict(kFailed, allocation.caller, "allocation, bytes", static_cast<int>(allocation.bytes),
                 allocation.function, "");
}

void on_syscall(int number, const void* address) {
    give_verdict(kFailed, address, "system call number", number, "", "");
}

std::string where(const void* address) {
    if (!address) return {};
    void* addresses[] = {const_cast<void*>(address)};
    char** names = backtrace_symbols(addresses, 1);
    const std::string name = names ? names[0] : "?";
    free(names);
    return " at " + name;
}

std::string contents(FILE* file) {
    std::string text;
    rewind(file);
    for (int c; (c = fgetc(file)) != EOF;) text += static_cast<char>(c);
    return text;
}

}  // namespace

namespace keel_test {

[[noreturn]] void child_fail(const char* file, int line, const char* what, const char* detail) {
    give_verdict(kFailed, nullptr, file, line, what, detail);
}
[[noreturn]] void child_skip(const char* why) {
    give_verdict(kSkipped, nullptr, "skipped", 0, why, "");
}
void child_forbid_allocation() {
    alloc_guard_arm(on_allocation);
}
void child_allow_allocation() {
    alloc_guard_disarm();
}
void child_forbid_system_calls() {
    if (!syscall_guard_install(on_syscall)) child_skip("the kernel refuses seccomp filters");
}

ChildResult run_in_child(void (*body)(), unsigned limit_seconds) {
    void* shared = mmap(nullptr, sizeof(Verdict), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    FILE* outputs[2] = {tmpfile(), tmpfile()};
    if (shared == MAP_FAILED || !outputs[0] || !outputs[1]) return {false, false, "cannot set up the child"};
    verdict = static_cast<Verdict*>(shared);
    fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) return {false, false, "cannot fork"};
    if (child == 0) {
        dup2(fileno(outputs[0]), STDOUT_FILENO);
        dup2(fileno(outputs[1]), STDERR_FILENO);
        alarm(limit_seconds);
        body();
        if (__fpending(stdout) || __fpending(stderr)) child_fail("stdio", 0, "bytes are waiting in a buffer", "");
        finish(kPassed);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ChildResult result = {};
    if (WIFSIGNALED(status)) {
        result.text = std::string("killed by signal ") + strsignal(WTERMSIG(status));
    } else if (verdict->given.load()) {
        result.text = verdict->text + where(verdict->address);
        result.skipped = WEXITSTATUS(status) == kSkipped;
    } else if (WEXITSTATUS(status) != kPassed) {
        result.text = "left early with exit status " + std::to_string(WEXITSTATUS(status));
    } else {
        const std::string out = contents(outputs[0]), err = contents(outputs[1]);
        result.ok = out.empty() && err.empty();
        if (!result.ok) result.text = "wrote to stdout: '" + out + "' and stderr: '" + err + "'";
    }
    for (FILE* file : outputs) fclose(file);
    munmap(shared, sizeof(Verdict));
    return result;
}

}  // namespace keel_test
