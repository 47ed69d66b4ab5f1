// keel geometry build: a record store out of trace tapes.
#include <stdio.h>

#include "sdk/tools/cli/geometry_verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/lab/geodesic/record_builder.h"

namespace keel::tools {
namespace {

struct Options {
    std::vector<std::string> traces;
    geodesic::StoreOptions store;
    std::string output;
};

void build(const Options& o, const Console& console) {
    const TapeFiles traces = read_tapes(o.traces);
    const std::vector<unsigned char> file = geodesic::build_store(traces.tapes, o.store);
    AtomicFile out(o.output);
    out.write(file.data(), file.size());
    out.commit();
    geodesic::RecordStore store;
    const geodesic::TraceHeader& h = traces.tapes[0].header;
    if (const char* why = geodesic::read_store(file, {h.fingerprint, h.tokenizer_hash, INT32_MAX}, &store))
        throw ToolError(kExitRuntime, o.output + " cannot be read again: " + why);
    if (console.json)
        return print_json({{"output", o.output},
                           {"file_bytes", file.size()},
                           {"records", store.header.records},
                           {"lists", store.header.lists}});
    printf("%s: %s, %u records in %u lists\n", o.output.c_str(), human_bytes(file.size()).c_str(), store.header.records,
           store.header.lists);
}

}  // namespace

void add_geometry_build_verb(Verb geometry, Console& console) {
    Verb verb = add_verb(geometry, console, "build", "a record store out of trace tapes",
                         "  keel geometry build answers.trace --output answers.records\n"
                         "  keel geometry build a.trace b.trace --waypoints 4 --output both.records");
    auto o = std::make_shared<Options>();
    verb.add_option("traces", o->traces, "tapes of `keel capture trace`").required();
    add_store_options(verb, o->store);
    verb.add_option("--horizon", o->store.horizon, "tokens kept behind a record's").capture_default_str();
    verb.add_option("--output,-o", o->output, "the file to write").required();
    verb.callback([o, &console] { build(*o, console); });
}

}  // namespace keel::tools
