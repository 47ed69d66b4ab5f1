// Runs GPU kernels on the CPU: a fiber is a GPU thread, and runs until a barrier or a warp's collective call. Between
// two of these the threads of a block run one after the other, in an order that the caller chooses.
//
// Kernels are the sources of kernels/cuda compiled for the host; device.cuh turns their intrinsics into the calls at
// the end of this file. What a GPU would leave undefined is an error with a text: threads that meet in different calls
// or not at all, a thread that ends with copies pending, writing behind shared memory, a race (race.cpp).
#pragma once
#include <stdint.h>

#include <functional>
#include <string>
#include <vector>

namespace simt {

// A kernel compiled for the host: takes its argument struct.
using Kernel = void (*)(const void* args);

struct Dim3 {
    uint32_t x = 1, y = 1, z = 1;
};

// Order of the threads of a block between two meetings, and of the blocks of a grid.
enum class Order { kForward, kReverse, kRandom };

struct Options {
    Order order = Order::kForward;
    uint64_t seed = 1;         // of kRandom
    bool cooperative = false;  // all blocks are there at once, so that they may meet in a grid barrier, or wait
    // Only blocks [first_block, first_block + blocks), x running fastest: a launch in pieces. Not with cooperative.
    uint64_t first_block = 0, blocks = UINT64_MAX;
    // The launch before, which ends while this one runs: it is called when all threads of the first block wait for it.
    // Copies that are pending then have taken their bytes before it. An error where no thread waits.
    std::function<void()> before;
};

// Runs the kernel to its end. `block` has whole warps, at most 1024 threads. Shared memory is exactly `shared_bytes`
// and filled with 0xff, which is NaN. Returns "", or what went wrong first: the launch stops there, and what it has
// written is worth nothing. Keeps no state: several threads may launch at once.
std::string launch(Kernel kernel, Dim3 grid, Dim3 block, uint32_t shared_bytes, const void* args,
                   const Options& options = {});

// Whether this program's kernels were compiled for the race checker.
bool checks_races();

// ---- mutations ----
// A source line that meets, waits, commits or exchanges. From now on, in all launches, the calls on that line are left
// out (a shuffle gives each lane its own value); or, with `weaken`, a wait lets one more group stay pending.
struct Mutation {
    std::string file;  // last part of its path; "": none
    uint32_t line = 0;
    bool weaken = false;
};
void set_mutation(const Mutation& mutation);

// ---- what device.cuh calls, within a kernel ----
struct Site {
    const char* file;
    uint32_t line;
};
Dim3 thread_index();
Dim3 block_index();
Dim3 grid_size();
Dim3 block_size();
uint8_t* shared_memory();
uint64_t timer_ns();  // goes on

void wait_for_launch(Site site);
void block_barrier(Site site);
void grid_barrier(Site site);
// Whether this is the last of `blocks` blocks to come here; what they wrote before is ordered before what it does then.
bool last_of_blocks(uint32_t* counter, uint32_t share, uint32_t all, Site site);
void warp_barrier(Site site);
// The number of the block in the order in which they begin; left out, that in the grid.
uint32_t take_ticket(uint32_t* counter, uint32_t blocks, uint32_t* told, Site site);
// What blocks did before they raised the counter is ordered before what a warp does that found all of them, and those
// do that meet it behind. More than all is an error: the counter was not 0 at first.
void raise_count(uint32_t* counter, Site site);
void await_count(const uint32_t* counter, uint32_t all, Site site);
// The value of lane `from` (its lowest five bits).
uint32_t shuffle(uint32_t value, uint32_t from, Site site);
// Bit l: what lane l says.
uint32_t ballot(bool value, Site site);
// Warp `to` of the block, at most the fifteenth, may go on from await_turn(to), with all that this warp and those that
// passed a turn on to it have done. It has taken the turn before that was its own.
void pass_turn(uint32_t to, Site site);
void await_turn(uint32_t own, Site site);
// c += a b over the warp: mma.sync.m16n8k32 of int8, or of uint8 in a, operands spread over the lanes as PTX says.
void mma_m16n8k32(int32_t c[4], const uint32_t a[4], const uint32_t b[2], Site site, bool unsigned_a = false);
// cp.async: the bytes arrive when the thread waits for their group, not before.
void copy_async(void* to, const void* from, uint32_t bytes, Site site);
void copy_commit(Site site);
void copy_wait(uint32_t pending_groups, Site site);

// ---- between the executor and the race checker ----
// Where a thread is in the order that barriers make.
struct Place {
    uint32_t thread, block;  // thread within its block
    uint32_t grid_epoch, block_epoch, warp_epoch;
    uint32_t turns;  // that its warp has passed on
};
struct Watcher {
    void (*begin)();                                            // of a launch, before anything runs
    void (*access)(const void* p, uint32_t bytes, bool write);  // by the running thread
    void (*forget)(const void* p, uint64_t bytes);              // memory that is given back
};
void set_watcher(const Watcher* watcher);
// Of the running thread; null outside of kernels.
const Place* running_place();
// Of places of two blocks: whether counters that were raised since `then` led to `now`, where a thread runs.
bool ordered_by_counts(const Place& then, const Place& now);
// Of two places of one block: whether turns that were passed on since `then` led to `now`, where a thread runs.
bool ordered_by_turns(const Place& then, const Place& now);
// Whether the byte lies on the running thread's stack.
bool on_own_stack(const void* p);
// Offset in shared memory of the running thread's block, or -1.
int64_t shared_offset(const void* p);
// Ends the launch with this text, unless it has one already.
void fail(const std::string& text, Site site = {nullptr, 0});

}  // namespace simt
