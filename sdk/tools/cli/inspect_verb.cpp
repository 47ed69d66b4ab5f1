// keel inspect: what a GGUF file holds, without reading a weight.
#include <stdio.h>

#include <algorithm>

#include "sdk/format/bytes.h"
#include "sdk/format/gguf.h"
#include "sdk/format/pack.h"
#include "sdk/model/adapter_file.h"
#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/gguf_tables.h"
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {
namespace {

struct Options {
    std::string model;
    bool tensors = false, metadata = false, verify = false;
};

std::string bytes_at(const ModelFile& file, uint64_t offset, uint64_t bytes) {
    std::string out(bytes, '\0');
    check(read_at(*file.gguf(), offset, out.data(), bytes), "cannot read " + file.path);
    return out;
}

template <class T>
T number_at(const ModelFile& file, uint64_t offset) {
    T value;
    check(read_at(*file.gguf(), offset, &value, sizeof value), "cannot read " + file.path);
    return value;
}

Json scalar(const ModelFile& file, uint32_t type, uint64_t offset) {
    switch (type) {
        case kGgufU8:
            return number_at<uint8_t>(file, offset);
        case kGgufI8:
            return number_at<int8_t>(file, offset);
        case kGgufU16:
            return number_at<uint16_t>(file, offset);
        case kGgufI16:
            return number_at<int16_t>(file, offset);
        case kGgufU32:
            return number_at<uint32_t>(file, offset);
        case kGgufI32:
            return number_at<int32_t>(file, offset);
        case kGgufF32:
            return number_at<float>(file, offset);
        case kGgufBool:
            return number_at<uint8_t>(file, offset) != 0;
        case kGgufU64:
            return number_at<uint64_t>(file, offset);
        case kGgufI64:
            return number_at<int64_t>(file, offset);
        case kGgufF64:
            return number_at<double>(file, offset);
        default:
            return nullptr;
    }
}

Json value_json(const ModelFile& file, const GgufValue& value) {
    if (value.type == kGgufString) return bytes_at(file, value.offset, value.count);
    if (value.type != kGgufArray) return scalar(file, value.type, value.offset);
    return strf("array of %llu elements, %s", static_cast<unsigned long long>(value.count),
                human_bytes(value.bytes).c_str());
}

// The metadata in file order. A key stands where the value before it ended (the first one after the 24 bytes of the
// header): its length in 8 bytes, then its text.
Json metadata_json(const ModelFile& file, std::vector<GgufValue> values) {
    std::sort(values.begin(), values.end(), [](const GgufValue& a, const GgufValue& b) { return a.offset < b.offset; });
    Json out = Json::object();
    uint64_t position = 24;
    for (const GgufValue& value : values) {
        out[bytes_at(file, position + 8, number_at<uint64_t>(file, position))] = value_json(file, value);
        position = value.offset + value.bytes;
    }
    return out;
}

Json tensor_json(const ModelFile& file, const GgufTensor& t) {
    return {{"name", bytes_at(file, t.name_offset, t.name_bytes)},
            {"type", kernels::weight_type_info(t.type)->name},
            {"dims", std::vector<uint64_t>(t.dims, t.dims + t.dim_count)},
            {"offset", t.offset},
            {"bytes", t.bytes}};
}

// Why the file does not run as it is: keel_inspect leaves to a configuration what a configuration can name. Empty: it
// runs.
std::string obstacle(const ModelFile& file) {
    const keel_config config = make<keel_config>();
    keel_memory_plan plan = make<keel_memory_plan>();
    keel_error error = make<keel_error>();
    if (keel_plan(file.gguf(), file.model, &config, &plan, &error) == KEEL_OK) return "";
    return std::string(error.field) + ": " + error.reason;
}

std::string codec_name(const keel_reader& section) {
    if (section.text_bytes) return section.coded_bytes ? "zstd, rans" : "zstd";
    return section.coded_bytes ? "rans" : "raw";
}

// The sections of a pack; empty for a GGUF file.
Json sections_json(const ModelFile& file) {
    Json out = Json::array();
    if (!file.pack) return out;
    PackTable pack;
    check(read_pack(*file.reader.get(), &pack, nullptr), "cannot use " + file.path);
    for (uint32_t i = 0; i < pack.header.section_count; ++i) {
        const PackSection& s = pack.sections[i];
        keel_reader reader;
        check(open_section(*file.reader.get(), s, &reader, nullptr), "cannot use " + file.path);
        out.push_back({{"kind", pack_kind_name(s.kind)},
                       {"interleaved", reader.interleaved_rows != 0},
                       {"codec", codec_name(reader)},
                       {"name", s.name},
                       {"offset", s.offset},
                       {"bytes", s.bytes},
                       {"plain_bytes", reader.size_bytes},
                       {"text_bytes", reader.text_bytes},
                       {"packed_text_bytes", reader.text_stored_bytes}});
    }
    return out;
}

// Whether the file calls itself an adapter; then it is described here.
bool inspect_adapter(const Options& o, const Console& console) {
    Result<FileReader> reader = FileReader::open(o.model.c_str());
    if (reader.status != KEEL_OK) return false;
    AdapterFile adapter;
    keel_error error = make<keel_error>();
    if (adapter_open(*reader->get(), nullptr, &adapter, &error) != KEEL_OK) {
        const bool scanned = adapter.gguf.file_bytes != 0;
        if (!scanned || std::string_view(error.field) == "general.type") return false;
        throw ToolError(error.status, "cannot use " + o.model, &error);
    }
    if (o.verify || o.metadata || o.tensors)
        throw ToolError(kExitUsage, "--verify, --metadata and --tensors are for models: " + o.model + " is an adapter");
    const std::string identity = hex64(adapter.identity);
    if (console.json) {
        print_json({{"adapter", "lora"},
                    {"architecture", adapter.architecture},
                    {"alpha", adapter.alpha},
                    {"largest_rank", adapter.largest_rank},
                    {"matrices", adapter.pairs},
                    {"parameters", adapter.parameters},
                    {"weight_bytes", adapter.weight_bytes},
                    {"identity", identity}});
        return true;
    }
    Table table({"file", o.model}, 2);
    table.add({"format", strf("GGUF v%u, %s, a LoRA adapter: use it with --lora", adapter.gguf.version,
                              human_bytes(adapter.gguf.file_bytes).c_str())});
    table.add({"for", adapter.architecture});
    table.add({"changes", strf("%u matrices, rank up to %u, alpha %g", adapter.pairs, adapter.largest_rank,
                               static_cast<double>(adapter.alpha))});
    table.add({"parameters", human_count(adapter.parameters) + ", " + human_bytes(adapter.weight_bytes)});
    table.add({"identity", identity});
    fputs(table.text().c_str(), stdout);
    return true;
}

void inspect(const Options& o, const Console& console) {
    if (inspect_adapter(o, console)) return;
    const ModelFile file = open_model(o.model);
    keel_error error = make<keel_error>();
    if (o.verify && !file.pack) throw ToolError(kExitUsage, "--verify: a GGUF file has no checksums, a pack has");
    if (o.verify) check(keel_pack_verify(file.reader.get(), &error), "cannot use " + o.model, &error);
    const Json sections = sections_json(file);
    const keel_model_info& info = file.info;
    const std::string why_not = obstacle(file);
    Json metadata = Json::object(), tensors = Json::array();
    if (o.metadata || o.tensors) {
        const GgufTables tables = scan_gguf(*file.gguf(), file.path);
        metadata = metadata_json(file, tables.values);
        for (const GgufTensor& tensor : tables.tensors) tensors.push_back(tensor_json(file, tensor));
    }
    if (console.json) {
        Json out = info_json(info);
        out["runs"] = why_not.empty();
        out["obstacle"] = why_not;
        if (file.pack) out["sections"] = sections;
        if (o.metadata) out["metadata"] = metadata;
        if (o.tensors) out["tensor_table"] = tensors;
        return print_json(out);
    }
    Table table({"file", o.model}, 2);
    table.add({"format", strf("GGUF v%u, %s, %u tensors", info.gguf_version, human_bytes(info.file_bytes).c_str(),
                              info.tensors)});
    table.add({"architecture", info.architecture});
    table.add({"name", info.name});
    table.add({"parameters", human_count(info.parameters)});
    table.add({"weights", human_bytes(info.weight_bytes) + ", " + info.weight_types});
    table.add({"shape", strf("%u layers, embedding %u, feed-forward %u, %u heads of %u (%u for K and V)", info.layers,
                             info.embedding, info.feed_forward, info.heads, info.head_dim, info.kv_heads)});
    table.add({"context", strf("%u tokens in training", info.train_context_tokens)});
    table.add({"vocabulary", strf("%u tokens, %s%s%s, BOS %d, EOS %d", info.vocabulary, info.tokenizer,
                                  info.pre_tokenizer[0] ? " / " : "", info.pre_tokenizer, info.bos_id, info.eos_id)});
    table.add({"chat", info.chat_reason[0] ? strf("unknown: Keel does not have %s (byte %u of the template)",
                                                  info.chat_reason, info.chat_offset)
                                           : std::string(chat_family_name(info.chat_family))});
    table.add({"runs", why_not.empty() ? "yes" : "not as it is: " + why_not});
    table.add({"fingerprint", hex64(info.fingerprint)});
    fputs(table.text().c_str(), stdout);
    if (file.pack) {
        Table rows({"\nsection", "file", "codec", "offset", "bytes", "of plain"}, 3);
        for (const Json& s : sections)
            rows.add({std::string(s["kind"]) + (s["interleaved"] ? ", interleaved" : ""), s["name"], s["codec"],
                      s["offset"].dump(), s["bytes"].dump(),
                      strf("%.2f %%", 100 * s["bytes"].get<double>() / s["plain_bytes"].get<double>())});
        fputs(rows.text().c_str(), stdout);
    }
    if (o.metadata) {
        Table values({"\nkey", "value"}, 2);
        for (const auto& [key, value] : metadata.items()) {
            std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
            if (text.size() > 90) text = text.substr(0, 87) + "...";
            values.add({key, text});
        }
        fputs(values.text().c_str(), stdout);
    }
    if (o.tensors) {
        Table rows({"\ntensor", "type", "shape", "offset", "bytes"}, 3);
        for (const Json& t : tensors) {
            std::string shape;
            for (const auto& d : t["dims"]) shape += (shape.empty() ? "" : " x ") + d.dump();
            rows.add({t["name"], t["type"], shape, t["offset"].dump(), t["bytes"].dump()});
        }
        fputs(rows.text().c_str(), stdout);
    }
}

}  // namespace

void add_inspect_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(app, console, "inspect", "describe a GGUF file or a pack without reading its weights",
                         "  keel inspect model.gguf\n"
                         "  keel inspect model.gguf --tensors --metadata\n"
                         "  keel inspect model.gguf --json | jq .train_context_tokens");
    add_model_option(verb, o->model).required();
    verb.add_flag("--tensors", o->tensors, "list the tensors");
    verb.add_flag("--metadata", o->metadata, "list the metadata");
    verb.add_flag("--verify", o->verify, "of a pack: read all of it and compare the checksums");
    verb.callback([o, &console] { inspect(*o, console); });
}

}  // namespace keel::tools
