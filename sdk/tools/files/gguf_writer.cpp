#include "sdk/tools/files/gguf_writer.h"

#include <string.h>

#include <stdexcept>
#include <type_traits>

#include "kernels/formats/weight_types.h"
#include "sdk/format/gguf.h"
#include "sdk/tools/common/atomic_file.h"

namespace keel::tools {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint32_t kDefaultAlignment = 32;
constexpr uint64_t kChunkBytes = 4 << 20;

template <class T>
constexpr uint32_t value_type() {
    if constexpr (std::is_same_v<T, float>) return kGgufF32;
    if constexpr (std::is_same_v<T, double>) return kGgufF64;
    constexpr uint32_t by_size[9] = {0, kGgufU8, kGgufU16, 0, kGgufU32, 0, 0, 0, kGgufU64};
    return by_size[sizeof(T)] + (std::is_signed_v<T> ? 1 : 0);  // every signed type follows its unsigned one
}

template <class T>
void put(std::vector<uint8_t>& out, T value) {
    const size_t at = out.size();
    out.resize(at + sizeof value);
    memcpy(&out[at], &value, sizeof value);
}
void put_text(std::vector<uint8_t>& out, const std::string& text) {
    put<uint64_t>(out, text.size());
    out.insert(out.end(), text.begin(), text.end());
}

}  // namespace

GgufWriter::GgufWriter(uint32_t alignment) : alignment_(alignment) {
    if (alignment != kDefaultAlignment) number<uint32_t>("general.alignment", alignment);
}

void GgufWriter::key(const std::string& key, uint32_t type) {
    put_text(values_, key);
    put(values_, type);
    ++value_count_;
}

template <class T>
void GgufWriter::number(const std::string& k, T value) {
    key(k, value_type<T>());
    put(values_, value);
}
template <class T>
void GgufWriter::numbers(const std::string& k, const std::vector<T>& values) {
    key(k, kGgufArray);
    put<uint32_t>(values_, value_type<T>());
    put<uint64_t>(values_, values.size());
    for (T value : values) put(values_, value);
}
#define KEEL_NUMBER(T)                                          \
    template void GgufWriter::number<T>(const std::string&, T); \
    template void GgufWriter::numbers<T>(const std::string&, const std::vector<T>&);
KEEL_NUMBER(uint8_t)
KEEL_NUMBER(int8_t)
KEEL_NUMBER(uint16_t)
KEEL_NUMBER(int16_t)
KEEL_NUMBER(uint32_t)
KEEL_NUMBER(int32_t)
KEEL_NUMBER(uint64_t)
KEEL_NUMBER(int64_t)
KEEL_NUMBER(float)
KEEL_NUMBER(double)
#undef KEEL_NUMBER

void GgufWriter::boolean(const std::string& k, bool value) {
    key(k, kGgufBool);
    put<uint8_t>(values_, value);
}
void GgufWriter::string(const std::string& k, const std::string& value) {
    key(k, kGgufString);
    put_text(values_, value);
}
void GgufWriter::strings(const std::string& k, const std::vector<std::string>& values) {
    key(k, kGgufArray);
    put<uint32_t>(values_, kGgufString);
    put<uint64_t>(values_, values.size());
    for (const std::string& value : values) put_text(values_, value);
}

void GgufWriter::entry(const std::string& k, const std::string& type_and_value) {
    put_text(values_, k);
    values_.insert(values_.end(), type_and_value.begin(), type_and_value.end());
    ++value_count_;
}

void GgufWriter::tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type) {
    const kernels::WeightTypeInfo* info = kernels::weight_type_info(type);
    if (info && !kernels::in_gguf(info->number)) info = nullptr;
    if (!info || dims.empty() || dims[0] % info->block_elements)
        throw std::invalid_argument("tensor " + name + ": its rows are not whole blocks of its type");
    uint64_t bytes = kernels::weight_row_bytes(type, dims[0]);
    for (size_t i = 1; i < dims.size(); ++i) bytes *= dims[i];
    tensors_.push_back({name, dims, type, bytes});
}

std::vector<uint8_t> GgufWriter::header() const {
    std::vector<uint8_t> out = {'G', 'G', 'U', 'F'};
    put<uint32_t>(out, kVersion);
    put<uint64_t>(out, tensors_.size());
    put<uint64_t>(out, value_count_);
    out.insert(out.end(), values_.begin(), values_.end());
    uint64_t offset = 0;
    for (const Tensor& t : tensors_) {
        put_text(out, t.name);
        put<uint32_t>(out, static_cast<uint32_t>(t.dims.size()));
        for (uint64_t dim : t.dims) put(out, dim);
        put(out, kernels::kWeightTypes[t.type].number);
        put(out, offset);
        offset += padded(t.bytes);
    }
    out.resize(padded(out.size()));
    return out;
}

uint64_t GgufWriter::file_bytes() const {
    uint64_t bytes = header().size();
    for (const Tensor& t : tensors_) bytes += padded(t.bytes);
    return bytes;
}

void GgufWriter::write(const std::string& path, const Fill& fill, const Progress& progress) const {
    const std::vector<uint8_t> head = header();
    const uint64_t total = file_bytes();
    AtomicFile file(path);
    uint64_t done = 0;
    const auto append = [&](const uint8_t* data, uint64_t bytes) {
        file.write(data, bytes);
        done += bytes;
        if (progress) progress(done, total);
    };
    append(head.data(), head.size());
    std::vector<uint8_t> chunk(kChunkBytes + alignment_);
    for (size_t i = 0; i < tensors_.size(); ++i) {
        const Tensor& t = tensors_[i];
        const uint64_t block_bytes = kernels::weight_type_info(t.type)->block_bytes;
        const uint64_t step = kChunkBytes / block_bytes * block_bytes;
        for (uint64_t at = 0; at < t.bytes; at += step) {
            const uint64_t bytes = t.bytes - at < step ? t.bytes - at : step;
            const uint64_t padding = at + bytes == t.bytes ? padded(t.bytes) - t.bytes : 0;
            fill(i, at, chunk.data(), bytes);
            memset(chunk.data() + bytes, 0, padding);
            append(chunk.data(), bytes + padding);
        }
    }
    file.commit();
}

}  // namespace keel::tools
