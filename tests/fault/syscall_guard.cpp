#include "tests/fault/syscall_guard.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>

namespace {

#if defined(__x86_64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_X86_64;
long long& result_register(ucontext_t* context) {
    return context->uc_mcontext.gregs[REG_RAX];
}
#elif defined(__aarch64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_AARCH64;
unsigned long long& result_register(ucontext_t* context) {
    return context->uc_mcontext.regs[0];
}
#else
#error "syscall_guard: add this architecture's audit number and result register"
#endif

std::atomic<void (*)(int, const void*)> trap{nullptr};

void on_sigsys(int, siginfo_t* info, void* context) {
    if (const auto call = trap.load()) call(info->si_syscall, info->si_call_addr);
    result_register(static_cast<ucontext_t*>(context)) = -ENOSYS;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

}  // namespace

namespace keel_test {

bool syscall_guard_install(void (*on_syscall)(int number, const void* address)) {
    struct sock_filter program[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        LOAD(nr),
        ALLOW(SYS_futex),
        ALLOW(SYS_clock_gettime),
        ALLOW(SYS_exit_group),
        ALLOW(SYS_rt_sigreturn),  // the way back from the trap itself
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    const struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};

    struct sigaction action = {};
    struct sigaction previous;
    action.sa_sigaction = on_sigsys;
    action.sa_flags = SA_SIGINFO;
    if (sigaction(SIGSYS, &action, &previous) != 0) return false;
    trap.store(on_syscall);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) == 0) {
        return true;
    }
    sigaction(SIGSYS, &previous, nullptr);
    return false;
}

}  // namespace keel_test
