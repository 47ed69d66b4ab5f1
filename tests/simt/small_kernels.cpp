#include "tests/simt/small_kernels.h"

#include "kernels/cuda/device.cuh"

namespace small_kernels {
namespace {

using namespace keel::cuda;

const Args& of(const void* args) {
    return *static_cast<const Args*>(args);
}
uint32_t* words() {
    return reinterpret_cast<uint32_t*>(shared_memory());
}
uint32_t block_threads() {
    return simt::block_size().x;
}
uint32_t place() {
    return block_x() * block_threads() + thread_x();
}
uint32_t opposite() {
    return block_threads() - 1 - thread_x();
}

}  // namespace

void writes_turn(const void* args) {
    of(args).out[place()] = of(args).out[block_threads() * grid_x()]++;
}
void meets_in_two_barriers(const void* args) {
    (void)args;
    if (thread_x() % 2)
        sync_block();
    else
        sync_block();
}
void leaves_before_barrier(const void*) {
    if (thread_x() == 7) return;
    sync_block();
}
void leaves_before_shuffle(const void* args) {
    if (thread_x() == 7) return;
    of(args).out[place()] = shuffle(thread_x(), 0);
}
void shuffles_in_two_places(const void* args) {
    uint32_t v;
    if (thread_x() < 16)
        v = shuffle(thread_x(), 0);
    else
        v = shuffle(thread_x(), 0);
    of(args).out[place()] = v;
}
void reads_what_nobody_wrote(const void* args) {
    of(args).out[place()] = words()[thread_x()];
}
void writes_behind_shared_memory(const void* args) {
    if (thread_x() == 0) shared_memory()[of(args).n] = 1;
}

void copies(const void* args) {
    if (thread_x() % 4 == 0) copy16(words() + thread_x(), of(args).from + place());
    copy_commit();
    copy_wait<0>();
    sync_block();
    of(args).out[place()] = words()[thread_x()];
}
void copies_and_reads_at_once(const void* args) {
    copy16(words() + 4 * thread_x(), of(args).from + 4 * place());
    copy_commit();
    of(args).out[place()] = words()[4 * thread_x()];
    copy_wait<0>();
}
void copies_without_commit(const void* args) {
    copy16(words() + 4 * thread_x(), of(args).from + 4 * place());
    copy_wait<0>();
}
void copies_without_wait(const void* args) {
    copy16(words() + 4 * thread_x(), of(args).from + 4 * place());
    copy_commit();
}
void copies_to_odd_place(const void* args) {
    copy16(words() + 1, of(args).from);
    copy_commit();
    copy_wait<0>();
}

void exchanges(const void* args) {
    words()[thread_x()] = place();
    sync_block();
    of(args).out[place()] = words()[opposite()];
}
void exchanges_without_barrier(const void* args) {
    words()[thread_x()] = place();
    of(args).out[place()] = words()[opposite()];
}
void exchanges_in_warps(const void* args) {
    words()[thread_x()] = place();
    sync_warp();
    of(args).out[place()] = words()[thread_x() ^ 1];
}
void exchanges_in_warps_by_shuffle(const void* args) {
    words()[thread_x()] = place();
    const uint32_t all = shuffle(of(args).n, 0);
    of(args).out[place()] = words()[thread_x() ^ 1] + all;
}
void exchanges_between_blocks(const void* args) {
    uint32_t* out = of(args).out;
    const uint32_t threads = block_threads() * grid_x();
    out[place()] = place();
    simt::grid_barrier({__FILE__, __LINE__});
    const uint32_t other = out[threads - 1 - place()];
    simt::grid_barrier({__FILE__, __LINE__});
    out[place()] = other;
}
void exchanges_between_blocks_without_barrier(const void* args) {
    uint32_t* out = of(args).out;
    const uint32_t threads = block_threads() * grid_x();
    out[place()] = place();
    const uint32_t other = out[threads - 1 - place()];
    out[place()] = other;
}
void takes_turns(const void* args) {
    const uint32_t warp = thread_x() / 32, lane = thread_x() % 32, wrong = of(args).n;
    uint32_t sum = 1;
    for (uint32_t turn = warp; turn < 8; turn += 2) {
        if (turn && wrong != 1) await_turn(warp);
        if (turn) sum += words()[32 * (1 - warp) + 31 - lane];
        words()[32 * warp + lane] = sum;
        if (wrong == 5 && warp) sync_block();
        if (wrong != 1 && wrong != 4 && (turn < 7 || wrong == 3)) pass_turn(1 - warp);
        for (uint32_t more = 0; more < 2 && turn == 2 && wrong == 2; ++more) pass_turn(1 - warp);
    }
    of(args).out[place()] = sum;
}
void last_block_reads_all(const void* args) {
    uint32_t* out = of(args).out;
    const uint32_t threads = block_threads() * grid_x();
    out[place()] = place();
    if (!last_of_blocks(out + threads, 1, grid_x())) return;
    const uint32_t before = out[(place() + threads - 1) % threads];
    sync_block();
    out[place()] = before;
}
void last_block_without_counting(const void* args) {
    uint32_t* out = of(args).out;
    const uint32_t threads = block_threads() * grid_x();
    out[place()] = place();
    sync_block();
    out[place()] = out[(place() + block_threads()) % threads];
}
void adds_to_the_first_block(const void* args) {
    uint32_t *out = of(args).out, *counts = out + block_threads() * grid_x();
    const uint32_t ticket = take_ticket(counts, grid_x(), words()), wrong = of(args).n;
    uint32_t sum = 1;
    if (ticket) {
        if (thread_x() < 32 && wrong != 1) await_count(counts + 1, 1);
        if (wrong != 2) sync_block();
        sum += out[opposite()];
    }
    out[ticket * block_threads() + thread_x()] = sum;
    for (uint32_t i = 0; ticket == 0 && wrong != 3 && i <= wrong / 4; ++i) raise_count(counts + 1);
}
void votes(const void* args) {
    of(args).out[place()] = ballot(thread_x() % 2 == 0);
}
void reads_around_the_wait(const void* args) {
    const uint32_t *from = of(args).from, early = *from;
    copy16(words() + 4 * thread_x(), from);
    copy_commit();
    wait_for_launch(nullptr);
    const uint32_t late = *from;
    copy_wait<0>();
    of(args).out[place()] = thread_x() % 3 == 0 ? early : thread_x() % 3 == 1 ? words()[4 * thread_x()] : late;
}
void needs_much_stack(const void* args) {
    volatile uint8_t room[64 * 1024];  // as much as a thread has
    for (uint32_t i = 0; i < 512; ++i) room[i] = 0;
    of(args).out[place()] = room[64];
}

}  // namespace small_kernels
