// keel.hpp - C++20 handles over keel.h: header-only, move-only, no exceptions, no heap of its own, nothing hidden.
//
// Every member is one call of the C API with spans and string_views for pointer and length; keel.h documents what it
// does. A call that yields nothing but success returns keel_status; one that yields a value returns Result<T>:
//
//     keel::Result<keel::Engine> engine = keel::Engine::init(reader, model, config, memory, &error);
//     if (!engine) return report(engine.status, error);
//     keel::Result<keel::Session> session = engine->open();
//
// The names live in the inline namespace v0, so that they cannot collide with anything inside the library at link time.
#ifndef KEEL_KEEL_HPP
#define KEEL_KEEL_HPP

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "keel/keel.h"

namespace keel {
inline namespace v0 {

// A status and, when it is KEEL_OK, a value. `value` is meaningful beyond that only where a member says so.
template <class T>
struct [[nodiscard]] Result {
    keel_status status = KEEL_OK;
    T value{};

    explicit operator bool() const { return status == KEEL_OK; }
    T* operator->() { return &value; }
    const T* operator->() const { return &value; }
    T& operator*() { return value; }
    const T& operator*() const { return value; }
};

// Any public struct with struct_size set and everything else at its default.
template <class T>
constexpr T make() {
    T t{};
    t.struct_size = sizeof(T);
    return t;
}

// A message of a conversation; role and text have to outlive it.
constexpr keel_chat_message message(const char* role, std::string_view text) {
    keel_chat_message m = make<keel_chat_message>();
    m.role = role;
    m.text = text.data();
    m.bytes = text.size();
    return m;
}

// A conversation; the messages have to outlive it.
constexpr keel_chat chat(std::span<const keel_chat_message> messages, bool open_assistant = true) {
    keel_chat c = make<keel_chat>();
    c.messages = messages.data();
    c.message_count = static_cast<uint32_t>(messages.size());
    c.open_assistant = open_assistant;
    return c;
}

// A part of a configuration.
constexpr keel_part part(keel_part_kind kind, const keel_reader* reader, const void* options = nullptr) {
    keel_part p = make<keel_part>();
    p.kind = kind;
    p.reader = reader;
    p.options = options;
    return p;
}

// The first `count` of `out`, which a call filled. Where the call took an empty `out` for the question how many there
// are, the answer is KEEL_E_BUFFER_TOO_SMALL.
template <class T>
Result<std::span<const T>> filled(keel_status status, std::span<T> out, size_t count) {
    if (status != KEEL_OK) return {status};
    if (count > out.size()) return {KEEL_E_BUFFER_TOO_SMALL};
    return {KEEL_OK, out.first(count)};
}
inline Result<std::string_view> filled_text(keel_status status, std::span<char> out, size_t bytes) {
    const Result<std::span<const char>> text = filled(status, out, bytes);
    return {text.status, {text->data(), text->size()}};
}

// The part of `out` that was filled with ops, or objects, of the plan; an empty `out` asks for none. *count becomes
// their number. KEEL_E_BUFFER_TOO_SMALL: `out` has no room for all of them.
template <class T>
Result<std::span<const T>> plan_list(keel_status (*list)(const keel_reader*, const keel_model*, const keel_config*, T*,
                                                         uint32_t, uint32_t*, keel_error*),
                                     const keel_reader* reader, const keel_model* model, const keel_config& config,
                                     std::span<T> out, uint32_t* count, keel_error* error) {
    if (!out.empty()) out[0].struct_size = sizeof(T);
    const keel_status status = list(reader, model, &config, out.empty() ? nullptr : out.data(),
                                    static_cast<uint32_t>(out.size()), count, error);
    if (status != KEEL_OK) return {status};
    return {KEEL_OK, out.first(out.empty() ? 0 : *count)};
}
inline Result<std::span<const keel_op_info>> plan_ops(const keel_reader* reader, const keel_model* model,
                                                      const keel_config& config, std::span<keel_op_info> out,
                                                      uint32_t* count, keel_error* error = nullptr) {
    return plan_list(keel_plan_ops, reader, model, config, out, count, error);
}
inline Result<std::span<const keel_buffer_info>> plan_buffers(const keel_reader* reader, const keel_model* model,
                                                              const keel_config& config,
                                                              std::span<keel_buffer_info> out, uint32_t* count,
                                                              keel_error* error = nullptr) {
    return plan_list(keel_plan_buffers, reader, model, config, out, count, error);
}

// A reader over a mapped file; closes it. Keep it longer than an engine whose weights are mapped.
class FileReader {
  public:
    FileReader() = default;
    FileReader(FileReader&& other) noexcept : reader_(std::exchange(other.reader_, keel_reader{})) {}
    FileReader& operator=(FileReader&& other) noexcept {
        if (this != &other) {
            close();
            reader_ = std::exchange(other.reader_, keel_reader{});
        }
        return *this;
    }
    ~FileReader() { close(); }

    static Result<FileReader> open(const char* path) {
        Result<FileReader> result;
        result->reader_ = make<keel_reader>();
        result.status = keel_reader_open_file(path, &result->reader_);
        if (!result) result->reader_ = {};
        return result;
    }
    void close() {
        if (reader_.struct_size) keel_reader_close(&reader_);
        reader_ = {};
    }
    const keel_reader* get() const { return &reader_; }

  private:
    keel_reader reader_{};
};

// The model and the parts of a pack; the file stays open as long as they are used. Not moved: parts point into it.
class Pack {
  public:
    Pack() = default;
    Pack(const Pack&) = delete;
    Pack& operator=(const Pack&) = delete;

    keel_status open(const keel_reader* file, keel_error* error = nullptr) {
        part_count_ = 0;
        keel_pack_section sections[KEEL_PACK_MAX_SECTIONS];
        sections[0] = make<keel_pack_section>();
        uint32_t count = 0;
        keel_status status = keel_pack_sections(file, sections, KEEL_PACK_MAX_SECTIONS, &count, error);
        grammar_ = make<keel_grammar_options>();
        for (uint32_t i = 0; status == KEEL_OK && i < count; ++i) {
            const keel_pack_section& s = sections[i];
            if (s.kind == KEEL_PACK_NOTE) continue;
            keel_reader& reader = s.kind == KEEL_PACK_MODEL ? model_ : readers_[part_count_];
            reader = make<keel_reader>();
            status = keel_pack_reader(file, &s, &reader);
            if (s.kind == KEEL_PACK_MODEL) continue;
            keel_part& part = parts_[part_count_++] = make<keel_part>();
            part.kind = static_cast<keel_part_kind>(s.kind);
            part.reader = &reader;
            if (part.kind != KEEL_PART_GRAMMAR) continue;
            grammar_.json_schema = s.json_schema;
            part.options = &grammar_;
        }
        return status;
    }
    const keel_reader* model() const { return &model_; }
    std::span<const keel_part> parts() const { return {parts_, part_count_}; }
    // Readers of packed text number 0, 1, ...; null: no more. Each is to be expanded before it is used:
    // keel_pack_expand_text (keel_pack.h).
    keel_reader* packed_text(uint32_t number) {
        if (model_.text_bytes && number-- == 0) return &model_;
        for (uint32_t i = 0; i < part_count_; ++i)
            if (readers_[i].text_bytes && number-- == 0) return &readers_[i];
        return nullptr;
    }

  private:
    keel_reader model_{}, readers_[KEEL_PACK_MAX_SECTIONS] = {};
    keel_part parts_[KEEL_PACK_MAX_SECTIONS] = {};
    keel_grammar_options grammar_{};
    uint32_t part_count_ = 0;
};

// Memory of a plan from keel_memory_default (link keel::memory); releases it. Must outlive the engine in it.
class DefaultMemory {
  public:
    DefaultMemory() = default;
    DefaultMemory(DefaultMemory&& other) noexcept : memory_(std::exchange(other.memory_, keel_memory{})) {}
    DefaultMemory& operator=(DefaultMemory&& other) noexcept {
        if (this != &other) {
            release();
            memory_ = std::exchange(other.memory_, keel_memory{});
        }
        return *this;
    }
    ~DefaultMemory() { release(); }

    static Result<DefaultMemory> allocate(const keel_memory_plan& plan) {
        Result<DefaultMemory> result;
        result->memory_ = make<keel_memory>();
        result.status = keel_memory_default(&plan, &result->memory_);
        if (!result) result->memory_ = {};
        return result;
    }
    void release() {
        if (memory_.struct_size) keel_memory_release(&memory_);
        memory_ = {};
    }
    const keel_memory* get() const { return &memory_; }

  private:
    keel_memory memory_{};
};

// Owns a session slot; closes it.
class Session {
  public:
    Session() = default;
    explicit Session(keel_session handle) : handle_(handle) {}
    Session(Session&& other) noexcept : handle_(std::exchange(other.handle_, keel_session{})) {}
    Session& operator=(Session&& other) noexcept {
        if (this != &other) {
            close();
            handle_ = std::exchange(other.handle_, keel_session{});
        }
        return *this;
    }
    ~Session() { close(); }

    // KEEL_E_BUSY: still open. The destructor leaves such a session to its engine, which closes it with the others.
    keel_status close() {
        const keel_status status = handle_.id ? keel_session_close(handle_) : KEEL_OK;
        if (status != KEEL_E_BUSY) handle_ = {};
        return status;
    }
    keel_session handle() const { return handle_; }
    explicit operator bool() const { return handle_.id != 0; }

    keel_status feed(std::span<const int32_t> tokens, uint32_t flags = 0) {
        return keel_session_feed(handle_, tokens.data(), static_cast<uint32_t>(tokens.size()), flags);
    }
    keel_status feed(int32_t token, uint32_t flags = 0) { return keel_session_feed(handle_, &token, 1, flags); }
    // Drafts of what follows the pending tokens: keel_session_propose.
    keel_status propose(std::span<const int32_t> tokens) {
        return keel_session_propose(handle_, tokens.data(), static_cast<uint32_t>(tokens.size()));
    }
    // The same as a tree, parents as many as tokens: keel_session_propose_tree.
    keel_status propose_tree(std::span<const int32_t> tokens, std::span<const uint32_t> parents) {
        if (parents.size() != tokens.size()) return KEEL_E_ARGUMENT;
        return keel_session_propose_tree(handle_, tokens.data(), parents.data(), static_cast<uint32_t>(tokens.size()));
    }
    // Has `drafter` propose: keel_session_draft. How many.
    Result<uint32_t> draft(const Session& drafter, uint64_t budget_us = 0) {
        Result<uint32_t> count;
        count.status = keel_session_draft(handle_, drafter.handle_, budget_us, &count.value);
        return count;
    }
    Result<int32_t> sample() {
        Result<int32_t> result;
        result.status = keel_session_sample(handle_, &result.value);
        return result;
    }
    keel_status truncate(uint32_t tokens) { return keel_session_truncate(handle_, tokens); }
    // Positions given up.
    Result<uint32_t> evict(uint32_t from, uint32_t to) {
        Result<uint32_t> tokens;
        tokens.status = keel_session_evict(handle_, from, to, &tokens.value);
        return tokens;
    }
    // Any thread, also while advance() runs.
    keel_status cancel() const { return keel_cancel(handle_); }
    Result<Session> fork() {
        Result<Session> result;
        result.status = keel_session_fork(handle_, &result->handle_);
        return result;
    }

    Result<keel_session_info> info() const {
        Result<keel_session_info> result{KEEL_OK, make<keel_session_info>()};
        result.status = keel_session_get(handle_, &result.value);
        return result;
    }
    // Valid until the next call on this session.
    // Ids of a conversation that follow the first *kept ones, which the session has: truncate to these, and feed.
    Result<std::span<const int32_t>> chat(const keel_chat& chat, std::span<int32_t> ids, uint32_t* kept,
                                          keel_error* error = nullptr) const {
        size_t count = 0;
        const keel_status status = keel_session_chat(handle_, &chat, kept, ids.data(), ids.size(), &count, error);
        return filled<int32_t>(status, ids, count);
    }
    Result<std::span<const int32_t>> tokens() const {
        const Result<keel_session_info> i = info();
        if (!i) return {i.status};
        return {KEEL_OK, {i->tokens, i->token_count}};
    }
    // Views valid until the next feed, advance, truncate or restore on this session.
    Result<std::span<const float>> logits(uint32_t row = 0) const {
        const float* view = nullptr;
        uint32_t n = 0;
        const keel_status status = keel_session_logits(handle_, row, &view, &n);
        return {status, {view, n}};
    }
    Result<std::span<const float>> hidden(uint32_t row = 0) const {
        const float* view = nullptr;
        uint32_t n = 0;
        const keel_status status = keel_session_hidden(handle_, row, &view, &n);
        return {status, {view, n}};
    }
    // As many as the shorter of the two spans holds.
    keel_status top_logprobs(std::span<int32_t> ids, std::span<float> logprobs) const {
        const size_t n = ids.size() < logprobs.size() ? ids.size() : logprobs.size();
        return keel_session_top_logprobs(handle_, static_cast<uint32_t>(n), ids.data(), logprobs.data());
    }

    keel_status set_sampling(const keel_sampling& sampling) { return keel_session_set_sampling(handle_, &sampling); }
    keel_status set_greedy() { return keel_session_set_sampling(handle_, nullptr); }
    keel_status set_stops(std::span<const char* const> texts, std::span<const size_t> bytes) {
        if (texts.size() != bytes.size()) return KEEL_E_ARGUMENT;
        return keel_session_set_stops(handle_, texts.data(), bytes.data(), static_cast<uint32_t>(texts.size()));
    }

    struct Text {
        std::string_view shown;  // valid until the next call on this session
        uint32_t stopped = 0;    // keel_text.stopped
    };
    Result<Text> text(int32_t token) {
        keel_text t = make<keel_text>();
        const keel_status status = keel_session_text(handle_, token, &t);
        if (status != KEEL_OK) return {status};
        return {KEEL_OK, {{t.data, t.bytes}, t.stopped}};
    }
    Result<Text> flush_text() { return text(-1); }

    Result<uint64_t> save_bytes() const {
        Result<uint64_t> result;
        result.status = keel_session_save_bytes(handle_, &result.value);
        return result;
    }
    // The part of `dst` that was written.
    Result<std::span<const std::byte>> save(std::span<std::byte> dst) const {
        uint64_t written = 0;
        const keel_status status = keel_session_save(handle_, dst.data(), dst.size(), &written);
        if (status != KEEL_OK) return {status};
        return {KEEL_OK, dst.first(static_cast<size_t>(written))};
    }
    keel_status restore(std::span<const std::byte> src, keel_error* error = nullptr) {
        return keel_session_restore(handle_, src.data(), src.size(), error);
    }

    keel_status set_adapter(uint32_t adapter, float scale = 1) {
        return keel_session_set_adapter(handle_, adapter, scale);
    }

#ifdef KEEL_EXPERIMENTAL
    keel_status set_variant(keel_variant variant) {
        return keel_session_set_variant(handle_, variant);
    }
#endif

  private:
    keel_session handle_{};
};

// Owns an engine; closes it and with it its sessions. Its memory, and its reader when weights are mapped, must outlive
// it.
class Engine {
  public:
    Engine() = default;
    Engine(Engine&& other) noexcept : handle_(std::exchange(other.handle_, keel_engine{})) {}
    Engine& operator=(Engine&& other) noexcept {
        if (this != &other) {
            close();
            handle_ = std::exchange(other.handle_, keel_engine{});
        }
        return *this;
    }
    ~Engine() { close(); }

    static Result<Engine> init(const keel_reader* reader, const keel_model* model, const keel_config& config,
                               const keel_memory* memory, keel_error* error = nullptr) {
        Result<Engine> result;
        result.status = keel_engine_init(reader, model, &config, memory, &result->handle_, error);
        return result;
    }
    // KEEL_E_BUSY: still open. Destroy an engine only when no thread advances it: its memory is the caller's again
    // then.
    keel_status close() {
        const keel_status status = handle_.id ? keel_engine_close(handle_) : KEEL_OK;
        if (status != KEEL_E_BUSY) handle_ = {};
        return status;
    }
    keel_engine handle() const { return handle_; }
    explicit operator bool() const { return handle_.id != 0; }

    Result<Session> open(const keel_session_desc* desc = nullptr) {
        keel_session session{};
        const keel_status status = keel_session_open(handle_, desc, &session);
        return {status, Session(session)};
    }

    // One session. The result's status is the call's; budget_us 0 computes everything pending.
    keel_advance_result advance(const Session& session, uint64_t budget_us = 0) {
        const keel_session handle = session.handle();
        keel_advance_result result = make<keel_advance_result>();
        const keel_status status = keel_advance(handle_, &handle, 1, budget_us, &result);
        result.status = status;
        return result;
    }
    // Several together; `results` has one entry per session.
    keel_status advance(std::span<const keel_session> sessions, std::span<keel_advance_result> results,
                        uint64_t budget_us = 0) {
        if (results.size() < sessions.size()) return KEEL_E_ARGUMENT;
        if (!results.empty()) results[0].struct_size = sizeof(keel_advance_result);
        return keel_advance(handle_, sessions.data(), static_cast<uint32_t>(sessions.size()), budget_us,
                            results.data());
    }

    Result<keel_stats> stats() const {
        Result<keel_stats> result{KEEL_OK, make<keel_stats>()};
        result.status = keel_engine_stats(handle_, &result.value);
        return result;
    }

    // The part of `ids` that was filled. KEEL_E_BUFFER_TOO_SMALL: see token_count().
    Result<std::span<const int32_t>> tokenize(std::string_view text, std::span<int32_t> ids, uint32_t flags = 0) const {
        size_t count = 0;
        const keel_status status =
            keel_tokenize(handle_, text.data(), text.size(), flags, ids.data(), ids.size(), &count);
        return filled<int32_t>(status, ids, count);
    }
    Result<size_t> token_count(std::string_view text, uint32_t flags = 0) const {
        Result<size_t> result;
        result.status = keel_tokenize(handle_, text.data(), text.size(), flags, nullptr, 0, &result.value);
        return result;
    }
    Result<std::string_view> detokenize(std::span<const int32_t> ids, std::span<char> dst, uint32_t flags = 0) const {
        size_t bytes = 0;
        const keel_status status =
            keel_detokenize(handle_, ids.data(), ids.size(), flags, dst.data(), dst.size(), &bytes);
        return filled_text(status, dst, bytes);
    }
    Result<std::string_view> chat_format(const keel_chat& chat, std::span<char> dst,
                                         keel_error* error = nullptr) const {
        size_t bytes = 0;
        const keel_status status = keel_chat_format(handle_, &chat, dst.data(), dst.size(), &bytes, error);
        return filled_text(status, dst, bytes);
    }
    Result<std::span<const int32_t>> chat_tokenize(const keel_chat& chat, std::span<int32_t> ids,
                                                   keel_error* error = nullptr) const {
        size_t count = 0;
        const keel_status status = keel_chat_tokenize(handle_, &chat, ids.data(), ids.size(), &count, error);
        return filled<int32_t>(status, ids, count);
    }

  private:
    keel_engine handle_{};
};

}  // namespace v0
}  // namespace keel

#endif  // KEEL_KEEL_HPP
