// keel plan: what an engine will need and do, before it exists.
#include <stdio.h>

#include <algorithm>
#include <chrono>

#include "sdk/tools/cli/memory_search.h"
#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    std::string memory;
    std::vector<std::string> regions;
    bool all_ops = false, no_ops = false, no_map = false, mapped_free = false;
};

std::vector<keel_buffer_info> plan_buffers(const ModelFile& file, const keel_config& config) {
    uint32_t count = 0;
    check(keel_plan_buffers(file.gguf(), file.model, &config, nullptr, 0, &count, nullptr), "cannot list the buffers");
    std::vector<keel_buffer_info> buffers(count, make<keel_buffer_info>());
    check(keel_plan_buffers(file.gguf(), file.model, &config, buffers.data(), count, &count, nullptr),
          "cannot list the buffers");
    return buffers;
}

// ---- ops: layers that do the same are shown once ----

// Ops that stand for `repeats` runs of themselves: those of a layer and of the equal layers right behind it.
struct OpGroup {
    size_t begin, end;  // into the plan
    uint32_t repeats;
};

// Where the weights of an op live, and for copied ones why they are not repacked: "copy (rows)".
const char* repack_skip_name(keel_repack_skip reason) {
    switch (reason) {
        case KEEL_REPACK_SKIP_TYPE:
            return "type";
        case KEEL_REPACK_SKIP_ROWS:
            return "rows";
        case KEEL_REPACK_SKIP_LOOKUP:
            return "lookup";
        case KEEL_REPACK_SKIP_SPEED:
            return "speed";
        case KEEL_REPACK_SKIP_NONE:
            break;
    }
    return "";
}
// Why a device's FP32 units multiply.
const char* fp32_reason_name(keel_fp32_reason reason) {
    return reason == KEEL_FP32_TYPE         ? "type"
           : reason == KEEL_FP32_ACTIVATION ? "activation"
           : reason == KEEL_FP32_FEW_ROWS   ? "few rows, more by the device's library"
                                            : "";
}
std::string placement_text(const keel_op_info& op) {
    if (!op.weight_type[0]) return "";
    const std::string reason = repack_skip_name(op.repack_skip), fp32 = fp32_reason_name(op.fp32_reason);
    return weights_name(op.placement) + (reason.empty() ? "" : " (" + reason + ")") +
           (fp32.empty() ? "" : ", FP32 units (" + fp32 + ")");
}
// Of a product of the low-rank variant.
std::string low_rank_text(const keel_op_info& op) {
    switch (static_cast<keel_low_rank_reason>(op.low_rank_reason)) {
        case KEEL_LOW_RANK_USED:
            return op.low_rank_error < 0 ? "factor" : strf("factor, error %.2g", op.low_rank_error);
        case KEEL_LOW_RANK_NO_FACTOR:
            return "dense: no factor";
        case KEEL_LOW_RANK_ENERGY:
            return "dense: too little energy";
        case KEEL_LOW_RANK_ERROR:
            return strf("dense: error %.2g", op.low_rank_error);
        case KEEL_LOW_RANK_NONE:
            break;
    }
    return "";
}

// Bytes of the repacked matrices.
uint64_t repacked_bytes(const std::vector<keel_op_info>& ops) {
    uint64_t bytes = 0;
    for (const keel_op_info& op : ops)
        if (op.placement == KEEL_WEIGHTS_REPACK) bytes += op.fixed_bytes;
    return bytes;
}

bool same_op(const keel_op_info& a, const keel_op_info& b) {
    return std::string_view(a.name) == b.name && std::string_view(a.weight_type) == b.weight_type && a.rows == b.rows &&
           a.inner == b.inner && a.fixed_bytes == b.fixed_bytes && a.token_bytes == b.token_bytes &&
           a.placement == b.placement && a.repack_skip == b.repack_skip && a.low_rank_reason == b.low_rank_reason &&
           a.low_rank_error == b.low_rank_error && a.fp32_reason == b.fp32_reason;
}

std::vector<OpGroup> group_layers(const std::vector<keel_op_info>& ops, bool fold) {
    std::vector<OpGroup> groups;
    for (size_t begin = 0; begin < ops.size();) {
        size_t end = begin + 1;
        while (end < ops.size() && ops[end].layer == ops[begin].layer) ++end;
        const bool repeats_last =
            fold && !groups.empty() && ops[begin].layer > 0 && groups.back().end - groups.back().begin == end - begin &&
            std::equal(ops.begin() + static_cast<ptrdiff_t>(begin), ops.begin() + static_cast<ptrdiff_t>(end),
                       ops.begin() + static_cast<ptrdiff_t>(groups.back().begin), same_op);
        if (repeats_last)
            ++groups.back().repeats;
        else
            groups.push_back({begin, end, 1});
        begin = end;
    }
    return groups;
}

std::string layer_text(const keel_op_info& op, uint32_t repeats) {
    if (op.layer < 0) return "";
    return repeats == 1 ? strf("%d", op.layer) : strf("%d..%d", op.layer, op.layer + static_cast<int>(repeats) - 1);
}

std::string ops_text(const std::vector<keel_op_info>& ops, const std::vector<OpGroup>& groups) {
    Table table({"layer", "op", "type", ops.front().low_rank ? "product" : "weights", "dispatch", "rows", "inner",
                 "fixed bytes", "bytes/token", "predicted", "x"},
                4);
    for (const OpGroup& group : groups)
        for (size_t i = group.begin; i < group.end; ++i) {
            const keel_op_info& op = ops[i];
            table.add({i == group.begin ? layer_text(op, group.repeats) : "", op.name, op.weight_type,
                       op.low_rank ? low_rank_text(op) : placement_text(op),
                       i > group.begin && op.dispatch == ops[i - 1].dispatch ? "+" : strf("%u", op.dispatch),
                       strf("%u", op.rows), strf("%u", op.inner), human_bytes(op.fixed_bytes),
                       human_bytes(op.token_bytes), human_us(op.predicted_us),
                       group.repeats > 1 ? strf("%u", group.repeats) : ""});
        }
    return table.text();
}

Json op_json(const keel_op_info& op) {
    return {{"index", op.index},
            {"name", op.name},
            {"layer", op.layer},
            {"weight_type", op.weight_type},
            {"rows", op.rows},
            {"inner", op.inner},
            {"fixed_bytes", op.fixed_bytes},
            {"token_bytes", op.token_bytes},
            {"reads", std::vector<uint32_t>(op.reads, op.reads + op.read_count)},
            {"writes", std::vector<uint32_t>(op.writes, op.writes + op.write_count)},
            {"placement", op.weight_type[0] ? weights_name(op.placement) : ""},
            {"repack_skip", repack_skip_name(op.repack_skip)},
            {"fp32_reason", fp32_reason_name(op.fp32_reason)},
            {"dispatch", op.dispatch},
            {"low_rank", low_rank_text(op)},
            {"predicted_us", op.predicted_us}};
}

Json buffer_json(const keel_buffer_info& b) {
    Json out = {{"region", region_name(b.region)},
                {"name", b.name},
                {"instance", b.instance},
                {"offset", b.offset},
                {"bytes", b.bytes}};
    if (b.region == KEEL_REGION_SCRATCH) {
        out["first_op"] = b.first_op;
        out["last_op"] = b.last_op;
    }
    return out;
}

// ---- map of the scratch arena: ops across, offsets down, one row per stretch of bytes between two buffer edges ----

std::string scratch_map(const std::vector<keel_buffer_info>& all, const std::vector<OpGroup>& groups) {
    std::vector<size_t> shown;  // ops
    for (const OpGroup& group : groups)
        for (size_t i = group.begin; i < group.end; ++i) shown.push_back(i);
    const auto live = [](const keel_buffer_info& b, size_t op) { return op >= b.first_op && op <= b.last_op; };
    std::vector<const keel_buffer_info*> buffers;  // what is live in an op that is shown
    std::vector<std::string> names;                // one letter each
    std::vector<uint64_t> edges;
    for (const keel_buffer_info& b : all) {
        if (b.region != KEEL_REGION_SCRATCH ||
            std::none_of(shown.begin(), shown.end(), [&](size_t op) { return live(b, op); }))
            continue;
        buffers.push_back(&b);
        edges.insert(edges.end(), {b.offset, b.offset + b.bytes});
        if (std::find(names.begin(), names.end(), b.name) == names.end()) names.push_back(b.name);
    }
    std::sort(edges.begin(), edges.end());
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());

    static const std::string kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    const auto letter = [&](const std::string& name) {
        const size_t at = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
        return kLetters[at % kLetters.size()];
    };
    Table map({"offset", "size", "ops"}, 0);
    for (size_t e = 0; e + 1 < edges.size(); ++e) {
        std::string row(shown.size(), '.');
        for (const keel_buffer_info* b : buffers) {
            if (edges[e] < b->offset || edges[e] >= b->offset + b->bytes) continue;
            for (size_t c = 0; c < shown.size(); ++c)
                if (live(*b, shown[c])) row[c] = row[c] == '.' ? letter(b->name) : '!';
        }
        map.add({strf("%llu", static_cast<unsigned long long>(edges[e])), human_bytes(edges[e + 1] - edges[e]),
                 "|" + row + "|"});
    }
    std::string out =
        "Scratch arena: one column per op of the list above, one row per stretch of bytes; a letter is a live buffer, "
        "'.' is\n"
        "free, '!' would be an overlap.\n" +
        map.text();
    for (const std::string& name : names) {
        const auto b =
            std::find_if(buffers.begin(), buffers.end(), [&](const auto* other) { return name == other->name; });
        out += strf("  %c  %10s  ", letter(name), human_bytes((*b)->bytes).c_str()) + name + "\n";
    }
    return out;
}

// ---- objects of another region ----

// Those of many layers or session slots are shown once.
std::string region_text(const std::vector<keel_buffer_info>& all, keel_region_kind region) {
    struct Row {
        const keel_buffer_info* first;
        uint32_t count;
        uint64_t bytes;
    };
    std::vector<Row> rows;
    for (const keel_buffer_info& b : all) {
        if (b.region != region) continue;
        const auto it = std::find_if(rows.begin(), rows.end(), [&](const Row& row) {
            return b.instance >= 0 && std::string_view(row.first->name) == b.name;
        });
        if (it == rows.end()) {
            rows.push_back({&b, 1, b.bytes});
        } else {
            ++it->count;
            it->bytes += b.bytes;
        }
    }
    Table table({"offset", "name", "bytes", "", "x"}, 2);
    for (const Row& row : rows)
        table.add({strf("%llu", static_cast<unsigned long long>(row.first->offset)), row.first->name,
                   strf("%llu", static_cast<unsigned long long>(row.bytes)), human_bytes(row.bytes),
                   row.count > 1 ? strf("%u", row.count) : ""});
    return strf("Region %s: offset of the first, bytes of all\n", region_name(region)) + table.text();
}

// ---- the plan itself ----

void show_plan(const Options& o, const Console& console) {
    const ModelFile file = open_model(o.engine.model);
    ConfigParts parts;
    const keel_config config = make_config(o.engine, parts);
    const auto start = std::chrono::steady_clock::now();
    const keel_memory_plan plan = plan_memory(file, config);
    const double plan_us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    const std::vector<keel_op_info> all_ops = plan_ops(file, config);
    const std::vector<keel_buffer_info> buffers = plan_buffers(file, config);
    const std::vector<keel_op_info> ops(all_ops.begin(), all_ops.begin() + plan.op_count),
        low_rank(all_ops.begin() + plan.op_count, all_ops.begin() + plan.op_count + plan.low_rank_op_count);
    double predicted_us = 0;
    for (const keel_op_info& op : ops) predicted_us += op.predicted_us;

    if (console.json) {
        Json out = plan_json(plan);
        out["k_format"] = kv_format_name(config, config.k_format);
        out["v_format"] = kv_format_name(config, config.v_format);
        out["model"] = info_json(file.info);
        out["plan_us"] = plan_us;  // of the call that made this plan
        out["predicted_us_per_token"] = predicted_us;
        out["repacked_weight_bytes"] = repacked_bytes(ops);
        out["ops"] = Json::array();
        for (const keel_op_info& op : all_ops) out["ops"].push_back(op_json(op));
        out["buffers"] = Json::array();
        for (const keel_buffer_info& b : buffers) out["buffers"].push_back(buffer_json(b));
        if (find_part(config, KEEL_PART_WPROJ))
            out["low_rank"] = {{"status", keel_status_name(plan.part_status)},
                               {"field", plan.part_field},
                               {"offset", plan.part_offset},
                               {"reason", plan.part_reason},
                               {"factors", plan.low_rank_factors},
                               {"bytes", plan.low_rank_bytes},
                               {"decode_bytes", plan.low_rank_decode_bytes},
                               {"first_op", plan.op_count},
                               {"ops", plan.low_rank_op_count}};
        return print_json(out);
    }

    printf("%s: %u session%s of %u tokens, steps of up to %u tokens, %u threads, %s kernels\n\n",
           o.engine.model.c_str(), plan.max_sessions, plan.max_sessions == 1 ? "" : "s", plan.context_tokens,
           plan.chunk_tokens, plan.threads, cpu_name(plan.cpu));
    Table regions({"region", "bytes", "", "align", "padding"});
    for (int r = 0; r < KEEL_REGION_COUNT; ++r) {
        const keel_region_plan& region = plan.regions[r];
        regions.add({region_name(r), strf("%llu", static_cast<unsigned long long>(region.bytes)),
                     human_bytes(region.bytes), strf("%llu", static_cast<unsigned long long>(region.align_bytes)),
                     strf("%llu", static_cast<unsigned long long>(region.padding_bytes))});
    }
    regions.add({"total", strf("%llu", static_cast<unsigned long long>(total_bytes(plan))),
                 human_bytes(total_bytes(plan)), "", ""});
    fputs(regions.text().c_str(), stdout);
    if (plan.mapped_weight_bytes)
        printf("mapped weights, read in place: %s\n", human_bytes(plan.mapped_weight_bytes).c_str());
    if (const uint64_t repacked = repacked_bytes(ops))
        printf("weights: %s repacked, %s as in the file\n", human_bytes(repacked).c_str(),
               human_bytes(plan.regions[KEEL_REGION_WEIGHTS].bytes - repacked).c_str());
    printf("KV: %u pages of %u tokens, %s a page, %s a token (K %s, V %s)\n", plan.kv_pages, plan.kv_page_tokens,
           human_bytes(plan.kv_page_bytes).c_str(), human_bytes(plan.kv_bytes_per_token).c_str(),
           kv_format_name(config, config.k_format), kv_format_name(config, config.v_format));
    if (plan.kv_session_bytes)
        printf("rows of sinks and recent positions: %s a session, part of the KV region\n",
               human_bytes(plan.kv_session_bytes).c_str());
    if (plan.kv_side_bytes)
        printf("means, gains and tables of the KV formats: %s, part of the persistent region\n",
               human_bytes(plan.kv_side_bytes).c_str());
    if (plan.part_status != KEEL_OK)
        printf("W_proj cache: not used, %s, %s at byte %llu: %s\n", keel_status_name(plan.part_status), plan.part_field,
               static_cast<unsigned long long>(plan.part_offset), plan.part_reason);
    if (plan.low_rank_op_count)
        printf("W_proj cache: %u factors, %s with their biases\n", plan.low_rank_factors,
               human_bytes(plan.low_rank_bytes).c_str());
    if (plan.adapter_count)
        printf("adapters: %u, %s; a step of one token with one is predicted to take %.2f times that without\n",
               plan.adapter_count, human_bytes(plan.adapter_bytes).c_str(), plan.adapter_step_us[0] / plan.step_us[0]);
    if (plan.note[0]) printf("note: %s\n", plan.note);

    const std::vector<OpGroup> groups = group_layers(ops, !o.all_ops);
    if (!o.no_ops) printf("\n%s", ops_text(ops, groups).c_str());
    if (!o.no_map) printf("\n%s", scratch_map(buffers, groups).c_str());
    printf(
        "\n%u ops in %u dispatches (+: together with the op above); one token moves %s and is predicted to take %s "
        "(%.0f "
        "tok/s)\n",
        plan.op_count, ops.empty() ? 0 : ops.back().dispatch + 1, human_bytes(plan.decode_bytes).c_str(),
        human_us(predicted_us).c_str(), predicted_us > 0 ? 1e6 / predicted_us : 0);
    printf("a step of 2, 4, 8, 16 tokens is predicted to take %.2f, %.2f, %.2f, %.2f times that of one\n",
           plan.step_us[1] / plan.step_us[0], plan.step_us[3] / plan.step_us[0], plan.step_us[7] / plan.step_us[0],
           plan.step_us[15] / plan.step_us[0]);
    for (const std::string& name : o.regions)
        for (int r = 0; r < KEEL_REGION_COUNT; ++r)
            if (name == region_name(r) && r != KEEL_REGION_SCRATCH)
                printf("\n%s", region_text(buffers, static_cast<keel_region_kind>(r)).c_str());
    if (low_rank.empty()) return;
    if (!o.no_ops) printf("\nlow-rank variant\n%s", ops_text(low_rank, group_layers(low_rank, !o.all_ops)).c_str());
    double low_rank_us = 0;
    for (const keel_op_info& op : low_rank) low_rank_us += op.predicted_us;
    printf(
        "\n%u ops in the low-rank variant; one token moves %s (%.1f %% of the dense variant) and is predicted to take "
        "%s\n",
        plan.low_rank_op_count, human_bytes(plan.low_rank_decode_bytes).c_str(),
        100.0 * static_cast<double>(plan.low_rank_decode_bytes) / static_cast<double>(plan.decode_bytes),
        human_us(low_rank_us).c_str());
}

}  // namespace

void add_plan_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(app, console, "plan", "memory and ops of an engine, or the longest context that fits",
                         "  keel plan model.gguf\n"
                         "  keel plan model.gguf --context 8192 --sessions 4 --weights map --no-ops\n"
                         "  keel plan model.gguf --memory 2G --sessions 4\n"
                         "With --memory, --context is the longest context looked for (default: the\n"
                         "model's); formats and weight modes that are not given are all tried.");
    add_engine_options(verb, o->engine);
    add_backend_options(verb, o->engine);
    verb.add_option("--sessions", o->engine.sessions, "sessions at full context").capture_default_str();
    verb.add_option("--memory", o->memory, "find the longest context in this much memory, such as 2G");
    verb.add_flag("--mapped-free", o->mapped_free, "with --memory: do not count weights that are mapped");
    verb.add_option("--region", o->regions, "list the objects of a region too: persistent, weights, kv")
        .one_of({"persistent", "weights", "kv"});
    verb.add_flag("--all-ops", o->all_ops, "show equal layers one by one");
    verb.add_flag("--no-ops", o->no_ops, "leave out the ops");
    verb.add_flag("--no-map", o->no_map, "leave out the map of the scratch arena");
    verb.callback([o, &console] {
        if (o->memory.empty()) return show_plan(*o, console);
        search_memory(o->engine, parse_bytes(o->memory), o->mapped_free, console);
    });
}

}  // namespace keel::tools
