// device_timings: what a GPU takes for Keel's work, against what its memory delivers in the same run. Part of
// perf/device.sh; everything is made up on the spot, and nothing is read but the driver.
//
//     device_timings [--small] [--decode] [--seconds N] [--json FILE] [--only TEXT]...
//
// --small: shapes of a few kilobytes, for the fake driver. --decode: of models only steps without a context, and the
// dispatches of one and of eight tokens. --seconds: what would begin later is left out, and said so.
// --only: models in whose line of the table one of the texts stands, as in --only "8b Q4_K_M, KV f16".
// The table goes to standard output. Exit code 1 when something could not be measured for another reason.
#include <string.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>

#include "keel/keel_cuda.h"
#include "keel/keel_lab.h"
#include "kernels/cuda/kernels.h"
#include "perf/device_kernels.h"
#include "sdk/backend/cuda/cuda_backend.h"
#include "sdk/backend/cuda/cuda_context.h"
#include "sdk/run/engine.h"
#include "sdk/tools/common/console.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/files/synth.h"

#if !defined(KEEL_ON_FAKE_DRIVER)
#include <dlfcn.h>
#endif

extern "C" const unsigned char keel_perf_fatbin[];

namespace {

namespace cuda = keel::platform::cuda;
using keel::tools::Json;
using keel::tools::percentile;
using keel::tools::strf;
using Clock = std::chrono::steady_clock;

template <class T>
T sized() {
    T value = {};
    value.struct_size = sizeof value;
    return value;
}

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Calls of the driver that only measuring needs; null on the fake one.
struct MoreCalls {
    cuda::Result (*device_name)(char* name, int bytes, int device) = nullptr;
    cuda::Result (*driver_version)(int* version) = nullptr;
    cuda::Result (*begin_capture)(cuda::Stream stream, int mode) = nullptr;
    cuda::Result (*end_capture)(cuda::Stream stream, void** graph) = nullptr;
    cuda::Result (*instantiate)(void** executable, void* graph, unsigned long long flags) = nullptr;
    cuda::Result (*graph_launch)(void* executable, cuda::Stream stream) = nullptr;
    cuda::Result (*memory_info)(size_t* free, size_t* total) = nullptr;
    cuda::Result (*synchronize)() = nullptr;
    cuda::Result (*launch_cooperative)(cuda::Function function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z,
                                       uint32_t block_x, uint32_t block_y, uint32_t block_z, uint32_t shared_bytes,
                                       cuda::Stream stream, void** arguments) = nullptr;

    MoreCalls() {
#if !defined(KEEL_ON_FAKE_DRIVER)
        void* library = dlopen("libcuda.so.1", RTLD_NOW);
        const auto find = [&](auto& call, const char* name) {
            call = reinterpret_cast<std::remove_reference_t<decltype(call)>>(library ? dlsym(library, name) : nullptr);
        };
        find(device_name, "cuDeviceGetName");
        find(driver_version, "cuDriverGetVersion");
        find(begin_capture, "cuStreamBeginCapture_v2");
        find(end_capture, "cuStreamEndCapture");
        find(instantiate, "cuGraphInstantiateWithFlags");
        find(graph_launch, "cuGraphLaunch");
        find(memory_info, "cuMemGetInfo_v2");
        find(synchronize, "cuCtxSynchronize");
        find(launch_cooperative, "cuLaunchCooperativeKernel");
#endif
    }
};

struct Options {
    bool small = false, decode = false;
    double seconds = 1e9;
    std::string json;
    std::vector<std::string> only;
};

// The context that everything runs in, and a stream for what is no engine's.
class Gpu {
  public:
    Gpu() {
        keel_error error = sized<keel_error>();
        if (keel::open_cuda_context(KEEL_CUDA_DEVICE_INIT, &cuda_, &error) != KEEL_OK)
            throw std::runtime_error(std::string(error.field) + ": " + error.reason);
        need(driver().context_push(cuda_.context), "cuCtxPushCurrent");
        need(driver().stream_create(&stream_, cuda::kStreamNonBlocking, 0), "cuStreamCreateWithPriority");
        need(driver().module_load(&kernels_, keel_cuda_fatbin), "cuModuleLoadData");
        need(driver().module_load(&perf_kernels_, keel_perf_fatbin), "cuModuleLoadData");
        constexpr int kMultiprocessors = 16;
        int count = 0;
        if (driver().device_attribute(&count, kMultiprocessors, cuda_.primary_of) == cuda::kSuccess)
            multiprocessors_ = static_cast<uint32_t>(count);
    }
    static void need(cuda::Result result, const char* call) {
        if (result != cuda::kSuccess) throw std::runtime_error(strf("%s: the driver says %d", call, result));
    }
    const cuda::Driver& driver() const { return cuda_.driver; }
    const MoreCalls& more() const { return more_; }
    uint32_t multiprocessors() const { return multiprocessors_; }
    cuda::Stream stream() const { return stream_; }
    cuda::DevicePointer allocate(uint64_t bytes) const {
        cuda::DevicePointer data;
        need(driver().memory_allocate(&data, static_cast<size_t>(bytes)), "cuMemAlloc");
        return data;
    }
    // Of Keel's kernels, or those that only measure.
    cuda::Function function(const char* name, bool perf = false) const {
        cuda::Function f;
        need(driver().module_function(&f, perf ? perf_kernels_ : kernels_, name), name);
        return f;
    }
    template <class Args>
    void launch(cuda::Function f, const keel::cuda::LaunchShape& shape, Args args) const {
        uint64_t* nowhere = nullptr;
        void* arguments[2] = {&args, &nowhere};
        need(driver().launch(f, shape.grid_x, shape.grid_y, 1, shape.threads, 1, 1, shape.shared_bytes, stream_,
                             arguments, nullptr),
             "cuLaunchKernel");
    }
    template <class Args>
    void launch(cuda::Function f, uint32_t blocks, uint32_t threads, Args args, bool cooperative = false) const {
        uint64_t* nowhere = nullptr;
        void* arguments[2] = {&args, &nowhere};
        if (cooperative)
            need(more_.launch_cooperative(f, blocks, 1, 1, threads, 1, 1, 0, stream_, arguments),
                 "cuLaunchCooperativeKernel");
        else
            need(driver().launch(f, blocks, 1, 1, threads, 1, 1, 0, stream_, arguments, nullptr), "cuLaunchKernel");
    }
    void wait() const { need(driver().stream_synchronize(stream_), "cuStreamSynchronize"); }

    // Microseconds of one call of `work`, which enqueues: of `count` between two looks at the clock, median of five.
    template <class Work>
    double time_us(uint32_t count, const Work& work) const {
        std::vector<double> us;
        for (uint32_t repeat = 0; repeat < 6; ++repeat) {
            wait();
            const auto start = Clock::now();
            for (uint32_t i = 0; i < count; ++i) work();
            wait();
            if (repeat) us.push_back(seconds_since(start) * 1e6 / count);  // the first one warms up
        }
        return percentile(us, 0.5);
    }

  private:
    keel::CudaContext cuda_ = {};
    cuda::Stream stream_ = nullptr;
    cuda::Module kernels_ = nullptr, perf_kernels_ = nullptr;
    MoreCalls more_;
    uint32_t multiprocessors_ = 4;
};

// A model without a file, in device memory, with one session whose context is there without having been computed: its
// rows are any bytes, which takes attention as long.
class Model {
  public:
    Model(const keel::tools::SynthSpec& spec, keel_kv_format format, uint32_t context, uint32_t chunk,
          bool graphs = false, keel_numerics numerics = KEEL_NUMERICS_DEFAULT)
        : reader_(spec), context_(context) {
        keel_error error = sized<keel_error>();
        keel_model_info info = sized<keel_model_info>();
        need(keel_inspect(reader_.get(), nullptr, nullptr, 0, nullptr, &info, &error), "keel_inspect", error);
        buffer_.resize(info.model_bytes / 8 + 1);
        const keel_model* model = nullptr;
        need(keel_inspect(reader_.get(), nullptr, buffer_.data(), buffer_.size() * 8, &model, &info, &error),
             "keel_inspect", error);
        vocabulary_ = info.vocabulary;
        layers_ = info.layers;
        keel_config config = sized<keel_config>();
        keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
        device.graphs = graphs;
        config.backend = keel_cuda();
        config.backend_options = &device;
        config.context_tokens = context;
        config.chunk_tokens = chunk;
        config.k_format = config.v_format = format;
        config.numerics = numerics;
        need(keel_plan(reader_.get(), model, &config, &plan_, &error), "keel_plan", error);
        uint32_t ops = 0;
        need(keel_plan_ops(reader_.get(), model, &config, nullptr, 0, &ops, &error), "keel_plan_ops", error);
        ops_.resize(ops, sized<keel_op_info>());
        need(keel_plan_ops(reader_.get(), model, &config, ops_.data(), ops, &ops, &error), "keel_plan_ops", error);
        for (int i = 0; i < KEEL_REGION_DEVICE_SCRATCH; ++i) {
            const keel_region_plan& region = plan_.regions[i];
            if (!region.bytes || i == KEEL_REGION_PINNED) continue;
            host_.emplace_back(region.bytes + region.align_bytes);
            const uintptr_t at = reinterpret_cast<uintptr_t>(host_.back().data());
            memory_.regions[i] = {
                reinterpret_cast<void*>((at + region.align_bytes - 1) / region.align_bytes * region.align_bytes),
                region.bytes};
        }
        need(keel_cuda_memory(&plan_, nullptr, &memory_, &error), "keel_cuda_memory", error);
        need(keel_engine_init(reader_.get(), model, &config, &memory_, &engine_, &error), "keel_engine_init", error);
        need(keel_session_open(engine_, nullptr, &session_), "keel_session_open", error);
        fill_kv();
    }
    ~Model() {
        keel_engine_close(engine_);
        keel_cuda_memory_release(nullptr, &memory_);
    }
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    const keel_memory_plan& plan() const { return plan_; }
    uint32_t context() const { return context_; }

    // What a dispatch of a step takes: the ops in it, the bytes they move, the median over some steps.
    struct Dispatch {
        std::string name;
        uint32_t count;  // of the same ops and types, in all layers
        double us, predicted_us, bytes;
        double macs;  // of products in layers, a token
    };
    // Of steps of `tokens` tokens behind `held` positions.
    std::vector<Dispatch> dispatches(uint32_t held, uint32_t tokens, uint32_t steps) {
        need(keel_lab_time_ops(engine_, 1), "keel_lab_time_ops");
        std::vector<std::vector<keel_lab_op_time>> times;
        for (uint32_t i = 0; i < steps; ++i) {
            step_us(tokens);
            uint32_t count = 0;
            need(keel_lab_op_times(engine_, nullptr, 0, &count), "keel_lab_op_times");
            times.emplace_back(count, sized<keel_lab_op_time>());
            need(keel_lab_op_times(engine_, times.back().data(), count, &count), "keel_lab_op_times");
        }
        need(keel_lab_time_ops(engine_, 0), "keel_lab_time_ops");
        std::vector<Dispatch> out;
        for (size_t i = 0; i < times[0].size(); ++i) {
            std::vector<double> us;
            for (const auto& step : times) us.push_back(step.at(i).us);
            const keel_lab_op_time& t = times.back()[i];
            Dispatch d = {"", 1, percentile(us, 0.5), t.predicted_us, 0, 0};
            for (uint32_t op = t.op; op < t.op + t.ops; ++op) {
                const keel_op_info& info = ops_.at(op);
                d.name += (d.name.empty() ? "" : " + ") + std::string(info.name);
                if (info.weight_type[0]) d.name += std::string(" ") + info.weight_type;
                d.bytes += static_cast<double>(info.fixed_bytes + info.token_bytes * tokens);
                if (info.weight_type[0] && info.layer >= 0) d.macs += static_cast<double>(info.rows) * info.inner;
                if (!strcmp(info.name, "attention"))
                    d.bytes += static_cast<double>(plan_.kv_bytes_per_token / layers_ * (held + 1));
            }
            const auto same = std::find_if(out.begin(), out.end(), [&](const Dispatch& o) { return o.name == d.name; });
            if (same == out.end()) {
                out.push_back(d);
                continue;
            }
            ++same->count;
            same->us += d.us;
            same->predicted_us += d.predicted_us;
            same->bytes += d.bytes;
            same->macs += d.macs;
        }
        return out;
    }

    // The session has `tokens` positions.
    void hold(uint32_t tokens) {
        need(keel_session_truncate(session_, 0), "keel_session_truncate");
        if (!tokens) return;
        feed(tokens);
        keel::Session* s;
        keel::Engine* e = keel::registry_session(session_.id, &s);
        need(keel::kv_make_writable(&e->pool, &s->kv, 0, tokens), "kv_make_writable");
        s->computed = tokens;
    }
    // Microseconds of computing `tokens` more, which are forgotten again.
    double step_us(uint32_t tokens) {
        keel_session_info info = sized<keel_session_info>();
        need(keel_session_get(session_, &info), "keel_session_get");
        feed(tokens);
        keel_advance_result result = sized<keel_advance_result>();
        const auto start = Clock::now();
        need(keel_advance(engine_, &session_, 1, 0, &result), "keel_advance");
        const double us = seconds_since(start) * 1e6;
        need(keel_session_truncate(session_, info.token_count), "keel_session_truncate");
        return us;
    }

    // A prompt of `tokens` in calls that leave at most `budget_us` of work behind: microseconds from the end of each
    // call until the device has done what it was given, and the calls' own.
    struct Slices {
        std::vector<double> call_us, left_us;
    };
    Slices sliced(uint32_t tokens, uint64_t budget_us, const std::function<void()>& wait) {
        Slices out;
        feed(tokens);
        keel_advance_result result = sized<keel_advance_result>();
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) {
            const auto start = Clock::now();
            status = keel_advance(engine_, &session_, 1, budget_us, &result);
            const auto end = Clock::now();
            wait();
            out.call_us.push_back(std::chrono::duration<double>(end - start).count() * 1e6);
            out.left_us.push_back(seconds_since(end) * 1e6);
        }
        need(status, "keel_advance");
        return out;
    }
    // Microseconds of draws from the row of a step.
    std::vector<double> draws_us(keel_sampling sampling, uint32_t count) {
        feed(1);
        keel_advance_result result = sized<keel_advance_result>();
        need(keel_advance(engine_, &session_, 1, 0, &result), "keel_advance");
        std::vector<double> us;
        for (uint32_t i = 0; i < count; ++i) {
            sampling.seed = i;
            need(keel_session_set_sampling(session_, &sampling), "keel_session_set_sampling");
            int32_t token = 0;
            const auto start = Clock::now();
            need(keel_session_sample(session_, &token), "keel_session_sample");
            us.push_back(seconds_since(start) * 1e6);
        }
        return us;
    }
    uint32_t vocabulary() const { return vocabulary_; }

  private:
    static void need(keel_status status, const char* call, const keel_error& error = {}) {
        if (status != KEEL_OK)
            throw std::runtime_error(strf("%s: %s %s %s", call, keel_status_name(status), error.field, error.reason));
    }
    void feed(uint32_t tokens) {
        std::vector<int32_t> ids(tokens);
        for (uint32_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>((i * 7919 + 13) % vocabulary_);
        need(keel_session_feed(session_, ids.data(), tokens, 0), "keel_session_feed");
    }
    // Random bytes whose halves are small numbers of either sign.
    void fill_kv() {
        keel::Session* s;
        keel::Engine* e = keel::registry_session(session_.id, &s);
        std::vector<uint8_t> bytes(1 << 20);
        uint32_t state = 1;
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24 & 0xbb);
        const uint64_t end = memory_.regions[KEEL_REGION_DEVICE_KV].bytes;
        for (uint64_t at = 0; at < end; at += bytes.size())
            need(e->backend->upload(e->device, KEEL_REGION_DEVICE_KV, at, bytes.data(),
                                    std::min<uint64_t>(bytes.size(), end - at)),
                 "upload");
    }

    keel::tools::SynthReader reader_;
    uint32_t context_, vocabulary_ = 0, layers_ = 1;
    std::vector<keel_op_info> ops_;
    std::vector<uint64_t> buffer_;
    std::vector<std::vector<uint8_t>> host_;
    keel_memory_plan plan_ = sized<keel_memory_plan>();
    keel_memory memory_ = sized<keel_memory>();
    keel_engine engine_ = {};
    keel_session session_ = {};
};

class Timings {
  public:
    explicit Timings(const Options& options) : o_(options) {}

    int run() {
        part("machine", [&] { machine(); });
        part("stream", [&] { stream(); });
        part("launches", [&] { launches(); });
        const std::vector<std::pair<const char*, const char*>> models =
            o_.small ? std::vector<std::pair<const char*, const char*>>{{"tiny", "Q4_K_M"}}
                     : std::vector<std::pair<const char*, const char*>>{
                           {"smollm2-135m", "Q8_0"}, {"1b", "Q4_K_M"}, {"8b", "Q4_K_M"}, {"8b", "Q8_0"}};
        for (const auto& [shape, mix] : models)
            for (const auto& [format, name] :
                 {std::pair{KEEL_KV_F16, "f16"}, std::pair{KEEL_KV_E8_4, "e8-4"}, std::pair{KEEL_KV_TCQ_3, "tcq-3"}})
                model_part(strf("%s %s, KV %s", shape, mix, name),
                           [&, f = format, n = name] { model(shape, mix, f, n); });
        model_part("products of 512 tokens", [&] { products(); });
        model_part("prompts of F16 by the device's library", [&] { numerics(o_.small ? "tiny" : "1b"); });
        model_part("decode steps as graphs",
                   [&] { graphs(o_.small ? "tiny" : "smollm2-135m", o_.small ? "Q4_K_M" : "Q8_0"); });
        return failed_;
    }

  private:
    bool out_of_time() const { return seconds_since(start_) > o_.seconds; }
    // A part that fails is said so, and the others go on.
    template <class Work>
    void part(const char* name, const Work& work) {
        printf("\n%s\n", name);
        if (out_of_time()) {
            printf("  left out: %.0f s are over\n", o_.seconds);
            document_["left_out"].push_back(name);
            return;
        }
        try {
            work();
        } catch (const std::exception& error) {
            printf("  FAILED: %s\n", error.what());
            document_["failed"].push_back({{"part", name}, {"error", error.what()}});
            failed_ = 1;
        }
        fflush(stdout);
        write();
    }
    template <class Work>
    void model_part(const std::string& name, const Work& work) {
        const auto asked = [&](const std::string& text) { return name.find(text) != std::string::npos; };
        if (o_.only.empty() || std::any_of(o_.only.begin(), o_.only.end(), asked)) part(name.c_str(), work);
    }
    // What there is so far: a run may be ended from outside.
    void write() const {
        if (o_.json.empty()) return;
        std::ofstream file(o_.json);
        file << document_.dump(1) << '\n';
        if (!file.flush()) throw std::runtime_error("cannot write " + o_.json);
    }

    void machine() {
        const MoreCalls& more = gpu_.more();
        char name[128] = "none: the fake driver";
        int version = 0;
        if (more.device_name) Gpu::need(more.device_name(name, sizeof name, 0), "cuDeviceGetName");
        if (more.driver_version) Gpu::need(more.driver_version(&version), "cuDriverGetVersion");
        printf("  %s, %u multiprocessors, driver for CUDA %d.%d\n", name, gpu_.multiprocessors(), version / 1000,
               version % 1000 / 10);
        document_["machine"] = {{"gpu", name}, {"multiprocessors", gpu_.multiprocessors()}, {"cuda", version}};
    }

    void stream() {
        const uint64_t bytes = o_.small ? 1 << 16 : uint64_t{4} << 30;
        const cuda::DevicePointer data = gpu_.allocate(bytes);
        std::vector<uint8_t> noise(o_.small ? bytes : 64 << 20);
        uint32_t state = 1;
        for (uint8_t& byte : noise) byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
        for (uint64_t at = 0; at < bytes; at += noise.size())
            Gpu::need(gpu_.driver().copy_to_device(data + at, noise.data(), noise.size(), gpu_.stream()),
                      "cuMemcpyHtoD");
        const cuda::Function f = gpu_.function("read_stream");
        const double us = gpu_.time_us(o_.small ? 1 : 10, [&] {
            const keel::cuda::ReadStreamArgs args = {reinterpret_cast<const uint8_t*>(data), bytes / 16, nullptr};
            const keel::cuda::LaunchShape shape = launch_shape(args, o_.small ? 1 : gpu_.multiprocessors());
            gpu_.launch(f, shape.grid_x, shape.threads, args);
        });
        stream_gb_per_s_ = static_cast<double>(bytes) / us / 1e3;
        printf("  read-only stream of %s: %.1f GB/s\n", keel::tools::human_bytes(bytes).c_str(), stream_gb_per_s_);
        document_["stream"] = {{"bytes", bytes}, {"gb_per_s", stream_gb_per_s_}};
        Gpu::need(gpu_.driver().memory_free(data), "cuMemFree");
    }

    void launches() {
        const MoreCalls& more = gpu_.more();
        const cuda::Function nothing = gpu_.function("nothing");
        const uint32_t count = o_.small ? 10 : 2000;
        const double empty_us =
            gpu_.time_us(count, [&] { gpu_.launch(nothing, 1, keel::cuda::kWarp, keel::cuda::NothingArgs{}); });
        printf("  empty launch: %.2f us\n", empty_us);
        document_["launch_us"] = empty_us;
        constexpr uint32_t kNodes = 100;
        if (more.begin_capture && more.end_capture && more.instantiate && more.graph_launch) {
            void *graph = nullptr, *executable = nullptr;
            constexpr int kThreadLocal = 1;
            Gpu::need(more.begin_capture(gpu_.stream(), kThreadLocal), "cuStreamBeginCapture");
            for (uint32_t i = 0; i < kNodes; ++i) gpu_.launch(nothing, 1, keel::cuda::kWarp, keel::cuda::NothingArgs{});
            Gpu::need(more.end_capture(gpu_.stream(), &graph), "cuStreamEndCapture");
            Gpu::need(more.instantiate(&executable, graph, 0), "cuGraphInstantiate");
            const double us =
                gpu_.time_us(20, [&] { Gpu::need(more.graph_launch(executable, gpu_.stream()), "cuGraphLaunch"); });
            printf("  empty launch in a graph of %u: %.2f us\n", kNodes, us / kNodes);
            document_["graph_launch_us"] = us / kNodes;
        } else {
            printf("  graph: this driver has none\n");
        }
        if (more.launch_cooperative) {
            const cuda::DevicePointer arrived = gpu_.allocate(4);
            const uint32_t zero = 0;
            const cuda::Function barriers = gpu_.function("grid_barriers", true);
            const auto barriers_us = [&](uint32_t n) {
                return gpu_.time_us(1, [&] {
                    Gpu::need(gpu_.driver().copy_to_device(arrived, &zero, 4, gpu_.stream()), "cuMemcpyHtoD");
                    gpu_.launch(barriers, gpu_.multiprocessors(), keel::cuda::kPerfThreads,
                                keel::cuda::GridBarriersArgs{reinterpret_cast<uint32_t*>(arrived), n}, true);
                });
            };
            const double us = (barriers_us(1100) - barriers_us(100)) / 1000;
            printf("  barrier of a grid of %u blocks: %.2f us\n", gpu_.multiprocessors(), us);
            document_["grid_barrier_us"] = us;
            Gpu::need(gpu_.driver().memory_free(arrived), "cuMemFree");
        } else {
            printf("  grid barrier: this driver has none\n");
        }
    }

    // A matrix of a 1B or 8B model by 512 tokens, for every type: the kernel of prompts alone, made up of any bytes.
    void products() {
        const uint32_t rows = o_.small ? 64 : 4096, k = o_.small ? 256 : 4096, tokens = o_.small ? 9 : 512;
        const auto filled = [&](uint64_t bytes) {
            const cuda::DevicePointer data = gpu_.allocate(bytes);
            std::vector<uint8_t> noise(bytes);
            uint32_t state = 1;
            for (uint8_t& byte : noise)
                byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24 & 0xbb);
            Gpu::need(gpu_.driver().copy_to_device(data, noise.data(), noise.size(), gpu_.stream()), "cuMemcpyHtoD");
            gpu_.wait();
            return data;
        };
        const uint64_t token_bytes = keel::kernels::q8_token_bytes(k, 32);
        const cuda::DevicePointer x = filled(tokens * token_bytes), y = filled(uint64_t{tokens} * rows * 4);
        for (uint32_t type = keel::kernels::kQ4_0; type < keel::kernels::kWeightTypeCount; ++type) {
            if (keel::kernels::is_trellis(type)) continue;
            const cuda::DevicePointer w = filled(keel::cuda::fragment_bytes(type, rows, k));
            keel::cuda::ProductArgs a = {};
            a.matrix[0] = {reinterpret_cast<const uint8_t*>(w), nullptr, rows, 0};
            a.matrices = 1;
            a.group_end = product_groups(a);
            a.k = k;
            a.x = reinterpret_cast<const void*>(x);
            a.y = reinterpret_cast<float*>(y);
            a.x_token_bytes = token_bytes;
            a.y_token_floats = rows;
            a.tokens = tokens;
            a.w_row_bytes = keel::kernels::weight_row_bytes(type, k);
            const cuda::Function f =
                gpu_.function(keel::cuda::kKernels[product_kernel(keel::cuda::kernel_product_prompt_Q4_0, type)].name);
            const double us = gpu_.time_us(
                o_.small ? 1 : 20, [&] { gpu_.launch(f, product_prompt_shape(a, type, gpu_.multiprocessors()), a); });
            const double tops = 2e-6 * rows * k * tokens / us;
            printf("  %-6s: %8.1f us, %6.1f TFLOP/s of a dense product\n", keel::kernels::kWeightTypes[type].name, us,
                   tops);
            document_["products"].push_back(
                {{"type", keel::kernels::kWeightTypes[type].name}, {"us", us}, {"tflop_per_s", tops}});
            Gpu::need(gpu_.driver().memory_free(w), "cuMemFree");
        }
        Gpu::need(gpu_.driver().memory_free(x), "cuMemFree");
        Gpu::need(gpu_.driver().memory_free(y), "cuMemFree");
    }

    // Median of as many steps as half a second has, at most `most`.
    std::vector<double> steps(Model& m, uint32_t tokens, uint32_t most, double seconds) {
        std::vector<double> us;
        m.step_us(tokens);  // warms up
        const auto start = Clock::now();
        do us.push_back(m.step_us(tokens));
        while (us.size() < most && seconds_since(start) < seconds && !out_of_time());
        return us;
    }

    void model(const char* shape, const char* mix, keel_kv_format format, const char* format_name) {
        keel::tools::SynthSpec spec = keel::tools::synth_shape(shape);
        spec.mix = mix;
        const bool tiny = o_.small, f16 = format == KEEL_KV_F16;
        const uint32_t longest = tiny ? 256 : std::min(32768u, spec.context);
        const auto load = Clock::now();
        Model m(spec, format, longest, tiny ? 64 : 512);
        printf("  loaded in %.1f s\n", seconds_since(load));
        const auto add = [&](Json row) {
            row["shape"] = shape;
            row["weights"] = mix;
            row["kv"] = format_name;
            document_["steps"].push_back(std::move(row));
        };
        const std::vector<uint32_t> contexts = o_.decode ? std::vector<uint32_t>{0}
                                               : tiny    ? std::vector<uint32_t>{0, 100}
                                                         : std::vector<uint32_t>{0, 4096, 32768};
        for (const uint32_t context : contexts) {
            const uint32_t held = std::min(context, longest - 8);
            if (out_of_time()) return left_out(strf("context %u", context));
            m.hold(held);
            for (const uint32_t tokens : {1u, 2u, 4u, 8u}) {
                if ((!f16 || tiny) && tokens != 1 && tokens != 8) continue;
                const std::vector<double> us = steps(m, tokens, tiny ? 1 : 200, 0.4);
                const double median = percentile(us, 0.5),
                             bytes = static_cast<double>(m.plan().decode_bytes) +
                                     held * static_cast<double>(m.plan().kv_bytes_per_token),
                             percent = bytes / median / 1e3 / stream_gb_per_s_ * 100;
                printf("  %6u positions, %u token%s: %10.1f us, %8.1f tok/s, %5.1f %% of the stream\n", held, tokens,
                       tokens == 1 ? " " : "s", median, tokens * 1e6 / median, percent);
                add({{"context", held},
                     {"tokens", tokens},
                     {"us", median},
                     {"bytes", bytes},
                     {"percent_of_stream", percent},
                     {"samples", us.size()}});
            }
        }
        kernels(m, o_.decode ? 0 : std::min(4096u, longest / 2), 1, add);
        if (o_.decode) return kernels(m, 0, 8, add);
        if (f16) kernels(m, 0, tiny ? 16 : 512, add);
        if (f16 || !strcmp(format_name, "e8-4"))
            for (const uint32_t tokens : tiny ? std::vector<uint32_t>{16} : std::vector<uint32_t>{512, 2048, 8192}) {
                if (tokens > longest) continue;
                if (out_of_time()) return left_out(strf("prefill %u", tokens));
                m.hold(0);
                const double us = steps(m, tokens, 3, 1).back();
                printf("  prefill %5u: %10.1f us, %8.1f tok/s\n", tokens, us, tokens * 1e6 / us);
                add({{"prefill", tokens}, {"us", us}, {"tokens_per_s", tokens * 1e6 / us}});
            }
        if (!strcmp(shape, "smollm2-135m") || tiny) percentiles(m, shape, format_name);
        if (f16) slices(m, shape), draws(m, shape);
    }
    void wait_for_all() const {
        if (gpu_.more().synchronize) Gpu::need(gpu_.more().synchronize(), "cuCtxSynchronize");
    }
    size_t free_bytes() const {
        size_t free = 0, total = 0;
        if (gpu_.more().memory_info) Gpu::need(gpu_.more().memory_info(&free, &total), "cuMemGetInfo");
        return free;
    }
    // What a call leaves in flight, against its budget and a tile, and how long the call itself took.
    void slices(Model& m, const char* shape) {
        for (const uint64_t budget_us : {500u, 2000u}) {
            m.hold(0);
            m.step_us(512 < m.context() ? 512 : 16);  // predictions learn
            m.hold(0);
            const Model::Slices s = m.sliced(o_.small ? 16 : 512, budget_us, [&] { wait_for_all(); });
            printf(
                "  calls with a budget of %llu us: %zu of them, %.1f us each (most %.1f), left in flight %.1f (p90 "
                "%.1f, most %.1f)\n",
                static_cast<unsigned long long>(budget_us), s.call_us.size(), percentile(s.call_us, 0.5),
                percentile(s.call_us, 1), percentile(s.left_us, 0.5), percentile(s.left_us, 0.9),
                percentile(s.left_us, 1));
            document_["slices"].push_back({{"shape", shape},
                                           {"budget_us", budget_us},
                                           {"calls", s.call_us.size()},
                                           {"call_us", percentile(s.call_us, 0.5)},
                                           {"left_us", percentile(s.left_us, 0.5)},
                                           {"most_left_us", percentile(s.left_us, 1)}});
        }
    }
    void draws(Model& m, const char* shape) {
        m.hold(0);
        for (const bool filtered : {false, true}) {
            keel_sampling sampling = KEEL_SAMPLING_INIT;
            sampling.temperature = 0.8f;
            if (filtered) sampling.top_k = 40, sampling.top_p = 0.95f;
            const std::vector<double> us = m.draws_us(sampling, o_.small ? 2 : 200);
            printf("  a draw from %u tokens%s: %.1f us, p99 %.1f\n", m.vocabulary(),
                   filtered ? ", top-k 40 and top-p 0.95" : "", percentile(us, 0.5), percentile(us, 0.99));
            document_["draws"].push_back({{"shape", shape},
                                          {"filtered", filtered},
                                          {"us", percentile(us, 0.5)},
                                          {"p99_us", percentile(us, 0.99)}});
        }
    }
    // Whether keel_cuda_device.graphs pays: the same steps with and without, and the memory of the driver's it takes.
    void graphs(const char* shape, const char* mix) {
        keel::tools::SynthSpec spec = keel::tools::synth_shape(shape);
        spec.mix = mix;
        const uint32_t longest = o_.small ? 256 : 8192;
        double taken_bytes = 0;
        for (const bool on : {false, true}) {
            const size_t before = free_bytes();
            Model m(spec, KEEL_KV_F16, longest, o_.small ? 64 : 512, on);
            const double bytes = static_cast<double>(before) - static_cast<double>(free_bytes());
            for (const uint32_t context : {0u, 4096u}) {
                m.hold(std::min(context, longest - 8));
                const double us = percentile(steps(m, 1, o_.small ? 2 : 500, 0.5), 0.5);
                printf("  %s, %5u positions: %10.1f us, %8.1f tok/s\n", on ? "graph   " : "launches", context, us,
                       1e6 / us);
                document_["graphs"].push_back({{"shape", shape}, {"graphs", on}, {"context", context}, {"us", us}});
            }
            if (on)
                printf("  memory of the driver's for them: %.0f bytes\n", bytes - taken_bytes);
            else
                taken_bytes = bytes;
        }
    }
    // What KEEL_NUMERICS_DEVICE brings, where there is the library: prompts, and products of a whole step of one.
    void numerics(const char* shape) {
        keel::tools::SynthSpec spec = keel::tools::synth_shape(shape);
        spec.mix = "F16";
        const uint32_t chunk = o_.small ? 12 : 512;
        for (const keel_numerics numerics : {KEEL_NUMERICS_DEVICE, KEEL_NUMERICS_DEFAULT}) {
            const char* name = numerics == KEEL_NUMERICS_DEVICE ? "library" : "contract";
            std::optional<Model> m;
            try {
                m.emplace(spec, KEEL_KV_F16, 8 * chunk, chunk, false, numerics);
            } catch (const std::exception& error) {
                if (!strstr(error.what(), "KEEL_E_DEVICE cuBLASLt ")) throw;
                printf("  left out: %s\n", error.what());
                document_["left_out"].push_back("numerics");
                return;
            }
            Json products = Json::array();
            for (const Model::Dispatch& d : m->dispatches(0, chunk, o_.small ? 1 : 3)) {
                if (!(d.macs > 0)) continue;
                const double tflops = 2 * d.macs * chunk / d.us / 1e6;
                printf("  %s: %9.1f us, %6.1f TFLOP/s, %3u x %s\n", name, d.us, tflops, d.count, d.name.c_str());
                products.push_back({{"ops", d.name}, {"us", d.us}, {"tflops", tflops}});
            }
            for (const uint32_t tokens : {chunk, 4 * chunk}) {
                const double us = steps(*m, tokens, 3, 0.5).back();
                printf("  %s: prefill %5u: %10.1f us, %8.1f tok/s\n", name, tokens, us, tokens * 1e6 / us);
                document_["numerics"].push_back({{"shape", shape}, {"by", name}, {"prefill", tokens}, {"us", us}});
            }
            document_["numerics"].back()["products"] = products;
        }
    }
    // Each kind of dispatch of a decode step: what the kernels' own clock says, and how near to the stream that is.
    template <class Add>
    void kernels(Model& m, uint32_t held, uint32_t tokens, const Add& add) {
        m.hold(held);
        printf("  dispatches of a step of %u at %u positions:\n", tokens, held);
        Json rows = Json::array();
        for (const Model::Dispatch& d : m.dispatches(held, tokens, o_.small ? 2 : tokens < 64 ? 50 : 5)) {
            const double rate = d.us > 0 ? d.bytes / d.us / 1e3 : 0;
            printf("    %9.1f us, %7.1f GB/s, %5.1f %% of the stream, %8.1f us predicted, %3u x %s\n", d.us, rate,
                   rate / stream_gb_per_s_ * 100, d.predicted_us, d.count, d.name.c_str());
            rows.push_back({{"ops", d.name},
                            {"count", d.count},
                            {"us", d.us},
                            {"predicted_us", d.predicted_us},
                            {"bytes", d.bytes},
                            {"gb_per_s", rate}});
        }
        add({{"context", held}, {"dispatches_of", tokens}, {"dispatches", rows}});
    }
    void percentiles(Model& m, const char* shape, const char* format_name) {
        m.hold(tiny_position(m));
        const size_t free_before = free_bytes();
        const std::vector<double> us = steps(m, 1, o_.small ? 3 : 10000, 25);
        const size_t free_after = free_bytes();
        const double p50 = percentile(us, 0.5), p999 = percentile(us, 0.999);
        printf(
            "  one token at a held position, %zu steps: p50 %.1f, p99 %.1f, p99.9 %.1f, max %.1f us; p99.9/p50 %.3f\n",
            us.size(), p50, percentile(us, 0.99), p999, percentile(us, 1), p999 / p50);
        printf("  free memory before and after them: %zu and %zu bytes\n", free_before, free_after);
        if (free_before != free_after) throw std::runtime_error("steps took memory of the driver's");
        document_["percentiles"].push_back({{"shape", shape},
                                            {"kv", format_name},
                                            {"steps", us.size()},
                                            {"p50_us", p50},
                                            {"p99_us", percentile(us, 0.99)},
                                            {"p99_9_us", p999},
                                            {"max_us", percentile(us, 1)}});
    }
    static uint32_t tiny_position(const Model& m) { return std::min(256u, m.context() - 8); }
    void left_out(const std::string& what) {
        printf("  left out from %s on: %.0f s are over\n", what.c_str(), o_.seconds);
        document_["left_out"].push_back(what);
    }

    const Options o_;
    const Clock::time_point start_ = Clock::now();
    Gpu gpu_;
    Json document_ = Json::object();
    double stream_gb_per_s_ = 0;
    int failed_ = 0;
};

Options read_options(int count, char** arguments) {
    Options o;
    for (int i = 1; i < count; ++i) {
        const std::string a = arguments[i];
        const bool more = i + 1 < count;
        if (a == "--small")
            o.small = true;
        else if (a == "--decode")
            o.decode = true;
        else if (a == "--seconds" && more)
            o.seconds = atof(arguments[++i]);
        else if (a == "--json" && more)
            o.json = arguments[++i];
        else if (a == "--only" && more)
            o.only.push_back(arguments[++i]);
        else
            throw std::runtime_error(
                "device_timings [--small] [--decode] [--seconds N] [--json FILE] [--only TEXT]...");
    }
    return o;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        return Timings(read_options(count, arguments)).run();
    } catch (const std::exception& error) {
        fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
