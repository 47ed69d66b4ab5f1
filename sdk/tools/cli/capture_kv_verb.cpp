// keel capture kv: keys, values and queries of a text as a safetensors file, for other tools.
#include <stdio.h>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/files/safetensors_writer.h"
#include "sdk/tools/lab/kv/kv_row_capture.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    KvText text = {.documents = 1};
    std::string output;
};

// Tensors of one layer, in this order.
constexpr const char* kNames[] = {"k_before_rope", "k_after_rope", "v", "q_after_rope"};

void capture_kv(const Options& o, const Console& console) {
    const uint32_t tokens = o.text.tokens ? o.text.tokens : lab_context(o.engine);
    KvRun run(o.engine, exact_kv(), tokens);
    const KvShape shape = run.shape();
    const std::vector<std::vector<int32_t>> documents =
        tokenize_documents(run.model().engine, o.text.file, o.text.documents, tokens);
    uint64_t total = 0;
    for (const auto& ids : documents) total += ids.size();

    std::vector<SafetensorsEntry> entries = {
        {"tokens", "I32", {total}}, {"documents", "I32", {total}}, {"positions", "I32", {total}}};
    for (uint32_t layer = 0; layer < shape.layers; ++layer)
        for (const char* name : kNames)
            entries.push_back({strf("layers.%u.%s", layer, name),
                               "F32",
                               {total, name[0] == 'q' ? shape.heads : shape.kv_heads, shape.head_dim}});
    const keel_model_info& info = run.info();
    KvRowCapture capture(shape);
    run.set_tap(&capture);
    SafetensorsWriter writer(
        o.output, entries,
        {{"model", info.name}, {"fingerprint", hex64(info.fingerprint)}, {"text", o.text.file}, {"arena", "f32"}});
    uint64_t first = 0;
    for (size_t d = 0; d < documents.size(); ++d) {
        const std::vector<int32_t>& ids = documents[d];
        stop_if_interrupted();
        run.forward(ids, [](size_t, std::span<const float>) {});
        const KvDocumentRows& rows = capture.rows();
        std::vector<int32_t> document(ids.size(), static_cast<int32_t>(d)), position(ids.size());
        for (size_t p = 0; p < ids.size(); ++p) position[p] = static_cast<int32_t>(p);
        writer.write(0, first, ids.data(), ids.size());
        writer.write(1, first, document.data(), ids.size());
        writer.write(2, first, position.data(), ids.size());
        for (uint32_t layer = 0; layer < shape.layers; ++layer) {
            const std::vector<float>* parts[] = {&rows.k_before, &rows.k_after, &rows.v, &rows.q_after};
            for (size_t i = 0; i < std::size(parts); ++i) {
                const uint64_t row = uint64_t{i == 3 ? shape.heads : shape.kv_heads} * shape.head_dim,
                               count = row * ids.size();
                writer.write(3 + layer * std::size(parts) + i, first * row, parts[i]->data() + layer * count, count);
            }
        }
        first += ids.size();
    }
    writer.commit();
    if (console.json)
        print_json({{"output", o.output},
                    {"documents", documents.size()},
                    {"tokens", total},
                    {"tensors", entries.size()},
                    {"rope_dims", capture.rows().rope_dims},
                    {"rope_pairs", capture.rows().neox ? "halves" : "neighbours"}});
    else
        printf("%s: %zu tensors of %llu tokens from %zu documents\n", o.output.c_str(), entries.size(),
               static_cast<unsigned long long>(total), documents.size());
}

}  // namespace

void add_capture_verb(Verb app, Console& console) {
    Verb capture = add_group(app, "capture", "what a model computes inside, as files");
    auto o = std::make_shared<Options>();
    Verb verb =
        add_verb(capture, console, "kv", "keys, values and queries as a safetensors file",
                 "  keel capture kv model.gguf text.txt --output rows.safetensors\n"
                 "  keel capture kv model.gguf calibration.jsonl --documents 4 --tokens 512 --output rows.safetensors");
    add_engine_options(verb, o->engine);
    verb.add_footer(
        "\nTensors, f32: layers.N.k_before_rope, k_after_rope and v [tokens, KV heads, head size], "
        "q_after_rope [tokens, heads, head size];\n"
        "i32: tokens, documents and positions [tokens].");
    add_text_options(verb, o->text, "to compute");
    verb.get_option("text").required();
    verb.add_option("--output,-o", o->output, "the file to write").required();
    verb.callback([o, &console] { capture_kv(*o, console); });
    add_capture_pool_verb(capture, console);
#ifdef KEEL_HAVE_GEODESIC
    add_capture_trace_verb(capture, console);
#endif
}

}  // namespace keel::tools
