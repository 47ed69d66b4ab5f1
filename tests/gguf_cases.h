// GGUF files made byte by byte: one small valid file, and one builder for every hostile shape known from other loaders'
// advisories and from the format's rules. The same files are the seeds of tests/fuzz/gguf_fuzz.cpp.
#pragma once
#include <stdint.h>
#include <string.h>

#include <string>
#include <vector>

#include "keel/keel.h"
#include "sdk/format/gguf.h"

namespace keel_test {

// Bytes of a file under construction. mark() remembers where the offending field begins: errors must point there.
struct GgufBytes {
    std::vector<uint8_t> data;
    uint64_t marked = 0;

    template <class T>
    GgufBytes& put(T value) {
        const size_t at = data.size();
        data.resize(at + sizeof value);
        memcpy(&data[at], &value, sizeof value);
        return *this;
    }
    GgufBytes& u8(uint8_t v) { return put(v); }
    GgufBytes& u32(uint32_t v) { return put(v); }
    GgufBytes& u64(uint64_t v) { return put(v); }
    GgufBytes& raw(const std::string& s) {
        data.insert(data.end(), s.begin(), s.end());
        return *this;
    }
    GgufBytes& text(const std::string& s) { return u64(s.size()).raw(s); }
    GgufBytes& zeros(size_t n) {
        data.insert(data.end(), n, 0);
        return *this;
    }
    GgufBytes& pad(size_t alignment = 32) { return zeros((alignment - data.size() % alignment) % alignment); }
    GgufBytes& mark() {
        marked = data.size();
        return *this;
    }
    GgufBytes& mark_at(uint64_t offset) {
        marked = offset;
        return *this;
    }

    GgufBytes& header(uint64_t tensors, uint64_t values, uint32_t version = 3) {
        return raw("GGUF").u32(version).u64(tensors).u64(values);
    }
    GgufBytes& key(const std::string& name, uint32_t type) { return text(name).u32(type); }
    GgufBytes& array(const std::string& name, uint32_t element_type, uint64_t count) {
        return key(name, keel::kGgufArray).u32(element_type).u64(count);
    }
    GgufBytes& alignment(uint32_t v) { return key("general.alignment", keel::kGgufU32).mark().u32(v); }
    // Name, dimensions and type; the offset follows.
    GgufBytes& tensor(const std::string& name, const std::vector<uint64_t>& dims,
                      keel::kernels::WeightType weight_type) {
        const uint32_t type = keel::kernels::kWeightTypes[weight_type].number;
        text(name).mark().u32(static_cast<uint32_t>(dims.size()));
        for (uint64_t d : dims) u64(d);
        return u32(type);
    }
};

// Every value type, arrays of each, tensors of three types, alignment 64; the last tensor fills its padding.
inline GgufBytes valid_file() {
    using namespace keel;
    GgufBytes f;
    f.header(3, 20).alignment(64);
    f.key("general.architecture", kGgufString).text("llama");
    f.key("general.name", kGgufString).text("");
    f.key("a.u8", kGgufU8).u8(200).key("a.i8", kGgufI8).u8(0xff);
    f.key("a.u16", kGgufU16).put<uint16_t>(60000).key("a.i16", kGgufI16).put<int16_t>(300);
    f.key("a.u32", kGgufU32).u32(4000000000u).key("a.i32", kGgufI32).put<int32_t>(-2);
    f.key("a.u64", kGgufU64).u64(4294967295u).key("a.i64", kGgufI64).put<int64_t>(4294967296);
    f.key("a.f32", kGgufF32).put(1e-5f).key("a.f64", kGgufF64).put(10000.0);
    f.key("a.true", kGgufBool).u8(1).key("a.false", kGgufBool).u8(0);
    f.array("l.words", kGgufString, 3).text("one").text("").text("three");
    f.array("l.flags", kGgufBool, 3).u8(1).u8(0).u8(1);
    f.array("l.floats", kGgufF32, 2).put(0.5f).put(-0.5f);
    f.array("l.ints", kGgufI32, 2).u32(1).u32(2);
    f.array("l.none", kGgufU64, 0);
    f.tensor("norm.weight", {3}, kernels::kF32).u64(0);
    f.tensor("blk.0.a.weight", {32, 2}, kernels::kQ8_0).u64(64);
    f.tensor("blk.0.b.weight", {16, 2, 1, 2}, kernels::kF16).u64(192);
    f.pad(64).zeros(192 + 128);
    return f;
}

struct GgufCase {
    const char* name;
    keel_status status;
    const char* field;
    GgufBytes (*build)();
};

// A file of one value; the builder goes on after header().
inline GgufBytes one_value() {
    return GgufBytes().header(0, 1);
}
inline GgufBytes one_tensor() {
    return GgufBytes().header(1, 0);
}
inline GgufBytes with_data(GgufBytes f, size_t bytes = 256) {
    return f.pad().zeros(bytes);
}
// What the file needs to be long enough for its counts, so that the shape under test is what is refused.
inline GgufBytes roomy(GgufBytes f) {
    return f.zeros(64);
}

constexpr uint64_t kHuge = UINT64_MAX;
constexpr uint64_t kSign = 1ull << 63;

inline const std::vector<GgufCase>& gguf_cases() {
    using namespace keel;
    using kernels::kF16;
    using kernels::kF32;
    using kernels::kQ4_0;
    using kernels::kQ4_K;
    using F = GgufBytes;
    static const std::vector<GgufCase> cases = {
        // ---- well formed ----
        {"valid", KEEL_OK, "", [] { return valid_file(); }},
        {"valid_version_2", KEEL_OK, "", [] { return with_data(F().header(1, 0, 2).tensor("t", {1}, kF32).u64(0)); }},
        {"valid_empty", KEEL_OK, "", [] { return F().header(0, 0); }},
        {"valid_vocabulary_only", KEEL_OK, "",
         [] { return one_value().array("tokenizer.ggml.tokens", kGgufString, 1).text("a"); }},
        // Refused where the model is described, not here.
        {"block_count_513", KEEL_OK, "", [] { return one_value().key("llama.block_count", kGgufU32).u32(513); }},
        {"vocabulary_of_wrong_type", KEEL_OK, "",
         [] { return one_value().array("tokenizer.ggml.tokens", kGgufU32, 2).u64(0); }},

        // ---- start ----
        {"empty_file", KEEL_E_FILE_FORMAT, "magic", [] { return F().mark(); }},
        {"not_gguf", KEEL_E_FILE_FORMAT, "magic", [] { return F().raw("lmgg").zeros(20); }},
        {"big_endian_magic", KEEL_E_UNSUPPORTED, "magic", [] { return F().raw("FUGG").zeros(20); }},
        {"big_endian_version", KEEL_E_UNSUPPORTED, "version",
         [] { return F().raw("GGUF").mark().u32(0x03000000).zeros(16); }},
        {"version_0", KEEL_E_FILE_FORMAT, "version", [] { return F().raw("GGUF").mark().u32(0).zeros(16); }},
        {"version_1", KEEL_E_UNSUPPORTED, "version", [] { return F().raw("GGUF").mark().u32(1).zeros(16); }},
        {"version_4", KEEL_E_UNSUPPORTED, "version", [] { return F().raw("GGUF").mark().u32(4).zeros(16); }},

        // ---- counts: tables sized by them were overrun (TALOS-2024-1913, llama.cpp 15711) ----
        {"tensors_huge", KEEL_E_FILE_LIMIT, "max_tensors", [] { return F().header(kHuge, 0).mark_at(8); }},
        {"tensors_times_size_wraps", KEEL_E_FILE_LIMIT, "max_tensors",
         [] { return F().header((1ull << 60) + 1, 0).mark_at(8); }},
        {"values_huge", KEEL_E_FILE_LIMIT, "max_metadata_keys", [] { return F().header(0, kSign).mark_at(16); }},
        {"values_beyond_file", KEEL_E_FILE_FORMAT, "metadata_kv_count",
         [] { return roomy(F().header(0, 4096)).mark_at(8); }},
        {"tensors_beyond_file", KEEL_E_FILE_FORMAT, "metadata_kv_count",
         [] { return roomy(F().header(16384, 0)).mark_at(8); }},

        // ---- names ----
        {"key_empty", KEEL_E_FILE_FORMAT, "metadata key", [] { return roomy(one_value().mark().text("")); }},
        {"key_length_wraps", KEEL_E_FILE_LIMIT, "max_name_bytes", [] { return roomy(one_value().mark().u64(kHuge)); }},
        {"key_length_negative", KEEL_E_FILE_LIMIT, "max_name_bytes",
         [] { return roomy(one_value().mark().u64(kSign)); }},
        {"key_beyond_file", KEEL_E_FILE_FORMAT, "metadata key", [] { return one_value().u64(200).mark().zeros(8); }},
        {"key_with_nul", KEEL_E_FILE_FORMAT, "a?b",
         [] { return one_value().u64(3).mark().raw(std::string("a\0b", 3)).u32(0).u8(0); }},
        {"key_twice", KEEL_E_FILE_FORMAT, "k",
         [] {
             F f = F().header(0, 3).key("k", kGgufU8).u8(0).key("x", kGgufU8).u8(0);
             const uint64_t second = f.data.size() + 8;
             return f.key("k", kGgufU32).u32(0).mark_at(second);
         }},
        // Two different names with one 64-bit FNV-1a hash.
        {"key_hashes_collide", KEEL_E_UNSUPPORTED, nullptr,
         [] {
             return F()
                 .header(0, 2)
                 .key("8yn0iYCKYHlIj4-BwPqk", kGgufU8)
                 .u8(0)
                 .key("GReLUrM4wMqfg9yzV3KQ", kGgufU8)
                 .u8(0);
         }},
        {"tensor_name_empty", KEEL_E_FILE_FORMAT, "tensor name", [] { return roomy(one_tensor().mark().text("")); }},
        {"tensor_name_256_bytes", KEEL_E_FILE_LIMIT, "max_name_bytes",
         [] { return roomy(one_tensor().mark().text(std::string(256, 'x'))); }},
        {"tensor_name_with_nul", KEEL_E_FILE_FORMAT, "?", [] { return roomy(one_tensor().u64(1).mark().zeros(1)); }},
        {"tensor_name_twice", KEEL_E_FILE_FORMAT, "t",
         [] {
             F f;
             f.header(3, 0).tensor("t", {1}, kF32).u64(0).tensor("u", {1}, kF32).u64(32);
             const uint64_t second = f.data.size() + 8;
             return with_data(f.tensor("t", {2}, kF32).u64(64)).mark_at(second);
         }},

        // ---- values: string length + 1 wrapped, type indexed a table (CVE-2024-21825, 23605; llama.cpp 26690) ----
        {"value_type_13", KEEL_E_FILE_FORMAT, "k", [] { return roomy(one_value().text("k").mark().u32(13)); }},
        {"value_type_negative", KEEL_E_FILE_FORMAT, "k",
         [] { return roomy(one_value().text("k").mark().u32(UINT32_MAX)); }},
        {"value_missing", KEEL_E_FILE_FORMAT, "long key",
         [] { return one_value().key("long key", kGgufU64).mark().u32(0); }},
        {"string_length_wraps", KEEL_E_FILE_LIMIT, "max_string_bytes",
         [] { return roomy(one_value().key("k", kGgufString).mark().u64(kHuge)); }},
        {"string_length_2_gib", KEEL_E_FILE_LIMIT, "max_string_bytes",
         [] { return roomy(one_value().key("k", kGgufString).mark().u64(1ull << 31)); }},
        {"string_beyond_file", KEEL_E_FILE_FORMAT, "k",
         [] { return one_value().key("k", kGgufString).u64(100).mark().zeros(99); }},
        {"bool_2", KEEL_E_FILE_FORMAT, "k", [] { return one_value().key("k", kGgufBool).mark().u8(2); }},

        // ---- arrays: count * size wrapped, element type unchecked, endless loops (CVE-2024-21836; llama.cpp 26690,
        // 27188) ----
        {"array_type_13", KEEL_E_FILE_FORMAT, "k",
         [] { return roomy(one_value().key("k", kGgufArray).mark().u32(13).u64(1)); }},
        {"array_type_negative", KEEL_E_FILE_FORMAT, "k",
         [] { return roomy(one_value().key("k", kGgufArray).mark().u32(UINT32_MAX).u64(1)); }},
        {"array_of_arrays", KEEL_E_UNSUPPORTED, "k",
         [] { return roomy(one_value().key("k", kGgufArray).mark().u32(kGgufArray).u64(1)); }},
        {"array_count_negative", KEEL_E_FILE_LIMIT, "max_array_elements",
         [] { return roomy(one_value().key("k", kGgufArray).u32(kGgufU8).mark().u64(kSign)); }},
        {"array_count_times_8_wraps", KEEL_E_FILE_LIMIT, "max_array_elements",
         [] { return roomy(one_value().key("k", kGgufArray).u32(kGgufU64).mark().u64(1ull << 61)); }},
        {"array_beyond_file", KEEL_E_FILE_FORMAT, "k",
         [] { return one_value().array("k", kGgufU64, 4194304).mark().zeros(64); }},
        {"string_array_count_beyond_file", KEEL_E_FILE_FORMAT, "k",
         [] { return one_value().array("k", kGgufString, 9).mark().zeros(64); }},
        {"string_array_length_wraps", KEEL_E_FILE_LIMIT, "max_string_bytes",
         [] { return roomy(one_value().array("k", kGgufString, 2).text("ab").mark().u64(kHuge - 7)); }},
        {"string_array_string_beyond_file", KEEL_E_FILE_FORMAT, "k",
         [] { return one_value().array("k", kGgufString, 2).text("ab").u64(9).mark().zeros(8); }},
        {"bool_array_255", KEEL_E_FILE_FORMAT, "k",
         [] { return one_value().array("k", kGgufBool, 3).u8(1).u8(0).mark().u8(255); }},

        // ---- alignment: divisions by zero, padding that overflows (llama.cpp 24759, 24997, 25596, 26318) ----
        {"alignment_0", KEEL_E_FILE_FORMAT, "general.alignment", [] { return one_value().alignment(0); }},
        {"alignment_4", KEEL_E_FILE_FORMAT, "general.alignment", [] { return one_value().alignment(4); }},
        {"alignment_48", KEEL_E_FILE_FORMAT, "general.alignment", [] { return one_value().alignment(48); }},
        {"alignment_all_ones", KEEL_E_FILE_FORMAT, "general.alignment",
         [] { return one_value().alignment(UINT32_MAX); }},
        {"alignment_1_gib", KEEL_E_FILE_LIMIT, "max_alignment_bytes", [] { return one_value().alignment(1u << 30); }},
        {"alignment_i32", KEEL_E_FILE_FORMAT, "general.alignment",
         [] { return one_value().key("general.alignment", kGgufI32).mark().u32(32); }},
        {"alignment_string", KEEL_E_FILE_FORMAT, "general.alignment",
         [] { return one_value().key("general.alignment", kGgufString).u64(2).mark().raw("32"); }},
        {"alignment_twice", KEEL_E_FILE_FORMAT, "general.alignment",
         [] {
             F f = F().header(0, 2).alignment(64);
             const uint64_t second = f.data.size() + 8;
             return f.alignment(32).mark_at(second);
         }},

        // ---- tensor shapes: overruns of dims[4], products that wrap (CVE-2024-21802, CVE-2026-33298; llama.cpp 18674)
        // ----
        {"dims_0", KEEL_E_FILE_FORMAT, "t", [] { return roomy(one_tensor().tensor("t", {}, kF32).u64(0)); }},
        {"dims_5", KEEL_E_FILE_FORMAT, "t",
         [] {
             return roomy(one_tensor().tensor("t", {1, 1, 1, 1, 1}, kF32).u64(0));
         }},
        {"dims_huge", KEEL_E_FILE_FORMAT, "t", [] { return roomy(one_tensor().text("t").mark().u32(UINT32_MAX)); }},
        {"dimension_0", KEEL_E_FILE_FORMAT, "t",
         [] { return roomy(one_tensor().text("t").u32(2).u64(4).mark().u64(0).u32(kF32).u64(0)); }},
        {"dimension_negative", KEEL_E_FILE_LIMIT, "max_dimension",
         [] { return roomy(one_tensor().text("t").u32(1).mark().u64(kHuge).u32(kF32).u64(0)); }},
        {"rows_wrap", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {32, 1 << 30, 1 << 30, 1 << 30}, kF32).u64(0));
         }},
        {"elements_wrap_to_0", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {1 << 30, 1 << 30, 16}, kF32).u64(0));
         }},
        {"elements_negative", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {1 << 30, 1 << 30, 8}, kQ4_0).u64(0));
         }},
        {"bytes_wrap_to_0", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {1 << 30, 1 << 30, 4}, kF32).u64(0));
         }},
        {"row_not_whole_blocks", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {48, 2}, kQ4_0).u64(0));
         }},
        {"row_half_a_superblock", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {128, 2}, kQ4_K).u64(0));
         }},
        {"row_half_a_trellis_block", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {128, 2}, kernels::kWT3).u64(0));
         }},
        {"type_removed", KEEL_E_UNSUPPORTED, "t",
         [] { return with_data(one_tensor().text("t").u32(1).u64(32).mark().u32(4).u64(0)); }},
        {"type_iq2_xxs", KEEL_E_UNSUPPORTED, "t",
         [] { return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(16).u64(0)); }},
        {"type_q4_0_4_4", KEEL_E_UNSUPPORTED, "t",  // 31, which version-2 W_proj caches use for Q8_F32
         [] { return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(31).u64(0)); }},
        {"type_tq1_0", KEEL_E_UNSUPPORTED, "t",
         [] { return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(34).u64(0)); }},
        {"type_mxfp4", KEEL_E_UNSUPPORTED, "t",
         [] { return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(39).u64(0)); }},
        {"type_nvfp4", KEEL_E_UNSUPPORTED, "t",
         [] { return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(40).u64(0)); }},
        {"type_own", KEEL_E_UNSUPPORTED, "t",  // Q8_F32, which is in no GGUF
         [] {
             const uint32_t own = kernels::kWeightTypes[kernels::kQ8_F32].number;
             return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(own).u64(0));
         }},
        {"type_unknown", KEEL_E_UNSUPPORTED, "t",
         [] { return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(1000).u64(0)); }},
        {"type_negative", KEEL_E_UNSUPPORTED, "t",
         [] { return with_data(one_tensor().text("t").u32(1).u64(256).mark().u32(UINT32_MAX).u64(0)); }},

        // ---- tensor places: offsets that wrap, overlap or leave the file (CVE-2024-23496; llama.cpp 24759; ollama
        // 17042) ----
        {"offset_unaligned", KEEL_E_FILE_FORMAT, "t",
         [] { return with_data(one_tensor().tensor("t", {1}, kF32).mark().u64(1)); }},
        {"offset_not_0", KEEL_E_FILE_FORMAT, "t",
         [] { return with_data(one_tensor().tensor("t", {1}, kF32).mark().u64(32)); }},
        {"offset_wraps", KEEL_E_FILE_FORMAT, "t",
         [] { return with_data(one_tensor().tensor("t", {1}, kF32).mark().u64(kHuge - 31)); }},
        {"tensors_overlap", KEEL_E_FILE_FORMAT, "u",
         [] {
             return with_data(F().header(2, 0).tensor("t", {16}, kF32).u64(0).tensor("u", {1}, kF32).mark().u64(32));
         }},
        {"tensors_apart", KEEL_E_FILE_FORMAT, "u",
         [] {
             return with_data(F().header(2, 0).tensor("t", {16}, kF32).u64(0).tensor("u", {1}, kF32).mark().u64(96));
         }},
        {"tensor_beyond_file", KEEL_E_FILE_FORMAT, "t",
         [] { return with_data(one_tensor().tensor("t", {1024}, kF32).mark().u64(0)); }},
        // 2^63 - 1 elements of two bytes: representable, but padding the size wraps to 0.
        {"padded_size_wraps", KEEL_E_FILE_FORMAT, "t",
         [] {
             return with_data(one_tensor().tensor("t", {31252369, 82506439, 3577}, kF16).mark().u64(0));
         }},
        {"data_one_byte_short", KEEL_E_FILE_FORMAT, "t",
         [] { return with_data(one_tensor().tensor("t", {64}, kF32).u64(0).mark(), 255); }},
        {"data_missing", KEEL_E_FILE_FORMAT, "t", [] { return one_tensor().tensor("t", {1}, kF32).u64(0).mark(); }},
    };
    return cases;
}

}  // namespace keel_test
