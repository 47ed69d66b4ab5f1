// Kernels with mistakes, and their like without, for the tests of the executor and of the race checker.
#pragma once
#include <stdint.h>

namespace small_kernels {

struct Args {
    uint32_t* out;         // one word a thread of the grid, and two counters
    const uint32_t* from;  // 16-byte aligned
    uint32_t n;
};

void writes_turn(const void* args);  // out[thread] = how many threads of the grid wrote before; n = 0 at first
void meets_in_two_barriers(const void* args);  // half of the threads in either
void leaves_before_barrier(const void* args);
void leaves_before_shuffle(const void* args);
void shuffles_in_two_places(const void* args);
void reads_what_nobody_wrote(const void* args);      // out = a word of shared memory
void writes_behind_shared_memory(const void* args);  // one byte behind n
void copies(const void* args);                       // out = from, through cp.async
void copies_and_reads_at_once(const void* args);
void copies_without_commit(const void* args);
void copies_without_wait(const void* args);
void copies_to_odd_place(const void* args);
void exchanges(const void* args);  // out = the word of the thread opposite in its block, through shared memory
void exchanges_without_barrier(const void* args);
void exchanges_in_warps(const void* args);             // with the neighbouring lane, and a barrier of the warp
void exchanges_in_warps_by_shuffle(const void* args);  // a shuffle in place of the barrier
void exchanges_between_blocks(const void* args);       // with a barrier of the grid
void exchanges_between_blocks_without_barrier(const void* args);
// n: what goes wrong. 0: nothing, out = sums that the two warps of a block make in turn. 1: nobody waits for a turn. 2:
// a turn is passed on again and again. 3: the last one too. 4: none is. 5: a warp waits
// for the block meanwhile.
void takes_turns(const void* args);
// The last block to come writes for each of its threads what the thread before it in the grid had.
void last_block_reads_all(const void* args);
void last_block_without_counting(const void* args);  // every block thinks it is the last
// The first block to begin writes 1, the others add one to what it wrote. n: what goes wrong. 0: nothing. 1: no block
// waits. 2: one warp does, and the other does not meet it. 3: the first one does not say that it is done. 4: it says so
// twice.
void adds_to_the_first_block(const void* args);
void votes(const void* args);  // out = ballot of even threads
// out: what a word was before the thread waited for the launch before, what a copy begun then brings, what it is after.
void reads_around_the_wait(const void* args);
void needs_much_stack(const void* args);

}  // namespace small_kernels
