#include "sdk/tools/lab/quantize/channel_scales.h"

#include <string.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "keel/keel_lab.h"
#include "sdk/format/bytes.h"
#include "sdk/tools/lab/quantize/site_coder.h"

namespace keel::tools {
namespace {

constexpr double kLeastMoment = 1e-6;  // of the mean: a channel that is hardly used has no scale of its own

// What may make the input of a site. The first of which the block has the matrix or the norm.
struct Maker {
    uint32_t site;
    TensorSlot matrix, vector;  // kSlotCount: none
    Dim rows, all_rows;         // of the matrix: the last ones of all of them
    const char* inputs;         // for people
};
constexpr Maker kMakers[] = {
    {KEEL_LAB_ATTN_IN, kSlotCount, kAttnNorm, kDimNone, kDimNone, "attn_q, attn_k, attn_v"},
    {KEEL_LAB_ATTN_OUT, kAttnV, kAttnVBias, kDimKv, kDimKv, "attn_output"},
    {KEEL_LAB_ATTN_OUT, kAttnQkv, kSlotCount, kDimKv, kDimQkv, "attn_output"},
    {KEEL_LAB_FFN_IN, kSlotCount, kFfnNorm, kDimNone, kDimNone, "ffn_gate, ffn_up"},
    {KEEL_LAB_FFN_HIDDEN, kFfnUp, kSlotCount, kDimFeedForward, kDimFeedForward, "ffn_down"},
    {KEEL_LAB_FFN_HIDDEN, kFfnGateUp, kSlotCount, kDimFeedForward, kDimFeedForward2, "ffn_down"},
};

bool changes(const QuantizeRequest& request, size_t i) {
    return request.types[i] != request.matrices[i].type;
}

// Heads of O's input beside each other read the same head of V.
std::vector<uint32_t> channels_of(const ModelSpec& spec, uint32_t site, uint64_t columns) {
    std::vector<uint32_t> channel(columns);
    const uint32_t sharing = site == KEEL_LAB_ATTN_OUT ? spec.heads / spec.kv_heads : 1,
                   width = site == KEEL_LAB_ATTN_OUT ? spec.head_dim : 1;
    for (uint32_t c = 0; c < columns; ++c) channel[c] = c / width / sharing * width + c % width;
    return channel;
}

std::vector<float> vector_values(const ModelFile& source, uint32_t tensor) {
    const GgufTensor& t = source.model->tensors()[tensor];
    std::vector<float> values(t.bytes / sizeof(float));
    check(read_tensor(*source.gguf(), t, 0, values.data(), t.bytes), "cannot read a vector of " + source.path);
    return values;
}

}  // namespace

std::vector<ChannelFold> channel_folds(const ModelFile& source, const QuantizeRequest& request,
                                       std::vector<std::string>* skipped) {
    const keel_model& model = *source.model;
    if (model.spec.wired) throw ToolError(kExitFile, source.path + ": channels of wired models cannot be scaled");
    std::vector<ChannelFold> folds;
    std::map<std::string, uint32_t> reasons;
    for (uint32_t block = 0; block < model.spec.blocks; ++block)
        for (const Maker& m : kMakers) {
            const auto tensor = [&](TensorSlot slot) {
                return slot == kSlotCount ? nullptr : model.block_tensor(slot, block);
            };
            if (!tensor(m.matrix == kSlotCount ? m.vector : m.matrix)) continue;
            ChannelFold fold = {block, m.site, {}, kNoMaker, 0, kNoTensor, {}, {}};
            std::string kept;  // what keeps its type
            for (size_t i = 0; i < request.matrices.size(); ++i) {
                const ModelMatrix& matrix = request.matrices[i];
                const bool reads = matrix.layer == block && input_of(matrix.slot, model.spec.tied) == m.site,
                           makes = matrix.layer == block && matrix.slot == m.matrix;
                if (reads) fold.readers.push_back(i);
                if (makes) fold.maker = i;
                if ((reads || makes) && !changes(request, i)) kept = kSlots[matrix.slot].name;
            }
            if (const GgufTensor* const v = tensor(m.vector)) {
                fold.vector = static_cast<uint32_t>(v - model.tensors());
                if (v->type != kernels::kF32) kept = kSlots[m.vector].name;
            }
            if (!kept.empty()) {
                ++reasons["inputs of " + std::string(m.inputs) + " are not scaled, because " + kept +
                          " keeps its type"];
                continue;
            }
            fold.first_row = dim_value(model.spec, m.all_rows) - dim_value(model.spec, m.rows);
            fold.channel = channels_of(model.spec, m.site, request.matrices[fold.readers[0]].columns);
            folds.push_back(std::move(fold));
        }
    for (const auto& [reason, count] : reasons) skipped->push_back(strf("%u ", count) + reason);
    return folds;
}

std::vector<float> channel_scales(const ChannelFold& fold, const Eigen::MatrixXd& moment, double alpha) {
    const size_t channels = *std::max_element(fold.channel.begin(), fold.channel.end()) + size_t{1};
    std::vector<double> logs(channels);
    for (size_t c = 0; c < fold.channel.size(); ++c)
        logs[fold.channel[c]] += moment(static_cast<Eigen::Index>(c), static_cast<Eigen::Index>(c));
    const double mean = moment.trace() / static_cast<double>(channels), least = mean > 0 ? kLeastMoment * mean : 1;
    double middle = 0;
    for (double& x : logs) {
        x = alpha / 2 * std::log(std::max(x, least));
        middle += x / static_cast<double>(channels);
    }
    std::vector<float> scales;
    for (const double x : logs) scales.push_back(static_cast<float>(std::exp(x - middle)));
    return scales;
}

std::vector<float> column_scales(const ChannelFold& fold) {
    std::vector<float> scales;
    for (const uint32_t channel : fold.channel) scales.push_back(fold.scales.empty() ? 1 : fold.scales[channel]);
    return scales;
}

void scale_rows(const std::vector<ChannelFold>& folds, size_t matrix, uint64_t columns, uint64_t first_row,
                std::span<float> values) {
    for (const ChannelFold& fold : folds) {
        if (fold.scales.empty()) continue;
        const bool reads = std::find(fold.readers.begin(), fold.readers.end(), matrix) != fold.readers.end();
        for (size_t i = 0; reads && i < values.size(); ++i) values[i] *= fold.scales[fold.channel[i % columns]];
        for (size_t i = 0; fold.maker == matrix && i < values.size(); ++i) {
            const uint64_t row = first_row + i / columns;
            if (row >= fold.first_row) values[i] /= fold.scales[row - fold.first_row];
        }
    }
}

void use_scales(const ModelFile& source, const std::vector<ChannelFold>& folds, QuantizeRequest* request) {
    request->rescale = [&folds](size_t matrix, uint64_t columns, uint64_t first_row, std::span<float> values) {
        scale_rows(folds, matrix, columns, first_row, values);
    };
    for (const ChannelFold& fold : folds) {
        if (fold.scales.empty() || fold.vector == kNoTensor) continue;
        std::vector<float> values = vector_values(source, fold.vector);
        for (size_t i = 0; i < values.size(); ++i) values[i] /= fold.scales[i];
        std::vector<uint8_t> bytes(values.size() * sizeof(float));
        memcpy(bytes.data(), values.data(), bytes.size());
        request->changed.emplace_back(fold.vector, std::move(bytes));
    }
}

}  // namespace keel::tools
