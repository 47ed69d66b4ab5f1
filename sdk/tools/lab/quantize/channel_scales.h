// Scales of channels (AWQ, Lin et al. 2023): the columns of matrices that multiply x are multiplied by s, and what
// makes x is divided by s, so that the model computes what it did, and columns of large activations lose less by their
// codes. The file has the same tensors of the same types. Who makes x, and is linear in each of its channels:
//     Q, K, V    attn_norm.weight
//     O          rows of V and its bias: a channel is that of all query heads that read a head of V
//     gate, up   ffn_norm.weight
//     down       rows of up, since the input is act(gate) * up
// Needs Eigen.
#pragma once
#include <Eigen/Core>
#include <string>
#include <vector>

#include "sdk/tools/lab/quantize/model_quantizer.h"

namespace keel::tools {

struct ChannelFold {
    uint32_t block, site;         // keel_lab_site
    std::vector<size_t> readers;  // matrices of the request that multiply x
    size_t maker;                 // matrix of the request whose rows make x from `first_row` on, or kNoMaker
    uint64_t first_row;
    uint32_t vector;  // tensor of the file in F32 that is divided too: a norm or a bias; or kNoTensor
    std::vector<uint32_t>
        channel;                // of each column; channels are numbered as the maker's rows or the vector's elements
    std::vector<float> scales;  // of each channel, above 0; empty: 1
};
constexpr size_t kNoMaker = SIZE_MAX;

// The inputs that can be scaled: all their matrices change type, and so does the one that makes them, or it is a norm
// in F32. skipped: a line for each kind of the others, why. Throws ToolError: a wired model, where an input has other
// readers.
std::vector<ChannelFold> channel_folds(const ModelFile& source, const QuantizeRequest& request,
                                       std::vector<std::string>* skipped);

// (mean x^2)^(alpha / 2) of each channel, divided by the geometric mean of them all. moment: of x, [columns][columns].
// Channels below 1e-6 of the mean are taken as that.
std::vector<float> channel_scales(const ChannelFold& fold, const Eigen::MatrixXd& moment, double alpha);

// Of each column.
std::vector<float> column_scales(const ChannelFold& fold);

// Rows of a matrix as the folds change them, from `first_row` on: columns times, rows divided.
void scale_rows(const std::vector<ChannelFold>& folds, size_t matrix, uint64_t columns, uint64_t first_row,
                std::span<float> values);

// The request's file has all the folds. They have to live as long as the request.
void use_scales(const ModelFile& source, const std::vector<ChannelFold>& folds, QuantizeRequest* request);

}  // namespace keel::tools
