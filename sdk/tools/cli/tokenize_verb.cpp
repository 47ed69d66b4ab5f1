// keel tokenize: text to ids and back, as the model's own tokenizer sees it.
#include <stdio.h>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    std::string text, file;
    std::vector<int32_t> decode;
    bool special = false, bos = false, count = false;
};

// Its exact bytes; a control token is its text.
std::string token_text(const Engine& engine, int32_t id) {
    const char* data = nullptr;
    size_t bytes = 0;
    check(keel_token_text(engine.handle(), id, KEEL_DETOKENIZE_SPECIAL, &data, &bytes), "cannot read a token");
    return std::string(data, bytes);
}

void tokenize_text(const Options& o, const Console& console) {
    if (o.text.empty() && o.file.empty() && o.decode.empty())
        throw ToolError(kExitUsage, "nothing to do: give TEXT, --file or --decode");
    const std::string text = o.file.empty() ? o.text : read_text(o.file);
    // The smallest engine: only its tokenizer is used, so the weights stay where they are, if they can.
    EngineOptions small = o.engine;
    small.prefer_mapped = true;
    small.context = small.chunk = small.threads = 1;
    make_room_for(small, text);
    const LoadedModel m = load_model(small, console);

    if (!o.decode.empty()) {
        const std::string decoded = detokenize(m.engine, o.decode, o.special ? KEEL_DETOKENIZE_SPECIAL : 0);
        if (console.json) return print_json({{"ids", o.decode}, {"text", decoded}});
        fwrite(decoded.data(), 1, decoded.size(), stdout);
        fputs("\n", stdout);
        return;
    }
    const std::vector<int32_t> ids =
        tokenize(m.engine, text, (o.special ? KEEL_TOKENIZE_SPECIAL : 0) | (o.bos ? KEEL_TOKENIZE_BOS : 0));
    if (console.json) {
        if (o.count) return print_json({{"tokens", ids.size()}, {"bytes", text.size()}});
        std::vector<std::string> pieces;
        for (const int32_t id : ids) pieces.push_back(token_text(m.engine, id));
        return print_json({{"ids", ids}, {"pieces", pieces}, {"tokens", ids.size()}, {"bytes", text.size()}});
    }
    if (o.count) {
        printf("%zu\n", ids.size());
        return;
    }
    for (const int32_t id : ids) {
        printf("%8d  %s\n", id,
               Json(token_text(m.engine, id)).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    }
}

}  // namespace

void add_tokenize_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(app, console, "tokenize", "show how the model's tokenizer cuts a text",
                         "  keel tokenize model.gguf \"Hello, world!\"\n"
                         "  keel tokenize model.gguf --file book.txt --count\n"
                         "  keel tokenize model.gguf --decode 438,290,4028");
    add_model_option(verb, o->engine.model).required();
    const VerbOption text = verb.add_option("text", o->text, "text to cut");
    const VerbOption file =
        verb.add_option("--file,-f", o->file, "read the text from a file; - is stdin").excludes(text);
    const VerbOption ids =
        verb.add_option("--decode", o->decode, "ids to turn into text").delimiter(',').excludes(text).excludes(file);
    verb.add_option("--pre", o->engine.pre_tokenizer, "cut a byte-level vocabulary's text so, not as the file says");
    verb.add_flag("--special", o->special, "recognise special tokens in the text; write them when decoding");
    verb.add_flag("--bos", o->bos, "begin as the model wants a sequence to begin").excludes(ids);
    verb.add_flag("--count", o->count, "print the number of tokens only").excludes(ids);
    verb.callback([o, &console] { tokenize_text(*o, console); });
}

}  // namespace keel::tools
