// keel wproj synth: a W_proj cache of any rank with made-up factors, for measuring shapes without their real weights.
#include <math.h>
#include <stdio.h>

#include <filesystem>

#include "sdk/model/wproj_slots.h"
#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/files/synth_random.h"
#include "sdk/tools/lab/lowrank/wproj_recipe.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"

namespace keel::tools {
namespace {

struct Options {
    std::string model, output, groups = "qkv", type = "Q8_0", basis_type = "Q8_0";
    uint32_t rank = 0;
    uint64_t seed = 1;
    bool published = false;
};

// Draws matrices row by row and keeps them in rows of a weight type only.
class Factors {
  public:
    explicit Factors(uint64_t seed) : random_(seed), normals_(normal_values()) {}

    // f32[count] of mean 0 and standard deviation `deviation`
    std::vector<float> values(uint64_t count, double deviation) {
        std::vector<float> out(count);
        draw(random_, normals_, out.data(), count);
        for (float& x : out) x *= static_cast<float>(deviation);
        return out;
    }
    // [rows][columns], rows of norm `norm`. mean, mu: null, or f32[columns] and f32[rows] = the matrix before rounding
    // times mean.
    std::vector<uint8_t> matrix(uint32_t type, uint32_t rows, uint32_t columns, double norm,
                                const std::vector<float>* mean = nullptr, std::vector<float>* mu = nullptr) {
        std::vector<uint8_t> out;
        out.reserve(rows * kernels::weight_row_bytes(type, columns));
        for (uint32_t row = 0; row < rows; ++row) {
            std::vector<float> x = values(columns, 1);
            double square = 0, product = 0;
            for (const float v : x) square += double{v} * v;
            for (float& v : x) v = static_cast<float>(v * norm / sqrt(square));
            if (mean) {
                for (uint32_t i = 0; i < columns; ++i) product += double{x[i]} * (*mean)[i];
                mu->push_back(static_cast<float>(product));
            }
            const std::vector<uint8_t> bytes = nearest_rows(type, x, columns);
            out.insert(out.end(), bytes.begin(), bytes.end());
        }
        return out;
    }

  private:
    Random random_;
    std::vector<float> normals_;
};

uint32_t type_named(const std::string& name, uint32_t columns) {
    const uint32_t type = factor_type(name);
    if (columns % kernels::kWeightTypes[type].block_elements)
        throw ToolError(kExitUsage, strf("rows of %u are no whole number of blocks of %s", columns, name.c_str()));
    return type;
}

uint64_t key_of(const Options& o, uint64_t fingerprint, uint32_t slots, uint32_t basis_type, uint32_t record_type) {
    const std::string solver = strf("synthetic seed=%llu", static_cast<unsigned long long>(o.seed));
    WprojKeyDesc desc = {};
    desc.format = o.published ? 1 : 2;
    desc.fingerprint = fingerprint;
    desc.rank_policy = kWprojRankUniform;
    desc.rank_value = o.rank;
    desc.slots = slots;
    desc.solver = solver.c_str();
    desc.solver_version = 1;
    desc.basis_type = basis_type;
    desc.record_type = record_type;
    return wproj_key(desc);
}

void synth(const Options& o, const Console& console) {
    const ModelFile model = open_model(o.model);
    const WprojShape shape = wproj_shape_of(*model.model);
    uint32_t slots = wproj_slots_of(o.groups);
    for (uint32_t s = 0; s < kWprojSlots; ++s)
        if (slots >> s & 1 && !wproj_tensor(*model.model, 0, s))
            throw ToolError(kExitFile, o.model + " has no tensor of its own for " + wproj_slot_name(s));
    if (o.published && slots >> kWprojDown & 1) throw ToolError(kExitUsage, "--published has no basis for down");
    if (o.rank == 0) throw ToolError(kExitUsage, "--rank is 0");
    // Both formats' limits; the published one falls back to f32 where the rank is no whole number of blocks.
    const uint32_t record_type = type_named(!o.published ? o.type : o.rank % 32 ? "F32" : "Q8_F32", o.rank);
    uint32_t basis_type = kernels::kF32;
    for (uint32_t s = 0; s < kWprojSlots; ++s) {
        if (!(slots >> s & 1)) continue;
        const uint32_t columns = shape.columns[wproj_group(static_cast<WprojSlot>(s))];
        if (o.rank > columns)
            throw ToolError(kExitUsage,
                            strf("--rank %u is beyond the %u columns of %s", o.rank, columns, wproj_slot_name(s)));
        if (o.published && columns != model.info.embedding)
            throw ToolError(kExitUsage,
                            strf("--published has one basis a layer, which %s does not fit", wproj_slot_name(s)));
        if (!o.published) basis_type = type_named(o.basis_type, columns);
    }

    WprojImage image;
    image.version = o.published ? 1 : 2;
    image.key = key_of(o, model.info.fingerprint, slots, basis_type, record_type);
    image.fingerprint = model.info.fingerprint;
    image.solver = "synthetic";
    ProgressBar bar(console, "writing");
    uint64_t seeds = o.seed;
    for (uint32_t l = 0; l < model.info.layers; ++l) {
        bar.update(l, model.info.layers + 1, "factors");
        WprojImageLayer& layer = image.layers.emplace_back();
        Factors factors(splitmix(&seeds));
        const WprojImageBasis* first = nullptr;
        for (uint32_t s = 0; s < kWprojSlots; ++s) {
            if (!(slots >> s & 1)) continue;
            const uint32_t g = wproj_group(static_cast<WprojSlot>(s)), columns = shape.columns[g], rows = shape.rows[s];
            WprojImageBasis& basis = layer.basis[g];
            if (!basis.rank && o.published && first) basis = *first;
            if (!basis.rank) {
                basis.rank = o.rank;
                basis.columns = columns;
                basis.type = basis_type;
                if (o.published) basis.mean = factors.values(columns, 0.1);
                basis.matrix =
                    factors.matrix(basis_type, o.rank, columns, 1, o.published ? &basis.mean : nullptr, &basis.mu);
            }
            first = &basis;
            // Rows of norm 1 keep the variance of x_sub as rows of Pt keep that of x. A made-up model's weights do the
            // same: so its energy is theirs.
            WprojImageRecord& r = layer.record[s];
            r.rows = rows;
            r.rank = o.rank;
            r.type = record_type;
            r.matrix = factors.matrix(record_type, rows, o.rank, 1);
            r.compression = wproj_compression(rows, o.rank, columns);
            r.energy = 1;
        }
    }
    const auto progress = [&bar](uint64_t done, uint64_t total) {
        bar.update(done, total, human_bytes(total));
        return false;
    };
    if (o.published)
        write_wproj_v1(o.output, image, image.key, progress);
    else
        write_wproj_v2(o.output, image, image.key, {}, progress);
    const uint64_t bytes = std::filesystem::file_size(o.output);
    const std::string key = hex64(image.key);
    if (console.json)
        return print_json({{"output", o.output},
                           {"file_bytes", bytes},
                           {"key", key},
                           {"version", image.version},
                           {"rank", o.rank},
                           {"seed", o.seed}});
    printf("%s: %s, key %s\n", o.output.c_str(), human_bytes(bytes).c_str(), key.c_str());
}

}  // namespace

void add_wproj_synth_verb(Verb wproj, Console& console) {
    Verb verb =
        add_verb(wproj, console, "synth", "write a cache with made-up factors, for tests and benchmarks",
                 "  keel wproj synth 8b.gguf --rank 1536 --published -o 8b-1536.bin\n"
                 "  keel wproj synth 8b.gguf --rank 2048 --groups qkv,o --type Q4_0 --basis-type Q8_0 -o 8b.wproj");
    auto o = std::make_shared<Options>();
    add_model_option(verb, o->model, "GGUF file whose shapes it has; its weights are not looked at").required();
    verb.add_option("--rank", o->rank, "of every layer and group").required();
    verb.add_option("--groups", o->groups, "projections to replace: qkv, qk, q, o, ffn, down, separated by commas")
        .capture_default_str();
    VerbOption type = verb.add_option("--type", o->type, "weight type of W_proj").capture_default_str();
    VerbOption basis_type = verb.add_option("--basis-type", o->basis_type, "weight type of Pt").capture_default_str();
    verb.add_flag("--published", o->published,
                  "as published: format 1, one f32 basis per layer with its means, blocks of 36 bytes")
        .excludes(type)
        .excludes(basis_type);
    verb.add_option("--seed", o->seed, "same options and seed, same file").capture_default_str();
    verb.add_option("--output,-o", o->output, "file to write").required();
    verb.callback([o, &console] { synth(*o, console); });
}

}  // namespace keel::tools
