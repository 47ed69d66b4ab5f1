// Callers built with an older or a newer keel.h: every public struct, cut at every field, and longer than this
// library's. Read structs: what is cut off means zero, whatever lies behind; unknown bytes have to be zero. Written
// structs: nothing behind the caller's struct_size is touched.
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <set>

#include "keel/keel_lab.h"
#include "tests/abi/layout.h"
#include "tests/wproj_builder.h"
#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif

namespace {

using keel_test::check;
using keel_test::sized;

const std::string kModel = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
// How far beyond this library's size no struct_size lies, however new the caller, and room behind it to see that.
constexpr size_t kNoSizes[] = {257, 2000, 60000, 0x7fffffff}, kFar = 4096;
constexpr size_t kExtra = 16;  // bytes of a longer struct, and garbage behind a shorter one

// Room for a struct of any version, aligned as the caller's.
struct Bytes {
    explicit Bytes(size_t n, uint8_t fill) : words((n + 7) / 8) { memset(words.data(), fill, n); }
    uint8_t* data() { return reinterpret_cast<uint8_t*>(words.data()); }
    std::vector<uint64_t> words;
};
void set_size(void* bytes, size_t n) {
    const uint32_t size = static_cast<uint32_t>(n);
    memcpy(bytes, &size, sizeof size);
}

// Where a struct could have ended when it was younger: behind struct_size and behind every other field.
std::vector<size_t> ends_of(const std::string& type) {
    std::vector<size_t> ends;
    for (size_t i = 0; i < keel_layout_experimental_count; ++i) {
        const keel_layout_row& row = keel_layout_experimental[i];
        if (row.type == type && row.field) ends.push_back(row.offset + row.bytes);
    }
    return ends;
}
size_t reserved_of(const std::string& type) {  // its offset, or 0
    for (size_t i = 0; i < keel_layout_experimental_count; ++i) {
        const keel_layout_row& row = keel_layout_experimental[i];
        if (row.type == type && row.field && strcmp(row.field, "reserved") == 0) return row.offset;
    }
    return 0;
}

// What a call did, as bytes to compare.
struct Outcome {
    keel_status status;
    std::vector<uint8_t> result;
    bool operator==(const Outcome&) const = default;
};
template <class T>
Outcome outcome(keel_status status, const T& result) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&result);
    return {status, status == KEEL_OK ? std::vector<uint8_t>(bytes, bytes + sizeof result) : std::vector<uint8_t>()};
}

std::set<std::string> tried;  // struct types, for the last test

// `call` reads a T.
template <class T>
void check_read(const char* type, const T& good, const std::function<Outcome(const T*)>& call) {
    SCOPED_TRACE(type);
    tried.insert(type);
    const auto run = [&](size_t known, size_t size, uint8_t behind) {
        Bytes bytes(std::max(size, sizeof(T)) + kExtra, behind);
        memset(bytes.data(), 0, size);
        memcpy(bytes.data(), &good, known);
        set_size(bytes.data(), size);
        return call(reinterpret_cast<const T*>(bytes.data()));
    };
    const Outcome whole = run(sizeof(T), sizeof(T), 0xff);
    EXPECT_EQ(whole.status, KEEL_OK);
    for (const size_t end : ends_of(type)) {
        SCOPED_TRACE("an older caller, " + std::to_string(end) + " bytes");
        EXPECT_EQ(run(end, end, 0xff), run(end, sizeof(T), 0xff));
    }
    EXPECT_EQ(run(sizeof(T), sizeof(T) + kExtra, 0), whole) << "a newer caller that uses nothing new";
    for (size_t at = 0; at < kExtra; ++at) {
        Bytes bytes(sizeof(T) + kExtra, 0);
        memcpy(bytes.data(), &good, sizeof(T));
        set_size(bytes.data(), sizeof(T) + kExtra);
        bytes.data()[sizeof(T) + at] = 1;
        EXPECT_EQ(call(reinterpret_cast<const T*>(bytes.data())).status, KEEL_E_ABI) << "a newer caller, byte " << at;
    }
    for (size_t size = 0; size < sizeof(uint32_t); ++size) {
        Bytes bytes(sizeof(T), 0);
        memcpy(bytes.data(), &good, sizeof(T));
        set_size(bytes.data(), size);
        EXPECT_EQ(call(reinterpret_cast<const T*>(bytes.data())).status, KEEL_E_ABI) << size;
    }
    for (const size_t size : kNoSizes) {
        Bytes bytes(sizeof(T) + kFar, 0);
        memcpy(bytes.data(), &good, sizeof(T));
        set_size(bytes.data(), sizeof(T) + size);
        EXPECT_EQ(call(reinterpret_cast<const T*>(bytes.data())).status, KEEL_E_ABI) << "not set: " << size;
    }
    if (const size_t reserved = reserved_of(type)) {
        Bytes bytes(sizeof(T), 0);
        memcpy(bytes.data(), &good, sizeof(T));
        bytes.data()[reserved] = 1;
        EXPECT_EQ(call(reinterpret_cast<const T*>(bytes.data())).status, KEEL_E_ABI) << "a reserved field";
    }
}

// `call` writes a T of `least` bytes or more and returns `expected`.
template <class T>
void check_written(const char* type, const std::function<keel_status(T*)>& call, keel_status expected = KEEL_OK,
                   size_t least = sizeof(uint32_t)) {
    SCOPED_TRACE(type);
    tried.insert(type);
    T whole = sized<T>();
    ASSERT_EQ(call(&whole), expected);
    EXPECT_EQ(whole.struct_size, sizeof(T));
    for (const size_t end : ends_of(type)) {
        SCOPED_TRACE("an older caller, " + std::to_string(end) + " bytes");
        Bytes bytes(sizeof(T) + kExtra, 0x5a);
        set_size(bytes.data(), end);
        const keel_status status = call(reinterpret_cast<T*>(bytes.data()));
        ASSERT_EQ(status, end < least ? KEEL_E_ABI : expected);
        if (end < least) continue;
        EXPECT_EQ(reinterpret_cast<T*>(bytes.data())->struct_size, end);
        EXPECT_EQ(0, memcmp(bytes.data() + sizeof(uint32_t),
                            reinterpret_cast<const uint8_t*>(&whole) + sizeof(uint32_t), end - sizeof(uint32_t)));
        for (size_t at = end; at < sizeof(T) + kExtra; ++at) ASSERT_EQ(bytes.data()[at], 0x5a) << at;
    }
    Bytes longer(sizeof(T) + 2 * kExtra, 0x5a);
    set_size(longer.data(), sizeof(T) + kExtra);
    ASSERT_EQ(call(reinterpret_cast<T*>(longer.data())), expected);
    for (size_t at = sizeof(T); at < sizeof(T) + 2 * kExtra; ++at)
        ASSERT_EQ(longer.data()[at], at < sizeof(T) + kExtra ? 0 : 0x5a) << "a newer caller, byte " << at;
    std::vector<size_t> wrong = {0, 1, 2, 3};
    for (const size_t more : kNoSizes) wrong.push_back(sizeof(T) + more);
    for (const size_t size : wrong) {
        Bytes bytes(sizeof(T) + kFar, 0x5a);
        set_size(bytes.data(), size);
        EXPECT_EQ(call(reinterpret_cast<T*>(bytes.data())), expected == KEEL_E_FILE_FORMAT ? expected : KEEL_E_ABI)
            << size;
        for (size_t at = sizeof(uint32_t); at < sizeof(T) + kFar; ++at) ASSERT_EQ(bytes.data()[at], 0x5a) << at;
    }
}

keel_config small_config() {
    keel_config c = sized<keel_config>();
    c.context_tokens = 64;
    c.threads = 1;
    return c;
}
keel_config config_with(const keel_part* part) {
    keel_config c = small_config();
    c.parts = part;
    c.part_count = 1;
    return c;
}

constexpr char kChatml[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}";

class AbiVersions : public testing::Test {
  protected:
    AbiVersions() : file(kModel) {
        check(keel_reader_from_memory(kChatml, sizeof kChatml - 1, &chatml), "keel_reader_from_memory");
    }
    Outcome plan(const keel_config* config) const {
        keel_memory_plan out = sized<keel_memory_plan>();
        const keel_status status = keel_plan(&file.reader, file.model, config, &out, nullptr);
        return outcome(status, out);
    }
    keel_test::InspectedFile file;
    keel_reader chatml = sized<keel_reader>();
};

TEST_F(AbiVersions, Configurations) {
    check_read<keel_config>("keel_config", small_config(), [&](const keel_config* c) { return plan(c); });
    const keel_part template_part = keel_test::part(KEEL_PART_CHAT_TEMPLATE, &chatml);
    check_read<keel_part>("keel_part", template_part, [&](const keel_part* part) {
        const keel_config c = config_with(part);
        return plan(&c);
    });
    const keel_test::WprojBytes cache(keel::tools::encode_wproj_v2(keel_test::random_wproj(file, {}), 9));
    keel_wproj_options options = sized<keel_wproj_options>();
    options.key = 9;
    options.max_error = 0.5f;
    check_read<keel_wproj_options>("keel_wproj_options", options, [&](const keel_wproj_options* o) {
        const keel_part part = keel_test::part(KEEL_PART_WPROJ, &cache.reader, o);
        const keel_config c = config_with(&part);
        return plan(&c);
    });
    const std::string schema = "{\"type\": \"null\"}";
    keel_reader schema_reader = sized<keel_reader>();
    check(keel_reader_from_memory(schema.data(), schema.size(), &schema_reader), "keel_reader_from_memory");
    keel_grammar_options grammar = sized<keel_grammar_options>();
    grammar.json_schema = 1;
    check_read<keel_grammar_options>("keel_grammar_options", grammar, [&](const keel_grammar_options* o) {
        const keel_part part = keel_test::part(KEEL_PART_GRAMMAR, &schema_reader, o);
        const keel_config c = config_with(&part);
        return plan(&c);
    });
    keel_hooks hooks = sized<keel_hooks>();
    static int calls;
    hooks.progress = [](void*, uint64_t, uint64_t) {
        ++calls;
        return 0;
    };
    check_read<keel_hooks>("keel_hooks", hooks, [&](const keel_hooks* h) {
        keel_config c = small_config();
        c.hooks = h;
        calls = 0;
        keel_memory_plan p = sized<keel_memory_plan>();
        if (const keel_status s = keel_plan(&file.reader, file.model, &c, &p, nullptr)) return outcome(s, calls);
        const keel_test::Memory memory(p);
        keel_engine engine;
        const keel_status s = keel_engine_init(&file.reader, file.model, &c, memory.get(), &engine, nullptr);
        if (s == KEEL_OK) check(keel_engine_close(engine), "close");
        return outcome(s, calls);
    });
}

TEST_F(AbiVersions, FilesAndMemory) {
    check_read<keel_reader>("keel_reader", file.reader, [&](const keel_reader* r) {
        keel_model_info info = sized<keel_model_info>();
        const keel_status status = keel_inspect(r, nullptr, nullptr, 0, nullptr, &info, nullptr);
        return outcome(status, info);
    });
    check_written<keel_reader>("keel_reader",
                               [&](keel_reader* r) { return keel_reader_from_memory(kChatml, sizeof kChatml - 1, r); });
    keel_limits limits = sized<keel_limits>();
    limits.max_metadata_bytes = 1 << 20;
    check_read<keel_limits>("keel_limits", limits, [&](const keel_limits* l) {
        keel_model_info info = sized<keel_model_info>();
        const keel_status status = keel_inspect(&file.reader, l, nullptr, 0, nullptr, &info, nullptr);
        return outcome(status, info);
    });
    check_written<keel_error>(
        "keel_error", [&](keel_error* e) { return keel_inspect(&chatml, nullptr, nullptr, 0, nullptr, nullptr, e); },
        KEEL_E_FILE_FORMAT);
    check_written<keel_model_info>("keel_model_info", [&](keel_model_info* info) {
        std::vector<uint64_t> buffer(file.info.model_bytes / 8);
        const keel_model* model;
        return keel_inspect(&file.reader, nullptr, buffer.data(), file.info.model_bytes, &model, info, nullptr);
    });
    const keel_config c = small_config();
    check_written<keel_memory_plan>(
        "keel_memory_plan", [&](keel_memory_plan* p) { return keel_plan(&file.reader, file.model, &c, p, nullptr); });
    keel_memory_plan p = sized<keel_memory_plan>();
    check(keel_plan(&file.reader, file.model, &c, &p, nullptr), "plan");
    for (int region = KEEL_REGION_COUNT; region < KEEL_REGION_SLOTS; ++region)
        EXPECT_EQ(p.regions[region].bytes | p.regions[region].align_bytes, 0u) << "a slot without a region";
    const keel_test::Memory memory(p);
    check_read<keel_memory>("keel_memory", *memory.get(), [&](const keel_memory* m) {
        keel_engine engine;
        const keel_status s = keel_engine_init(&file.reader, file.model, &c, m, &engine, nullptr);
        if (s == KEEL_OK) check(keel_engine_close(engine), "close");
        return outcome(s, 0);
    });
    uint32_t count;
    check_written<keel_op_info>(
        "keel_op_info",
        [&](keel_op_info* op) { return keel_plan_ops(&file.reader, file.model, &c, op, 1, &count, nullptr); },
        KEEL_E_BUFFER_TOO_SMALL);
    const auto first_buffer = [&](void* info) {
        return keel_plan_buffers(&file.reader, file.model, &c, static_cast<keel_buffer_info*>(info), 1, &count,
                                 nullptr);
    };
    check_written<keel_buffer_info>("keel_buffer_info", first_buffer, KEEL_E_BUFFER_TOO_SMALL,
                                    offsetof(keel_buffer_info, bytes) + sizeof(uint64_t));  // its first version
    const std::vector<char> pack =
        keel_test::read_file(keel_test::source_path("tests/fuzz/corpus/pack/model_and_note"));
    keel_reader pack_reader = sized<keel_reader>();
    check(keel_reader_from_memory(pack.data(), pack.size(), &pack_reader), "reader");
    check_written<keel_pack_section>(
        "keel_pack_section",
        [&](keel_pack_section* s) { return keel_pack_sections(&pack_reader, s, 1, &count, nullptr); },
        KEEL_E_BUFFER_TOO_SMALL);
    keel_pack_section section = sized<keel_pack_section>();
    section.bytes = 24;
    check_read<keel_pack_section>("keel_pack_section", section, [&](const keel_pack_section* s) {
        keel_reader out = sized<keel_reader>();
        const keel_status status = keel_pack_reader(&pack_reader, s, &out);
        return outcome(status, out);
    });
#ifdef KEEL_HAVE_PACK
    const std::vector<char> packed = keel_test::read_file(keel_test::source_path("tests/fuzz/corpus/wproj/packed"));
    keel_reader reader = sized<keel_reader>();
    check(keel_reader_from_memory(packed.data(), packed.size(), &reader), "reader");
    check_written<keel_pack_info>("keel_pack_info",
                                  [&](keel_pack_info* info) { return keel_pack_inspect(&reader, info, nullptr); });
    const std::vector<char> text_pack = keel_test::read_file(keel_test::source_path("tests/fuzz/corpus/pack/zstd"));
    check(keel_reader_from_memory(text_pack.data(), text_pack.size(), &pack_reader), "reader");
    keel_pack_section first = sized<keel_pack_section>();
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel_pack_sections(&pack_reader, &first, 1, &count, nullptr));
    EXPECT_EQ(first.codec, static_cast<uint32_t>(KEEL_PACK_ZSTD));
    keel_reader older = sized<keel_reader>();
    older.struct_size = offsetof(keel_reader, text);
    EXPECT_EQ(KEEL_E_ABI, keel_pack_reader(&pack_reader, &first, &older));
    check(keel_pack_reader(&pack_reader, &first, &reader), "keel_pack_reader");
    check_written<keel_pack_text_info>("keel_pack_text_info", [&](keel_pack_text_info* info) {
        return keel_pack_inspect_text(&reader, info, nullptr);
    });
#endif
}

TEST_F(AbiVersions, SessionsAndText) {
    const keel_part part = keel_test::part(KEEL_PART_CHAT_TEMPLATE, &chatml);
    keel_config c = config_with(&part);
    c.max_sessions = 2;
    keel_test::Engine engine(kModel, c);
    engine.feed({3, 4, 5});
    engine.advance();
    const keel_session session = engine.session();

    keel_session_desc desc = sized<keel_session_desc>();
    desc.reserved_pages = 1;
    check_read<keel_session_desc>("keel_session_desc", desc, [&](const keel_session_desc* d) {
        keel_session other;
        const keel_status s = keel_session_open(engine.handle(), d, &other);
        keel_session_info info = sized<keel_session_info>();
        if (s == KEEL_OK) check(keel_session_get(other, &info), "get");
        if (s == KEEL_OK) check(keel_session_close(other), "close");
        return outcome(s, info.kv_pages);
    });
    const int32_t never[] = {7};
    keel_sampling sampling = sized<keel_sampling>();
    sampling.temperature = 0.9f;
    sampling.seed = 5;
    sampling.excluded_ids = never;
    sampling.excluded_count = 1;
    // Cut in front of the ids: a count without them is refused, which is what a full struct with a null does.
    check_read<keel_sampling>("keel_sampling", sampling, [&](const keel_sampling* s) {
        const keel_status status = keel_session_set_sampling(session, s);
        return outcome(status, status == KEEL_OK ? engine.sample() : 0);
    });
    const keel_chat_message hello = keel_test::message("user", "Hi", 2);
    check_read<keel_chat_message>("keel_chat_message", hello, [&](const keel_chat_message* m) {
        char text[100] = {};
        size_t n = 0;
        const keel_chat chat = keel_test::chat(m, 1, true);
        const keel_status s = keel_chat_format(engine.handle(), &chat, text, sizeof text, &n, nullptr);
        return outcome(s, text);
    });
    check_read<keel_chat>("keel_chat", keel_test::chat(&hello, 1, true), [&](const keel_chat* c) {
        char text[100] = {};
        size_t n = 0;
        const keel_status s = keel_chat_format(engine.handle(), c, text, sizeof text, &n, nullptr);
        return outcome(s, text);
    });
    check_written<keel_advance_result>("keel_advance_result", [&](keel_advance_result* r) {
        return keel_advance(engine.handle(), &session, 1, 0, r);
    });
    check_written<keel_session_info>("keel_session_info",
                                     [&](keel_session_info* info) { return keel_session_get(session, info); });
    check_written<keel_text>("keel_text", [&](keel_text* text) { return keel_session_text(session, -1, text); });
    uint32_t times = 0;
    check(keel_lab_time_ops(engine.handle(), 1), "keel_lab_time_ops");
    engine.feed({1, 2});
    engine.advance();
    check_written<keel_lab_op_time>("keel_lab_op_time", [&](keel_lab_op_time* t) {
        const keel_status status = keel_lab_op_times(engine.handle(), t, 1, &times);
        return status == KEEL_E_BUFFER_TOO_SMALL ? KEEL_OK : status;
    });
    check_written<keel_stats>("keel_stats",
                              [&](keel_stats* stats) { return keel_engine_stats(engine.handle(), stats); });
}

// Elements of another version's length, one after the other.
TEST_F(AbiVersions, ArraysHaveTheStrideOfTheirFirstElement) {
    const keel_part part = keel_test::part(KEEL_PART_CHAT_TEMPLATE, &chatml);
    keel_config c = config_with(&part);
    c.max_sessions = 3;
    keel_test::Engine engine(kModel, c);
    keel_session sessions[3] = {engine.session()};
    for (int i = 1; i < 3; ++i) check(keel_session_open(engine.handle(), nullptr, &sessions[i]), "open");
    const int32_t ids[] = {1, 2, 3};
    for (uint32_t i = 0; i < 3; ++i) check(keel_session_feed(sessions[i], ids, i + 1, 0), "feed");
    for (const size_t stride : {sizeof(keel_advance_result) + kExtra, sizeof(keel_advance_result), size_t{12}}) {
        SCOPED_TRACE(stride);
        Bytes bytes(3 * stride + kExtra, 0x5a);
        set_size(bytes.data(), stride);
        ASSERT_EQ(keel_advance(engine.handle(), sessions, 3, 0, reinterpret_cast<keel_advance_result*>(bytes.data())),
                  KEEL_OK);
        for (uint32_t i = 0; i < 3; ++i) {
            uint32_t head[3];
            memcpy(head, bytes.data() + i * stride, sizeof head);
            EXPECT_EQ(head[0], stride);
            EXPECT_EQ(head[1], uint32_t{KEEL_OK});
            EXPECT_EQ(head[2], i + 1) << "computed tokens";
            for (size_t at = sizeof(keel_advance_result); at < stride; ++at)
                EXPECT_EQ(bytes.data()[i * stride + at], 0);
        }
        EXPECT_EQ(bytes.data()[3 * stride], 0x5a);
        // A call that is refused whole says so in every element.
        Bytes refused(3 * stride + kExtra, 0x5a);
        set_size(refused.data(), stride);
        sessions[2].id ^= 1;
        EXPECT_EQ(keel_advance(engine.handle(), sessions, 3, 0, reinterpret_cast<keel_advance_result*>(refused.data())),
                  KEEL_E_HANDLE);
        sessions[2].id ^= 1;
        for (uint32_t i = 0; i < 3; ++i) {
            uint32_t head[3];
            memcpy(head, refused.data() + i * stride, sizeof head);
            EXPECT_EQ(head[1], uint32_t{KEEL_E_HANDLE});
            EXPECT_EQ(head[2], 0u);
        }
        EXPECT_EQ(refused.data()[3 * stride], 0x5a);
    }

    // Read arrays: the text of messages, and of parts the second one is refused.
    const size_t stride = sizeof(keel_chat_message) + kExtra;
    Bytes messages(2 * stride, 0);
    const keel_chat_message said[] = {keel_test::message("user", "Hi", 2), keel_test::message("assistant", "Yes", 3)};
    for (size_t i = 0; i < 2; ++i) memcpy(messages.data() + i * stride, &said[i], sizeof said[i]);
    set_size(messages.data(), stride);
    char text[200];
    size_t n = 0;
    const auto format = [&] {
        const keel_chat chat = keel_test::chat(reinterpret_cast<keel_chat_message*>(messages.data()), 2, false);
        return keel_chat_format(engine.handle(), &chat, text, sizeof text, &n, nullptr);
    };
    ASSERT_EQ(format(), KEEL_OK);
    EXPECT_EQ(std::string(text, n), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n");
    messages.data()[2 * stride - 1] = 1;
    EXPECT_EQ(format(), KEEL_E_ABI);

    const size_t part_stride = sizeof(keel_part) + kExtra;
    Bytes parts(2 * part_stride, 0);
    memcpy(parts.data(), &part, sizeof part);
    memcpy(parts.data() + part_stride, &part, sizeof part);
    set_size(parts.data(), part_stride);
    c.parts = reinterpret_cast<keel_part*>(parts.data());
    c.part_count = 2;
    keel_error error = sized<keel_error>();
    keel_memory_plan p = sized<keel_memory_plan>();
    EXPECT_EQ(keel_plan(&file.reader, file.model, &c, &p, &error), KEEL_E_ARGUMENT);
    EXPECT_STREQ(error.field, "config.parts[1]");
    EXPECT_STREQ(error.reason, "a second part of its kind");
    parts.data()[2 * part_stride - 1] = 1;
    EXPECT_EQ(keel_plan(&file.reader, file.model, &c, &p, &error), KEEL_E_ABI);
    EXPECT_STREQ(error.field, "config.parts[1]");
}

TEST(AbiInit, EveryStructHasItsMacro) {
    std::set<std::string> left;
    for (size_t i = 0; i < keel_layout_experimental_count; ++i) {
        const keel_layout_row& row = keel_layout_experimental[i];
        if (row.field && strcmp(row.field, "struct_size") == 0) left.insert(row.type);
    }
    left.erase("keel_lab_heads");  // handed to taps by the library
    left.erase("keel_lab_row");
    for (size_t i = 0; i < keel_init_count; ++i) {
        const keel_init_row row = keel_init_of(i);
        EXPECT_EQ(row.struct_size, row.bytes) << row.type;
        left.erase(row.type);
    }
    for (const std::string& type : left) ADD_FAILURE() << type;
}

// Runs last: the tests above leave out no struct.
TEST(AbiVersionsOfEveryStruct, WereTried) {
    if (tried.empty()) GTEST_SKIP() << "alone it says nothing";
    std::set<std::string> left;
    for (size_t i = 0; i < keel_layout_experimental_count; ++i) {
        const keel_layout_row& row = keel_layout_experimental[i];
        if (row.field && strcmp(row.field, "struct_size") == 0 && !tried.count(row.type)) left.insert(row.type);
    }
    left.erase("keel_lab_heads");  // handed to taps by the library
    left.erase("keel_lab_row");
#ifndef KEEL_HAVE_PACK
    left.erase("keel_pack_info");
    left.erase("keel_pack_text_info");
#endif
    for (const std::string& type : left) ADD_FAILURE() << type;
}

}  // namespace
