// One engine and one session over a GGUF file, with the caller's side of the API (reader, model buffer, regions, order
// of closing) done once for every test. Every region has exactly the planned bytes, so that a sanitizer sees one byte
// more. What should work and does not throws Error with the status, the field and the reason, which GoogleTest reports.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "keel/keel.h"
#include "tests/backend_under_test.h"

namespace keel_test {

class Error : public std::runtime_error {
  public:
    Error(const std::string& what, keel_status status) : std::runtime_error(what), status(status) {}
    const keel_status status;
};

inline void check(keel_status status, const char* call, const keel_error* error = nullptr) {
    if (status == KEEL_OK) return;
    std::string what = std::string(call) + ": " + keel_status_name(status);
    if (error && error->status != KEEL_OK)
        what += std::string(" field '") + error->field + "': " + error->reason + " (offset " +
                std::to_string(error->offset) + ")";
    throw Error(what, status);
}

// A zeroed API struct that knows its size.
template <typename T>
T sized() {
    T value{};
    value.struct_size = sizeof(T);
    return value;
}

inline keel_part part(keel_part_kind kind, const keel_reader* reader, const void* options = nullptr) {
    keel_part p = sized<keel_part>();
    p.kind = kind;
    p.reader = reader;
    p.options = options;
    return p;
}

inline keel_chat_message message(const char* role, const char* text, size_t bytes) {
    keel_chat_message m = sized<keel_chat_message>();
    m.role = role;
    m.text = text;
    m.bytes = bytes;
    return m;
}

inline keel_chat chat(const keel_chat_message* messages, uint32_t count, bool open_assistant) {
    keel_chat c = sized<keel_chat>();
    c.messages = messages;
    c.message_count = count;
    c.open_assistant = open_assistant;
    return c;
}

// The ops of a plan, and the objects of its regions.
inline std::vector<keel_op_info> plan_ops(const keel_reader* reader, const keel_model* model,
                                          const keel_config& config) {
    uint32_t count = 0;
    check(keel_plan_ops(reader, model, &config, nullptr, 0, &count, nullptr), "keel_plan_ops");
    std::vector<keel_op_info> ops(count, sized<keel_op_info>());
    check(keel_plan_ops(reader, model, &config, ops.data(), count, &count, nullptr), "keel_plan_ops");
    return ops;
}
inline std::vector<keel_buffer_info> plan_buffers(const keel_reader* reader, const keel_model* model,
                                                  const keel_config& config) {
    uint32_t count = 0;
    check(keel_plan_buffers(reader, model, &config, nullptr, 0, &count, nullptr), "keel_plan_buffers");
    std::vector<keel_buffer_info> buffers(count, sized<keel_buffer_info>());
    check(keel_plan_buffers(reader, model, &config, buffers.data(), count, &count, nullptr), "keel_plan_buffers");
    return buffers;
}

// The configuration whose results are compared with f32 references: nothing is rounded but the weights in the file.
inline keel_config f32_config(keel_cpu cpu = KEEL_CPU_AUTO) {
    keel_config config = sized<keel_config>();
    config.activation = KEEL_ACTIVATION_F32;
    config.k_format = config.v_format = KEEL_KV_F32;
    config.cpu = cpu;
    return config;
}

class FileReader {
  public:
    explicit FileReader(const std::string& path) : reader_(sized<keel_reader>()) {
        check(keel_reader_open_file(path.c_str(), &reader_), ("keel_reader_open_file " + path).c_str());
    }
    ~FileReader() { keel_reader_close(&reader_); }
    FileReader(const FileReader&) = delete;
    FileReader& operator=(const FileReader&) = delete;
    const keel_reader* get() const { return &reader_; }

  private:
    keel_reader reader_;
};

// The regions of a plan, exactly as large and as aligned as it says.
class Memory {
  public:
    explicit Memory(const keel_memory_plan& plan) : memory_(sized<keel_memory>()), plan_(plan) {
        for (int i = 0; i < KEEL_REGION_SLOTS; i++) {
            const keel_region_plan& region = plan.regions[i];
            if (region.bytes == 0) continue;
            memory_.regions[i] = {allocate_region(i, region.bytes, region.align_bytes), region.bytes};
        }
    }
    ~Memory() {
        for (int i = 0; i < KEEL_REGION_SLOTS; i++)
            if (memory_.regions[i].data) release_region(i, memory_.regions[i].data, plan_.regions[i].align_bytes);
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    const keel_memory* get() const { return &memory_; }

  private:
    keel_memory memory_;
    keel_memory_plan plan_;
};

// Logits of consecutive positions, one row each.
struct Logits {
    uint32_t rows = 0, vocabulary = 0;
    std::vector<float> values;
    const float* row(size_t i) const { return values.data() + i * vocabulary; }
};

// A configuration of `sessions` whose plan says that steps take next to no time, as those of a far smaller model would:
// many threads, which are one. For drafts that pay.
inline keel_config cheap(keel_config config, uint32_t sessions) {
    static const keel_hooks hooks = [] {
        keel_hooks h = sized<keel_hooks>();
        h.parallel_for = [](void*, uint32_t tasks, void (*task)(void*, uint32_t), void* context) {
            for (uint32_t i = 0; i < tasks; ++i) task(context, i);
        };
        return h;
    }();
    config.hooks = &hooks;
    config.threads = 64;
    config.max_sessions = sessions;
    return config;
}

class Engine {
  public:
    // Inspects, plans, allocates, initialises, and opens one session (config.max_sessions may ask for more slots).
    explicit Engine(const std::string& path, keel_config config = sized<keel_config>()) : reader_(path) {
        if (!config.backend) {
            config.backend = backend_under_test().backend;
            if (!config.backend_options) config.backend_options = backend_under_test().options;
        }
        keel_error error = sized<keel_error>();
        info_ = sized<keel_model_info>();
        keel_status sizing = keel_inspect(reader_.get(), nullptr, nullptr, 0, nullptr, &info_, &error);
        check(sizing, ("keel_inspect " + path).c_str(), &error);
        std::vector<uint64_t> buffer((info_.model_bytes + 7) / 8);
        const keel_model* model = nullptr;
        check(keel_inspect(reader_.get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info_, &error),
              ("keel_inspect " + path).c_str(), &error);
        plan_ = sized<keel_memory_plan>();
        check(keel_plan(reader_.get(), model, &config, &plan_, &error), "keel_plan", &error);
        memory_ = std::make_unique<Memory>(plan_);
        check(keel_engine_init(reader_.get(), model, &config, memory_->get(), &engine_, &error), "keel_engine_init",
              &error);
        rows_ = config.logits_rows ? config.logits_rows : 1;
        const keel_status opened = keel_session_open(engine_, nullptr, &session_);
        if (opened != KEEL_OK) keel_engine_close(engine_);
        check(opened, "keel_session_open");
    }
    ~Engine() { keel_engine_close(engine_); }  // closes its sessions; members free memory, then the reader
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    keel_engine handle() const { return engine_; }
    keel_session session() const { return session_; }
    const keel_model_info& info() const { return info_; }
    const keel_memory_plan& plan() const { return plan_; }

    void feed(const std::vector<int32_t>& ids, uint32_t flags = 0) {
        check(keel_session_feed(session_, ids.data(), static_cast<uint32_t>(ids.size()), flags), "keel_session_feed");
    }

    // Computes everything pending.
    keel_advance_result advance() {
        keel_advance_result result = sized<keel_advance_result>();
        do {
            check(keel_advance(engine_, &session_, 1, 0, &result), "keel_advance");
            check(result.status, "keel_advance result");
        } while (result.pending_tokens != 0);
        return result;
    }

    // Logits of every position of `ids`, from an emptied session. Set config.logits_rows to score many positions per
    // step.
    Logits logits_for(const std::vector<int32_t>& ids) {
        Logits out;
        out.vocabulary = info_.vocabulary;
        for_each_row(
            ids, [&](uint32_t, const float* row) { out.values.insert(out.values.end(), row, row + out.vocabulary); });
        out.rows = static_cast<uint32_t>(ids.size());
        return out;
    }

    // Calls use(position, logits) for every position of `ids` in order, from an emptied session.
    template <typename Use>
    void for_each_row(const std::vector<int32_t>& ids, Use use) {
        check(keel_session_truncate(session_, 0), "keel_session_truncate");
        uint32_t position = 0;
        while (position < ids.size()) {
            const uint32_t count = static_cast<uint32_t>(std::min<size_t>(rows_, ids.size() - position));
            check(keel_session_feed(session_, ids.data() + position, count, KEEL_FEED_ALL_LOGITS), "keel_session_feed");
            for (const uint32_t end = position + count; position < end;) {
                keel_advance_result result = sized<keel_advance_result>();
                check(keel_advance(engine_, &session_, 1, 0, &result), "keel_advance");
                check(result.status, "keel_advance result");
                const uint32_t fresh = result.computed_tokens - position;  // the newest rows belong to this step
                if (fresh == 0 || fresh > result.logits_rows)
                    throw Error("keel_advance: no logits of a computed step", KEEL_OK);
                for (uint32_t i = 0; i < fresh; i++) use(position + i, row(result.logits_rows - fresh + i));
                position += fresh;
            }
        }
    }

    const float* row(uint32_t index) const {
        const float* view = nullptr;
        uint32_t vocabulary = 0;
        check(keel_session_logits(session_, index, &view, &vocabulary), "keel_session_logits");
        if (vocabulary != info_.vocabulary)
            throw Error("keel_session_logits: vocabulary differs from the model's", KEEL_OK);
        return view;
    }

    std::vector<int32_t> tokenize(const std::string& text, uint32_t flags) const {
        size_t count = 0;
        check(keel_tokenize(engine_, text.data(), text.size(), flags, nullptr, 0, &count), "keel_tokenize");
        std::vector<int32_t> ids(count);
        check(keel_tokenize(engine_, text.data(), text.size(), flags, ids.data(), ids.size(), &count), "keel_tokenize");
        return ids;
    }

    int32_t sample() const {
        int32_t token = -1;
        check(keel_session_sample(session_, &token), "keel_session_sample");
        return token;
    }

  private:
    FileReader reader_;
    keel_model_info info_{};
    keel_memory_plan plan_{};
    std::unique_ptr<Memory> memory_;
    keel_engine engine_{};
    keel_session session_{};
    uint32_t rows_ = 1;
};

}  // namespace keel_test
