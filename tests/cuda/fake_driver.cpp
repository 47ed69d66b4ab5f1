#include "tests/cuda/fake_driver.h"

#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "keel/keel.h"
#include "kernels/cuda/kernels.h"
#include "platform/cuda/driver.h"
#include "tests/simt/kernel_table.h"
#include "tests/simt/simt.h"

// Never looked at: modules of the fake driver are the kernels of this program.
extern "C" const unsigned char keel_cuda_fatbin[] = {0};

namespace keel_test {
namespace {

namespace cuda = keel::platform::cuda;
using cuda::DevicePointer;
using cuda::Result;

constexpr size_t kPageBytes = 4096;

struct FakeStream;
struct FakeEvent {
    uint64_t recorded = 0, reached = 0;  // how often
};
struct Command {
    std::function<Result()> run;
    // A launch that may run while the command in front of it, a launch too, has not: it gets that one.
    std::function<Result(std::function<Result()> before)> overlap;
    bool launch = false;
};
struct FakeGraph {
    std::vector<Command> nodes;
};
struct FakeStream {
    std::deque<Command> queue;
    std::unique_ptr<FakeGraph> capturing;  // what is put into the stream goes here instead
    void put(Command command) {
        awaited = false;
        if (capturing)
            capturing->nodes.push_back(std::move(command));
        else
            queue.push_back(std::move(command));
    }
    void put(std::function<Result()> run) { put(Command{std::move(run), nullptr, false}); }
    Result failed = cuda::kSuccess;
    bool awaited = false;  // since the last work was put in
};
struct FakeModule {};
struct FakeKernel {
    keel::cuda::KernelInfo info;
    simt::Kernel run;
};
struct Mapping {
    size_t bytes;
    void* pages;  // that it lies in, up to the end of the last one; behind that a page that nobody can touch
    size_t page_bytes;
};

struct Pinned {
    size_t bytes;
    bool region;  // a test's own
};

struct World {
    World() {
        for (uint32_t i = 0; i < keel::cuda::kKernelCount; ++i)
            kernels.push_back({keel::cuda::kKernels[i], simt::kKernelTable[i]});
    }
    std::recursive_mutex mutex;
    std::deque<FakeKernel> kernels;  // of every module; their addresses are functions
    FakeDriver driver;
    std::map<uintptr_t, Mapping> device;  // device memory by address
    std::map<uintptr_t, Pinned> pinned;
    std::set<FakeStream*> streams;
    // What was made since reset(), also what was given back, or what could not be.
    std::vector<std::unique_ptr<FakeStream>> made_streams;
    std::vector<std::unique_ptr<FakeEvent>> made_events;
    std::vector<std::unique_ptr<FakeModule>> made_modules;
    std::vector<std::unique_ptr<FakeGraph>> made_graphs;
    std::vector<int> contexts;  // stack of all threads: only its depth is looked at
    int opened = 0;             // how often device memory is open to the host
};
World& world() {
    static World w;
    return w;
}

// Device memory is open while this lives.
class Open {
  public:
    Open() {
        if (world().opened++ == 0) protect(PROT_READ | PROT_WRITE);
    }
    ~Open() {
        if (--world().opened == 0) protect(PROT_NONE);
    }

  private:
    static void protect(int how) {
        for (const auto& [at, mapping] : world().device) mprotect(mapping.pages, mapping.page_bytes, how);
    }
};

void fault(const std::string& text) {
    if (world().driver.fault.empty()) world().driver.fault = text;
}

bool on_device(DevicePointer at, size_t bytes) {
    auto it = world().device.upper_bound(at);
    if (it == world().device.begin()) return false;
    --it;
    return at >= it->first && at + bytes <= it->first + it->second.bytes;
}
bool is_pinned(const void* at, size_t bytes) {
    const uintptr_t p = reinterpret_cast<uintptr_t>(at);
    auto it = world().pinned.upper_bound(p);
    if (it == world().pinned.begin()) return false;
    --it;
    return p >= it->first && p + bytes <= it->first + it->second.bytes;
}

void* allocate_on_device(uint64_t bytes, uint64_t align_bytes) {
    const size_t room = (static_cast<size_t>(bytes) + align_bytes - 1) / align_bytes * align_bytes,
                 whole = (room + kPageBytes - 1) / kPageBytes * kPageBytes;
    void* pages = mmap(nullptr, whole + kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return nullptr;
    if (world().opened) mprotect(pages, whole, PROT_READ | PROT_WRITE);
    uint8_t* data = static_cast<uint8_t*>(pages) + whole - room;
    world().device[reinterpret_cast<uintptr_t>(data)] = {static_cast<size_t>(bytes), pages, whole};
    return data;
}
void free_on_device(void* data) {
    const auto it = world().device.find(reinterpret_cast<uintptr_t>(data));
    if (it == world().device.end()) return fault("device memory freed that is none");
    munmap(it->second.pages, it->second.page_bytes + kPageBytes);
    world().device.erase(it);
}
void* allocate_pinned(uint64_t bytes, bool region) {
    void* data = ::operator new(bytes, std::align_val_t(kPageBytes));
    world().pinned[reinterpret_cast<uintptr_t>(data)] = {static_cast<size_t>(bytes), region};
    return data;
}
void free_pinned(void* data) {
    if (!world().pinned.erase(reinterpret_cast<uintptr_t>(data))) return fault("pinned memory freed that is none");
    ::operator delete(data, std::align_val_t(kPageBytes));
}

// Counts the call; what it returns instead of doing its work, if it is to fail.
Result enter() {
    FakeDriver& d = world().driver;
    return ++d.calls == d.fail_at || d.lost ? d.fail_with : cuda::kSuccess;
}
#define KEEL_ENTER()                                                 \
    const std::lock_guard<std::recursive_mutex> lock(world().mutex); \
    if (const Result refused = enter(); refused != cuda::kSuccess) return refused

Result run_commands(FakeStream* stream, uint32_t count) {
    const Open open;
    for (; count && !stream->queue.empty() && stream->failed == cuda::kSuccess; --count) {
        Command command = std::move(stream->queue.front());
        stream->queue.pop_front();
        // Of launches one behind another, every second one begins before the one in front of it.
        Command* next = stream->queue.empty() ? nullptr : &stream->queue.front();
        if (world().driver.overlap_launches && command.launch && next && next->overlap) {
            stream->failed = next->overlap(std::move(command.run));
            stream->queue.pop_front();
        } else {
            stream->failed = command.run();
        }
    }
    return stream->failed;
}
FakeStream* as_stream(cuda::Stream stream) {
    FakeStream* s = static_cast<FakeStream*>(stream);
    if (!world().streams.count(s)) {
        fault("a stream that is none");
        return nullptr;
    }
    return s;
}

Result init(uint32_t) {
    KEEL_ENTER();
    return cuda::kSuccess;
}
Result device_get(int* device, int ordinal) {
    KEEL_ENTER();
    if (ordinal != 0) return 101;  // CUDA_ERROR_INVALID_DEVICE
    *device = 0;
    return cuda::kSuccess;
}
Result device_attribute(int* value, int attribute, int) {
    KEEL_ENTER();
    if (attribute == cuda::kAttributeMajor)
        *value = world().driver.capability_major;
    else if (attribute == cuda::kAttributeMultiprocessors)
        *value = 1;
    else if (attribute == cuda::kAttributeCacheBytes)
        *value = static_cast<int>(world().driver.cache_bytes);
    else if (attribute == cuda::kAttributeWindowBytes)
        *value = 1 << 20;
    else
        return cuda::kInvalidValue;
    return cuda::kSuccess;
}
int primary_context;
Result primary_retain(cuda::Context* context, int) {
    KEEL_ENTER();
    ++world().driver.open_objects;
    *context = &primary_context;
    return cuda::kSuccess;
}
Result primary_release(int) {
    KEEL_ENTER();
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result context_push(cuda::Context context) {
    KEEL_ENTER();
    if (!context) return cuda::kInvalidValue;
    world().contexts.push_back(0);
    return cuda::kSuccess;
}
Result context_pop(cuda::Context* context) {
    const std::lock_guard<std::recursive_mutex> lock(world().mutex);
    if (world().contexts.empty()) {
        fault("a context popped that nobody pushed");
        return cuda::kInvalidValue;
    }
    world().contexts.pop_back();
    *context = &primary_context;
    return cuda::kSuccess;
}
Result context_device(int* device) {
    KEEL_ENTER();
    *device = 0;
    return cuda::kSuccess;
}
Result context_limit(size_t* value, int limit) {
    const std::lock_guard<std::recursive_mutex> lock(world().mutex);
    if (limit != cuda::kLimitSharedBytes || !world().driver.shared_limit) return cuda::kInvalidValue;
    *value = world().driver.shared_limit;
    return cuda::kSuccess;
}
Result stream_create(cuda::Stream* stream, uint32_t, int) {
    KEEL_ENTER();
    FakeStream* s = world().made_streams.emplace_back(new FakeStream).get();
    world().streams.insert(s);
    ++world().driver.open_objects;
    *stream = s;
    return cuda::kSuccess;
}
Result stream_destroy(cuda::Stream stream) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    if (!s) return cuda::kInvalidValue;
    if (!s->queue.empty() && !s->awaited) fault("a stream given back with work in it that nobody waited for");
    world().streams.erase(s);
    s->queue.clear();
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result stream_synchronize(cuda::Stream stream) {
    const std::lock_guard<std::recursive_mutex> waits(world().mutex);
    FakeStream* s = as_stream(stream);
    if (s) s->awaited = true;
    KEEL_ENTER();
    if (s && s->capturing) return 900;  // CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    if (const auto meanwhile = std::exchange(world().driver.in_next_wait, nullptr)) meanwhile();
    return s ? run_commands(s, UINT32_MAX) : cuda::kInvalidValue;
}
Result stream_wait_event(cuda::Stream stream, cuda::Event event, uint32_t) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    FakeEvent* e = static_cast<FakeEvent*>(event);
    if (!s || !e) return cuda::kInvalidValue;
    const uint64_t wanted = e->recorded;
    s->put([e, wanted] {
        while (e->reached < wanted)
            for (FakeStream* other : world().streams)
                if (!other->queue.empty()) run_commands(other, 1);
        return cuda::kSuccess;
    });
    return cuda::kSuccess;
}
Result event_create(cuda::Event* event, uint32_t) {
    KEEL_ENTER();
    *event = world().made_events.emplace_back(new FakeEvent).get();
    ++world().driver.open_objects;
    return cuda::kSuccess;
}
Result event_destroy(cuda::Event) {
    KEEL_ENTER();
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result event_record(cuda::Event event, cuda::Stream stream) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    FakeEvent* e = static_cast<FakeEvent*>(event);
    if (!s || !e) return cuda::kInvalidValue;
    const uint64_t number = ++e->recorded;
    s->put([e, number] {
        e->reached = number;
        return cuda::kSuccess;
    });
    return cuda::kSuccess;
}
Result event_query(cuda::Event event) {
    KEEL_ENTER();
    ++world().driver.event_queries;
    FakeEvent* e = static_cast<FakeEvent*>(event);
    for (FakeStream* s : world().streams)
        if (const Result result = run_commands(s, world().driver.commands_per_query); result != cuda::kSuccess)
            return result;
    return e->reached == e->recorded ? cuda::kSuccess : cuda::kNotReady;
}
Result event_synchronize(cuda::Event event) {
    KEEL_ENTER();
    ++world().driver.event_waits;
    FakeEvent* e = static_cast<FakeEvent*>(event);
    const Open open;
    for (bool busy = true; busy && e->reached < e->recorded;) {
        busy = false;
        for (FakeStream* s : world().streams) {
            busy |= !s->queue.empty();
            if (const Result result = run_commands(s, 1); result != cuda::kSuccess) return result;
        }
    }
    return e->reached == e->recorded ? cuda::kSuccess : cuda::kNotReady;
}
Result stream_begin_capture(cuda::Stream stream, int) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    if (!s || s->capturing) return cuda::kInvalidValue;
    s->capturing.reset(new FakeGraph);
    return cuda::kSuccess;
}
Result stream_end_capture(cuda::Stream stream, cuda::Graph* graph) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    if (!s || !s->capturing) return cuda::kInvalidValue;
    *graph = world().made_graphs.emplace_back(std::move(s->capturing)).get();
    ++world().driver.open_objects;
    return cuda::kSuccess;
}
Result graph_instantiate(cuda::GraphExec* executable, cuda::Graph graph, uint64_t) {
    KEEL_ENTER();
    *executable = world().made_graphs.emplace_back(new FakeGraph(*static_cast<FakeGraph*>(graph))).get();
    ++world().driver.instantiations;
    ++world().driver.open_objects;
    return cuda::kSuccess;
}
Result graph_upload(cuda::GraphExec, cuda::Stream stream) {
    KEEL_ENTER();
    return as_stream(stream) ? cuda::kSuccess : cuda::kInvalidValue;
}
Result graph_launch(cuda::GraphExec executable, cuda::Stream stream) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    if (!s) return cuda::kInvalidValue;
    ++world().driver.graph_launches;
    for (const Command& command : static_cast<FakeGraph*>(executable)->nodes) s->put(command);
    return cuda::kSuccess;
}
Result graph_destroy(cuda::Graph) {
    KEEL_ENTER();
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result graph_exec_destroy(cuda::GraphExec) {
    KEEL_ENTER();
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result memory_allocate(DevicePointer* pointer, size_t bytes) {
    KEEL_ENTER();
    if (bytes == 0) return cuda::kInvalidValue;
    *pointer = reinterpret_cast<DevicePointer>(allocate_on_device(bytes, 256));
    ++world().driver.allocations;
    ++world().driver.open_objects;
    return cuda::kSuccess;
}
Result memory_free(DevicePointer pointer) {
    KEEL_ENTER();
    free_on_device(reinterpret_cast<void*>(pointer));
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result host_allocate(void** pointer, size_t bytes, uint32_t) {
    KEEL_ENTER();
    *pointer = allocate_pinned(bytes, false);
    ++world().driver.allocations;
    ++world().driver.open_objects;
    return cuda::kSuccess;
}
Result host_free(void* pointer) {
    KEEL_ENTER();
    free_pinned(pointer);
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result host_device_pointer(DevicePointer* device, void* host, uint32_t) {
    KEEL_ENTER();
    if (!is_pinned(host, 1)) return cuda::kInvalidValue;
    *device = reinterpret_cast<DevicePointer>(host);
    return cuda::kSuccess;
}
Result copy_to_device(DevicePointer to, const void* from, size_t bytes, cuda::Stream stream) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    if (!s) return cuda::kInvalidValue;
    if (!on_device(to, bytes)) {
        fault("a copy to what is no device memory");
        return cuda::kInvalidValue;
    }
    world().driver.longest_copy = std::max<uint64_t>(world().driver.longest_copy, bytes);
    // Pinned memory is read when the copy's turn has come, other memory at once.
    std::shared_ptr<std::vector<uint8_t>> snapshot;
    if (!is_pinned(from, bytes)) {
        const uint8_t* p = static_cast<const uint8_t*>(from);
        snapshot = std::make_shared<std::vector<uint8_t>>(p, p + bytes);
    }
    s->put([=] {
        memcpy(reinterpret_cast<void*>(to), snapshot ? snapshot->data() : from, bytes);
        return cuda::kSuccess;
    });
    return cuda::kSuccess;
}
Result copy_to_host(void* to, DevicePointer from, size_t bytes, cuda::Stream stream) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    if (!s) return cuda::kInvalidValue;
    if (!on_device(from, bytes)) {
        fault("a copy from what is no device memory");
        return cuda::kInvalidValue;
    }
    FakeDriver::get().bytes_to_host += bytes;
    world().driver.longest_copy = std::max<uint64_t>(world().driver.longest_copy, bytes);
    if (!is_pinned(to, bytes)) {  // the call returns when such memory is written
        if (const Result result = run_commands(s, UINT32_MAX); result != cuda::kSuccess) return result;
        const Open open;
        memcpy(to, reinterpret_cast<const void*>(from), bytes);
        return cuda::kSuccess;
    }
    s->put([=] {
        memcpy(to, reinterpret_cast<const void*>(from), bytes);
        return cuda::kSuccess;
    });
    return cuda::kSuccess;
}
Result copy_on_device(DevicePointer to, DevicePointer from, size_t bytes, cuda::Stream stream) {
    KEEL_ENTER();
    FakeStream* s = as_stream(stream);
    if (!s) return cuda::kInvalidValue;
    if (!on_device(from, bytes) || !on_device(to, bytes)) {
        fault("a copy of what is no device memory");
        return cuda::kInvalidValue;
    }
    s->put([=] {
        memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
        return cuda::kSuccess;
    });
    return cuda::kSuccess;
}
Result module_load(cuda::Module* module, const void*) {
    KEEL_ENTER();
    *module = world().made_modules.emplace_back(new FakeModule).get();
    ++world().driver.module_loads;
    ++world().driver.open_objects;
    return cuda::kSuccess;
}
Result module_unload(cuda::Module) {
    KEEL_ENTER();
    --world().driver.open_objects;
    return cuda::kSuccess;
}
Result module_function(cuda::Function* function, cuda::Module, const char* name) {
    KEEL_ENTER();
    for (FakeKernel& kernel : world().kernels) {
        if (strcmp(kernel.info.name, name) != 0) continue;
        *function = &kernel;
        return cuda::kSuccess;
    }
    return 500;  // CUDA_ERROR_NOT_FOUND
}
Result launch_with(const cuda::LaunchConfig* config, cuda::Function function, void** arguments, void**) {
    KEEL_ENTER();
    const cuda::LaunchConfig& c = *config;
    FakeStream* s = as_stream(c.stream);
    if (!s) return cuda::kInvalidValue;
    const FakeKernel& kernel = *static_cast<FakeKernel*>(function);
    const keel::cuda::KernelInfo& info = kernel.info;
    const uint32_t threads = c.block_x * c.block_y * c.block_z;
    if (!c.grid_x || !c.grid_y || !c.grid_z || c.grid_y > 65535 || threads == 0 || threads > info.max_threads ||
        c.shared_bytes > 48 * 1024) {
        fault(std::string("a launch of ") + info.name + " in a shape that a GPU refuses");
        return cuda::kInvalidValue;
    }
    bool overlapping = false;
    for (uint32_t i = 0; i < c.count; ++i) {
        const cuda::LaunchAttribute& a = c.attributes[i];
        const bool fits = a.id == cuda::kAttributeProgrammatic
                              ? a.programmatic == 1 && world().driver.capability_major >= 9
                              : a.id == cuda::kAttributeWindow && a.window.bytes <= 1 << 20 &&
                                    a.window.hit == cuda::kAccessStreaming && on_device(a.window.base, a.window.bytes);
        if (!fits) {
            fault(std::string("a launch of ") + info.name + " with an attribute that a GPU refuses");
            return cuda::kInvalidValue;
        }
        overlapping |= a.id == cuda::kAttributeProgrammatic;
        world().driver.windows += a.id == cuda::kAttributeWindow;
    }
    ++world().driver.launches;
    world().driver.overlapping_launches += overlapping;
    const uint8_t* p = static_cast<const uint8_t*>(arguments[0]);
    const auto args = std::make_shared<std::vector<uint64_t>>((info.args_bytes + 7) / 8);
    memcpy(args->data(), p, info.args_bytes);
    uint64_t* began;  // where the kernel writes when it began
    memcpy(&began, arguments[1], sizeof began);
    if (began && !is_pinned(began, sizeof *began)) {
        fault(std::string(info.name) + " writes when it began to what is no pinned memory");
        return cuda::kInvalidValue;
    }
    const simt::Dim3 grid = {c.grid_x, c.grid_y, c.grid_z}, block = {c.block_x, c.block_y, c.block_z};
    const uint32_t shared_bytes = c.shared_bytes;
    const bool split = world().driver.split_launches;
    const auto run = [=, &kernel](std::function<Result()> before) {
        const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
        Result result = cuda::kSuccess;
        const auto begin = [&] {
            if (before) result = before();
            if (began) *began = world().driver.clock_ns;
            world().driver.clock_ns += world().driver.launch_ns(kernel.info.name);
        };
        if (!before) begin();
        for (uint64_t first = 0, count; first < blocks && result == cuda::kSuccess; first += count) {
            count = split && first == 0 ? (blocks + 1) / 2 : blocks - first;
            simt::Options options;
            options.first_block = first;
            options.blocks = count;
            if (before && first == 0) options.before = begin;
            const std::string wrong = simt::launch(kernel.run, grid, block, shared_bytes, args->data(), options);
            if (wrong.empty()) continue;
            fault(std::string(kernel.info.name) + ": " + wrong);
            return 719;
        }
        return result;
    };
    Command command = {[run] { return run(nullptr); }, nullptr, true};
    if (overlapping) command.overlap = run;
    s->put(std::move(command));
    return cuda::kSuccess;
}
Result launch(cuda::Function function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x,
              uint32_t block_y, uint32_t block_z, uint32_t shared_bytes, cuda::Stream stream, void** arguments,
              void** extra) {
    const cuda::LaunchConfig config = {grid_x,  grid_y,       grid_z, block_x, block_y,
                                       block_z, shared_bytes, stream, nullptr, 0};
    return launch_with(&config, function, arguments, extra);
}

}  // namespace

void FakeDriver::add_kernel(const char* name, void (*kernel)(const void* args), uint32_t args_bytes,
                            uint32_t max_threads) {
    world().kernels.push_back({{name, args_bytes, max_threads}, kernel});
}
FakeDriver& FakeDriver::get() {
    return world().driver;
}
void FakeDriver::reset() {
    World& w = world();
    w.driver = FakeDriver();
    w.streams.clear();
    w.made_streams.clear();
    w.made_events.clear();
    w.made_modules.clear();
    w.made_graphs.clear();
    std::erase_if(w.pinned, [](const auto& pinned) {
        if (!pinned.second.region)
            ::operator delete(reinterpret_cast<void*>(pinned.first), std::align_val_t(kPageBytes));
        return !pinned.second.region;
    });
}

std::recursive_mutex& fake_mutex() {
    return world().mutex;
}
void fake_fault(const std::string& text) {
    fault(text);
}
bool fake_on_device(const void* data, uint64_t bytes) {
    return on_device(reinterpret_cast<DevicePointer>(data), static_cast<size_t>(bytes));
}
bool fake_put(void* stream, std::function<int()> work) {
    FakeStream* s = as_stream(stream);
    if (s) s->put(std::move(work));
    return s != nullptr;
}

void* fake_region_allocate(int kind, uint64_t bytes, uint64_t align_bytes) {
    const std::lock_guard<std::recursive_mutex> lock(world().mutex);
    return kind == KEEL_REGION_PINNED ? allocate_pinned(bytes, true) : allocate_on_device(bytes, align_bytes);
}
void fake_region_free(int kind, void* data) {
    const std::lock_guard<std::recursive_mutex> lock(world().mutex);
    kind == KEEL_REGION_PINNED ? free_pinned(data) : free_on_device(data);
}

}  // namespace keel_test

namespace keel::platform::cuda {

const char* load_driver(Driver* out) {
    *out = {};
    if (!keel_test::FakeDriver::get().present) return "this machine has no CUDA driver";
    Driver d = {};
#define KEEL_SET(name, symbol, parameters) d.name = keel_test::name;
    KEEL_CUDA_DRIVER(KEEL_SET)
#undef KEEL_SET
    if (d.init(0) != kSuccess) return "the CUDA driver finds no device that it can use";
    *out = d;
    return nullptr;
}

}  // namespace keel::platform::cuda
