// keel wproj verify: every number of a cache, against its checksums, its model, and itself.
#include <math.h>
#include <stdio.h>

#include "sdk/model/wproj_slots.h"
#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/files/wproj_verify.h"

namespace keel::tools {
namespace {

struct Options {
    std::string file, model;
};

// What is worth a note: rows of Pt that are not of unit length, mu that is not Pt mean, energies that differ by more
// than rounding to 4 bits does.
constexpr double kUnitSlack = 0.02, kMuSlack = 0.01, kEnergySlack = 0.02;

std::string verdict(const WprojPartCheck& c) {
    if (!c.checksum) return "the contents were changed";
    if (!c.finite) return "numbers that are not finite";
    if (c.unit_error > kUnitSlack) return "rows are not of unit length";
    if (c.mu_error > kMuSlack) return "mu is not Pt mean";
    if (c.energy >= 0 && fabs(c.energy - c.stored_energy) > kEnergySlack) return "another energy than it says";
    return "ok";
}

void verify(const Options& o, const Console& console) {
    const ModelFile model = open_model(o.model);
    const WprojShape shape = wproj_shape_of(*model.model);
    const WprojTable t = open_wproj_table(o.file, &shape);
    if (t.packed) throw ToolError(KEEL_E_UNSUPPORTED, o.file + " is packed: keel wproj unpack it first");
    const std::vector<WprojPartCheck> checks = verify_wproj(t, &model);
    size_t broken = 0, notes = 0;
    Json parts = Json::array();
    Table table({"layer", "part", "|row| - 1", "mu - Pt mean", "energy", "stored", "verdict"}, 2);
    for (const WprojPartCheck& c : checks) {
        const std::string what = verdict(c);
        const bool pt = c.part.ends_with("Pt");
        broken += c.broken();
        notes += !c.broken() && what != "ok";
        Json part = {{"layer", c.layer}, {"part", c.part}, {"finite", c.finite}, {"checksum", c.checksum}};
        if (pt) part["unit_error"] = c.unit_error;
        if (c.mu_error >= 0) part["mu_error"] = c.mu_error;
        if (!pt) part["stored_energy"] = c.stored_energy;
        if (c.energy >= 0) part["energy"] = c.energy;
        part["verdict"] = what;
        parts.push_back(part);
        table.add({strf("%u", c.layer), c.part, pt ? strf("%.1e", c.unit_error) : "",
                   c.mu_error >= 0 ? strf("%.1e", c.mu_error) : "", c.energy >= 0 ? strf("%.4f", c.energy) : "",
                   pt ? "" : strf("%.4f", c.stored_energy), what});
    }
    const bool own = t.file.version == 2 && t.file.fingerprint == model.info.fingerprint;
    if (console.json) {
        Json out = {{"file", o.file},
                    {"version", t.file.version},
                    {"made_for_this_model", t.file.version == 2 ? Json(own) : Json()},
                    {"parts", parts},
                    {"broken", broken},
                    {"notes", notes}};
        print_json(out);
    } else {
        fputs(table.text().c_str(), stdout);
        printf("%zu parts, %zu broken, %zu with notes; %s\n", checks.size(), broken, notes,
               t.file.version == 1 ? "version 1 does not say which model it is for"
               : own               ? "made for this model"
                                   : "made for another model of this shape");
    }
    if (broken) throw ToolError(kExitFile, o.file + strf(": %zu broken parts", broken));
}

}  // namespace

void add_wproj_verify_verb(Verb wproj, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(wproj, console, "verify",
                         "shapes, checksums, finite numbers, unit rows and energies of a cache against its model",
                         "  keel wproj verify model.wproj --model model.gguf");
    verb.add_option("file", o->file, "W_proj cache, not packed").required();
    verb.add_option("-m,--model", o->model, "GGUF file it is meant for").required();
    verb.callback([o, &console] { verify(*o, console); });
}

}  // namespace keel::tools
