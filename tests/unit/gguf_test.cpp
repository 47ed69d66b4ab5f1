// sdk/format: GGUF scan, typed reads, checked byte access.
#include "sdk/format/gguf.h"

#include <math.h>

#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "tests/fenced_memory.h"
#include "tests/gguf_cases.h"
#include "tests/gguf_exercise.h"
#include "tests/test_paths.h"

namespace keel {
namespace {

using keel_test::GgufBytes;
using keel_test::GgufTables;

// Files whose last byte lies against a page that must not be touched.
class GuardedFile {
  public:
    explicit GuardedFile(size_t capacity) : memory_(capacity, 1, keel_test::Fence::kBehind) {}
    keel_reader reader(const uint8_t* data, size_t size) {
        uint8_t* begin = memory_.end() - size;
        if (size) memcpy(begin, data, size);
        return keel_test::memory_reader(begin, size);
    }

  private:
    keel_test::FencedMemory memory_;
};

keel_error fresh_error() {
    return {sizeof(keel_error), KEEL_OK, 0, "", ""};
}

keel_status exercise(const std::vector<uint8_t>& file, keel_error* error, const keel_limits* limits = nullptr) {
    GuardedFile guarded(file.size());
    return keel_test::exercise(guarded.reader(file.data(), file.size()), limits ? *limits : keel_test::default_limits(),
                               error);
}

uint32_t crc32(const std::string& bytes) {
    uint32_t crc = ~0u;
    for (unsigned char c : bytes) {
        crc ^= c;
        for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

// ---- real files, against another reader ----

TEST(Gguf, AgreesWithTheReferenceReader) {
    const std::vector<char> text = keel_test::read_file(keel_test::source_path("tests/data/gguf/expected.json"));
    const nlohmann::json expected = nlohmann::json::parse(text.begin(), text.end());
    std::string missing;
    for (const auto& [name, file] : expected.items()) {
        SCOPED_TRACE(name);
        const bool shared = name.starts_with("shared/");
        const std::string path = shared ? keel_test::shared_dir() + name.substr(6) : keel_test::source_path(name);
        if (shared && (keel_test::shared_dir().empty() || !std::filesystem::exists(path))) {
            missing += " " + name;
            continue;
        }
        const std::vector<char> data = keel_test::read_file(path);
        const keel_reader reader = keel_test::memory_reader(data.data(), data.size());
        keel_error error = fresh_error();
        ASSERT_EQ(keel_test::exercise(reader, keel_test::default_limits(), &error), KEEL_OK)
            << error.field << error.reason;
        GgufTables t;
        ASSERT_EQ(keel_test::scan(reader, keel_test::default_limits(), &t, &error), KEEL_OK);
        EXPECT_EQ(t.view.version, file["head"]["version"]);
        EXPECT_EQ(t.view.alignment, file["head"]["alignment"]);
        if (!file["head"]["data_offset"].is_null()) {
            EXPECT_EQ(t.view.data_offset, file["head"]["data_offset"]);
        }

        ASSERT_EQ(t.view.value_count, file["values"].size());
        for (const auto& row : file["values"]) {
            const std::string key = row[0];
            SCOPED_TRACE(key);
            const GgufValue* v = gguf_find(t.view, key.c_str());
            ASSERT_NE(v, nullptr);
            EXPECT_EQ(nlohmann::json({v->type, v->element_type, v->count, v->offset, v->bytes}),
                      nlohmann::json({row[1], row[2], row[3], row[4], row[5]}));
            EXPECT_EQ(crc32(keel_test::file_text(reader, v->offset, v->bytes)), row[6]);
            if (row[7].is_string()) {
                char dst[256];
                uint64_t bytes;
                ASSERT_EQ(gguf_string(reader, t.view, key.c_str(), dst, sizeof dst, &bytes, nullptr, &error), KEEL_OK);
                EXPECT_EQ(std::string(dst, bytes), row[7]);
            } else if (row[7].is_boolean()) {
                bool b;
                ASSERT_EQ(gguf_bool(reader, t.view, key.c_str(), &b, nullptr, &error), KEEL_OK);
                EXPECT_EQ(b, row[7]);
            } else if (row[7].is_number_integer()) {
                uint32_t u;
                ASSERT_EQ(gguf_u32(reader, t.view, key.c_str(), &u, nullptr, &error), KEEL_OK);
                EXPECT_EQ(u, row[7]);
            } else if (row[7].is_number_float()) {
                float f;
                ASSERT_EQ(gguf_f32(reader, t.view, key.c_str(), &f, nullptr, &error), KEEL_OK);
                EXPECT_EQ(f, row[7].get<float>());
            }
        }
        ASSERT_EQ(t.view.tensor_count, file["tensors"].size());
        for (uint32_t i = 0; i < t.view.tensor_count; ++i) {
            const GgufTensor& tensor = t.tensors[i];
            const auto& row = file["tensors"][i];
            EXPECT_EQ(keel_test::file_text(reader, tensor.name_offset, tensor.name_bytes), row[0]);
            std::vector<uint64_t> dims(tensor.dims, tensor.dims + tensor.dim_count);
            EXPECT_EQ(nlohmann::json({dims, kernels::kWeightTypes[tensor.type].number, tensor.offset, tensor.bytes}),
                      nlohmann::json({row[1], row[2], row[3], row[4]}));
        }
    }
    if (!missing.empty()) GTEST_LOG_(INFO) << "not checked, no shared conformance data:" << missing;
}

TEST(Gguf, FingerprintCoversHeaderAndASampleOfEveryTensor) {
    const GgufBytes file = keel_test::valid_file();
    const auto scan = [](const std::vector<uint8_t>& data) {
        Gguf g = {};
        const keel_reader reader = keel_test::memory_reader(data.data(), data.size());
        EXPECT_EQ(gguf_scan(reader, keel_test::default_limits(), nullptr, nullptr, &g, nullptr), KEEL_OK);
        EXPECT_EQ(g.header_hash, hash64(data.data(), g.data_offset));
        EXPECT_EQ(g.fingerprint, 0u);
        std::vector<keel::GgufValue> values(g.value_count);
        std::vector<keel::GgufTensor> tensors(g.tensor_count);
        EXPECT_EQ(gguf_scan(reader, keel_test::default_limits(), values.data(), tensors.data(), &g, nullptr), KEEL_OK);
        return g;
    };
    std::vector<uint8_t> data = file.data;
    const Gguf original = scan(data);
    data.back() ^= 1;  // of a tensor smaller than a sample
    EXPECT_EQ(scan(data).header_hash, original.header_hash);
    EXPECT_NE(scan(data).fingerprint, original.fingerprint);
    data = file.data;
    data[file.data.size() - 320 - 1] ^= 1;  // the last padding byte before the data
    EXPECT_NE(scan(data).header_hash, original.header_hash);
    EXPECT_NE(scan(data).fingerprint, original.fingerprint);
}

// ---- hostile files ----

TEST(Gguf, RefusesEveryHostileShape) {
    std::set<std::string> names;
    for (const keel_test::GgufCase& c : keel_test::gguf_cases()) {
        SCOPED_TRACE(c.name);
        EXPECT_TRUE(names.insert(c.name).second);
        const GgufBytes file = c.build();
        keel_error error = fresh_error();
        EXPECT_EQ(keel_status_name(exercise(file.data, &error)), std::string(keel_status_name(c.status)))
            << error.field << ": " << error.reason;
        if (c.status == KEEL_OK) continue;
        EXPECT_EQ(error.status, c.status);
        if (!c.field) continue;
        EXPECT_STREQ(error.field, c.field) << error.reason;
        EXPECT_EQ(error.offset, file.marked) << error.reason;
    }
}

TEST(Gguf, SaysWhatIsWrong) {
    const std::map<std::string, std::string> reasons = {
        {"big_endian_magic", "a big-endian GGUF file"},
        {"big_endian_version", "a big-endian GGUF file"},
        {"type_unknown", "no kernels for tensor type 1000"},
        {"type_iq2_xxs", "no kernels for tensor type 16 (IQ2_XXS)"},
        {"alignment_1_gib", "1073741824 exceeds 65536 at general.alignment"},
        {"key_twice", "the name appears twice"},
        {"key_hashes_collide", "two different names have the same hash"},
    };
    size_t seen = 0;
    for (const keel_test::GgufCase& c : keel_test::gguf_cases()) {
        const auto expected = reasons.find(c.name);
        if (expected == reasons.end()) continue;
        keel_error error = fresh_error();
        exercise(c.build().data, &error);
        EXPECT_EQ(error.reason, expected->second);
        ++seen;
    }
    EXPECT_EQ(seen, reasons.size());
}

TEST(Gguf, EveryTruncationIsAnError) {
    const std::vector<uint8_t> file = keel_test::valid_file().data;
    GuardedFile guarded(file.size());
    for (size_t size = 0; size < file.size(); ++size) {
        keel_error error = fresh_error();
        ASSERT_EQ(keel_test::exercise(guarded.reader(file.data(), size), keel_test::default_limits(), &error),
                  KEEL_E_FILE_FORMAT)
            << size;
    }
}

TEST(Gguf, MutationsNeverBreakAPromise) {
    const std::vector<uint8_t> file = keel_test::valid_file().data;
    GuardedFile guarded(file.size());
    const auto run = [&](const std::vector<uint8_t>& mutant) {
        keel_error error = fresh_error();
        return keel_test::exercise(guarded.reader(mutant.data(), mutant.size()), keel_test::default_limits(), &error);
    };
    size_t accepted = 0;
    for (size_t bit = 0; bit < 8 * file.size(); ++bit) {
        std::vector<uint8_t> mutant = file;
        mutant[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        accepted += run(mutant) == KEEL_OK;
    }
    EXPECT_GT(accepted, 0u);
    EXPECT_LT(accepted, 8 * file.size());
    std::mt19937 random(7);
    for (int i = 0; i < 20000; ++i) {
        std::vector<uint8_t> mutant = file;
        const uint32_t edits = 1 + random() % 4;
        for (uint32_t e = 0; e < edits; ++e) {
            static constexpr uint8_t kEdges[] = {0, 1, 0x7f, 0x80, 0xff};
            mutant[random() % mutant.size()] = random() % 2 ? kEdges[random() % 5] : static_cast<uint8_t>(random());
        }
        run(mutant);
    }
}

// ---- readers ----

struct FailingReader {
    std::vector<uint8_t> file;
    int calls = 0, fail_at = -1;
    keel_status failure = KEEL_E_FILE_READ;
    bool out_of_range = false;

    keel_reader reader() {
        keel_reader r = {};
        r.struct_size = sizeof r;
        r.size_bytes = file.size();
        r.user_data = this;
        r.read_at = [](void* self_pointer, uint64_t offset, void* dst, size_t bytes) {
            FailingReader& self = *static_cast<FailingReader*>(self_pointer);
            if (bytes == 0 || offset > self.file.size() || bytes > self.file.size() - offset) self.out_of_range = true;
            if (self.calls++ == self.fail_at || self.out_of_range) return self.failure;
            memcpy(dst, self.file.data() + offset, bytes);
            return KEEL_OK;
        };
        return r;
    }
};

TEST(Gguf, EveryFailingReadIsReported) {
    FailingReader source;
    source.file = keel_test::valid_file().data;
    keel_error error = fresh_error();
    ASSERT_EQ(keel_test::exercise(source.reader(), keel_test::default_limits(), &error), KEEL_OK);
    EXPECT_FALSE(source.out_of_range);
    GgufTables t;
    source.calls = 0;
    ASSERT_EQ(keel_test::scan(source.reader(), keel_test::default_limits(), &t, &error), KEEL_OK);
    const int calls = source.calls;
    ASSERT_GT(calls, 2);
    for (const keel_status failure : {KEEL_E_FILE_READ, KEEL_E_BUSY, KEEL_AGAIN})
        for (source.fail_at = 0; source.fail_at < calls; ++source.fail_at) {
            source.calls = 0;
            source.failure = failure;
            error = fresh_error();
            EXPECT_EQ(keel_test::scan(source.reader(), keel_test::default_limits(), &t, &error), KEEL_E_FILE_READ);
            EXPECT_EQ(error.status, KEEL_E_FILE_READ);
            EXPECT_STRNE(error.field, "");
        }
}

TEST(Gguf, TypedReadsReportAFailingReader) {
    FailingReader source;
    source.file = keel_test::valid_file().data;
    GgufTables t;
    keel_error error = fresh_error();
    ASSERT_EQ(keel_test::scan(source.reader(), keel_test::default_limits(), &t, &error), KEEL_OK);
    source.calls = 0;
    const auto failing = [&] {
        source.fail_at = source.calls;
        return source.reader();
    };
    uint32_t u;
    float f;
    bool b;
    char text[8];
    EXPECT_EQ(gguf_u32(failing(), t.view, "a.u8", &u, nullptr, &error), KEEL_E_FILE_READ);
    EXPECT_STREQ(error.field, "a.u8");
    EXPECT_EQ(gguf_f32(failing(), t.view, "a.f32", &f, nullptr, &error), KEEL_E_FILE_READ);
    EXPECT_EQ(gguf_f32(failing(), t.view, "a.f64", &f, nullptr, &error), KEEL_E_FILE_READ);
    EXPECT_EQ(gguf_bool(failing(), t.view, "a.true", &b, nullptr, &error), KEEL_E_FILE_READ);
    EXPECT_EQ(gguf_string(failing(), t.view, "general.architecture", text, 8, nullptr, nullptr, &error),
              KEEL_E_FILE_READ);
    uint64_t bytes;
    const keel_reader reader = failing();
    GgufStringCursor cursor(reader, *gguf_find(t.view, "l.words"));
    EXPECT_EQ(cursor.next(&bytes), KEEL_E_FILE_READ);
}

TEST(Gguf, RefusesAFileThatChangesBetweenPasses) {
    std::vector<uint8_t> file = keel_test::valid_file().data;
    const keel_reader reader = keel_test::memory_reader(file.data(), file.size());
    const keel_limits limits = keel_test::default_limits();
    const auto second_pass = [&](size_t at, uint8_t change) {
        Gguf g;
        EXPECT_EQ(gguf_scan(reader, limits, nullptr, nullptr, &g, nullptr), KEEL_OK);
        std::vector<GgufValue> values(g.value_count);
        std::vector<GgufTensor> tensors(g.tensor_count);
        file[at] ^= change;
        const keel_status status = gguf_scan(reader, limits, values.data(), tensors.data(), &g, nullptr);
        file[at] ^= change;
        return status;
    };
    EXPECT_EQ(second_pass(0, 0), KEEL_OK);
    EXPECT_EQ(second_pass(8, 1), KEEL_E_FILE_READ);   // one tensor less
    EXPECT_EQ(second_pass(16, 1), KEEL_E_FILE_READ);  // one value more
    const size_t name = std::string(file.begin(), file.end()).find("norm.weight");
    EXPECT_EQ(second_pass(name, 1), KEEL_E_FILE_READ);
}

TEST(Gguf, NeedsBothTables) {
    const std::vector<uint8_t> file = keel_test::valid_file().data;
    const keel_reader reader = keel_test::memory_reader(file.data(), file.size());
    const keel_limits limits = keel_test::default_limits();
    Gguf g;
    ASSERT_EQ(gguf_scan(reader, limits, nullptr, nullptr, &g, nullptr), KEEL_OK);
    std::vector<GgufValue> values(g.value_count);
    std::vector<GgufTensor> tensors(g.tensor_count);
    EXPECT_EQ(gguf_scan(reader, limits, values.data(), nullptr, &g, nullptr), KEEL_E_ARGUMENT);
    EXPECT_EQ(gguf_scan(reader, limits, nullptr, tensors.data(), &g, nullptr), KEEL_E_ARGUMENT);
}

// ---- limits ----

// For each limit: a file that just meets it is accepted with the limit at that value, refused with the limit one lower.
TEST(Gguf, EveryLimitIsExact) {
    struct Row {
        const char* name;
        uint32_t keel_limits::*limit;
        uint32_t value;
    };
    static constexpr Row kRows[] = {
        {"max_metadata_keys", &keel_limits::max_metadata_keys, 20},
        {"max_tensors", &keel_limits::max_tensors, 3},
        {"max_string_bytes", &keel_limits::max_string_bytes, 5},
        {"max_array_elements", &keel_limits::max_array_elements, 3},
        {"max_name_bytes", &keel_limits::max_name_bytes, 20},
        {"max_alignment_bytes", &keel_limits::max_alignment_bytes, 64},
        {"max_dimension", &keel_limits::max_dimension, 32},
    };
    const std::vector<uint8_t> file = keel_test::valid_file().data;
    for (const Row& row : kRows) {
        SCOPED_TRACE(row.name);
        keel_error error = fresh_error();
        keel_limits limits = keel_test::default_limits();
        limits.*row.limit = row.value;
        EXPECT_EQ(exercise(file, &error, &limits), KEEL_OK) << error.field;
        limits.*row.limit = row.value - 1;
        EXPECT_EQ(exercise(file, &error, &limits), KEEL_E_FILE_LIMIT);
        EXPECT_STREQ(error.field, row.name);
    }
    keel_limits limits = keel_test::default_limits();
    const uint64_t header_bytes = file.size() - 320;
    for (limits.max_metadata_bytes = header_bytes; limits.max_metadata_bytes > 0; --limits.max_metadata_bytes) {
        keel_error error = fresh_error();
        const keel_status status = exercise(file, &error, &limits);
        ASSERT_EQ(status, limits.max_metadata_bytes == header_bytes ? KEEL_OK : KEEL_E_FILE_LIMIT);
        if (status != KEEL_OK) {
            ASSERT_STREQ(error.field, "max_metadata_bytes");
        }
    }
}

TEST(Gguf, LimitsHaveTheDocumentedDefaults) {
    keel_limits out;
    ASSERT_EQ(resolve_limits(nullptr, &out), KEEL_OK);
    EXPECT_EQ(out.max_metadata_keys, 4096u);
    EXPECT_EQ(out.max_tensors, 16384u);
    EXPECT_EQ(out.max_string_bytes, 1048576u);
    EXPECT_EQ(out.max_array_elements, 4194304u);
    EXPECT_EQ(out.max_name_bytes, 255u);
    EXPECT_EQ(out.max_layers, 512u);
    EXPECT_EQ(out.max_vocabulary, 1048576u);
    EXPECT_EQ(out.max_alignment_bytes, 65536u);
    EXPECT_EQ(out.max_dimension, 1u << 30);
    EXPECT_EQ(out.max_metadata_bytes, 268435456u);

    keel_limits given = {};
    given.struct_size = sizeof given;
    given.max_tensors = 5;
    given.max_metadata_bytes = 6;
    ASSERT_EQ(resolve_limits(&given, &out), KEEL_OK);
    EXPECT_EQ(out.max_tensors, 5u);
    EXPECT_EQ(out.max_metadata_bytes, 6u);
    EXPECT_EQ(out.max_layers, 512u);
    given.struct_size = offsetof(keel_limits, max_string_bytes);  // an older caller: the rest is not read
    ASSERT_EQ(resolve_limits(&given, &out), KEEL_OK);
    EXPECT_EQ(out.max_tensors, 5u);
    EXPECT_EQ(out.max_metadata_bytes, 268435456u);
    given.struct_size = 0;
    EXPECT_EQ(resolve_limits(&given, &out), KEEL_E_ABI);
}

// ---- typed reads ----

class GgufReads : public testing::Test {
  protected:
    void SetUp() override {
        reader_ = keel_test::memory_reader(file_.data(), file_.size());
        ASSERT_EQ(keel_test::scan(reader_, keel_test::default_limits(), &t_, nullptr), KEEL_OK);
    }
    std::vector<uint8_t> file_ = keel_test::valid_file().data;
    keel_reader reader_;
    GgufTables t_;
};

TEST_F(GgufReads, IntegersOfAnyTypeThatFit) {
    const auto read = [&](const char* key) -> int64_t {
        uint32_t u = 0;
        return gguf_u32(reader_, t_.view, key, &u, nullptr, nullptr) == KEEL_OK ? int64_t{u} : -1;
    };
    EXPECT_EQ(read("a.u8"), 200);
    EXPECT_EQ(read("a.u16"), 60000);
    EXPECT_EQ(read("a.i16"), 300);
    EXPECT_EQ(read("a.u32"), 4000000000);
    EXPECT_EQ(read("a.u64"), 4294967295);
    EXPECT_EQ(read("a.i8"), -1);   // negative
    EXPECT_EQ(read("a.i32"), -1);  // negative
    EXPECT_EQ(read("a.i64"), -1);  // 2^32
    EXPECT_EQ(read("a.f32"), -1);
    EXPECT_EQ(read("a.true"), -1);
    EXPECT_EQ(read("l.ints"), -1);
    keel_error error = fresh_error();
    uint32_t u;
    EXPECT_EQ(gguf_u32(reader_, t_.view, "a.f32", &u, nullptr, &error), KEEL_E_FILE_FORMAT);
    EXPECT_STREQ(error.field, "a.f32");
    EXPECT_EQ(error.offset, gguf_find(t_.view, "a.f32")->offset);
}

TEST_F(GgufReads, FloatsBooleansStrings) {
    float f = 0;
    EXPECT_EQ(gguf_f32(reader_, t_.view, "a.f32", &f, nullptr, nullptr), KEEL_OK);
    EXPECT_EQ(f, 1e-5f);
    EXPECT_EQ(gguf_f32(reader_, t_.view, "a.f64", &f, nullptr, nullptr), KEEL_OK);
    EXPECT_EQ(f, 10000.0f);
    EXPECT_EQ(gguf_f32(reader_, t_.view, "a.u32", &f, nullptr, nullptr), KEEL_E_FILE_FORMAT);
    bool b = false;
    EXPECT_EQ(gguf_bool(reader_, t_.view, "a.true", &b, nullptr, nullptr), KEEL_OK);
    EXPECT_TRUE(b);
    EXPECT_EQ(gguf_bool(reader_, t_.view, "a.false", &b, nullptr, nullptr), KEEL_OK);
    EXPECT_FALSE(b);
    EXPECT_EQ(gguf_bool(reader_, t_.view, "a.u8", &b, nullptr, nullptr), KEEL_E_FILE_FORMAT);
    char text[8] = "xxxxxxx";
    uint64_t bytes;
    EXPECT_EQ(gguf_string(reader_, t_.view, "general.architecture", text, 4, &bytes, nullptr, nullptr), KEEL_OK);
    EXPECT_STREQ(text, "lla");
    EXPECT_EQ(bytes, 5u);
    EXPECT_EQ(text[4], 'x');
    EXPECT_EQ(gguf_string(reader_, t_.view, "general.architecture", text, 6, nullptr, nullptr, nullptr), KEEL_OK);
    EXPECT_STREQ(text, "llama");
    EXPECT_EQ(gguf_string(reader_, t_.view, "general.name", text, 8, &bytes, nullptr, nullptr), KEEL_OK);
    EXPECT_STREQ(text, "");
    EXPECT_EQ(gguf_string(reader_, t_.view, "l.words", text, 8, &bytes, nullptr, nullptr), KEEL_E_FILE_FORMAT);
}

TEST_F(GgufReads, AbsentKeysLeaveTheFallback) {
    uint32_t u = 7;
    float f = 7;
    bool b = true, present = true;
    char text[4] = "abc";
    EXPECT_EQ(gguf_u32(reader_, t_.view, "none", &u, &present, nullptr), KEEL_OK);
    EXPECT_FALSE(present);
    EXPECT_EQ(gguf_f32(reader_, t_.view, "none", &f, nullptr, nullptr), KEEL_OK);
    EXPECT_EQ(gguf_bool(reader_, t_.view, "none", &b, nullptr, nullptr), KEEL_OK);
    EXPECT_EQ(gguf_string(reader_, t_.view, "none", text, 4, nullptr, nullptr, nullptr), KEEL_OK);
    EXPECT_EQ(u, 7u);
    EXPECT_EQ(f, 7.0f);
    EXPECT_TRUE(b);
    EXPECT_STREQ(text, "abc");
    EXPECT_EQ(gguf_u32(reader_, t_.view, "a.u8", &u, &present, nullptr), KEEL_OK);
    EXPECT_TRUE(present);
}

TEST(Gguf, FloatsMustBeFinite) {
    for (const double value : {HUGE_VAL, -HUGE_VAL, double{NAN}, 1e300, -1e300}) {
        GgufBytes file =
            GgufBytes().header(0, 2).key("d", kGgufF64).put(value).key("f", kGgufF32).put(static_cast<float>(value));
        const keel_reader reader = keel_test::memory_reader(file.data.data(), file.data.size());
        GgufTables t;
        ASSERT_EQ(keel_test::scan(reader, keel_test::default_limits(), &t, nullptr), KEEL_OK);
        float f = 7;
        EXPECT_EQ(gguf_f32(reader, t.view, "d", &f, nullptr, nullptr), KEEL_E_FILE_FORMAT);
        EXPECT_EQ(gguf_f32(reader, t.view, "f", &f, nullptr, nullptr), KEEL_E_FILE_FORMAT);
        EXPECT_EQ(f, 7.0f);
    }
}

TEST_F(GgufReads, StringCursorWalksAnArray) {
    GgufStringCursor cursor(reader_, *gguf_find(t_.view, "l.words"));
    uint64_t bytes;
    std::string word(5, 0);
    ASSERT_EQ(cursor.next(&bytes), KEEL_OK);
    EXPECT_EQ(bytes, 3u);
    ASSERT_EQ(cursor.skip(), KEEL_OK);
    ASSERT_EQ(cursor.next(&bytes), KEEL_OK);
    EXPECT_EQ(bytes, 0u);
    ASSERT_EQ(cursor.read(word.data()), KEEL_OK);
    EXPECT_EQ(cursor.left(), 1u);
    ASSERT_EQ(cursor.next(&bytes), KEEL_OK);
    ASSERT_EQ(bytes, 5u);
    ASSERT_EQ(cursor.read(word.data()), KEEL_OK);
    EXPECT_EQ(word, "three");
    EXPECT_EQ(cursor.next(&bytes), KEEL_E_FILE_FORMAT);
}

// A string whose length was changed after the scan stays inside its array.
TEST_F(GgufReads, StringCursorStaysInsideTheArray) {
    const GgufValue words = *gguf_find(t_.view, "l.words");
    const uint64_t long_length = UINT64_MAX - 3;
    memcpy(file_.data() + words.offset, &long_length, 8);
    GgufStringCursor cursor(reader_, words);
    uint64_t bytes;
    EXPECT_EQ(cursor.next(&bytes), KEEL_E_FILE_FORMAT);
}

// ---- bytes ----

TEST(Bytes, ReadAtChecksItsRange) {
    const char data[] = "0123456789";
    const keel_reader reader = keel_test::memory_reader(data, 10);
    char out[16] = {};
    EXPECT_EQ(read_at(reader, 0, out, 10), KEEL_OK);
    EXPECT_STREQ(out, data);
    EXPECT_EQ(read_at(reader, 10, out, 0), KEEL_OK);
    EXPECT_EQ(read_at(reader, 0, out, 11), KEEL_E_FILE_READ);
    EXPECT_EQ(read_at(reader, 11, out, 0), KEEL_E_FILE_READ);
    EXPECT_EQ(read_at(reader, 5, out, UINT64_MAX), KEEL_E_FILE_READ);
    EXPECT_EQ(read_at(reader, UINT64_MAX, out, 2), KEEL_E_FILE_READ);
    keel_reader nothing = reader;
    nothing.mapped = nullptr;
    EXPECT_EQ(read_at(nothing, 0, out, 1), KEEL_E_FILE_READ);
}

TEST(Bytes, CursorReadsWhatIsThere) {
    std::mt19937 random(3);
    FailingReader source;
    for (int i = 0; i < 50000; ++i) source.file.push_back(static_cast<uint8_t>(random()));
    const keel_reader reader = source.reader();
    for (int round = 0; round < 200; ++round) {
        const uint64_t begin = random() % 1000, end = begin + random() % 49000;
        ByteCursor cursor(reader, begin, end);
        uint64_t at = begin;
        while (true) {
            const uint64_t n = random() % (random() % 4 ? 40 : 9000);
            std::vector<uint8_t> out(n + 1, 0xaa);
            const bool skip = random() % 3 == 0;
            const keel_status status = skip ? cursor.skip(n) : cursor.read(out.data(), n);
            if (n > end - at) {
                ASSERT_EQ(status, KEEL_E_FILE_FORMAT);
                break;
            }
            ASSERT_EQ(status, KEEL_OK);
            if (!skip) {
                ASSERT_EQ(memcmp(out.data(), source.file.data() + at, n), 0);
            }
            at += n;
            ASSERT_EQ(cursor.position(), at);
            ASSERT_EQ(cursor.remaining(), end - at);
        }
    }
    EXPECT_FALSE(source.out_of_range);
}

TEST(Bytes, CursorAsksTheReaderRarely) {
    FailingReader source;
    source.file.assign(8192, 1);
    const keel_reader reader = source.reader();
    ByteCursor cursor(reader, 0, 8192);
    uint32_t v;
    for (int i = 0; i < 2048; ++i) ASSERT_EQ(cursor.u32(&v), KEEL_OK);
    EXPECT_EQ(source.calls, 2);
}

// ---- the fuzzer's seeds ----

// tests/fuzz/corpus/gguf holds every case above, one file each. KEEL_WRITE_CORPUS=1 rewrites them.
TEST(Gguf, FuzzCorpusHoldsEveryCase) {
    const std::string dir = keel_test::source_path("tests/fuzz/corpus/gguf/");
    for (const keel_test::GgufCase& c : keel_test::gguf_cases()) {
        const std::vector<uint8_t> built = c.build().data;
        if (getenv("KEEL_WRITE_CORPUS"))
            std::ofstream(dir + c.name, std::ios::binary)
                .write(reinterpret_cast<const char*>(built.data()), static_cast<std::streamsize>(built.size()));
        const std::vector<char> stored = keel_test::read_file(dir + c.name);
        EXPECT_TRUE(std::equal(built.begin(), built.end(), stored.begin(), stored.end(), [](uint8_t a, char b) {
            return a == static_cast<uint8_t>(b);
        })) << c.name;
    }
}

}  // namespace
}  // namespace keel
