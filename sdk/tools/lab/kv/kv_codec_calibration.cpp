#include "sdk/tools/lab/kv/kv_codec_calibration.h"

#include "sdk/tools/lab/codecs/calibrated_codec.h"
#include "sdk/tools/lab/kv/kv_row_capture.h"

namespace keel::tools {
namespace {

// Fits one codec to rows [count][head_dim] and keeps everything but the covariance.
void fit(const KvCodec& codec, const std::vector<float>& rows, const KvCodecContext& context, KvCodecCalibration* to) {
    KvCodecCalibration fitted;
    calibrate_codec(codec, rows.data(), static_cast<uint32_t>(rows.size() / context.head_dim), context, &fitted);
    to->group_scales = std::move(fitted.group_scales);
    to->codebook = std::move(fitted.codebook);
}

}  // namespace

KvCodecTables covariances_of(const EngineOptions& options, const std::string& text, uint32_t documents,
                             uint32_t context_tokens) {
    KvCodecTables tables;
    uint64_t rows = 0;
    capture_rows(options, text, documents, context_tokens, [&](const KvDocumentRows& r) {
        const KvShape& s = r.shape;
        tables.resize(size_t{2} * s.layers * s.kv_heads);
        for (uint32_t layer = 0; layer < s.layers; ++layer)
            for (uint32_t head = 0; head < s.heads; ++head) {
                std::vector<double>& sum = tables[size_t{layer} * s.kv_heads + head / s.group()].query_covariance;
                sum.resize(size_t{s.head_dim} * s.head_dim);
                for (uint32_t t = 0; t < r.tokens; ++t) {
                    const float* q = &r.q_before[r.q_row(layer, t, head)];
                    for (uint32_t i = 0; i < s.head_dim; ++i)
                        for (uint32_t j = 0; j < s.head_dim; ++j)
                            sum[size_t{i} * s.head_dim + j] += static_cast<double>(q[i]) * q[j];
                }
            }
        rows += uint64_t{r.tokens} * s.group();
    });
    for (KvCodecCalibration& table : tables)
        for (double& x : table.query_covariance) x /= static_cast<double>(rows);
    return tables;
}

void fit_tables(const EngineOptions& options, const KvSpec& spec, const std::string& text, uint32_t documents,
                uint32_t context_tokens, KvCodecTables* tables) {
    for (const bool value : {false, true}) {
        const KvCodec* codec = value ? spec.v_codec.get() : spec.k_codec.get();
        if (!dynamic_cast<const CalibratedCodec*>(codec)) continue;
        const bool pooled = codec->pools_heads();
        std::vector<std::vector<float>> rows;  // [layers] of pooled heads, or [layers][kv_heads]
        KvShape shape;
        capture_rows(options, text, documents, context_tokens, [&](const KvDocumentRows& r) {
            shape = r.shape;
            const std::vector<float>& all = value ? r.v : codec->before_rope() ? r.k_before : r.k_after;
            rows.resize(pooled ? shape.layers : size_t{shape.layers} * shape.kv_heads);
            for (uint32_t layer = 0; layer < shape.layers; ++layer)
                for (uint32_t t = 0; t < r.tokens; ++t)
                    for (uint32_t head = 0; head < shape.kv_heads; ++head) {
                        const float* row = &all[r.kv_row(layer, t, head)];
                        std::vector<float>& to = rows[pooled ? layer : size_t{layer} * shape.kv_heads + head];
                        to.insert(to.end(), row, row + shape.head_dim);
                    }
        });
        for (uint32_t layer = 0; layer < shape.layers; ++layer) {
            const std::span<KvCodecCalibration> own =
                std::span(*tables).subspan((size_t{value} * shape.layers + layer) * shape.kv_heads, shape.kv_heads);
            KvCodecContext context{
                .layer = layer, .layers = shape.layers, .kv_head = 0, .head_dim = shape.head_dim, .value = value};
            if (!pooled) {
                for (uint32_t head = 0; head < shape.kv_heads; ++head) {
                    context.kv_head = head;
                    context.calibration = &own[head];
                    fit(*codec, rows[size_t{layer} * shape.kv_heads + head], context, &own[head]);
                }
                continue;
            }
            const KvCodecCalibration together = pooled_calibration(own);
            KvCodecCalibration fitted;
            context.calibration = &together;
            fit(*codec, rows[layer], context, &fitted);
            const size_t groups = fitted.group_scales.size() / shape.kv_heads;
            for (uint32_t head = 0; head < shape.kv_heads; ++head)
                own[head].group_scales.assign(
                    fitted.group_scales.begin() + static_cast<ptrdiff_t>(head * groups),
                    fitted.group_scales.begin() + static_cast<ptrdiff_t>((head + 1) * groups));
            own[0].codebook = std::move(fitted.codebook);
        }
    }
}

}  // namespace keel::tools
