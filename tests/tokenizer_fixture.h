// A tokenizer of its own memory, for tests: from a GGUF file's bytes, or from a vocabulary written on the spot.
#pragma once
#include <string.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sdk/text/tokenizer.h"
#include "tests/test_paths.h"

namespace keel_test {

// Metadata-only GGUF v3, for vocabularies no honest writer would make.
class GgufBytes {
  public:
    GgufBytes& u32(const std::string& key, uint32_t value) { return head(key, keel::kGgufU32).put(value); }
    GgufBytes& f32(const std::string& key, float value) { return head(key, keel::kGgufF32).put(value); }
    GgufBytes& boolean(const std::string& key, bool value) { return head(key, keel::kGgufBool).put(uint8_t{value}); }
    GgufBytes& string(const std::string& key, const std::string& value) {
        return head(key, keel::kGgufString).text(value);
    }
    GgufBytes& strings(const std::string& key, const std::vector<std::string>& values) {
        head(key, keel::kGgufArray).put(uint32_t{keel::kGgufString}).put(uint64_t{values.size()});
        for (const std::string& v : values) text(v);
        return *this;
    }
    template <class T>
    GgufBytes& numbers(const std::string& key, keel::GgufValueType type, const std::vector<T>& values) {
        head(key, keel::kGgufArray).put(uint32_t{type}).put(uint64_t{values.size()});
        for (T v : values) put(v);
        return *this;
    }
    std::vector<char> bytes() const {
        GgufBytes file;
        file.put(uint32_t{0x46554747}).put(uint32_t{3}).put(uint64_t{0}).put(count_);
        file.data_.insert(file.data_.end(), data_.begin(), data_.end());
        file.data_.resize((file.data_.size() + 31) / 32 * 32);
        return file.data_;
    }

  private:
    template <class T>
    GgufBytes& put(T value) {
        const char* p = reinterpret_cast<const char*>(&value);
        data_.insert(data_.end(), p, p + sizeof value);
        return *this;
    }
    GgufBytes& text(const std::string& s) {
        put(uint64_t{s.size()});
        data_.insert(data_.end(), s.begin(), s.end());
        return *this;
    }
    GgufBytes& head(const std::string& key, uint32_t type) {
        ++count_;
        return text(key).put(type);
    }
    std::vector<char> data_;
    uint64_t count_ = 0;
};

class TokenizerFixture {
  public:
    explicit TokenizerFixture(std::vector<char> file, uint32_t max_text_bytes = 16384) : file_(std::move(file)) {
        status = load(max_text_bytes);
    }
    explicit TokenizerFixture(const GgufBytes& gguf, uint32_t max_text_bytes = 16384)
        : TokenizerFixture(gguf.bytes(), max_text_bytes) {}

    keel_status status;
    keel_error error = {};
    keel::Tokenizer* t = nullptr;
    uint64_t planned_bytes = 0, used_bytes = 0;

    std::vector<int32_t> encode(const std::string& text, uint32_t flags = 0) {
        size_t count = 0;
        EXPECT_EQ(KEEL_OK, keel::tokenizer_encode(t, text.data(), text.size(), flags, nullptr, 0, &count));
        std::vector<int32_t> ids(count);
        size_t again = 0;
        EXPECT_EQ(KEEL_OK, keel::tokenizer_encode(t, text.data(), text.size(), flags, ids.data(), count, &again));
        EXPECT_EQ(count, again);
        return ids;
    }
    std::string decode(const std::vector<int32_t>& ids, uint32_t flags = 0) {
        size_t bytes = 0;
        EXPECT_EQ(KEEL_OK, keel::tokenizer_decode(t, ids.data(), ids.size(), flags, nullptr, 0, &bytes));
        std::string text(bytes, '\0');
        EXPECT_EQ(KEEL_OK, keel::tokenizer_decode(t, ids.data(), ids.size(), flags, text.data(), bytes, &bytes));
        return text;
    }

  private:
    keel_status load(uint32_t max_text_bytes) {
        error.struct_size = sizeof error;
        keel_reader reader = {};
        reader.struct_size = sizeof reader;
        reader.size_bytes = file_.size();
        reader.mapped = file_.data();
        keel_limits limits = {};
        keel_status s = keel::resolve_limits(nullptr, &limits);
        if (s != KEEL_OK) return s;
        keel::Gguf g = {};
        if ((s = keel::gguf_scan(reader, limits, nullptr, nullptr, &g, &error)) != KEEL_OK) return s;
        std::vector<keel::GgufValue> values(g.value_count + 1);
        std::vector<keel::GgufTensor> tensors(g.tensor_count + 1);
        if ((s = keel::gguf_scan(reader, limits, values.data(), tensors.data(), &g, &error)) != KEEL_OK) return s;
        keel::Arena counting;
        if ((s = keel::tokenizer_place(reader, g, max_text_bytes, nullptr, counting, &t, &error)) != KEEL_OK) return s;
        EXPECT_EQ(nullptr, t);
        planned_bytes = counting.used_bytes();
        // Exactly the planned bytes on the heap, so that a sanitizer sees one byte more.
        memory_.reset(static_cast<char*>(::operator new[](planned_bytes, std::align_val_t{64})));
        memset(memory_.get(), 0xa5, planned_bytes);
        keel::Arena arena(memory_.get(), planned_bytes);
        s = keel::tokenizer_place(reader, g, max_text_bytes, nullptr, arena, &t, &error);
        used_bytes = arena.used_bytes();
        return s;
    }
    struct Free {
        void operator()(char* p) const { ::operator delete[](p, std::align_val_t{64}); }
    };
    std::vector<char> file_;
    std::unique_ptr<char[], Free> memory_;
};

}  // namespace keel_test
