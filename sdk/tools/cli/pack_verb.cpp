// keel pack and keel unpack: a model and its parts in one file, and as files again.
#include <stdio.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>

#include "sdk/format/pack.h"
#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/files/byte_budget.h"
#include "sdk/tools/files/pack_writer.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;  // the model and the parts it is packed with
    std::vector<std::string> adapters, notes;
    std::string output;
    bool interleave = false;
    uint64_t budget = 0;
    std::vector<std::string> code;
    PackCodec codec = PackCodec::kRaw;
};

// Letters that no name in a pack has become '_', one for each letter of UTF-8.
std::string pack_letters(const std::string& text) {
    std::string out;
    for (const char c : text) {
        const char name[sizeof(PackSection::name)] = {'x', c};
        if (valid_pack_name(name))
            out += c;
        else if ((c & 0xc0) != 0x80)
            out += '_';
    }
    return out;
}

// A name in the pack that no input has: the file's, if it can be, else one like it, with its extension.
std::string name_of(const std::string& path, const std::vector<PackInput>& inputs) {
    const std::filesystem::path file(path);
    std::string stem = pack_letters(file.stem().string()), extension = pack_letters(file.extension().string());
    if (stem[0] == '.') stem[0] = '_';
    if (extension.size() > kMostPackName / 2) extension.resize(kMostPackName / 2);
    std::string name;
    uint32_t number = 1;
    do {
        const std::string tail = (number > 1 ? strf("-%u", number) : "") + extension;
        name = stem.substr(0, kMostPackName - tail.size()) + tail;
        ++number;
    } while (std::any_of(inputs.begin(), inputs.end(), [&](const PackInput& other) { return other.name == name; }));
    if (name != file.filename().string())
        fprintf(stderr, "note: in the pack %s is called %s\n", path.c_str(), name.c_str());
    return name;
}

// An engine with mapped weights is started with the parts, which costs little and finds what does not belong together.
void check_together(const EngineOptions& options, const std::vector<std::string>& adapters, const Console& console) {
    EngineOptions engine = options;
    engine.weights = KEEL_WEIGHTS_MAP;
    engine.context = 64;
    engine.draft_tokens = options.draft_pool.empty() ? 0 : 1;
    for (size_t i = 0; i < std::max<size_t>(adapters.size(), 1); ++i) {
        if (!adapters.empty()) engine.lora = adapters[i];
        const LoadedModel model = load_model(engine, console);
        const keel_error unused = part_error(model.plan);
        check(model.plan.part_status, "cannot use " + options.wproj, &unused);
    }
}

void pack(const Options& o, const Console& console) {
    const EngineOptions& e = o.engine;
    if (is_pack(*open_file(e.model).get())) throw ToolError(kExitFile, e.model + " is a pack already");
    if (o.notes.size() > kMostPackNotes) throw ToolError(kExitUsage, strf("--note: at most %u", kMostPackNotes));
    check_together(e, o.adapters, console);
    struct Source {
        uint32_t kind, flags;
        const std::string& path;
    };
    std::vector<Source> sources = {{KEEL_PACK_MODEL, o.interleave ? kPackInterleaved : 0, e.model},
                                   {KEEL_PART_CHAT_TEMPLATE, 0, e.chat_template},
                                   {KEEL_PART_GRAMMAR, 0, e.grammar},
                                   {KEEL_PART_GRAMMAR, kPackJsonSchema, e.json_schema},
                                   {KEEL_PART_DRAFT_POOL, 0, e.draft_pool},
                                   {KEEL_PART_KV_PROFILE, 0, e.kv_profile},
                                   {KEEL_PART_WPROJ, 0, e.wproj}};
    for (const std::string& adapter : o.adapters) sources.push_back({KEEL_PART_ADAPTER, 0, adapter});
    for (const std::string& note : o.notes) sources.push_back({KEEL_PACK_NOTE, 0, note});
    std::vector<FileReader> files;
    files.reserve(sources.size());  // inputs point to its elements
    std::vector<PackInput> inputs;
    for (const Source& source : sources) {
        if (source.path.empty()) continue;
        std::error_code ignored;
        if (std::filesystem::equivalent(source.path, o.output, ignored))
            throw ToolError(kExitUsage, o.output + " is a file that is read");
        files.push_back(open_file(source.path));
        if (files.back().get()->size_bytes == 0) throw ToolError(kExitUsage, source.path + " is empty");
        inputs.push_back({source.kind, source.flags, name_of(source.path, inputs), files.back().get()});
    }
    const ByteBudget budget = budget_of(o.budget, o.code);
    if (o.budget) {
        const uint64_t packed = pack_bytes(inputs, o.codec);
        if (budget.code + packed > budget.bytes) throw ToolError(kExitMemory, budget_text(budget, packed));
    }
    write_pack(o.output, inputs, o.codec);
    const uint64_t bytes = open_file(o.output).get()->size_bytes;
    if (console.json) {
        Json out = {{"output", o.output}, {"bytes", bytes}, {"sections", inputs.size()}};
        if (o.budget) out["budget"] = {{"bytes", budget.bytes}, {"code_bytes", budget.code}, {"pack_bytes", bytes}};
        return print_json(out);
    }
    printf("%s: %zu sections, %s\n", o.output.c_str(), inputs.size(), human_bytes(bytes).c_str());
    if (o.budget) printf("%s\n", budget_text(budget, bytes).c_str());
}

}  // namespace

void add_pack_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(app, console, "pack", "a model and what belongs to it in one file",
                         "  keel pack model.gguf model.keel --kv-profile model.kvprofile\n"
                         "  keel pack model.gguf model.keel --codec auto --interleave\n"
                         "  keel pack model.gguf model.keel --draft-pool chat.pool --note LICENSE\n"
                         "  keel chat model.keel");
    add_model_option(verb, o->engine.model).required();
    verb.add_option("output", o->output, "pack to write").required();
    verb.add_option("--chat-template", o->engine.chat_template, "template in place of the model's own");
    VerbOption grammar = verb.add_option("--grammar", o->engine.grammar, "GBNF for keel_session_set_grammar");
    verb.add_option("--json-schema", o->engine.json_schema, "the same as a JSON Schema").excludes(grammar);
    verb.add_option("--draft-pool", o->engine.draft_pool, "what draft pools begin with (keel capture pool)");
    verb.add_option("--kv-profile", o->engine.kv_profile, "of keel calibrate kv");
    verb.add_option("--wproj", o->engine.wproj, "W_proj cache of the model");
    verb.add_option("--lora", o->adapters, "adapter, for programs; numbered as they are given").expected(1).take_all();
    verb.add_option("--pre", o->engine.pre_tokenizer, "of a model that needs it to run: to check the parts with");
    verb.add_flag("--interleave", o->interleave,
                  "rows of matrices in the order the products use: fast when mapped, and no work at init");
    CLI::App& whole = verb;
    whole
        .add_option("--codec", o->codec,
                    "raw: the model as it is, which can be mapped; zstd: text (tokenizer, templates, metadata, notes) "
                    "packed where that saves over 3 %, tensors as they are; auto: tensors entropy coded, too, where "
                    "that saves over 3 %, decoded while they are loaded; rans: tensors alone, wherever it saves a byte")
        ->transform(CLI::CheckedTransformer(std::map<std::string, PackCodec>{{"raw", PackCodec::kRaw},
                                                                             {"auto", PackCodec::kAuto},
                                                                             {"rans", PackCodec::kRans},
                                                                             {"zstd", PackCodec::kZstd}},
                                            CLI::ignore_case));
    const VerbOption budget =
        verb.add_option("--budget", o->budget,
                        "bytes that the pack and --code may have together; else nothing is written")
            .positive();
    verb.add_option("--code", o->code, "a file of the code that the budget pays for")
        .expected(1)
        .take_all()
        .needs(budget);
    verb.add_option("--note", o->notes, "text for people: a licence, where calibration came from; up to 4")
        .expected(1)
        .take_all();
    verb.callback([o, &console] { pack(*o, console); });
}

void add_unpack_verb(Verb app, Console& console) {
    auto input = std::make_shared<std::string>(), directory = std::make_shared<std::string>();
    Verb verb = add_verb(app, console, "unpack", "the files of a pack, to the byte, after all of it was checked",
                         "  keel unpack model.keel files");
    verb.add_option("input", *input, "pack").required();
    verb.add_option("directory", *directory, "where the files go; made if it is missing").required();
    verb.callback([input, directory, &console] {
        const FileReader file = open_file(*input);
        unpack(*input, *file.get(), *directory);
        const PackTable pack = open_pack_table(*input, *file.get());
        if (console.json) return print_json({{"directory", *directory}, {"files", pack.header.section_count}});
        printf("%s: %u files\n", directory->c_str(), pack.header.section_count);
    });
}

}  // namespace keel::tools
