// keel wproj find: which cache a model would use, and what else was looked at.
#include <stdio.h>
#include <stdlib.h>

#include "sdk/model/wproj_slots.h"
#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/common/wproj_discovery.h"

namespace keel::tools {
namespace {

struct Options {
    std::string model, file, key;
    bool force = false;
};

void find(const Options& o, const Console& console) {
    const ModelFile model = open_model(o.model);
    const WprojShape shape = wproj_shape_of(*model.model);
    WprojSearch search;
    search.explicit_path = o.file;
    search.model_path = o.model;
    search.key = o.key.empty() ? 0 : strtoull(o.key.c_str(), nullptr, 16);
    search.shape = &shape;
    search.force = o.force;
    const WprojFound found = find_wproj_cache(search);
    if (console.json) {
        Json seen = Json::array();
        for (const WprojSeen& s : found.seen) {
            Json entry = {{"path", s.path}, {"verdict", s.verdict}};
            if (s.version) entry["version"] = s.version, entry["key"] = hex64(s.key);
            seen.push_back(entry);
        }
        print_json({{"found", found.path ? Json(*found.path) : Json()}, {"foreign", found.foreign}, {"seen", seen}});
    } else {
        Table table({"looked at", "key", "verdict"}, 3);
        for (const WprojSeen& s : found.seen) table.add({s.path, s.version ? hex64(s.key) : "", s.verdict});
        fputs(table.text().c_str(), stdout);
        if (found.path) printf("%s\n", found.path->c_str());
    }
    if (!found.path) throw ToolError(kExitFile, "no W_proj cache for " + o.model);
}

}  // namespace

void add_wproj_find_verb(Verb wproj, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb =
        add_verb(wproj, console, "find",
                 "the cache of a model: named file, working directory, the model's directory, user cache directory",
                 "  keel wproj find model.gguf\n"
                 "  keel wproj find model.gguf --key 012345670A2337F6\n"
                 "  keel wproj find model.gguf --file downloads/ --force");
    add_model_option(verb, o->model).required();
    verb.add_option("--key", o->key, "64-bit key, hex; without it a version-2 cache of this model is found")
        .check([](const std::string& text) {
            const bool hex = !text.empty() && text.size() <= 16 &&
                             text.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
            return hex ? std::string() : "is no key of up to 16 hex digits";
        });
    verb.add_option("--file", o->file, "look at this file or directory first");
    verb.add_flag("--force", o->force, "accept another key where the shapes match");
    verb.callback([o, &console] { find(*o, console); });
}

}  // namespace keel::tools
