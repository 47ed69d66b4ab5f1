// A GGUF file with other weight types: metadata and tokenizer as they are, kept tensors byte by byte, but for those
// whose values were changed.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sdk/tools/common/console.h"
#include "sdk/tools/common/model_file.h"
#include "sdk/tools/lab/quantize/type_rules.h"

namespace keel::tools {

struct QuantizedTensor {
    std::string name;
    uint32_t from, to;
    uint64_t rows, columns;
    uint64_t bytes_before, bytes;
    // sum (new - old)^2 / sum old^2, of decoded values, old ones rescaled; 0 of a kept one
    double relative_error = 0;
};

struct QuantizeRequest {
    std::vector<ModelMatrix> matrices;
    std::vector<uint32_t> types;  // of each; what is not among them is kept
    uint32_t file_type;           // general.file_type
    bool search = true;           // for the best scales; else plain rounding
    uint32_t threads = 1;
    // Entries keel.quantize.NAME beside the source's fingerprint.
    std::vector<std::pair<std::string, std::string>> notes;
    // Changes rows of a matrix that changes its type, from `first_row` on, before they are coded; null: none.
    std::function<void(size_t matrix, uint64_t columns, uint64_t first_row, std::span<float> values)> rescale;
    // A matrix as its new type's bytes; null, or none: nearest codes at the best scales.
    std::function<std::vector<uint8_t>(size_t matrix)> quantize;
    // Tensors of the file that keep their type and have other values: their bytes.
    std::vector<std::pair<uint32_t, std::vector<uint8_t>>> changed;
};

// Done of all bytes that are read. Throws what stops the work.
using QuantizeProgress = std::function<void(const std::string& tensor, uint64_t done, uint64_t total)>;

// Throws ToolError where `path` is the source's own file.
void refuse_source(const ModelFile& source, const std::string& path);

// Writes `path`, which appears when it is complete. Takes memory for one tensor in its new type and for 64 MiB of
// decoded values. Returns one row per matrix of the request. Throws ToolError: a value that is not finite, `path` being
// the source's own file; and as AtomicFile.
std::vector<QuantizedTensor> write_quantized(const ModelFile& source, const QuantizeRequest& request,
                                             const std::string& path, const QuantizeProgress& progress);

// The same rows without errors, and nothing written.
std::vector<QuantizedTensor> describe_quantized(const ModelFile& source, const QuantizeRequest& request);

// general.file_type of a file; 0 where it does not say.
uint32_t file_type_of_source(const ModelFile& source);

// Whether weights of this type have lost something already.
bool is_quantized(uint32_t type);

// Nearest codes at the best scales, on several threads. Conditions and result as quantize_rows.
std::vector<uint8_t> quantize_matrix(uint32_t type, std::span<const float> values, uint64_t columns, uint32_t threads);

// values, [rows][columns] of a matrix, decoded.
std::vector<float> matrix_values(const ModelFile& file, const ModelMatrix& matrix);

}  // namespace keel::tools
