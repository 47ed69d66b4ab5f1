#include "sdk/tools/lab/quantize/model_quantizer.h"

#include <algorithm>
#include <filesystem>

#include "sdk/format/bytes.h"
#include "sdk/tools/files/gguf_writer.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_team.h"

namespace keel::tools {
namespace {

constexpr uint64_t kBatchValues = 1 << 24;    // that are decoded at a time
constexpr uint32_t kQuantizationVersion = 2;  // general.quantization_version of all block types there are

std::string read_string(const keel_reader& reader, uint64_t offset, uint64_t bytes) {
    std::string text(bytes, 0);
    check(read_at(reader, offset, text.data(), bytes), "cannot read the file");
    return text;
}

// What the new file says for itself; blocks: it has tensors in blocks.
bool replaced(const std::string& key, bool blocks) {
    return key == "general.file_type" || key == "general.alignment" ||
           (blocks && key == "general.quantization_version");
}

// What a source that was quantized itself says of that: its texts count as seen by the new file too.
constexpr std::string_view kOwnKeys = "keel.quantize.", kEarlierKeys = "keel.quantize.before.";

void copy_metadata(const ModelFile& source, const Gguf& g, bool blocks, GgufWriter* out) {
    const keel_reader& reader = *source.gguf();
    std::vector<GgufValue> values(g.values, g.values + g.value_count);
    std::sort(values.begin(), values.end(), [](const GgufValue& a, const GgufValue& b) { return a.offset < b.offset; });
    for (const GgufValue& v : values) {
        const uint64_t at = gguf_key_offset(v);
        const std::string own = read_string(reader, at, v.key_bytes);
        const std::string key =
            own.starts_with(kOwnKeys) ? std::string(kEarlierKeys) + own.substr(kOwnKeys.size()) : own;
        if (!replaced(key, blocks))
            out->entry(key, read_string(reader, at + v.key_bytes, v.offset + v.bytes - at - v.key_bytes));
    }
}

// Rows [first, first + count) of a matrix, decoded.
std::vector<float> row_values(const ModelFile& file, const ModelMatrix& m, uint64_t first, uint64_t count) {
    const GgufTensor& t = file.model->tensors()[m.tensor];
    const uint64_t row_bytes = kernels::weight_row_bytes(t.type, m.columns);
    std::vector<uint8_t> bytes(row_bytes * count);
    check(read_tensor(*file.gguf(), t, first * row_bytes, bytes.data(), bytes.size()), "cannot read " + m.name);
    return decode_rows(t.type, bytes, m.columns);
}

// One tensor in its new type, and how far it is from the old one.
std::vector<uint8_t> requantized(const ModelFile& source, const QuantizeRequest& request, size_t index,
                                 QuantizedTensor* report) try {
    const ModelMatrix& m = request.matrices[index];
    const uint32_t type = request.types[index];
    const uint64_t row_bytes = kernels::weight_row_bytes(type, m.columns);
    std::vector<uint8_t> bytes(row_bytes * m.rows);
    const std::vector<uint8_t> given = request.quantize ? request.quantize(index) : std::vector<uint8_t>();
    if (!given.empty()) bytes = given;
    const uint64_t batch = std::max<uint64_t>(kBatchValues / m.columns, 1);
    double error = 0, energy = 0;
    for (uint64_t begin = 0; begin < m.rows; begin += batch) {
        const uint64_t count = std::min(batch, m.rows - begin);
        std::vector<float> values = row_values(source, m, begin, count);
        if (request.rescale) request.rescale(index, m.columns, begin, values);
        std::vector<double> lost(count), all(count);
        in_parallel(request.threads, count, [&](size_t first, size_t last) {
            const std::span<const float> part =
                std::span(values).subspan(first * m.columns, (last - first) * m.columns);
            uint8_t* const out = bytes.data() + (begin + first) * row_bytes;
            if (given.empty()) {
                const std::vector<uint8_t> coded =
                    request.search ? quantize_rows(type, part, m.columns) : nearest_rows(type, part, m.columns);
                std::copy(coded.begin(), coded.end(), out);
            }
            for (size_t r = first; r < last; ++r) {
                const std::span<const float> row = part.subspan((r - first) * m.columns, m.columns);
                const std::vector<float> decoded =
                    decode_rows(type, {out + (r - first) * row_bytes, row_bytes}, m.columns);
                for (size_t i = 0; i < row.size(); ++i) {
                    const double x = row[i], e = decoded[i] - x;
                    lost[r] += e * e;
                    all[r] += x * x;
                }
            }
        });
        for (size_t r = 0; r < count; ++r) error += lost[r], energy += all[r];
    }
    report->relative_error = energy > 0 ? error / energy : 0;
    return bytes;
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitFile, request.matrices[index].name + ": " + error.what());
}

}  // namespace

bool is_quantized(uint32_t type) {
    return kernels::kWeightTypes[type].block_elements > 1;
}

std::vector<uint8_t> quantize_matrix(uint32_t type, std::span<const float> values, uint64_t columns, uint32_t threads) {
    const uint64_t row_bytes = kernels::weight_row_bytes(type, columns), rows = values.size() / columns;
    std::vector<uint8_t> out(rows * row_bytes);
    in_parallel(threads, rows, [&](size_t first, size_t last) {
        const std::vector<uint8_t> part =
            quantize_rows(type, values.subspan(first * columns, (last - first) * columns), columns);
        std::copy(part.begin(), part.end(), out.begin() + static_cast<ptrdiff_t>(first * row_bytes));
    });
    return out;
}

std::vector<float> matrix_values(const ModelFile& file, const ModelMatrix& matrix) {
    return row_values(file, matrix, 0, matrix.rows);
}

uint32_t file_type_of_source(const ModelFile& source) {
    uint32_t file_type = 0;
    check(gguf_u32(*source.gguf(), source.model->view(), "general.file_type", &file_type, nullptr, nullptr),
          "cannot read general.file_type of " + source.path);
    return file_type;
}

std::vector<QuantizedTensor> describe_quantized(const ModelFile& source, const QuantizeRequest& request) {
    std::vector<QuantizedTensor> rows;
    for (size_t i = 0; i < request.matrices.size(); ++i) {
        const ModelMatrix& m = request.matrices[i];
        rows.push_back({m.name, m.type, request.types[i], m.rows, m.columns, source.model->tensors()[m.tensor].bytes,
                        m.rows * kernels::weight_row_bytes(request.types[i], m.columns)});
    }
    return rows;
}

void refuse_source(const ModelFile& source, const std::string& path) {
    std::error_code ignored;
    if (std::filesystem::equivalent(source.path, path, ignored))
        throw ToolError(kExitUsage, path + " is the file that is read");
}

std::vector<QuantizedTensor> write_quantized(const ModelFile& source, const QuantizeRequest& request,
                                             const std::string& path, const QuantizeProgress& progress) {
    refuse_source(source, path);
    const Gguf g = source.model->view();
    GgufWriter writer(g.alignment);
    const bool blocks = std::any_of(request.types.begin(), request.types.end(), is_quantized);
    copy_metadata(source, g, blocks, &writer);
    writer.number<uint32_t>("general.file_type", request.file_type);
    if (blocks) writer.number<uint32_t>("general.quantization_version", kQuantizationVersion);
    writer.string("keel.quantize.source", hex64(source.info.fingerprint));
    for (const auto& [name, text] : request.notes) writer.string("keel.quantize." + name, text);

    std::vector<QuantizedTensor> reports = describe_quantized(source, request);
    std::vector<size_t> matrix_of(g.tensor_count, SIZE_MAX);
    for (size_t i = 0; i < request.matrices.size(); ++i) matrix_of[request.matrices[i].tensor] = i;
    std::vector<std::string> names;
    uint64_t total = 0, done = 0;
    for (uint32_t i = 0; i < g.tensor_count; ++i) {
        const GgufTensor& t = g.tensors[i];
        names.push_back(read_string(*source.gguf(), t.name_offset, t.name_bytes));
        writer.tensor(names.back(), {t.dims, t.dims + t.dim_count},
                      matrix_of[i] == SIZE_MAX ? t.type : request.types[matrix_of[i]]);
        total += t.bytes;
    }
    std::vector<uint8_t> bytes;  // of the tensor that is being written, where its type changes
    writer.write(path, [&](size_t tensor, uint64_t offset, uint8_t* dst, uint64_t count) {
        const GgufTensor& t = g.tensors[tensor];
        if (offset == 0) {
            progress(names[tensor], done, total);
            done += t.bytes;
            bytes.clear();
            const size_t matrix = matrix_of[tensor];
            if (matrix != SIZE_MAX && request.types[matrix] != t.type)
                bytes = requantized(source, request, matrix, &reports[matrix]);
            for (const auto& [changed, values] : request.changed)
                if (changed == tensor) bytes = values;
        }
        if (bytes.empty())
            check(read_tensor(*source.gguf(), t, offset, dst, count), "cannot read " + names[tensor]);
        else
            std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(offset), count, dst);
    });
    return reports;
}

}  // namespace keel::tools
