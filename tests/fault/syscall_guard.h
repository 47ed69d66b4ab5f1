// Catches every system call of the process but three: futex, clock_gettime (where it is a call at all) and exit_group.
#pragma once

namespace keel_test {

// From now on, for all threads and for good (so: in a forked child), any other system call does not happen; instead
// `trap` runs in the thread that made it, with the call's number and the address behind the call. `trap` may use the
// three calls only; when it returns, the call has failed with ENOSYS. False, and nothing changed, when the kernel has
// no seccomp filters or refuses them.
bool syscall_guard_install(void (*trap)(int number, const void* address));

}  // namespace keel_test
