// keel geometry measure: what records are worth as drafts, beside a table of two tokens from the same tapes.
#include <stdio.h>

#include "sdk/tools/cli/geometry_verbs.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/lab/geodesic/draft_measure.h"
#include "sdk/tools/lab/geodesic/draft_worth.h"
#include "sdk/tools/lab/geodesic/record_builder.h"

namespace keel::tools {
namespace {

struct Options {
    std::vector<std::string> traces, queries;
    geodesic::StoreOptions store;
    geodesic::WorthCosts costs;
};

double share(uint64_t part, uint64_t all) {
    return all ? static_cast<double>(part) / static_cast<double>(all) : 0;
}

// Right first drafts of one drafter less those of the first, the table of tokens, of all steps; texts are the units.
PairedDelta beyond(const geodesic::DraftMeasure& m, size_t drafter) {
    std::vector<PairedUnit> units;
    for (const geodesic::TextScore& t : m.texts)
        if (t.steps) units.push_back({static_cast<double>(t.right[0]), static_cast<double>(t.right[drafter]), t.steps});
    return paired_delta(units);
}

void measure(const Options& o, const Console& console) {
    const TapeFiles traces = read_tapes(o.traces), queries = read_tapes(o.queries);
    const std::vector<unsigned char> file = geodesic::build_store(traces.tapes, o.store);
    geodesic::RecordStore store;
    const geodesic::TraceHeader& h = traces.tapes[0].header;
    if (const char* why = geodesic::read_store(file, {h.fingerprint, h.tokenizer_hash, INT32_MAX}, &store))
        throw ToolError(kExitRuntime, std::string("the store cannot be read again: ") + why);
    const geodesic::TokenTable tokens = geodesic::token_table(traces.tapes);
    Json out = {{"records", store.header.records}, {"queries", Json::array()}};
    if (!console.json) printf("%u records\n", store.header.records);
    for (size_t q = 0; q < queries.tapes.size(); ++q) {
        const geodesic::DraftMeasure m =
            geodesic::measure_drafts(store, tokens, std::span(&queries.tapes[q], 1), o.store.seed);
        const geodesic::DraftWorth worth = geodesic::draft_worth(queries.tapes[q], m, tokens, o.costs);
        Table table({"first draft", "drafted", "right of these", "right of all steps", "beyond the table (95 %)"});
        Json rows = Json::array();
        for (size_t i = 0; i < m.drafters.size(); ++i) {
            const geodesic::DrafterScore& d = m.drafters[i];
            const PairedDelta more = beyond(m, i);
            table.add({d.name, strf("%.3f", share(d.drafted, m.steps)), strf("%.3f", share(d.right, d.drafted)),
                       strf("%.3f", share(d.right, m.steps)),
                       i ? strf("%+.3f (%+.3f .. %+.3f)", more.mean, more.interval.low, more.interval.high) : ""});
            rows.push_back({{"drafter", d.name},
                            {"drafted", d.drafted},
                            {"right", d.right},
                            {"beyond_the_table", more.mean},
                            {"beyond_the_table_95", {more.interval.low, more.interval.high}}});
        }
        out["queries"].push_back({{"file", o.queries[q]},
                                  {"steps", m.steps},
                                  {"drafters", rows},
                                  {"speed",
                                   {{"suffixes", worth.suffixes},
                                    {"and_table", worth.table},
                                    {"and_records", worth.records},
                                    {"and_surer", worth.surer}}},
                                  {"surrogate_cosine", m.surrogate_cosine},
                                  {"persistence_cosine", m.persistence_cosine}});
        if (console.json) continue;
        printf("\n%s, %llu steps\n%s", o.queries[q].c_str(), static_cast<unsigned long long>(m.steps),
               table.text().c_str());
        printf(
            "speed over plain decoding: suffixes %.3f, and tokens by the table %.3f, by most of the 8 nearest %.3f, by "
            "the surer of both %.3f\n",
            worth.suffixes, worth.table, worth.records, worth.surer);
        if (o.store.waypoints)
            printf("next displacement of the key: cosine %.3f with the records', %.3f with the one before\n",
                   m.surrogate_cosine, m.persistence_cosine);
    }
    if (console.json) print_json(out);
}

}  // namespace

void add_geometry_measure_verb(Verb geometry, Console& console) {
    Verb verb = add_verb(geometry, console, "measure", "records as drafts, beside a table of two tokens",
                         "  keel geometry measure store.trace --queries chat.trace code.trace\n"
                         "  keel geometry measure store.trace --queries chat.trace --block 8 --waypoints 1");
    auto o = std::make_shared<Options>();
    verb.add_option("traces", o->traces, "tapes that the store and the table are made of").required();
    verb.add_option("--queries", o->queries, "tapes to draft for, each by itself").required();
    add_store_options(verb, o->store);
    verb.add_option("--costs", o->costs.steps, "times of steps of 1, 2, 3 and 4 tokens, in steps of one")
        .delimiter(',')
        .expected(4)
        .positive()
        .capture_default_str();
    verb.add_option("--lookup", o->costs.lookup, "time of a lookup of records, in steps of one token")
        .not_negative()
        .capture_default_str();
    verb.callback([o, &console] { measure(*o, console); });
}

}  // namespace keel::tools
