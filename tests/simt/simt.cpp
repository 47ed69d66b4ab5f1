#include "tests/simt/simt.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// simt_switch(save, load): keeps the registers that a call preserves on the stack, stores the stack pointer at *save,
// and goes on where `load` was kept. A new fiber goes on in simt_main.
extern "C" void simt_switch(void** save, void* load);
extern "C" void simt_main();
#if defined(__x86_64__)
__asm__(
    ".text\n.p2align 4\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
    ".size simt_switch,.-simt_switch\n");
static constexpr uint32_t kKeptWords = 8, kReturnWord = 6;  // six registers, the return address, alignment
#elif defined(__aarch64__)
__asm__(
    ".text\n.p2align 4\n.globl simt_switch\n.type simt_switch,%function\nsimt_switch:\n"
    "sub sp,sp,#160\n"
    "stp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\n"
    "stp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\n"
    "ldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\nret\n"
    ".size simt_switch,.-simt_switch\n");
static constexpr uint32_t kKeptWords = 20, kReturnWord = 11;
#else
#error "the switch between fibers is written for x86-64 and 64-bit ARM"
#endif

namespace simt {
namespace {

constexpr uint32_t kWarp = 32, kMaxThreads = 1024, kGuardBytes = 256;
#if SIMT_ASAN
constexpr uint64_t kStackBytes = 256 * 1024, kSharedGuardBytes = 0;
#else
constexpr uint64_t kStackBytes = 64 * 1024, kSharedGuardBytes = 256;
#endif
constexpr uint64_t kStackSkew = 1088;  // between stacks: so that they do not share cache sets
constexpr uint8_t kGuard = 0xc5;
constexpr const char* kEndedBefore = "a lane ended before its warp's collective call";

enum class Wait : uint8_t { kNothing, kLaunch, kBlock, kGrid, kWarp, kCount, kEnd };
enum class WarpCall : uint32_t { kBarrier, kShuffle, kBallot, kMma, kMmaUnsigned, kPassTurn, kAwaitTurn };

constexpr uint32_t kTurns = 15;  // named barriers of a block, but for the one that block_barrier is

struct Copy {
    void* to;
    const void* from;
    uint32_t bytes, group;
    std::vector<uint8_t> taken;  // bytes that were read before the copy arrived; else none
};
struct Block;
struct Warp {
    uint32_t arrived, ended;  // lanes at the call that all make, lanes that are through
    Site site;                // of the first to arrive
};
struct Lane {
    void* sp;
    uint8_t* stack;
    Block* block;
    Warp* warp;
    Dim3 index;
    Place place;
    Wait wait;
    Site site;
    const uint32_t* count;  // that it awaits
    uint32_t all;
    uint32_t in[6], out[4];
    uint32_t group;
    std::vector<Copy> copies;
    void* fake_stack;  // AddressSanitizer's
};
// A warp's turn: passed on and not taken, or waited for. `clock`: what was passed on with it, as Block::clock of a
// warp.
struct Turn {
    bool passed;
    Lane* waiting;
    std::vector<uint32_t> clock;
};
// Of other blocks, by number: up to which block_epoch what they did is known to be done.
using Known = std::map<uint32_t, uint32_t>;
void learn(Known* known, const Known& from) {
    for (const auto& [block, epoch] : from) (*known)[block] = std::max((*known)[block], epoch);
}
struct Block {
    Dim3 index;
    uint8_t* shared;
    uint32_t arrived;
    bool last;                 // of last_of_blocks
    uint32_t ticket;           // of take_ticket
    std::vector<Known> known;  // of each warp, by counters that it awaited
    Lane* lanes;
    Turn turn[kTurns];
    // [warps][warps]: how often, as far as a warp was told by turns, another one has passed on a turn.
    std::vector<uint32_t> clock;
};
struct Machine {
    Kernel kernel;
    const void* args;
    Dim3 grid, block;
    uint32_t threads, shared_bytes;
    Options options;
    uint64_t random;
    bool within;  // another launch
    std::string error;
    std::vector<Lane> lanes;
    std::vector<Warp> warps;
    std::vector<Block> blocks;                // that are there
    uint32_t arrived;                         // at a grid barrier
    std::map<const uint32_t*, Known> raised;  // what who awaits a counter learns
    void* scheduler_sp;
    const void* scheduler_bottom;
    size_t scheduler_size;
    void* scheduler_fake_stack;
};

thread_local Machine* machine;
thread_local Lane* running;
const Watcher* watcher;
// KEEL_SIMT_MUTATION=FILE:LINE:remove or :weaken, for mutations.py.
Mutation mutation = [] {
    Mutation named;
    const char* text = getenv("KEEL_SIMT_MUTATION");
    if (const char* colon = text ? strchr(text, ':') : nullptr) {
        named.file.assign(text, colon);
        named.line = static_cast<uint32_t>(strtoul(colon + 1, nullptr, 10));
        named.weaken = strstr(colon, ":weaken");
    }
    return named;
}();

// Stacks of fibers, kept for the next launch of this thread.
class Stacks {
  public:
    ~Stacks() { give_back(); }
    uint8_t* of(uint32_t fibers) {
        const uint64_t bytes = fibers * (kStackBytes + kStackSkew) + kStackSkew;
        if (bytes > bytes_) {
            give_back();
            void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            base_ = p == MAP_FAILED ? nullptr : static_cast<uint8_t*>(p);
            bytes_ = base_ ? bytes : 0;
        }
        return base_;
    }

  private:
    void give_back() {
        if (!base_) return;
#if SIMT_ASAN
        ASAN_UNPOISON_MEMORY_REGION(base_, bytes_);  // what is mapped here next has no frames of ours
#endif
        munmap(base_, bytes_);
    }

    uint8_t* base_ = nullptr;
    uint64_t bytes_ = 0;
};
thread_local Stacks stacks[2];  // the second one: of a launch that runs within another

bool same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}
const char* last_part(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
bool mutated(Site site) {
    return mutation.line == site.line && mutation.file == last_part(site.file);
}
void watch(const void* p, uint32_t bytes, bool write) {
    if (watcher) watcher->access(p, bytes, write);
}

// Back to the scheduler, until it resumes this fiber.
void yield() {
    Lane* me = running;
#if SIMT_ASAN
    Machine* m = machine;
    __sanitizer_start_switch_fiber(me->wait == Wait::kEnd ? nullptr : &me->fake_stack, m->scheduler_bottom,
                                   m->scheduler_size);
#endif
    simt_switch(&me->sp, machine->scheduler_sp);
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(me->fake_stack, nullptr, nullptr);
#endif
}
void resume(Lane* lane) {
    running = lane;
#if SIMT_ASAN
    __sanitizer_start_switch_fiber(&machine->scheduler_fake_stack, lane->stack, kStackBytes);
#endif
    simt_switch(&machine->scheduler_sp, lane->sp);
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(machine->scheduler_fake_stack, nullptr, nullptr);
#endif
    running = nullptr;
}

void prepare(Lane& lane, Block& block, Warp& warp, uint32_t thread, uint32_t block_number, uint8_t* stack) {
    const Dim3 size = machine->block;
    lane.stack = stack;
    lane.block = &block;
    lane.index = {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
    lane.warp = &warp;
    lane.place = {thread, block_number, 0, 0, 0, 0};
    lane.wait = Wait::kNothing;
    lane.group = 0;
    lane.copies.clear();
    lane.fake_stack = nullptr;
#if SIMT_ASAN
    ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);  // of the fiber before, whose last frame never returned
#endif
    memset(stack, kGuard, kGuardBytes);
    void** sp = reinterpret_cast<void**>(stack + kStackBytes) - kKeptWords;
    memset(sp, 0, kKeptWords * sizeof(void*));
    sp[kReturnWord] = reinterpret_cast<void*>(simt_main);
    lane.sp = sp;
}

// m16n8k32: lane l = 4g + t holds four words of A (rows g, g + 8, g, g + 8, columns from 4t on, of the last two from
// 16 + 4t on), two of B (rows from 4t and from 16 + 4t on, column g), and of C rows g, g, g + 8, g + 8, columns 2t and
// 2t + 1 in turn.
void multiply(Lane* lanes, bool unsigned_a) {
    int16_t a[16][32], b[8][32];  // b by columns; what compilers multiply fastest
    for (uint32_t l = 0; l < kWarp; ++l) {
        const uint32_t g = l / 4, t = l % 4, *in = lanes[l].in;
        for (uint32_t e = 0; e < 4; ++e) {
            for (uint32_t i = 0; i < 4; ++i) {
                const uint8_t byte = static_cast<uint8_t>(in[i] >> 8 * e);
                a[g + 8 * (i & 1)][4 * t + e + 16 * (i >> 1)] = unsigned_a ? byte : static_cast<int8_t>(byte);
            }
            for (uint32_t i = 0; i < 2; ++i) b[g][4 * t + e + 16 * i] = static_cast<int8_t>(in[4 + i] >> 8 * e);
        }
    }
    for (uint32_t l = 0; l < kWarp; ++l)
        for (uint32_t i = 0; i < 4; ++i) {
            const int16_t *row = a[l / 4 + 8 * (i >> 1)], *column = b[2 * (l % 4) + (i & 1)];
            int32_t sum = 0;
            for (uint32_t k = 0; k < 32; ++k) sum += row[k] * column[k];
            lanes[l].out[i] = static_cast<uint32_t>(sum);
        }
}

constexpr const char* kSameBarrier = "a block meets in the barrier in which warp 0 takes its turn";
// The turn that was passed on is that of the warp of `lanes`, which goes on and knows what the one before knew.
void take_turn(Turn& turn, Lane* lanes) {
    Block* block = lanes->block;
    const uint32_t warps = machine->threads / kWarp;
    uint32_t* clock = &block->clock[lanes->place.thread / kWarp * warps];
    for (uint32_t w = 0; w < warps; ++w) clock[w] = std::max(clock[w], turn.clock[w]);
    turn.passed = false;
    turn.waiting = nullptr;
    for (uint32_t l = 0; l < kWarp; ++l) {
        ++lanes[l].place.warp_epoch;
        lanes[l].wait = Wait::kNothing;
    }
}
void pass_turn_on(Lane* lanes, Turn& turn, Site site) {
    const uint32_t warps = machine->threads / kWarp, warp = lanes->place.thread / kWarp;
    if (turn.passed) return fail("a turn is passed on before the one before was taken", site);
    const auto known = lanes->block->clock.begin() + warp * warps;
    turn.clock.assign(known, known + warps);
    turn.clock[warp] = lanes->place.turns + 1;
    for (uint32_t l = 0; l < kWarp; ++l) ++lanes[l].place.turns;
    turn.passed = true;
    if (turn.waiting) take_turn(turn, turn.waiting);
}

// What the last lane to arrive computes for all; false: they wait on.
bool finish_warp_call(Lane* lanes, WarpCall call, Site site) {
    Turn& turn = lanes->block->turn[lanes->in[0] % kTurns];
    const bool of_turns = call == WarpCall::kPassTurn || call == WarpCall::kAwaitTurn;
    if (of_turns && &turn == lanes->block->turn && lanes->block->arrived) fail(kSameBarrier, site);
    switch (call) {
        case WarpCall::kPassTurn:
            pass_turn_on(lanes, turn, site);
            break;
        case WarpCall::kAwaitTurn:
            if (turn.passed)
                take_turn(turn, lanes);
            else
                turn.waiting = lanes;
            return turn.waiting == nullptr;
        case WarpCall::kBarrier:
            for (uint32_t l = 0; l < kWarp; ++l) ++lanes[l].place.warp_epoch;
            break;
        case WarpCall::kShuffle:
            for (uint32_t l = 0; l < kWarp; ++l) lanes[l].out[0] = lanes[lanes[l].in[1] % kWarp].in[0];
            break;
        case WarpCall::kBallot: {
            uint32_t bits = 0;
            for (uint32_t l = 0; l < kWarp; ++l) bits |= lanes[l].in[0] << l;
            for (uint32_t l = 0; l < kWarp; ++l) lanes[l].out[0] = bits;
            break;
        }
        case WarpCall::kMma:
        case WarpCall::kMmaUnsigned:
            multiply(lanes, call == WarpCall::kMmaUnsigned);
            break;
    }
    return true;
}

// All lanes of the warp meet here.
void meet_in_warp(WarpCall call, Site site) {
    Lane* me = running;
    Warp* warp = me->warp;
    me->wait = Wait::kWarp;
    me->site = site;
    if (!warp->arrived) warp->site = site;
    if (warp->ended) fail(kEndedBefore, site);
    if (!same(warp->site, site))
        fail("lanes of a warp meet in different calls, one in line " + std::to_string(warp->site.line), site);
    if (++warp->arrived < kWarp) return yield();
    warp->arrived = 0;
    Lane* lanes = me->block->lanes + me->place.thread / kWarp * kWarp;
    if (!finish_warp_call(lanes, call, site)) return yield();
    for (uint32_t l = 0; l < kWarp; ++l) lanes[l].wait = Wait::kNothing;
}

// A barrier of `count` lanes from `lanes` on.
bool meet(Lane* lanes, uint32_t count, uint32_t* arrived, Wait wait, Site site) {
    const Turn& first = running->block->turn[0];
    if (wait == Wait::kBlock && (first.passed || first.waiting)) fail(kSameBarrier, site);
    running->wait = wait;
    running->site = site;
    if (++*arrived < count) {
        yield();
        return false;
    }
    *arrived = 0;
    for (uint32_t i = 0; i < count; ++i) {
        if (!same(lanes[i].site, site))
            fail("threads meet in different barriers, one in line " + std::to_string(lanes[i].site.line), site);
        lanes[i].wait = Wait::kNothing;
    }
    return true;
}

// A permutation of n things by options.order.
void shuffle_order(std::vector<uint32_t>& turn) {
    Machine* m = machine;
    if (m->options.order != Order::kRandom) return;
    for (uint32_t i = static_cast<uint32_t>(turn.size()); i > 1; --i) {
        m->random = m->random * 6364136223846793005u + 1442695040888963407u;
        std::swap(turn[i - 1], turn[(m->random >> 33) % i]);
    }
}
std::vector<uint32_t> first_order(uint32_t n) {
    std::vector<uint32_t> turn(n);
    for (uint32_t i = 0; i < n; ++i) turn[i] = machine->options.order == Order::kReverse ? n - 1 - i : i;
    return turn;
}

// All threads that have not ended wait for the launch before: it runs.
void run_before() {
    Machine* m = machine;
    for (Lane& lane : m->lanes)
        for (Copy& copy : lane.copies) {
            const uint8_t* from = static_cast<const uint8_t*>(copy.from);
            copy.taken.assign(from, from + copy.bytes);
        }
    const std::function<void()> before = std::move(m->options.before);
    m->options.before = nullptr;
    before();
    for (Lane& lane : m->lanes)
        if (lane.wait == Wait::kLaunch) lane.wait = Wait::kNothing;
}

// Runs blocks that are there together, `numbers` in the grid, to their ends.
void run_together(const std::vector<uint64_t>& numbers) {
    Machine* m = machine;
    const uint32_t fibers = static_cast<uint32_t>(numbers.size()) * m->threads;
    uint8_t* stack = stacks[m->within ? 1 : 0].of(fibers);
    if (!stack) return fail("no memory for the stacks of " + std::to_string(fibers) + " threads");
    m->lanes.resize(fibers);
    m->warps.assign(fibers / kWarp, {});
    m->blocks.resize(numbers.size());
    m->arrived = 0;
    // Exactly as long as the launch says, so that AddressSanitizer sees what lies behind; without it a guard does.
    const uint64_t guard = kSharedGuardBytes;
    for (uint32_t b = 0; b < numbers.size(); ++b) {
        Block& block = m->blocks[b];
        const uint64_t n = numbers[b];
        block.index = {static_cast<uint32_t>(n % m->grid.x), static_cast<uint32_t>(n / m->grid.x % m->grid.y),
                       static_cast<uint32_t>(n / m->grid.x / m->grid.y)};
        block.arrived = 0;
        for (Turn& turn : block.turn) turn = {};
        block.clock.assign(m->threads / kWarp * (m->threads / kWarp), 0);
        block.known.assign(m->threads / kWarp, {});
        block.lanes = &m->lanes[uint64_t{b} * m->threads];
        void* shared = nullptr;
        if (posix_memalign(&shared, 128, m->shared_bytes + guard + !(m->shared_bytes + guard))) abort();
        block.shared = static_cast<uint8_t*>(shared);
        memset(block.shared, 0xff, m->shared_bytes);
        memset(block.shared + m->shared_bytes, kGuard, guard);
        for (uint32_t t = 0; t < m->threads; ++t) {
            const uint64_t fiber = uint64_t{b} * m->threads + t;
            prepare(m->lanes[fiber], block, m->warps[fiber / kWarp], t, static_cast<uint32_t>(n),
                    stack + kStackSkew + fiber * (kStackBytes + kStackSkew));
        }
    }
    std::vector<uint32_t> turn = first_order(fibers);
    for (bool alive = true; alive && m->error.empty();) {
        shuffle_order(turn);
        alive = false;
        bool moved = false;
        Lane* waiting = nullptr;
        for (uint32_t i : turn) {
            Lane& lane = m->lanes[i];
            if (lane.wait == Wait::kEnd) continue;
            alive = true;
            if (lane.wait == Wait::kCount && *lane.count >= lane.all) lane.wait = Wait::kNothing;
            if (lane.wait == Wait::kNothing) {
                moved = true;
                resume(&lane);
                if (!m->error.empty()) break;
            } else {
                waiting = &lane;
            }
        }
        if (alive && !moved && m->error.empty() && m->options.before && waiting->wait == Wait::kLaunch)
            run_before();
        else if (alive && !moved && m->error.empty())
            fail("threads wait for others that never come, thread " + std::to_string(waiting->place.thread),
                 waiting->site);
    }
    if (m->options.before && m->error.empty()) fail("no thread waits for the launch before");
    for (Block& block : m->blocks) {
        for (const Turn& turn : block.turn)
            if (turn.passed && m->error.empty()) fail("a block ended with a turn that nobody took");
        for (uint64_t i = 0; i < guard; ++i)
            if (block.shared[m->shared_bytes + i] != kGuard && m->error.empty())
                fail("written " + std::to_string(i) + " bytes behind shared memory");
        if (watcher) watcher->forget(block.shared, m->shared_bytes);
        free(block.shared);
    }
    for (const Lane& lane : m->lanes)
        for (uint32_t i = 0; i < kGuardBytes; ++i)
            if (lane.stack[i] != kGuard && m->error.empty()) fail("a thread's stack is too small");
}

}  // namespace

std::string launch(Kernel kernel, Dim3 grid, Dim3 block, uint32_t shared_bytes, const void* args,
                   const Options& options) {
    const uint64_t threads = uint64_t{block.x} * block.y * block.z, blocks = uint64_t{grid.x} * grid.y * grid.z;
    if (!threads || threads > kMaxThreads || threads % kWarp)
        return "a block of " + std::to_string(threads) + " threads";
    if (!blocks || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffff) return "a grid no GPU takes";
    Machine m = {};
    m.kernel = kernel;
    m.args = args;
    m.grid = grid;
    m.block = block;
    m.threads = static_cast<uint32_t>(threads);
    m.shared_bytes = shared_bytes;
    m.options = options;
    m.random = 2 * options.seed + 1;
    Machine* const outer = machine;
    Lane* const outer_lane = running;
    m.within = outer != nullptr;
    machine = &m;
    running = nullptr;
    if (watcher) watcher->begin();
    if (options.cooperative) {
        std::vector<uint64_t> all(blocks);
        for (uint64_t b = 0; b < blocks; ++b) all[b] = b;
        run_together(all);
    } else {
        const uint64_t first = std::min(options.first_block, blocks);
        std::vector<uint32_t> turn = first_order(static_cast<uint32_t>(std::min(options.blocks, blocks - first)));
        shuffle_order(turn);
        for (uint32_t b : turn) {
            run_together({first + b});
            if (!m.error.empty()) break;
        }
    }
    machine = outer;
    running = outer_lane;
    return m.error;
}

void set_mutation(const Mutation& next) {
    mutation = next;
}
void set_watcher(const Watcher* next) {
    watcher = next;
}
bool checks_races() {
    return watcher != nullptr;
}
const Place* running_place() {
    return running ? &running->place : nullptr;
}
bool ordered_by_counts(const Place& then, const Place& now) {
    const Known& known = running->block->known[now.thread / kWarp];
    const auto of_block = known.find(then.block);
    return of_block != known.end() && of_block->second > then.block_epoch;
}
bool ordered_by_turns(const Place& then, const Place& now) {
    const uint32_t warps = machine->threads / kWarp;
    return running->block->clock[now.thread / kWarp * warps + then.thread / kWarp] > then.turns;
}
bool on_own_stack(const void* p) {
    const uint8_t* at = static_cast<const uint8_t*>(p);
    return running && at >= running->stack && at < running->stack + kStackBytes;
}
int64_t shared_offset(const void* p) {
    const uint8_t *at = static_cast<const uint8_t*>(p), *shared = running->block->shared;
    return at >= shared && at < shared + machine->shared_bytes ? at - shared : -1;
}
void fail(const std::string& text, Site site) {
    if (!machine->error.empty()) return;
    machine->error = text;
    if (site.file) machine->error += std::string(", ") + last_part(site.file) + ":" + std::to_string(site.line);
}

Dim3 thread_index() {
    return running->index;
}
Dim3 block_index() {
    return running->block->index;
}
Dim3 grid_size() {
    return machine->grid;
}
Dim3 block_size() {
    return machine->block;
}
uint64_t timer_ns() {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(since).count());
}
uint8_t* shared_memory() {
    return running->block->shared;
}

void wait_for_launch(Site site) {
    if (!machine->options.before || mutated(site)) return;
    running->wait = Wait::kLaunch;
    running->site = site;
    yield();
}
// All threads of the block meet; the last one to come does `act` for all, and gets true.
template <class Act>
static bool meet_in_block(Site site, const Act& act) {
    Block* block = running->block;
    if (!meet(block->lanes, machine->threads, &block->arrived, Wait::kBlock, site)) return false;
    for (uint32_t i = 0; i < machine->threads; ++i) {
        ++block->lanes[i].place.block_epoch;
        ++block->lanes[i].place.warp_epoch;
    }
    for (const Known& known : block->known)
        if (!known.empty()) learn(&block->known[0], known);
    for (Known& known : block->known) known = block->known[0];
    act(block);
    return true;
}
void block_barrier(Site site) {
    if (!mutated(site)) meet_in_block(site, [](Block*) {});
}
void grid_barrier(Site site) {
    if (mutated(site)) return;
    if (!machine->options.cooperative) return fail("a grid barrier in a launch that is not cooperative", site);
    std::vector<Lane>& lanes = machine->lanes;
    if (!meet(lanes.data(), static_cast<uint32_t>(lanes.size()), &machine->arrived, Wait::kGrid, site)) return;
    for (Lane& lane : lanes) {
        ++lane.place.grid_epoch;
        ++lane.place.block_epoch;
        ++lane.place.warp_epoch;
    }
}
bool last_of_blocks(uint32_t* counter, uint32_t share, uint32_t all, Site site) {
    if (mutated(site)) return true;
    meet_in_block(site, [&](Block* block) {
        *counter += share;
        block->last = *counter == all;
        if (block->last) *counter = 0;
        for (uint32_t i = 0; i < machine->threads; ++i) block->lanes[i].place.grid_epoch += block->last;
    });
    return running->block->last;
}
uint32_t take_ticket(uint32_t* counter, uint32_t blocks, uint32_t* told, Site site) {
    if (mutated(site)) return running->place.block;
    if (running->place.thread == 0) watch(told, sizeof *told, true);
    meet_in_block(site, [&](Block* block) {
        block->ticket = *counter;
        *counter = *counter + 1 < blocks ? *counter + 1 : 0;
        *told = block->ticket;
    });
    watch(told, sizeof *told, false);
    return *told;
}
void raise_count(uint32_t* counter, Site site) {
    if (mutated(site)) return;
    meet_in_block(site, [&](Block* block) {
        ++*counter;
        Known& raised = machine->raised[counter];
        learn(&raised, block->known[0]);
        learn(&raised, {{running->place.block, running->place.block_epoch}});
    });
}
void await_count(const uint32_t* counter, uint32_t all, Site site) {
    if (mutated(site)) return;
    if (*counter < all) {
        running->wait = Wait::kCount;
        running->site = site;
        running->count = counter;
        running->all = all;
        yield();
    }
    if (*counter > all) return fail("a counter is beyond all that is awaited", site);
    learn(&running->block->known[running->place.thread / kWarp], machine->raised[counter]);
    meet_in_warp(WarpCall::kBarrier, site);
}
void warp_barrier(Site site) {
    if (!mutated(site)) meet_in_warp(WarpCall::kBarrier, site);
}
uint32_t shuffle(uint32_t value, uint32_t from, Site site) {
    if (mutated(site)) return value;
    running->in[0] = value;
    running->in[1] = from;
    meet_in_warp(WarpCall::kShuffle, site);
    return running->out[0];
}
uint32_t ballot(bool value, Site site) {
    if (mutated(site)) return value;
    running->in[0] = value;
    meet_in_warp(WarpCall::kBallot, site);
    return running->out[0];
}
void pass_turn(uint32_t to, Site site) {
    if (mutated(site)) return;
    running->in[0] = to;
    meet_in_warp(WarpCall::kPassTurn, site);
}
void await_turn(uint32_t own, Site site) {
    if (mutated(site)) return;
    running->in[0] = own;
    meet_in_warp(WarpCall::kAwaitTurn, site);
}
void mma_m16n8k32(int32_t c[4], const uint32_t a[4], const uint32_t b[2], Site site, bool unsigned_a) {
    for (uint32_t i = 0; i < 4; ++i) running->in[i] = a[i];
    running->in[4] = b[0];
    running->in[5] = b[1];
    meet_in_warp(unsigned_a ? WarpCall::kMmaUnsigned : WarpCall::kMma, site);
    for (uint32_t i = 0; i < 4; ++i) c[i] += static_cast<int32_t>(running->out[i]);
}

void copy_async(void* to, const void* from, uint32_t bytes, Site site) {
    Lane* me = running;
    if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes)
        return fail("cp.async between addresses that are no multiples of its size", site);
    if (shared_offset(to) < 0) return fail("cp.async to what is not shared memory", site);
    watch(to, bytes, true);
    me->copies.push_back({to, from, bytes, me->group, {}});
}
void copy_commit(Site site) {
    if (!mutated(site)) ++running->group;
}
void copy_wait(uint32_t pending_groups, Site site) {
    Lane* me = running;
    if (mutated(site)) {
        if (!mutation.weaken) return;
        ++pending_groups;
    }
    const auto arrives = [&](const Copy& c) {
        if (c.group + pending_groups >= me->group) return false;
        watch(c.from, c.bytes, false);
        watch(c.to, c.bytes, true);
        memcpy(c.to, c.taken.empty() ? c.from : c.taken.data(), c.bytes);
        return true;
    };
    me->copies.erase(std::remove_if(me->copies.begin(), me->copies.end(), arrives), me->copies.end());
}

}  // namespace simt

// A fiber's first and only function.
extern "C" void simt_main() {
    using namespace simt;
#if SIMT_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &machine->scheduler_bottom, &machine->scheduler_size);
#endif
    machine->kernel(machine->args);
    if (!running->copies.empty()) fail("a thread ended with cp.async pending");
    running->wait = Wait::kEnd;
    if (running->warp->arrived) fail(kEndedBefore, running->warp->site);
    ++running->warp->ended;
    yield();
    abort();
}
