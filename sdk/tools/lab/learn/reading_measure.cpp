#include "sdk/tools/lab/learn/reading_measure.h"

#include <time.h>

#include <algorithm>
#include <random>

#include "kernels/cpu/kernel_set.h"
#include "sdk/format/gguf.h"
#include "sdk/model/model.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/text_rows.h"

namespace keel::tools {
namespace {

constexpr uint32_t kTokensAtOnce = 4, kLanes = 16;

// z[t][0] = w . h[t], lane by lane; h[tokens][d], rows of z `stride` apart.
template <uint32_t tokens>
void dot(const float* w, const float* h, uint32_t d, float* z, size_t stride) {
    float lane[tokens][kLanes] = {};
    for (uint32_t i = 0; i < d; i += kLanes)
        for (uint32_t t = 0; t < tokens; ++t)
            for (uint32_t l = 0; l < kLanes; ++l) lane[t][l] += w[i + l] * h[size_t{t} * d + i + l];
    for (uint32_t t = 0; t < tokens; ++t) {
        float sum = 0;
        for (const float x : lane[t]) sum += x;
        z[t * stride] = sum;
    }
}

double processor_seconds() {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

ModelHead::ModelHead(const ModelFile& file) {
    const keel_model& model = *file.model;
    const GgufTensor* t = model.spec.tied ? model.tensor(kTokenEmbedding, 0) : model.tensor(kOutput, 0);
    const uint32_t d = model.spec.embedding, vocabulary = model.spec.vocabulary;
    if (model.spec.logit_softcap > 0) throw ToolError(kExitUsage, "models with a soft cap of their logits");
    const uint64_t row_bytes = t->bytes / vocabulary;
    rows_.resize(size_t{vocabulary} * d);
    std::vector<uint8_t> row(row_bytes);
    for (uint32_t v = 0; v < vocabulary; ++v) {
        check(read_tensor(*file.gguf(), *t, v * row_bytes, row.data(), row_bytes), "cannot read the head");
        kernels::kScalarSet.dequantize_row[t->type](row.data(), &rows_[size_t{v} * d], d);
    }
    head_.vocabulary = vocabulary;
    head_.hidden = d;
    head_.row = [this, d](uint32_t v, float* to) { std::copy_n(&rows_[size_t{v} * d], d, to); };
    head_.multiply = [this, d, vocabulary](const float* h, uint32_t n, float* z) {
        for (uint32_t v = 0; v < vocabulary; ++v) {
            const float* row = &rows_[size_t{v} * d];
            uint32_t t = 0;
            for (; t + kTokensAtOnce <= n; t += kTokensAtOnce)
                dot<kTokensAtOnce>(row, h + size_t{t} * d, d, z + size_t{t} * vocabulary + v, vocabulary);
            for (; t < n; ++t) dot<1>(row, h + size_t{t} * d, d, z + size_t{t} * vocabulary + v, vocabulary);
        }
    };
}

ReadingMeter::ReadingMeter(LoadedModel& model, const ReadingOptions& options, uint32_t window, uint32_t tokens,
                           ReadingTokens order)
    : model_(model),
      session_(open_session(model)),
      head_(model.file),
      options_(options),
      adapter_(head_.get(), options),
      window_(window ? window : model.plan.context_tokens),
      tokens_(tokens),
      scored_at_once_(model.plan.chunk_tokens == 1 ? 1 : options.chunk),
      order_(order) {}

ReadingDocument ReadingMeter::read(const std::string& text) {
    std::vector<int32_t> ids = tokenize(model_.engine, text, KEEL_TOKENIZE_BOS);
    std::mt19937 random(order_ == ReadingTokens::random ? ++documents_ : 1);
    if (order_ == ReadingTokens::shuffled && ids.size() > 2) std::shuffle(ids.begin() + 1, ids.end(), random);
    if (tokens_ && ids.size() > size_t{tokens_} + 1) ids.resize(size_t{tokens_} + 1);
    if (order_ == ReadingTokens::random)
        for (size_t i = 1; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(random() % head_.get().vocabulary);
    const uint32_t d = head_.get().hidden, vocabulary = head_.get().vocabulary;
    ReadingDocument document;
    adapter_.reset();
    const double learn_before = adapter_.seconds(), begin_seconds = processor_seconds();
    std::vector<float> hidden, logits;
    std::vector<int32_t> target;
    const auto flush = [&](bool last) {
        const uint32_t n = static_cast<uint32_t>(target.size());
        std::vector<ReadingScore> scores(n);
        if (n) adapter_.score(hidden.data(), logits.data(), target.data(), n, scores.data());
        if (last || adapter_.open_tokens() == options_.chunk) adapter_.end_chunk(last);
        for (const ReadingScore& s : scores) {
            document.nll.frozen += s.frozen;
            document.nll.cached += s.cached;
            document.nll.mapped += s.mapped;
            document.nll.adapted += s.adapted;
            document.nll.mixture += s.mixture;
        }
        document.tokens += n;
        hidden.clear();
        logits.clear();
        target.clear();
    };
    TextRows rows(model_.engine, session_, stop_if_interrupted);
    for (size_t begin = 0, scored = 1; scored < ids.size(); begin += std::max(window_ / 2, 1u)) {
        const size_t end = std::min(ids.size() - 1, begin + window_);  // inputs [begin, end)
        check(session_.truncate(0), "cannot empty the session");
        rows.start(std::span(ids).subspan(begin, end - begin));
        for (size_t position = begin; position < end; ++position) {
            const uint32_t row = rows.next();
            if (position + 1 < scored) continue;
            const float *h, *z;
            check(keel_session_hidden(session_.handle(), row, &h, nullptr), "cannot read a hidden state");
            check(keel_session_logits(session_.handle(), row, &z, nullptr), "cannot read logits");
            hidden.insert(hidden.end(), h, h + d);
            logits.insert(logits.end(), z, z + vocabulary);
            target.push_back(ids[position + 1]);
            scored = position + 2;
            if (target.size() == scored_at_once_) flush(scored == ids.size());
        }
    }
    flush(true);
    document.steps = adapter_.steps();
    document.skipped = adapter_.skipped();
    document.state_norm = adapter_.state_norm();
    document.learn_seconds = adapter_.seconds() - learn_before;
    document.model_seconds = processor_seconds() - begin_seconds - document.learn_seconds;
    return document;
}

}  // namespace keel::tools
