// A whole recipe: one codec for K, one for V, and one for the boundary layers.
//
//   kakeyaturbo:NAME[:published-bytes][:per-head]          NAME from kakeyaturbo_recipes()
//   kakeyaturbo:K[/V[/LAYERS@BOUNDARY]]                    K, V, BOUNDARY: options of kakeyaturbo_options.h; for K and
//                                                          V also besicovitch:... or riemann:..., for BOUNDARY also
//                                                          f16. Without V, K's.
// published-bytes and per-head set bytes=published and pool=0 in every part that knows them.
#include <stdexcept>

#include "sdk/tools/lab/codecs/block_stream.h"
#include "sdk/tools/lab/codecs/codec_makers.h"
#include "sdk/tools/lab/codecs/codec_spec.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_codec.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_recipes.h"

namespace keel::tools {
namespace {

class F16Rows final : public KvCodec {
  public:
    std::string name() const override { return "f16"; }
    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const override {
        BitWriter bits(out);
        put_f16_rows(finite_rows(rows, count, checked_dim(*this, context)), bits);
    }
    void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                float* rows) const override {
        const uint64_t values = uint64_t{count} * checked_dim(*this, context);
        ByteCursor cursor(*this, bytes);
        take_f16_rows(cursor.take(2 * values), {rows, values});
        cursor.finish();
    }
};

struct Overrides {
    bool published_bytes = false, per_head = false;
};

// One part of a recipe; null for text that names none.
std::unique_ptr<KvCodec> make_part(std::string_view text, const Overrides& overrides) {
    if (text.starts_with("besicovitch:")) return make_besicovitch_codec(text);
    if (text.starts_with("riemann:")) return make_riemann_codec(text);
    if (text == "f16") return std::make_unique<F16Rows>();
    auto options = parse_kakeyaturbo_options(text);
    if (!options) return nullptr;
    if (overrides.published_bytes) options->published_bytes = true;
    if (overrides.per_head) options->pooled = false;
    return std::make_unique<KakeyaturboCodec>(text, *options);
}

class RecipeCodec final : public CalibratedCodec {
  public:
    RecipeCodec(std::string_view name, std::unique_ptr<KvCodec> k, std::unique_ptr<KvCodec> v, LayerSet layers,
                std::unique_ptr<KvCodec> boundary)
        : name_(name), k_(std::move(k)), v_(std::move(v)), layers_(std::move(layers)), boundary_(std::move(boundary)) {}
    std::string name() const override { return name_; }
    uint32_t block_rows(bool value) const override { return (value ? v_ : k_)->block_rows(value); }
    bool pools_heads() const override {
        return k_->pools_heads() || v_->pools_heads() || (boundary_ && boundary_->pools_heads());
    }
    bool before_rope() const override { return k_->before_rope(); }
    void encode(const float* rows, uint32_t count, const KvCodecContext& context,
                std::vector<uint8_t>& out) const override {
        part(context).encode(rows, count, context, out);
    }
    void decode(std::span<const uint8_t> bytes, uint32_t count, const KvCodecContext& context,
                float* rows) const override {
        part(context).decode(bytes, count, context, rows);
    }
    uint64_t side_bytes(const KvCodecContext& context) const override { return part(context).side_bytes(context); }
    void calibrate(const float* rows, uint32_t count, const KvCodecContext& context,
                   KvCodecCalibration* calibration) const override {
        calibrate_codec(part(context), rows, count, context, calibration);
    }

  private:
    const KvCodec& part(const KvCodecContext& context) const {
        if (boundary_ && layers_.contains(context.layer, context.layers)) return *boundary_;
        return context.value ? *v_ : *k_;
    }
    std::string name_;
    std::unique_ptr<KvCodec> k_, v_;
    LayerSet layers_;
    std::unique_ptr<KvCodec> boundary_;  // or null
};

std::unique_ptr<KvCodec> assemble(std::string_view name, const KakeyaturboRecipe& recipe, const Overrides& overrides) {
    auto k = make_part(recipe.k, overrides), v = make_part(recipe.v, overrides);
    const auto layers = LayerSet::parse(recipe.layers);
    std::unique_ptr<KvCodec> boundary;
    if (!recipe.boundary.empty()) {
        boundary = make_part(recipe.boundary, overrides);
        if (!boundary || recipe.layers.empty()) return nullptr;
    }
    if (!k || !v || !layers) return nullptr;
    return std::make_unique<RecipeCodec>(name, std::move(k), std::move(v), *layers, std::move(boundary));
}

std::unique_ptr<KvCodec> make_named(std::string_view spec) {
    const auto fields = spec_fields(spec);
    Overrides overrides;
    size_t next = 2;
    if (next < fields.size() && fields[next] == "published-bytes") overrides.published_bytes = true, ++next;
    if (next < fields.size() && fields[next] == "per-head") overrides.per_head = true, ++next;
    if (next != fields.size()) return nullptr;
    for (const KakeyaturboRecipe& recipe : kakeyaturbo_recipes())
        if (recipe.name == fields[1]) return assemble(spec, recipe, overrides);
    return nullptr;
}

}  // namespace

std::unique_ptr<KvCodec> make_kakeyaturbo_codec(std::string_view spec) {
    constexpr std::string_view kFamily = "kakeyaturbo:";
    if (!spec.starts_with(kFamily)) return nullptr;
    if (std::unique_ptr<KvCodec> named = make_named(spec)) return named;

    KakeyaturboRecipe recipe{};
    std::string_view rest = spec.substr(kFamily.size());
    const size_t first = rest.find('/');
    recipe.k = recipe.v = rest.substr(0, first);
    if (first != std::string_view::npos) {
        rest.remove_prefix(first + 1);
        const size_t second = rest.find('/');
        recipe.v = rest.substr(0, second);
        if (second != std::string_view::npos) {
            rest.remove_prefix(second + 1);
            const size_t at = rest.find('@');
            if (at == std::string_view::npos || at + 1 == rest.size()) return nullptr;
            recipe.layers = rest.substr(0, at);
            recipe.boundary = rest.substr(at + 1);
        }
    }
    return assemble(spec, recipe, {});
}

}  // namespace keel::tools
