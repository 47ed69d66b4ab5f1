#include "sdk/tools/lab/quantize/correction.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>

#include "sdk/tools/files/gguf_writer.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/symmetric_top.h"

namespace keel::tools {
namespace {

std::vector<uint8_t> half_rows(const FloatRows& x) {
    return quantize_rows(kernels::kF16, {x.data(), static_cast<size_t>(x.size())}, static_cast<uint64_t>(x.cols()));
}

FloatRows rows_of(const std::vector<uint8_t>& halves, uint64_t columns) {
    const std::vector<float> values = decode_rows(kernels::kF16, halves, columns);
    return Eigen::Map<const FloatRows>(values.data(), static_cast<Eigen::Index>(values.size() / columns),
                                       static_cast<Eigen::Index>(columns));
}

}  // namespace

FloatRows LowRankCorrection::product() const {
    return tools::product(rows_of(b, rank), rows_of(a, a.size() / (2 * rank)), 1);
}

LowRankCorrection correction_of(const FloatRows& error, const Eigen::MatrixXd& moment, uint32_t rank,
                                uint32_t threads) {
    if (moment.rows() != error.cols() || moment.cols() != error.cols() || error.size() == 0 || rank == 0)
        throw std::invalid_argument("a correction of another shape");
    const Eigen::Index k = std::min<Eigen::Index>({rank, error.rows(), error.cols()});
    const FloatRows through = tools::product(error, moment.cast<float>(), threads);
    const Eigen::MatrixXd output = product_transposed(through, error, threads).cast<double>();
    const Eigen::MatrixXd top = top_eigenpairs((output + output.transpose()) / 2, k).vectors;
    FloatRows b = top.cast<float>(), a = product_of_transposed(b, error, threads);
    for (Eigen::Index i = 0; i < k; ++i) {
        const float norm = std::sqrt(a.row(i).norm());
        if (!(norm > 0)) continue;
        a.row(i) /= norm;
        b.col(i) *= norm;
    }
    return {static_cast<uint32_t>(k), half_rows(a), half_rows(b)};
}

uint64_t write_correction(const std::string& path, const std::string& architecture,
                          const std::vector<std::pair<std::string, std::string>>& notes,
                          const std::vector<CorrectedTensor>& tensors) {
    GgufWriter writer;
    writer.string("general.type", "adapter");
    writer.string("general.architecture", architecture);
    writer.string("adapter.type", "lora");
    writer.number("adapter.lora.alpha", 0.0f);  // the scale is that of the session, whatever the rank
    for (const auto& [name, text] : notes) writer.string("keel.quantize." + name, text);
    std::vector<const std::vector<uint8_t>*> data;
    for (const CorrectedTensor& t : tensors) {
        writer.tensor(t.name + ".lora_a", {t.columns, t.correction->rank}, kernels::kF16);
        writer.tensor(t.name + ".lora_b", {t.correction->rank, t.rows}, kernels::kF16);
        data.insert(data.end(), {&t.correction->a, &t.correction->b});
    }
    writer.write(path, [&](size_t tensor, uint64_t offset, uint8_t* dst, uint64_t count) {
        std::copy_n(data[tensor]->begin() + static_cast<ptrdiff_t>(offset), count, dst);
    });
    return writer.file_bytes();
}

}  // namespace keel::tools
