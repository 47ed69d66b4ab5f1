#include "sdk/tools/lab/quantize/calibration.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <memory>

#include "sdk/core/hash.h"
#include "sdk/tools/lab/quantize/activation_tap.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_team.h"
#include "sdk/tools/lab/quantize/trellis_gptq.h"

namespace keel::tools {
namespace {

// Finished matrices, one record after the other: key, matrix, bytes, errors, data, hash of all that. A record that is
// not whole, or of another key, ends the file.
class WorkFile {
  public:
    WorkFile(const std::string& path, uint64_t key) : path_(path), key_(key) {}
    void load(std::vector<CalibratedMatrix>* out) {
        if (path_.empty()) return;
        FILE* const file = fopen(path_.c_str(), "rb");
        if (!file) return;
        long whole = 0;
        Head head;
        while (fread(&head, sizeof head, 1, file) == 1 && head.key == key_ && head.matrix < out->size() &&
               head.bytes < kMostBytes) {
            std::vector<uint8_t> data(head.bytes);
            uint64_t hash = 0;
            if (fread(data.data(), 1, data.size(), file) != data.size() || fread(&hash, sizeof hash, 1, file) != 1 ||
                hash != hash_of(head, data))
                break;
            (*out)[head.matrix] = {std::move(data), head.nearest_error, head.error};
            whole = ftell(file);
        }
        fclose(file);
        kept_ = static_cast<uint64_t>(whole);
    }
    void append(size_t matrix, const CalibratedMatrix& m) {
        if (path_.empty()) return;
        FILE* const file = fopen(path_.c_str(), kept_ ? "r+b" : "wb");
        if (!file) throw ToolError(kExitFile, "cannot write " + path_);
        const Head head = {key_, matrix, m.bytes.size(), m.nearest_error, m.error};
        const uint64_t hash = hash_of(head, m.bytes);
        const bool written = fseek(file, static_cast<long>(kept_), SEEK_SET) == 0 &&
                             fwrite(&head, sizeof head, 1, file) == 1 &&
                             fwrite(m.bytes.data(), 1, m.bytes.size(), file) == m.bytes.size() &&
                             fwrite(&hash, sizeof hash, 1, file) == 1;
        if (fclose(file) != 0 || !written) throw ToolError(kExitFile, "cannot write " + path_);
        kept_ += sizeof head + m.bytes.size() + sizeof hash;
    }

  private:
    static constexpr uint64_t kMostBytes = uint64_t{1} << 40;
    struct Head {
        uint64_t key, matrix, bytes;
        double nearest_error, error;
    };
    static uint64_t hash_of(const Head& head, const std::vector<uint8_t>& data) {
        char text[sizeof head];
        memcpy(text, &head, sizeof head);
        return hash_finish(hash_update(hash_update(kHashSeed, text, sizeof text),
                                       reinterpret_cast<const char*>(data.data()), data.size()));
    }
    std::string path_;
    uint64_t key_, kept_ = 0;
};

}  // namespace

uint32_t input_of(TensorSlot slot, bool tied) {
    switch (slot) {
        case kAttnQ:
        case kAttnK:
        case kAttnV:
        case kAttnQkv:
            return KEEL_LAB_ATTN_IN;
        case kAttnOutput:
            return KEEL_LAB_ATTN_OUT;
        case kFfnGate:
        case kFfnUp:
        case kFfnGateUp:
            return KEEL_LAB_FFN_IN;
        case kFfnDown:
            return KEEL_LAB_FFN_HIDDEN;
        case kTokenEmbedding:
            return tied ? kHeadInput : kNoInput;
        case kOutput:
            return kHeadInput;
        default:
            return kNoInput;
    }
}

void SecondMoment::add(std::span<const float> rows) {
    using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const Eigen::Index n = sum_.rows();
    const Eigen::Map<const Rows> x(rows.data(), static_cast<Eigen::Index>(rows.size()) / n, n);
    const Eigen::MatrixXf product = x.transpose() * x;
    sum_ += product.cast<double>();
    rows_ += static_cast<uint64_t>(x.rows());
}

CalibratedMatrix SiteCoder::code(uint32_t type, std::span<const float> values, uint64_t columns) {
    const bool trellis = kernels::is_trellis(type);
    std::optional<GptqFactor>& factor = trellis ? coding_order_ : plain_;
    if (!factor) {
        GptqOptions options = options_;
        options.activation_order &= !trellis;
        factor.emplace(trellis ? moment_in_coding_order(moment_) : moment_, options);
    }
    const auto loss_of = [&](std::vector<float> x) {
        if (trellis) to_coding_order(x, columns);
        return factor->loss(x);
    };
    const double all = loss_of({values.begin(), values.end()});
    const auto error_of = [&](const std::vector<uint8_t>& bytes) {
        std::vector<float> error = decode_rows(type, bytes, columns);
        for (size_t i = 0; i < error.size(); ++i) error[i] -= values[i];
        return all > 0 ? loss_of(std::move(error)) / all : 0;
    };
    std::vector<uint8_t> nearest = quantize_matrix(type, values, columns, options_.threads);
    CalibratedMatrix out = {
        trellis ? quantize_trellis(*factor, type, values, options_.threads) : factor->quantize(type, values),
        error_of(nearest), 0};
    out.error = error_of(out.bytes);
    if (out.error > out.nearest_error) out = {std::move(nearest), out.nearest_error, out.nearest_error};
    return out;
}

std::vector<CalibratedMatrix> calibrate_matrices(const EngineOptions& options, const QuantizeRequest& request,
                                                 const CalibrationOptions& calibration, const std::string& work_file,
                                                 const CalibrationProgress& progress, uint64_t* text_hash) try {
    const uint32_t context = lab_context(options);
    KvSpec exact;
    exact.k_format = exact.v_format = KEEL_KV_F32;
    KvRun run(options, exact, context);
    const ModelFile& file = run.model().file;
    const ModelSpec& spec = file.model->spec;
    const std::vector<std::vector<int32_t>> documents =
        tokenize_documents(run.model().engine, calibration.text.file, calibration.text.documents,
                           tokens_within(calibration.text, context));
    uint64_t hash = kHashSeed;
    for (const std::vector<int32_t>& ids : documents)
        hash = hash_update(hash, reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof ids[0]);
    *text_hash = hash_finish(hash);

    // What is asked for, as the key of a work file.
    std::string key = strf("%016llx %016llx %.17g %d %u", static_cast<unsigned long long>(file.info.fingerprint),
                           static_cast<unsigned long long>(*text_hash), calibration.gptq.damping,
                           calibration.gptq.activation_order, calibration.gptq.sweeps);
    for (const uint32_t type : request.types) key += ' ' + std::to_string(type);
    WorkFile work(work_file, hash64(key.data(), key.size()));
    std::vector<CalibratedMatrix> out(request.matrices.size());
    work.load(&out);

    const auto wanted = [&](size_t i) {
        const ModelMatrix& m = request.matrices[i];
        return request.types[i] != m.type && input_of(m.slot, spec.tied) != kNoInput && out[i].bytes.empty();
    };
    const uint32_t blocks = spec.blocks, columns[kWprojGroups + 1] = {spec.embedding, spec.q_dim(), spec.embedding,
                                                                      spec.feed_forward, spec.embedding};
    uint64_t block_bytes = 0;
    for (uint32_t group = 0; group < kWprojGroups; ++group)
        block_bytes += uint64_t{columns[group]} * columns[group] * sizeof(double);
    const uint32_t at_once =
        static_cast<uint32_t>(std::clamp<uint64_t>(calibration.moment_bytes / block_bytes, 1, blocks));
    const uint64_t total = uint64_t{blocks} * (documents.size() + 4);
    const auto finish = [&](const SecondMoment& moment, uint32_t block, uint32_t input, uint64_t done) {
        SiteCoder coder(moment, calibration.gptq);
        for (size_t i = 0; i < request.matrices.size(); ++i) {
            const ModelMatrix& m = request.matrices[i];
            if (!wanted(i) || input_of(m.slot, spec.tied) != input || (input != kHeadInput && m.layer != block))
                continue;
            progress(m.name, done, total);
            out[i] = coder.code(request.types[i], matrix_values(file, m), m.columns);
            work.append(i, out[i]);
        }
    };
    for (uint32_t first = 0; first < blocks; first += at_once) {
        const uint32_t count = std::min(at_once, blocks - first);
        bool any = false, head = false;
        for (size_t i = 0; i < request.matrices.size(); ++i) {
            const ModelMatrix& m = request.matrices[i];
            if (!wanted(i)) continue;
            if (input_of(m.slot, spec.tied) == kHeadInput)
                head = head || first == 0;
            else
                any = any || (m.layer >= first && m.layer < first + count);
        }
        if (!any && !head) continue;
        std::vector<SecondMoment> moments;
        for (uint32_t i = 0; i < count * kWprojGroups; ++i) moments.emplace_back(columns[i % kWprojGroups]);
        SecondMoment head_moment(head ? spec.embedding : 1);
        // Where layers share weights, these blocks are those of layers that need not follow one another.
        uint32_t low = spec.layers, high = 0;
        for (uint32_t layer = 0; layer < spec.layers; ++layer)
            if (spec.block_of(layer) - first < count) {
                low = std::min(low, layer);
                high = layer + 1;
            }
        ActivationTap tap(run, {columns[0], columns[1], columns[2], columns[3]}, low, high - low);
        for (size_t d = 0; d < documents.size(); ++d) {
            progress("second moments", uint64_t{first} * (documents.size() + 4) + d * count, total);
            std::vector<float> hidden;
            tap.forward(documents[d], [&](size_t position, std::span<const float>) {
                if (!head) return;
                const float* row = nullptr;
                uint32_t n = 0;
                check(keel_session_hidden(run.session(), static_cast<uint32_t>(position % run.plan().chunk_tokens),
                                          &row, &n),
                      "cannot read hidden states");
                hidden.insert(hidden.end(), row, row + n);
            });
            for (uint32_t layer = low; layer < high; ++layer) {
                const uint32_t block = spec.block_of(layer) - first;
                for (uint32_t group = 0; group < kWprojGroups && block < count; ++group)
                    moments[block * kWprojGroups + group].add(tap.rows(layer, group));
            }
            if (head) head_moment.add(hidden);
        }
        for (uint32_t i = 0; i < count * kWprojGroups; ++i) {
            finish(moments[i], first + i / kWprojGroups, i % kWprojGroups,
                   uint64_t{first} * (documents.size() + 4) + documents.size() * count + i);
        }
        if (head) finish(head_moment, 0, kHeadInput, uint64_t{first + count} * (documents.size() + 4));
    }
    return out;
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitFile, options.model + ": " + error.what());
}

}  // namespace keel::tools
