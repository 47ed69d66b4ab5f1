#include "sdk/tools/lab/quantize/calibration.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "sdk/core/hash.h"
#include "sdk/tools/lab/quantize/activation_tap.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_steps.h"
#include "sdk/tools/lab/quantize/row_team.h"
#include "sdk/tools/lab/quantize/trellis_gptq.h"

namespace keel::tools {
namespace {

// What a matrix multiplies: a site of its layer, the head's input, or nothing.
constexpr uint32_t kHeadInput = kWprojGroups, kNoInput = UINT32_MAX;
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

// Block and input.
using Site = std::pair<uint32_t, uint32_t>;

// Sum of x x^T over rows.
class Moment {
  public:
    explicit Moment(uint32_t columns) : sum_(Eigen::MatrixXd::Zero(columns, columns)) {}
    void add(std::span<const float> rows) {
        using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
        const Eigen::Index n = sum_.rows();
        const Eigen::Map<const Rows> x(rows.data(), static_cast<Eigen::Index>(rows.size()) / n, n);
        const Eigen::MatrixXf product = x.transpose() * x;
        sum_ += product.cast<double>();
        rows_ += static_cast<uint64_t>(x.rows());
    }
    Eigen::MatrixXd mean() const { return sum_ / static_cast<double>(std::max<uint64_t>(rows_, 1)); }

  private:
    Eigen::MatrixXd sum_;
    uint64_t rows_ = 0;
};

// Finished matrices, one record after the other: key, matrix, step, bytes, errors, data, hash of all that. A record
// that is not whole, or of another key, ends the file.
class WorkFile {
  public:
    WorkFile(const std::string& path, uint64_t key) : path_(path), key_(key) {}
    // wanted(matrix, step): whether a record is asked for.
    template <class Wanted>
    void load(std::vector<CalibratedMatrix>* out, const Wanted& wanted) {
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
            if (wanted(head.matrix, head.step)) (*out)[head.matrix] = {std::move(data), head.nearest_error, head.error};
            whole = ftell(file);
        }
        fclose(file);
        kept_ = static_cast<uint64_t>(whole);
    }
    void append(size_t matrix, double step, const CalibratedMatrix& m) {
        if (path_.empty()) return;
        FILE* const file = fopen(path_.c_str(), kept_ ? "r+b" : "wb");
        if (!file) throw ToolError(kExitFile, "cannot write " + path_);
        const Head head = {key_, matrix, m.bytes.size(), step, m.nearest_error, m.error};
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
        double step, nearest_error, error;
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

// factor: of a trellis type that of the moment in the order of coding. step: of one grid for each row, or 0.
CalibratedMatrix calibrated(const GptqFactor& factor, const ModelFile& file, const ModelMatrix& m, uint32_t type,
                            double step, uint32_t threads) {
    const std::vector<float> values = matrix_values(file, m);
    const bool trellis = kernels::is_trellis(type);
    const auto loss_of = [&](std::vector<float> x) {
        if (trellis) to_coding_order(x, m.columns);
        return factor.loss(x);
    };
    const double all = loss_of(values);
    const auto error_of = [&](const std::vector<uint8_t>& bytes) {
        std::vector<float> error = decode_rows(type, bytes, m.columns);
        for (size_t i = 0; i < error.size(); ++i) error[i] -= values[i];
        return all > 0 ? loss_of(std::move(error)) / all : 0;
    };
    const auto chosen = [&] {
        if (trellis) return quantize_trellis(factor, type, values, threads);
        if (step == 0) return factor.quantize(type, values);
        return factor.quantize(type, values, [&](std::span<const float> row) { return row_step_grid(row, step); });
    };
    const std::vector<uint8_t> nearest =
        step > 0 ? quantize_row_steps(values, m.columns, step) : quantize_matrix(type, values, m.columns, threads);
    CalibratedMatrix out = {chosen(), error_of(nearest), 0};
    out.error = error_of(out.bytes);
    if (out.error > out.nearest_error) out = {nearest, out.nearest_error, out.nearest_error};
    return out;
}

KvSpec exact_kv() {
    KvSpec exact;
    exact.k_format = exact.v_format = KEEL_KV_F32;
    return exact;
}

}  // namespace

struct Calibrator::State {
    State(const EngineOptions& engine, const QuantizeRequest& asked, const CalibrationOptions& options,
          const std::string& work_file, CalibrationProgress of)
        : request(asked),
          calibration(options),
          progress(std::move(of)),
          run(engine, exact_kv(), lab_context(engine)),
          file(run.model().file),
          spec(file.model->spec),
          documents(tokenize_documents(run.model().engine, options.text.file, options.text.documents,
                                       tokens_within(options.text, lab_context(engine)))),
          text_hash(hash_of_text()),
          work(work_file, key()),
          out(request.matrices.size()) {}

    uint64_t hash_of_text() const {
        uint64_t hash = kHashSeed;
        for (const std::vector<int32_t>& ids : documents)
            hash = hash_update(hash, reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof ids[0]);
        return hash_finish(hash);
    }
    // What is asked for, but for the step.
    uint64_t key() const {
        std::string text = strf("%016llx %016llx %.17g %d %u", static_cast<unsigned long long>(file.info.fingerprint),
                                static_cast<unsigned long long>(text_hash), calibration.gptq.damping,
                                calibration.gptq.activation_order, calibration.gptq.sweeps);
        for (const uint32_t type : request.types) text += ' ' + std::to_string(type);
        return hash64(text.data(), text.size());
    }
    uint32_t input(size_t i) const { return input_of(request.matrices[i].slot, spec.tied); }
    bool wanted(size_t i) const {
        return request.types[i] != request.matrices[i].type && input(i) != kNoInput && out[i].bytes.empty();
    }
    bool has_steps(size_t i) const { return request.types[i] == kernels::kQ8_0; }
    double step_of(size_t i) const { return has_steps(i) ? row_step : 0; }
    bool multiplies(size_t i, Site site) const {
        return input(i) == site.second && (site.second == kHeadInput || request.matrices[i].layer == site.first);
    }
    void finish(size_t i, const GptqFactor& factor) {
        out[i] = calibrated(factor, file, request.matrices[i], request.types[i], step_of(i), request.threads);
        work.append(i, step_of(i), out[i]);
    }
    void finish_site(Site site, Moment moment, bool keep, uint64_t done, uint64_t total);
    void take_step(double step);
    void read_text();

    const QuantizeRequest request;
    const CalibrationOptions calibration;
    const CalibrationProgress progress;
    KvRun run;
    const ModelFile& file;
    const ModelSpec& spec;
    const std::vector<std::vector<int32_t>> documents;
    const uint64_t text_hash;
    WorkFile work;
    double row_step = 0;  // of `out`
    std::vector<CalibratedMatrix> out;
    std::map<Site, GptqFactor> kept;  // of what matrices with steps multiply
};

// All matrices that multiply this; `moment` goes as soon as it is factored.
void Calibrator::State::finish_site(Site site, Moment moment, bool keep, uint64_t done, uint64_t total) {
    std::optional<GptqFactor> plain, coding_order;
    bool steps = false;
    for (size_t i = 0; i < request.matrices.size(); ++i) {
        if (!wanted(i) || !multiplies(i, site)) continue;
        progress(request.matrices[i].name, done, total);
        const bool trellis = kernels::is_trellis(request.types[i]);
        std::optional<GptqFactor>& factor = trellis ? coding_order : plain;
        if (!factor) {
            GptqOptions options = calibration.gptq;
            options.activation_order &= !trellis;
            factor.emplace(trellis ? moment_in_coding_order(moment.mean()) : moment.mean(), options);
        }
        finish(i, *factor);
        steps = steps || step_of(i) > 0;
    }
    if (keep && steps) kept.emplace(site, std::move(*plain));
}

// What is done already at this step, and what needs no text.
void Calibrator::State::take_step(double step) {
    for (size_t i = 0; i < out.size(); ++i)
        if (has_steps(i) && step != row_step) out[i] = {};
    row_step = step;
    work.load(&out, [&](size_t i, double of) { return of == step_of(i); });
    for (const auto& [site, factor] : kept)
        for (size_t i = 0; i < out.size(); ++i) {
            if (!wanted(i) || !multiplies(i, site) || step_of(i) == 0) continue;
            progress(request.matrices[i].name, i, out.size());
            finish(i, factor);
        }
}

void Calibrator::State::read_text() {
    const uint32_t blocks = spec.blocks, columns[kWprojGroups + 1] = {spec.embedding, spec.q_dim(), spec.embedding,
                                                                      spec.feed_forward, spec.embedding};
    uint64_t block_bytes = 0;
    for (uint32_t group = 0; group < kWprojGroups; ++group)
        block_bytes += uint64_t{columns[group]} * columns[group] * sizeof(double);
    const uint32_t at_once =
        static_cast<uint32_t>(std::clamp<uint64_t>(calibration.moment_bytes / block_bytes, 1, blocks));
    const uint64_t total = uint64_t{blocks} * (documents.size() + 4);
    for (uint32_t first = 0; first < blocks; first += at_once) {
        const uint32_t count = std::min(at_once, blocks - first);
        bool any = false, head = false;
        for (size_t i = 0; i < request.matrices.size(); ++i) {
            const ModelMatrix& m = request.matrices[i];
            if (!wanted(i)) continue;
            if (input(i) == kHeadInput)
                head = head || first == 0;
            else
                any = any || (m.layer >= first && m.layer < first + count);
        }
        if (!any && !head) continue;
        std::vector<Moment> moments;
        for (uint32_t i = 0; i < count * kWprojGroups; ++i) moments.emplace_back(columns[i % kWprojGroups]);
        Moment head_moment(head ? spec.embedding : 1);
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
        const bool keep = count == blocks;
        for (uint32_t i = 0; i < count * kWprojGroups; ++i)
            finish_site({first + i / kWprojGroups, i % kWprojGroups}, std::move(moments[i]), keep,
                        uint64_t{first} * (documents.size() + 4) + documents.size() * count + i, total);
        if (head)
            finish_site({0, kHeadInput}, std::move(head_moment), keep, uint64_t{first + count} * (documents.size() + 4),
                        total);
    }
}

Calibrator::Calibrator(const EngineOptions& options, const QuantizeRequest& request,
                       const CalibrationOptions& calibration, const std::string& work_file,
                       CalibrationProgress progress)
    : state_(std::make_unique<State>(options, request, calibration, work_file, std::move(progress))) {}
Calibrator::~Calibrator() = default;

uint64_t Calibrator::text_hash() const {
    return state_->text_hash;
}

const std::vector<CalibratedMatrix>& Calibrator::matrices(double row_step) try {
    state_->take_step(row_step);
    state_->read_text();
    return state_->out;
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitFile, state_->file.path + ": " + error.what());
}

}  // namespace keel::tools
