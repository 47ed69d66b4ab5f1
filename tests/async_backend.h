// A backend that lags behind its host on purpose: regions are host memory and the arithmetic is the CPU backend's, but
// enqueue only records, and what is recorded is computed a few ranges of work items at a time, in later calls, from a
// copy of the step made in begin. It also watches the host: memory of a step in flight that is written, or read while
// the step writes it, and a step that begins before the last one has let go are refused, which poisons the engine.
//
// One engine at a time uses it; a test sets it up before and reads it after.
#pragma once
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#include "sdk/backend/backend.h"
#include "sdk/backend/cpu/cpu_backend.h"
#include "sdk/core/arena.h"
#include "sdk/plan/program.h"
#include "sdk/plan/step.h"

namespace keel_test {

struct AsyncBackend {
    static constexpr uint32_t kNever = UINT32_MAX;

    // How it behaves.
    uint32_t lag_polls = 2;        // polls that say "not yet" between two pieces of work
    uint32_t ranges_per_poll = 5;  // ranges of work items of one piece
    uint32_t ops_per_enqueue = 7;  // recorded by one call with a deadline
    bool drain_drops = false;      // drain drops what has not begun, else it computes it
    // Calls that succeed before one fails.
    uint32_t begins_left = kNever, enqueues_left = kNever, polls_left = kNever, copies_left = kNever,
             transfers_left = kNever, drains_left = kNever;

    // What it saw.
    uint32_t not_yet = 0;            // polls that said so
    uint32_t drained_in_flight = 0;  // drains that found work
    uint32_t refused = 0;            // calls that broke a rule of backend.h

    static AsyncBackend& get() {
        static AsyncBackend backend;
        return backend;
    }
    static void reset() { get() = AsyncBackend(); }
    static const keel_backend* table() {
        static const keel_backend backend = {make_table()};
        return &backend;
    }

  private:
    // A step in memory of its own.
    struct StepCopy {
        keel::Step step;
        std::vector<int32_t> token, token_before;
        std::vector<uint32_t> position, slot, session, logits_token, logits_row, session_index, page_first, page_id,
            tail_first, tail_parent, adapter;
        std::vector<float> adapter_scale;
        std::vector<uint64_t> session_id;
        std::vector<keel::QueryBlock> query_block;

        explicit StepCopy(const keel::Step& from) : step(from) {
            own(token, step.token, step.tokens);
            own(token_before, step.token_before, step.tokens);
            own(position, step.position, step.tokens);
            own(slot, step.slot, step.tokens);
            own(session, step.session, step.tokens);
            own(query_block, step.query_block, step.query_blocks);
            own(logits_token, step.logits_token, step.logits_rows);
            own(logits_row, step.logits_row, step.logits_rows);
            own(session_index, step.session_index, step.sessions);
            own(adapter, step.adapter, step.sessions);
            own(adapter_scale, step.adapter_scale, step.sessions);
            own(session_id, step.session_id, step.sessions);
            own(page_first, step.page_first, step.sessions + 1);
            own(page_id, step.page_id, step.page_first[step.sessions]);
            own(tail_first, step.tail_first, step.sessions);
            own(tail_parent, step.tail_parent, step.sessions * keel::kMaxTreeNodes);
        }
        StepCopy(const StepCopy&) = delete;

      private:
        template <typename T>
        static void own(std::vector<T>& to, T*& array, uint32_t count) {
            to.assign(array, array + count);
            array = to.data();
        }
    };

    struct AsyncDevice : keel::Device {
        keel::Device* cpu;
        const keel::Program* program;
        StepCopy* step;  // in flight, else null
        keel::Cursor recorded, computed;
        uint32_t lag;
    };
    static AsyncDevice* async(keel::Device* device) { return static_cast<AsyncDevice*>(device); }
    static bool fails(uint32_t* left) { return *left != kNever && (*left)-- == 0; }
    static keel_status refuse() {
        ++get().refused;
        return KEEL_E_STATE;
    }

    static uint32_t op_count(const AsyncDevice& d) { return d.program->plan.variant[d.step->step.op_list].count; }
    static void forget(AsyncDevice* d) {
        delete d->step;
        d->step = nullptr;
    }
    // Computes up to `ranges` ranges of what is recorded.
    static keel_status compute(AsyncDevice* d, uint32_t ranges) {
        for (uint32_t i = 0; i < ranges && d->computed.op < d->recorded.op; ++i) {
            // A deadline in the past lets the CPU backend run one range and no more.
            keel::StepLimits one = {1, false, [](const void*) { return false; }, nullptr};
            const keel_status status = keel::kCpuBackend.enqueue(d->cpu, &d->computed, &one);
            if (status != KEEL_OK && status != KEEL_AGAIN) return status;
        }
        return KEEL_OK;
    }

    // Whether [offset, offset + bytes) of the KV region is of the step in flight; `written`: of what it writes.
    static bool in_flight(const AsyncDevice& d, uint64_t offset, uint64_t bytes, bool written) {
        if (!d.step) return false;
        const keel::Step& step = d.step->step;
        const keel::KvPart& part = d.program->kv_part[0];
        const auto meets = [&](uint64_t at, uint64_t size) { return at < offset + bytes && offset < at + size; };
        for (uint32_t s = 0; s < step.sessions; ++s) {
            if (part.f16_window.session_bytes &&
                meets(part.f16_window_offset(step.session_index[s]), part.f16_window.session_bytes))
                return true;
            uint32_t first = UINT32_MAX;  // page that the step writes
            for (uint32_t t = 0; t < step.tokens; ++t)
                if (step.session[t] == s && step.slot[t] / keel::kPageTokens < first)
                    first = step.slot[t] / keel::kPageTokens;
            for (uint32_t page = written ? first : 0; page < step.page_first[s + 1] - step.page_first[s]; ++page) {
                const uint32_t id = step.page_id[step.page_first[s] + page];
                if (id != keel::kNoPage && meets(part.page_offset(id), part.page_bytes)) return true;
            }
        }
        return false;
    }

    static keel::Device* place(const keel::PlanConfig& config, const keel_hooks& hooks, keel::Arena* arenas) {
        AsyncDevice* d = arenas[KEEL_REGION_PERSISTENT].place<AsyncDevice>("async_device", 1);
        if (d) new (d) AsyncDevice{};
        keel::Device* cpu = keel::kCpuBackend.place(config, hooks, arenas);
        if (d) d->cpu = cpu;
        return d;
    }
    static void parallel(keel::Device* device, uint32_t tasks, void (*task)(void* context, uint32_t index),
                         void* context) {
        keel::kCpuBackend.parallel(async(device)->cpu, tasks, task, context);
    }
    static keel_status attach(keel::Device* device, const keel::PlanConfig& config, uint8_t* const* region,
                              keel_error* error) {
        return keel::kCpuBackend.attach(async(device)->cpu, config, region, error);
    }
    static keel_status open(keel::Device* device, const keel::Program* program, keel_error* error) {
        async(device)->program = program;
        return keel::kCpuBackend.open(async(device)->cpu, program, error);
    }
    static void close(keel::Device* device) {
        forget(async(device));
        keel::kCpuBackend.close(async(device)->cpu);
    }
    static keel_status upload(keel::Device* device, keel_region_kind region, uint64_t to, const void* from,
                              uint64_t bytes) {
        if (fails(&get().transfers_left)) return KEEL_E_PLATFORM;
        if (in_flight(*async(device), to, bytes, false)) return refuse();
        return keel::kCpuBackend.upload(async(device)->cpu, region, to, from, bytes);
    }
    static keel_status copy(keel::Device* device, keel_region_kind region, uint64_t to, uint64_t from, uint64_t bytes) {
        if (fails(&get().copies_left)) return KEEL_E_PLATFORM;
        const AsyncDevice& d = *async(device);
        if (in_flight(d, to, bytes, false) || in_flight(d, from, bytes, true)) return refuse();
        return keel::kCpuBackend.copy(d.cpu, region, to, from, bytes);
    }
    static keel_status download(keel::Device* device, void* to, keel_region_kind region, uint64_t from,
                                uint64_t bytes) {
        if (fails(&get().transfers_left)) return KEEL_E_PLATFORM;
        if (in_flight(*async(device), from, bytes, true)) return refuse();
        return keel::kCpuBackend.download(async(device)->cpu, to, region, from, bytes);
    }
    static keel_status begin(keel::Device* device, const keel::Step* step) {
        AsyncDevice* d = async(device);
        if (fails(&get().begins_left)) return KEEL_E_PLATFORM;
        if (d->step) return refuse();
        d->step = new StepCopy(*step);
        d->recorded = d->computed = {};
        d->lag = get().lag_polls;
        return keel::kCpuBackend.begin(d->cpu, &d->step->step);
    }
    static keel_status enqueue(keel::Device* device, keel::Cursor* cursor, keel::StepLimits* limits) {
        AsyncDevice* d = async(device);
        if (fails(&get().enqueues_left)) return KEEL_E_PLATFORM;
        if (!d->step || cursor->op != d->recorded.op || cursor->item != 0) return refuse();
        if (limits->progressed && limits->cancelled(limits->context)) return KEEL_E_CANCELLED;
        const keel_status computed = compute(d, get().ranges_per_poll);  // of earlier calls
        if (computed != KEEL_OK) return computed;
        const uint32_t left = op_count(*d) - cursor->op;
        const bool all = !limits->deadline_ns || left <= get().ops_per_enqueue;
        cursor->op += all ? left : get().ops_per_enqueue;
        d->recorded = *cursor;
        limits->progressed = true;
        return all ? KEEL_OK : KEEL_AGAIN;
    }
    static keel_status poll(keel::Device* device, bool /*wait*/, bool* done) {
        AsyncDevice* d = async(device);
        if (fails(&get().polls_left)) return KEEL_E_PLATFORM;
        if (!d->step) return refuse();
        *done = false;
        if (d->lag) {
            --d->lag;
        } else {
            d->lag = get().lag_polls;
            const keel_status status = compute(d, get().ranges_per_poll);
            if (status != KEEL_OK) return status;
            *done = d->computed.op >= d->recorded.op;
        }
        get().not_yet += !*done;
        if (*done && d->recorded.op == op_count(*d)) forget(d);
        return KEEL_OK;
    }
    static keel_status drain(keel::Device* device) {
        AsyncDevice* d = async(device);
        if (!d->step) return KEEL_OK;
        if (fails(&get().drains_left)) return KEEL_E_PLATFORM;
        get().drained_in_flight += d->computed.op < d->recorded.op;
        const keel_status status = get().drain_drops ? KEEL_OK : compute(d, UINT32_MAX);
        forget(d);
        return status;
    }

    static void place_copies(keel::Device* device, const keel::Program& program, keel::Arena* arenas) {
        keel::kCpuBackend.place_copies(device ? async(device)->cpu : nullptr, program, arenas);
    }
    static uint32_t times(keel::Device* device, uint32_t index, keel::OpTime* out) {
        return keel::kCpuBackend.times(async(device)->cpu, index, out);
    }

    static keel::Backend make_table() {
        keel::Backend b = keel::kCpuBackend;  // plans as it does
        b.place = place;
        b.attach = attach;
        b.place_copies = place_copies;
        b.times = times;
        b.open = open;
        b.close = close;
        b.parallel = parallel;
        b.upload = upload;
        b.copy = copy;
        b.download = download;
        b.begin = begin;
        b.enqueue = enqueue;
        b.poll = poll;
        b.drain = drain;
        return b;
    }
};

// A suite of tests that every backend has to pass: derive the fixture, use TEST_P and configurations with
// `c.backend = backend()`, and instantiate with KEEL_ON_EVERY_BACKEND.
enum class BackendKind { kCpu, kAsync };

class OnBackend : public testing::TestWithParam<BackendKind> {
  public:
    static const keel_backend* backend() { return current(); }

  protected:
    void SetUp() override {
        AsyncBackend::reset();
        current() = GetParam() == BackendKind::kAsync ? AsyncBackend::table() : nullptr;
    }
    void TearDown() override {
        EXPECT_EQ(AsyncBackend::get().refused, 0u) << "rules of sdk/backend/backend.h were broken";
        current() = nullptr;
    }

  private:
    static const keel_backend*& current() {
        static const keel_backend* backend = nullptr;
        return backend;
    }
};

#define KEEL_ON_EVERY_BACKEND(suite)                                                                    \
    INSTANTIATE_TEST_SUITE_P(                                                                           \
        Backends, suite, testing::Values(keel_test::BackendKind::kCpu, keel_test::BackendKind::kAsync), \
        [](const auto& info) { return info.param == keel_test::BackendKind::kCpu ? "cpu" : "async"; })

}  // namespace keel_test
