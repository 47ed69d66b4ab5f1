#include "sdk/tools/lab/quantize/calibration.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "sdk/core/hash.h"
#include "sdk/tools/lab/quantize/activation_tap.h"
#include "sdk/tools/lab/quantize/site_coder.h"
#include "sdk/tools/lab/quantize/work_file.h"

namespace keel::tools {
namespace {

// Block and input.
using Site = std::pair<uint32_t, uint32_t>;

// Finished matrices, one record after the other: mark, key, matrix, step, sizes, errors, data, hash of all that. A
// record that is not whole, or of another key, ends the file.
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
        while (fread(&head, sizeof head, 1, file) == 1 && head.mark == kWorkFileMark && head.key == key_ &&
               head.matrix < out->size() && std::max({head.bytes, head.scales, head.a, head.b}) < kMostBytes) {
            std::vector<uint8_t> data(head.bytes + head.scales + head.a + head.b);
            uint64_t hash = 0;
            if (fread(data.data(), 1, data.size(), file) != data.size() || fread(&hash, sizeof hash, 1, file) != 1 ||
                hash != hash_of(head, data))
                break;
            if (wanted(head.matrix, head.step)) (*out)[head.matrix] = matrix_of(head, data);
            whole = ftell(file);
        }
        fclose(file);
        kept_ = static_cast<uint64_t>(whole);
    }
    void append(size_t matrix, double step, const CalibratedMatrix& m) {
        if (path_.empty()) return;
        FILE* const file = fopen(path_.c_str(), kept_ ? "r+b" : "wb");
        if (!file) throw ToolError(kExitFile, "cannot write " + path_);
        const Head head = {kWorkFileMark,
                           key_,
                           matrix,
                           m.bytes.size(),
                           m.scales.size() * sizeof(float),
                           m.correction.a.size(),
                           m.correction.b.size(),
                           m.correction.rank,
                           step,
                           m.nearest_error,
                           m.error,
                           m.scaling,
                           m.corrected_error};
        std::vector<uint8_t> data = m.bytes;
        data.resize(head.bytes + head.scales);
        if (head.scales) memcpy(&data[head.bytes], m.scales.data(), head.scales);
        data.insert(data.end(), m.correction.a.begin(), m.correction.a.end());
        data.insert(data.end(), m.correction.b.begin(), m.correction.b.end());
        const uint64_t hash = hash_of(head, data);
        const bool written =
            fseek(file, static_cast<long>(kept_), SEEK_SET) == 0 && fwrite(&head, sizeof head, 1, file) == 1 &&
            fwrite(data.data(), 1, data.size(), file) == data.size() && fwrite(&hash, sizeof hash, 1, file) == 1;
        if (fclose(file) != 0 || !written) throw ToolError(kExitFile, "cannot write " + path_);
        kept_ += sizeof head + data.size() + sizeof hash;
    }

  private:
    static constexpr uint64_t kMostBytes = uint64_t{1} << 40;
    struct Head {
        uint64_t mark, key, matrix, bytes, scales, a, b, rank;  // bytes to b: of each part of the data
        double step, nearest_error, error, scaling, corrected_error;
    };
    static CalibratedMatrix matrix_of(const Head& head, const std::vector<uint8_t>& data) {
        auto part = [at = data.begin()](uint64_t bytes) mutable {
            const auto begin = at;
            at += static_cast<ptrdiff_t>(bytes);
            return std::vector<uint8_t>(begin, at);
        };
        CalibratedMatrix m;
        m.bytes = part(head.bytes);
        const std::vector<uint8_t> scales = part(head.scales);
        m.scales.resize(scales.size() / sizeof(float));
        if (!scales.empty()) memcpy(m.scales.data(), scales.data(), scales.size());
        m.correction = {static_cast<uint32_t>(head.rank), part(head.a), part(head.b)};
        m.nearest_error = head.nearest_error;
        m.error = head.error;
        m.scaling = head.scaling;
        m.corrected_error = head.corrected_error;
        return m;
    }
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
          out(request.matrices.size()) {
        refuse_as_work_file(file, calibration.text.file, work_file);
        if (!calibration.scaling) return;
        folds = channel_folds(file, request, &not_scaled);
        if (folds.empty()) throw ToolError(kExitUsage, "nothing is scaled: " + not_scaled[0]);
    }

    uint64_t hash_of_text() const {
        uint64_t hash = kHashSeed;
        for (const std::vector<int32_t>& ids : documents) hash = hash_ids(hash, ids);
        return hash_finish(hash);
    }
    // What is asked for, but for the step.
    uint64_t key() const {
        std::string text = strf("%s %s %.17g %d %u", hex64(file.info.fingerprint).c_str(), hex64(text_hash).c_str(),
                                calibration.gptq.damping, calibration.gptq.activation_order, calibration.gptq.sweeps);
        text += strf(" keel %u", keel_version());
        if (calibration.nearest_codes) text += " nearest";
        if (calibration.scaling) text += " scaled";
        if (calibration.correction_rank) text += strf(" correction %u", calibration.correction_rank);
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
    std::vector<float> values_of(size_t i) const {
        std::vector<float> values = matrix_values(file, request.matrices[i]);
        scale_rows(folds, i, request.matrices[i].columns, 0, values);
        return values;
    }
    CalibratedMatrix coded(size_t i, SiteCoder* coder) const {
        return coder->code(request.types[i], values_of(i), request.matrices[i].columns, step_of(i));
    }
    void finish(size_t i, CalibratedMatrix matrix) {
        out[i] = std::move(matrix);
        work.append(i, step_of(i), out[i]);
    }
    SiteCoder scaled_best(ChannelFold* fold, const SecondMoment& moment, const std::vector<size_t>& matrices,
                          std::vector<CalibratedMatrix>* best) const;
    void finish_site(Site site, SecondMoment moment, bool keep, uint64_t done, uint64_t total);
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
    std::map<Site, SiteCoder> kept;  // of what matrices with steps multiply
    std::vector<ChannelFold> folds;
    std::vector<std::string> not_scaled;
};

// The scales of least sum of errors over the matrices, and their codes with these.
SiteCoder Calibrator::State::scaled_best(ChannelFold* fold, const SecondMoment& moment,
                                         const std::vector<size_t>& matrices,
                                         std::vector<CalibratedMatrix>* best) const {
    const Eigen::MatrixXd mean = moment.mean();
    std::optional<SiteCoder> best_coder;
    double least = 0;
    std::vector<float> scales;
    for (const double power : kScalingPowers) {
        fold->scales = power > 0 ? channel_scales(*fold, mean, power) : std::vector<float>();
        SiteCoder coder(power > 0 ? moment.divided(column_scales(*fold)) : moment, calibration.gptq,
                        calibration.nearest_codes);
        std::vector<CalibratedMatrix> now;
        double error = 0;
        for (const size_t i : matrices) {
            now.push_back(coded(i, &coder));
            now.back().scales = fold->scales;
            now.back().scaling = power;
            if (power > 0) now.back().nearest_error = (*best)[now.size() - 1].nearest_error;
            error += now.back().error;
        }
        if (best_coder && error >= least) continue;
        least = error;
        *best = std::move(now);
        scales = fold->scales;
        best_coder.emplace(std::move(coder));
    }
    fold->scales = std::move(scales);
    return std::move(*best_coder);
}

// All matrices that multiply this.
void Calibrator::State::finish_site(Site site, SecondMoment moment, bool keep, uint64_t done, uint64_t total) {
    const auto fold =
        std::find_if(folds.begin(), folds.end(), [&](const ChannelFold& f) { return Site(f.block, f.site) == site; });
    std::vector<size_t> matrices;
    bool steps = false;
    for (size_t i = 0; i < request.matrices.size(); ++i) {
        if (!wanted(i) || !multiplies(i, site)) continue;
        matrices.push_back(i);
        steps = steps || step_of(i) > 0;
    }
    if (matrices.empty()) return;
    std::vector<CalibratedMatrix> best;
    progress(request.matrices[matrices[0]].name, done, total);
    if (fold != folds.end()) matrices = fold->readers;  // together, also where some of them are done
    SiteCoder coder = fold != folds.end() ? scaled_best(&*fold, moment, matrices, &best)
                                          : SiteCoder(std::move(moment), calibration.gptq, calibration.nearest_codes);
    for (size_t k = 0; k < matrices.size(); ++k) {
        const size_t i = matrices[k];
        const ModelMatrix& m = request.matrices[i];
        if (k > 0) progress(m.name, done, total);
        CalibratedMatrix matrix = best.empty() ? coded(i, &coder) : std::move(best[k]);
        if (calibration.correction_rank && site.second < kHeadInput)
            coder.correct(request.types[i], values_of(i), m.columns, calibration.correction_rank, &matrix);
        finish(i, std::move(matrix));
    }
    if (!keep || !steps) return;
    coder.keep_scalar_codes();
    kept.emplace(site, std::move(coder));
}

// What is done already at this step, and what needs no text.
void Calibrator::State::take_step(double step) {
    for (size_t i = 0; i < out.size(); ++i)
        if (has_steps(i) && step != row_step) out[i] = {};
    row_step = step;
    work.load(&out, [&](size_t i, double of) { return of == step_of(i); });
    for (ChannelFold& fold : folds) fold.scales = out[fold.readers[0]].scales;
    for (auto& [site, coder] : kept)
        for (size_t i = 0; i < out.size(); ++i) {
            if (!wanted(i) || !multiplies(i, site) || step_of(i) == 0) continue;
            progress(request.matrices[i].name, i, out.size());
            finish(i, coded(i, &coder));
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
                    moments[block * kWprojGroups + group].add(tap.rows(layer, group), calibration.gptq.threads);
            }
            if (head) head_moment.add(hidden, calibration.gptq.threads);
        }
        const bool keep = count == blocks;
        // The last input of a block first: scales of O's and down's inputs divide rows of V and up.
        for (uint32_t i = 0; i < count * kWprojGroups; ++i) {
            const uint32_t block = i / kWprojGroups, group = kWprojGroups - 1 - i % kWprojGroups;
            finish_site({first + block, group}, std::move(moments[block * kWprojGroups + group]), keep,
                        uint64_t{first} * (documents.size() + 4) + documents.size() * count + i, total);
        }
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

const std::vector<std::string>& Calibrator::not_scaled() const {
    return state_->not_scaled;
}

void Calibrator::use_scales(QuantizeRequest* request) const {
    tools::use_scales(state_->file, state_->folds, request);
}

const std::vector<CalibratedMatrix>& Calibrator::matrices(double row_step) try {
    if (row_step > 0 && (state_->calibration.scaling || state_->calibration.correction_rank))
        throw ToolError(kExitUsage, "one grid a row is neither scaled nor corrected");
    state_->take_step(row_step);
    state_->read_text();
    return state_->out;
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitFile, state_->file.path + ": " + error.what());
}

}  // namespace keel::tools
