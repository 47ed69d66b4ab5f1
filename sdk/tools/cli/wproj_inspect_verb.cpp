// keel wproj inspect: what a W_proj cache holds, without reading a payload.
#include <stdio.h>

#include "sdk/model/wproj_slots.h"
#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/files/wproj_table.h"

namespace keel::tools {
namespace {

struct Options {
    std::string file, model;
};

const char* type_name(uint32_t type) {
    return kernels::weight_type_info(type)->name;
}
struct Row {
    uint32_t layer, group;
    const WprojBasis* basis;
    double break_even;  // 0: not known
};

Json record_json(uint32_t slot, const WprojRecord& r) {
    return {{"slot", wproj_slot_name(slot)}, {"rows", r.rows},     {"rank", r.rank},
            {"type", type_name(r.type)},     {"bytes", r.bytes},   {"bias", r.bias != 0},
            {"compression", r.compression},  {"energy", r.energy}, {"error", r.error < 0 ? Json() : Json(r.error)}};
}

Json table_json(const WprojTable& t, const std::vector<Row>& rows) {
    Json out = {{"file", t.path},
                {"version", t.file.version},
                {"packed", t.packed},
                {"file_bytes", t.file_bytes},
                {"plain_bytes", t.plain_bytes},
                {"key", hex64(t.file.key)},
                {"layers", t.file.layers},
                {"open_us", t.open_us}};
    if (t.file.version == 1) out["columns"] = t.file.columns;
    if (t.file.version == 2) {
        const WprojQuality& q = t.file.quality;
        out["fingerprint"] = hex64(t.file.fingerprint);
        out["solver"] = t.file.solver;
        out["calibration_hash"] = hex64(t.file.calibration_hash);
        if (q.tokens)
            out["quality"] = {{"text_hash", hex64(q.text_hash)},
                              {"tokens", q.tokens},
                              {"nll_dense", q.nll_dense},
                              {"nll_low_rank", q.nll_low_rank},
                              {"kl", q.kl}};
    }
    out["groups"] = Json::array();
    for (const Row& row : rows) {
        Json group = {{"layer", row.layer},
                      {"group", wproj_group_name(row.group)},
                      {"rank", row.basis->rank},
                      {"columns", row.basis->columns},
                      {"type", type_name(row.basis->type)},
                      {"bytes", row.basis->bytes},
                      {"mu", row.basis->mu != 0},
                      {"mean", row.basis->mean != 0}};
        if (row.break_even > 0) group["break_even_rank"] = row.break_even;
        group["records"] = Json::array();
        for (uint32_t s = 0; s < kWprojSlots; ++s) {
            const WprojRecord& r = t.layers[row.layer].record[s];
            if (r.rank && wproj_group(static_cast<WprojSlot>(s)) == row.group)
                group["records"].push_back(record_json(s, r));
        }
        out["groups"].push_back(group);
    }
    return out;
}

void print_table(const WprojTable& t, const std::vector<Row>& rows, const ModelFile* model) {
    Table head({"file", t.path}, 2);
    head.add({"format",
              strf("WPROJV%02u%s, %s", t.file.version, t.packed ? ", packed" : "", human_bytes(t.file_bytes).c_str()) +
                  (t.packed ? " (" + human_bytes(t.plain_bytes) + " unpacked)" : "")});
    head.add({"key", hex64(t.file.key)});
    head.add({"layers", strf("%u", t.file.layers)});
    if (t.file.version == 2) {
        head.add({"solver", t.file.solver[0] ? t.file.solver : "not said"});
        head.add({"calibration", t.file.calibration_hash ? "text " + hex64(t.file.calibration_hash) : "weights only"});
        const bool same = model && model->info.fingerprint == t.file.fingerprint;
        head.add({"model", hex64(t.file.fingerprint) + (!model ? ""
                                                        : same ? ", the one given"
                                                               : ", another than the one given")});
        const WprojQuality& q = t.file.quality;
        if (q.tokens)
            head.add({"quality", strf("NLL %.5f dense, %.5f low rank, KL %.5f on %llu tokens of text %s", q.nll_dense,
                                      q.nll_low_rank, q.kl, static_cast<unsigned long long>(q.tokens),
                                      hex64(q.text_hash).c_str())});
    }
    fputs(head.text().c_str(), stdout);
    Table table({"\nlayer", "part", "type", "shape", "rank", "break-even", "bytes", "compression", "energy", "error"},
                3);
    for (const Row& row : rows) {
        const WprojBasis& b = *row.basis;
        table.add({strf("%u", row.layer), std::string(wproj_group_name(row.group)) + " Pt", type_name(b.type),
                   strf("%u x %u", b.rank, b.columns), strf("%u", b.rank),
                   row.break_even > 0 ? strf("%.0f", row.break_even) : "-",
                   strf("%llu", static_cast<unsigned long long>(b.bytes)), "", "", ""});
        for (uint32_t s = 0; s < kWprojSlots; ++s) {
            const WprojRecord& r = t.layers[row.layer].record[s];
            if (!r.rank || wproj_group(static_cast<WprojSlot>(s)) != row.group) continue;
            table.add({"", std::string("  ") + wproj_slot_name(s) + (r.bias ? " + bias" : ""), type_name(r.type),
                       strf("%u x %u", r.rows, r.rank), "", "", strf("%llu", static_cast<unsigned long long>(r.bytes)),
                       strf("%.3f", r.compression), strf("%.4f", r.energy), r.error < 0 ? "-" : strf("%.5f", r.error)});
        }
    }
    fputs(table.text().c_str(), stdout);
    if (model)
        fputs("break-even: the rank at which the factors are as large as the model's weights they replace\n", stdout);
}

void inspect(const Options& o, const Console& console) {
    std::optional<ModelFile> model;
    std::optional<WprojShape> shape;
    if (!o.model.empty()) {
        model = open_model(o.model);
        shape = wproj_shape_of(*model->model);
    }
    const WprojTable t = open_wproj_table(o.file, shape ? &*shape : nullptr);
    std::vector<Row> rows;
    for (uint32_t l = 0; l < t.file.layers; ++l)
        for (uint32_t g = 0; g < kWprojGroups; ++g)
            if (t.layers[l].basis[g].rank)
                rows.push_back(
                    {l, g, &t.layers[l].basis[g], model ? wproj_break_even_rank(*model->model, t.layers[l], l, g) : 0});
    if (console.json) return print_json(table_json(t, rows));
    print_table(t, rows, model ? &*model : nullptr);
}

}  // namespace

void add_wproj_inspect_verb(Verb wproj, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(wproj, console, "inspect",
                         "what a cache holds: ranks, types, bytes, energies; with a model the break-even ranks",
                         "  keel wproj inspect ott_wproj_cache_0A2337F6.bin\n"
                         "  keel wproj inspect model.wproj --model model.gguf --json");
    verb.add_option("file", o->file, "W_proj cache of either version, packed or not").required();
    verb.add_option("-m,--model", o->model, "GGUF file it is meant for");
    verb.callback([o, &console] { inspect(*o, console); });
}

}  // namespace keel::tools
