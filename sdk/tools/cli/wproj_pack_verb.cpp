// keel wproj pack and unpack: the sections of a version-2 cache as zstd frames, and back to the byte.
#include <stdio.h>

#include "keel/keel.hpp"
#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/model_file.h"
#include "sdk/tools/files/wproj_image.h"
#include "sdk/tools/files/wproj_zstd.h"

namespace keel::tools {
namespace {

struct Options {
    std::string input, output;
    int level = WprojPacking().level;
};

void report(const Options& o, const Console& console, uint64_t from, uint64_t to) {
    if (console.json) return print_json({{"output", o.output}, {"input_bytes", from}, {"output_bytes", to}});
    printf("%s, %s -> %s\n", o.output.c_str(), human_bytes(from).c_str(), human_bytes(to).c_str());
}

void pack(const Options& o, const Console& console) {
    const FileReader file = open_file(o.input);
    if (wproj_is_packed(*file.get())) throw ToolError(kExitFile, o.input + " is packed already");
    const WprojImage image = read_wproj_image(*file.get());
    if (image.version != 2) throw ToolError(KEEL_E_UNSUPPORTED, o.input + " is of version 1, which has no packed form");
    ProgressBar bar(console, "packing");
    write_wproj_v2(o.output, image, image.key, {kWprojZstd, o.level}, [&bar](uint64_t done, uint64_t total) {
        bar.update(done, total);
        return false;
    });
    report(o, console, file.get()->size_bytes, open_file(o.output).get()->size_bytes);
}

void unpack(const Options& o, const Console& console) {
    const FileReader file = open_file(o.input);
    const std::vector<uint8_t> plain = unpack_wproj(*file.get());
    write_file(o.output, {reinterpret_cast<const char*>(plain.data()), plain.size()});
    report(o, console, file.get()->size_bytes, plain.size());
}

}  // namespace

void add_wproj_pack_verb(Verb wproj, Console& console) {
    auto p = std::make_shared<Options>(), u = std::make_shared<Options>();
    Verb verb = add_verb(wproj, console, "pack", "make a version-2 cache smaller with zstd, for transport",
                         "  keel wproj pack model.wproj model.wproj.zst --level 19");
    verb.add_option("input", p->input, "plain cache of version 2").required();
    verb.add_option("output", p->output, "packed cache to write").required();
    verb.add_option("--level", p->level, "of zstd (default 9)").range(1, 22);
    verb.callback([p, &console] { pack(*p, console); });
    verb = add_verb(wproj, console, "unpack", "the plain file of a packed cache, to the byte",
                    "  keel wproj unpack model.wproj.zst model.wproj");
    verb.add_option("input", u->input, "packed cache").required();
    verb.add_option("output", u->output, "plain cache to write").required();
    verb.callback([u, &console] { unpack(*u, console); });
}

}  // namespace keel::tools
