// keel wproj manifest: release manifests of caches, written, listed and checked.
#include <stdio.h>

#include <filesystem>

#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/files/wproj_manifest.h"

namespace keel::tools {
namespace {

struct Options {
    std::string directory = ".", manifest;
    bool no_hash = false;
};

Json entry_json(const WprojManifestEntry& e) {
    return {{"name", e.name}, {"sha256", e.sha256}, {"bytes", e.bytes}, {"mb", e.mb}, {"mtime", e.mtime}};
}

void write(const Options& o, const Console& console) {
    const std::vector<WprojManifestEntry> entries = describe_wproj_caches(o.directory);
    const std::string text = wproj_manifest_text(entries);
    if (!o.manifest.empty()) write_file(o.manifest, text);
    if (console.json || o.manifest.empty())
        fputs(text.c_str(), stdout);
    else
        printf("%s, %zu caches\n", o.manifest.c_str(), entries.size());
}

void list(const Options& o, const Console& console) {
    const std::vector<WprojManifestEntry> entries = read_wproj_manifest(o.manifest);
    Json out = Json::array();
    Table table({"name", "sha256", "time", "bytes", "MiB"}, 3);
    for (const WprojManifestEntry& e : entries) {
        out.push_back(entry_json(e));
        table.add({e.name, e.sha256.substr(0, 16) + "...", e.mtime,
                   strf("%llu", static_cast<unsigned long long>(e.bytes)), strf("%.2f", e.mb)});
    }
    if (console.json) return print_json(out);
    fputs(table.text().c_str(), stdout);
}

void check_files(const Options& o, const Console& console) {
    const std::vector<WprojManifestEntry> entries = read_wproj_manifest(o.manifest);
    Json out = Json::array();
    size_t wrong = 0;
    for (const WprojManifestEntry& e : entries) {
        const std::string why = check_wproj_entry(e, o.directory, !o.no_hash);
        wrong += !why.empty();
        out.push_back({{"name", e.name}, {"ok", why.empty()}, {"reason", why}});
        if (!console.json) printf("%s  %s\n", e.name.c_str(), why.empty() ? "ok" : why.c_str());
    }
    if (console.json) print_json(out);
    if (wrong)
        throw ToolError(kExitFile, strf("%zu of %zu caches are not what the manifest says", wrong, entries.size()));
}

}  // namespace

void add_wproj_manifest_verb(Verb wproj, Console& console) {
    Verb manifest = add_group(wproj, "manifest", "release manifests of caches: name, sha256, bytes, time");
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(manifest, console, "write", "describe the caches of a directory",
                         "  keel wproj manifest write release/ --output release/cache_inventory.json");
    verb.add_option("directory", o->directory, "where the caches are (default: here)");
    verb.add_option("--output,-o", o->manifest, "manifest to write (default: standard output)");
    verb.callback([o, &console] { write(*o, console); });

    o = std::make_shared<Options>();
    verb =
        add_verb(manifest, console, "list", "what a manifest names", "  keel wproj manifest list cache_inventory.json");
    verb.add_option("manifest", o->manifest, "manifest").required();
    verb.callback([o, &console] { list(*o, console); });

    o = std::make_shared<Options>();
    verb = add_verb(manifest, console, "check", "whether files are what a manifest says: size, tag against key, sha256",
                    "  keel wproj manifest check cache_inventory.json downloads/\n"
                    "  keel wproj manifest check cache_inventory.json --no-hash");
    verb.add_option("manifest", o->manifest, "manifest").required();
    verb.add_option("directory", o->directory, "where the caches are (default: here)");
    verb.add_flag("--no-hash", o->no_hash, "do not compute sha256");
    verb.callback([o, &console] { check_files(*o, console); });
}

}  // namespace keel::tools
