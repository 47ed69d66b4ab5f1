#include "sdk/tools/common/model_loader.h"

#include <chrono>
#include <ctime>
#include <filesystem>
#include <new>
#include <utility>

#include "sdk/model/wproj_slots.h"
#include "sdk/tools/common/allocation_counter.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/wproj_discovery.h"

namespace keel::tools {
namespace {

std::shared_ptr<FileReader> open_part(const std::string& path) {
    return std::make_shared<FileReader>(open_file(path));
}

std::string find_wproj(const EngineOptions& options) {
    const ModelFile file = open_model(options.model);
    const WprojShape shape = wproj_shape_of(*file.model);
    WprojSearch search;
    search.model_path = options.model;
    search.key = options.wproj_key;
    search.shape = &shape;
    search.force = options.wproj_any_key;
    const WprojFound found = find_wproj_cache(search);
    if (found.path) return *found.path;
    throw ToolError(kExitFile, strf("no W_proj cache of %s in the working directory, beside it, or in %s (%zu files "
                                    "looked at): see keel wproj build",
                                    options.model.c_str(), wproj_user_cache_directory().c_str(), found.seen.size()));
}

}  // namespace

void ConfigParts::add_to(keel_config& config, const EngineOptions& options) {
    const auto add = [&](keel_part_kind kind, const keel_reader* reader, const std::string& path,
                         std::shared_ptr<FileReader> file, const void* kind_options = nullptr) {
        if (!reader && path.empty()) return;
        if (!reader) {
            files_.push_back(file ? std::move(file) : open_part(path));
            reader = files_.back()->get();
        }
        parts_.push_back(part(kind, reader, kind_options));
    };
    // What is no file is the name of a family.
    const std::string& chat = options.chat_template;
    std::error_code ignored;
    chat_name_ = make<keel_reader>();
    const bool named = !chat.empty() && !std::filesystem::exists(chat, ignored);
    if (named) check(keel_reader_from_memory(chat.data(), chat.size(), &chat_name_), "cannot read " + chat);
    add(KEEL_PART_CHAT_TEMPLATE, named ? &chat_name_ : nullptr, chat, nullptr);
    grammar_ = make<keel_grammar_options>();
    grammar_.json_schema = !options.json_schema.empty();
    add(KEEL_PART_GRAMMAR, nullptr, grammar_.json_schema ? options.json_schema : options.grammar, nullptr, &grammar_);
    add(KEEL_PART_DRAFT_POOL, nullptr, options.draft_pool, nullptr);
    add(KEEL_PART_ADAPTER, nullptr, options.lora, nullptr);
    add(KEEL_PART_KV_PROFILE, options.kv_profile_reader, options.kv_profile, nullptr);
    if (!options.wproj.empty() && !options.wproj_file)
        options.wproj_file = open_part(options.wproj == "auto" ? find_wproj(options) : options.wproj);
    wproj_ = make<keel_wproj_options>();
    wproj_.key = options.wproj_key;
    wproj_.any_key = options.wproj_any_key;
    wproj_.max_error = static_cast<float>(options.wproj_error);
    add(KEEL_PART_WPROJ, options.wproj_reader, options.wproj, options.wproj_file, &wproj_);
    add_packed(options);
    device_ = KEEL_CUDA_DEVICE_INIT;
    device_.ordinal = options.device;
    config.backend_options = options.cuda ? &device_ : nullptr;
    config.parts = parts_.data();
    config.part_count = static_cast<uint32_t>(parts_.size());
}

void ConfigParts::add_packed(const EngineOptions& options) {
    if (options.model.empty()) return;  // a plan of something else
    const std::shared_ptr<FileReader> file = open_part(options.model);
    pack_ = open_pack_of(*file->get(), options.model, PackUse::kParts);
    if (!pack_) return;
    files_.push_back(file);
    const size_t named = parts_.size();
    for (const keel_part& packed : pack_->pack.parts()) {
        const auto same_kind = [&](const keel_part& p) { return p.kind == packed.kind; };
        const bool unused = (packed.kind == KEEL_PART_DRAFT_POOL && options.draft_tokens == 0) ||
                            (packed.kind == KEEL_PART_KV_PROFILE && !options.packed_profile) ||
                            packed.kind == KEEL_PART_ADAPTER;
        if (!unused && std::none_of(parts_.begin(), parts_.begin() + named, same_kind)) parts_.push_back(packed);
    }
}

void make_room_for(EngineOptions& options, std::string_view text) {
    constexpr size_t kDefaultBytes = 16384, kMostBytes = 1u << 24;
    size_t longest = 0, length = 0;
    bool was_space = false;
    for (const char c : text) {
        const bool space = c == ' ' || (c >= '\t' && c <= '\r');
        length = space == was_space ? length + 1 : 1;
        was_space = space;
        longest = std::max(longest, length);
    }
    // A stretch and the space before it.
    if (longest >= kDefaultBytes) options.max_text_bytes = static_cast<uint32_t>(std::min(longest + 1, kMostBytes));
}

keel_config make_config(const EngineOptions& options, ConfigParts& parts) {
    keel_config config = make<keel_config>();
    config.api_version = KEEL_API_VERSION;
    config.max_sessions = options.sessions;
    config.context_tokens = options.context;
    config.chunk_tokens = options.chunk;
    config.threads = options.threads;
    config.k_format = options.k_format;
    config.v_format = options.v_format;
    config.weights = options.weights;
    config.activation = options.activation;
    config.cpu = options.cpu;
    config.pin_threads = options.pin;
    config.kv_sink_tokens = options.sinks;
    config.kv_recent_tokens = options.recent;
    config.kv_rollback_tokens = options.rollback;
    config.max_text_bytes = options.max_text_bytes;
    config.draft_tokens = options.draft_tokens;
    config.drafters = options.draft_tokens ? KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL : 0;
    // Second guesses pay where a step of several tokens costs little more than one.
    if (options.draft_tokens && options.cuda) config.drafters |= KEEL_DRAFT_LOGITS;
    if (!options.pre_tokenizer.empty()) config.pre_tokenizer = options.pre_tokenizer.c_str();
    config.backend = options.cuda ? options.cuda->backend : nullptr;
    config.numerics = options.device_numerics ? KEEL_NUMERICS_DEVICE : KEEL_NUMERICS_DEFAULT;
    parts.add_to(config, options);
    return config;
}

keel_memory_plan plan_memory(const ModelFile& file, const keel_config& config) {
    keel_memory_plan plan = make<keel_memory_plan>();
    keel_error error = make<keel_error>();
    check(keel_plan(file.gguf(), file.model, &config, &plan, &error), "cannot plan " + file.path, &error);
    return plan;
}

std::vector<keel_op_info> plan_ops(const ModelFile& file, const keel_config& config) {
    uint32_t count = 0;
    check(keel_plan_ops(file.gguf(), file.model, &config, nullptr, 0, &count, nullptr), "cannot list the ops");
    std::vector<keel_op_info> ops(count, make<keel_op_info>());
    check(keel_plan_ops(file.gguf(), file.model, &config, ops.data(), count, &count, nullptr), "cannot list the ops");
    return ops;
}

keel_error part_error(const keel_memory_plan& plan) {
    keel_error error = make<keel_error>();
    error.status = plan.part_status;
    error.offset = plan.part_offset;
    std::copy(std::begin(plan.part_field), std::end(plan.part_field), error.field);
    std::copy(std::begin(plan.part_reason), std::end(plan.part_reason), error.reason);
    return error;
}

uint64_t total_bytes(const keel_memory_plan& plan) {
    uint64_t sum = 0;
    for (const keel_region_plan& region : plan.regions) sum += region.bytes;
    return sum;
}

#ifdef KEEL_HAVE_MEMORY_DEFAULT
void RegionMemory::take_host(const keel_memory_plan& plan) {
    const keel_status status = keel_memory_default(&plan, &memory_);
    if (status != KEEL_OK)
        throw ToolError(kExitMemory, "cannot allocate " + human_bytes(total_bytes(plan)) + " for the plan");
}
void RegionMemory::release_host() {
    if (memory_.struct_size) keel_memory_release(&memory_);
}
#else
void RegionMemory::take_host(const keel_memory_plan& plan) {
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r) {
        const keel_region_plan& region = plan.regions[r];
        if (region.bytes == 0) continue;
        align_bytes_[r] = std::max<uint64_t>(region.align_bytes, alignof(std::max_align_t));
        memory_.regions[r].data = ::operator new(region.bytes, std::align_val_t(align_bytes_[r]), std::nothrow);
        memory_.regions[r].bytes = region.bytes;
        if (!memory_.regions[r].data) {
            release();
            throw ToolError(kExitMemory, std::string("cannot allocate ") + human_bytes(region.bytes) + " for region " +
                                             region_name(r));
        }
    }
}
void RegionMemory::release_host() {
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r)
        if (memory_.regions[r].data) ::operator delete(memory_.regions[r].data, std::align_val_t(align_bytes_[r]));
}
#endif

RegionMemory::RegionMemory(const keel_memory_plan& plan, const CudaCalls* cuda, int32_t device) {
    memory_ = make<keel_memory>();
    keel_memory_plan host = plan;
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r)
        if (cuda && (r == KEEL_REGION_PINNED || r >= KEEL_REGION_DEVICE_SCRATCH)) host.regions[r].bytes = 0;
    take_host(host);
    if (!cuda) return;
    device_ = KEEL_CUDA_DEVICE_INIT;
    device_.ordinal = device;
    keel_error error = make<keel_error>();
    const keel_status status = cuda->memory(&plan, &device_, &memory_, &error);
    if (status != KEEL_OK) {
        release();
        throw ToolError(status, "cannot allocate memory of the device", &error);
    }
    cuda_ = cuda;
}
void RegionMemory::release() {
    if (cuda_) cuda_->release(&device_, &memory_);
    cuda_ = nullptr;
    release_host();
    memory_ = {};
}

RegionMemory::RegionMemory(RegionMemory&& other) noexcept {
    *this = std::move(other);
}
RegionMemory& RegionMemory::operator=(RegionMemory&& other) noexcept {
    if (this == &other) return *this;
    release();
    memory_ = std::exchange(other.memory_, keel_memory{});
    cuda_ = std::exchange(other.cuda_, nullptr);
    device_ = other.device_;
    std::copy(std::begin(other.align_bytes_), std::end(other.align_bytes_), align_bytes_);
    return *this;
}
RegionMemory::~RegionMemory() {
    release();
}

namespace {

// The draft model computes as the other one does, with a session for each one of it that drafts.
void load_drafter(const EngineOptions& options, const Console& console, LoadedModel& loaded) {
    EngineOptions o;
    o.model = std::string(options.draft_model);
    o.threads = options.threads;
    o.context = loaded.plan.context_tokens;
    o.cpu = options.cpu;
    o.activation = options.activation;
    o.weights = options.weights;
    o.pre_tokenizer = options.pre_tokenizer;
    loaded.drafter = std::make_unique<LoadedModel>(load_model(o, console));
    loaded.draft_session = open_session(*loaded.drafter);
}

}  // namespace

LoadedModel load_model(const EngineOptions& options, const Console& console,
                       const std::function<void(keel_config&)>& adjust,
                       const std::function<void(const keel_memory_plan&)>& before_init) {
    LoadedModel loaded;
    const auto start = std::chrono::steady_clock::now();
    loaded.file = open_model(options.model);
    loaded.parts = std::make_unique<ConfigParts>();
    loaded.config = make_config(options, *loaded.parts);
    if (options.prefer_mapped && options.weights == KEEL_WEIGHTS_DEFAULT &&
        loaded.file.can_stay_mapped(options.activation))
        loaded.config.weights = KEEL_WEIGHTS_MAP;
    if (adjust) adjust(loaded.config);
    loaded.plan = plan_memory(loaded.file, loaded.config);
    if (options.low_rank && !find_part(loaded.config, KEEL_PART_WPROJ))
        throw ToolError(kExitUsage, "--low-rank needs a W_proj cache: --wproj");
    if (options.low_rank && loaded.plan.low_rank_op_count == 0) {
        const keel_error error = part_error(loaded.plan);
        throw ToolError(loaded.plan.part_status, "cannot use the W_proj cache", &error);
    }
    if (options.draft_low_rank && (options.low_rank || loaded.plan.low_rank_op_count == 0))
        throw ToolError(kExitUsage, "--draft-low-rank needs a W_proj cache, and no --low-rank");
    if (!options.lora.empty() && options.lora_scale != 0 && (options.low_rank || options.draft_low_rank))
        throw ToolError(kExitUsage, "--lora goes with neither --low-rank nor --draft-low-rank");
    loaded.low_rank_drafts = options.draft_low_rank;
    if (!options.draft_model.empty()) load_drafter(options, console, loaded);
    if (!options.lora.empty()) loaded.lora_scale = options.lora_scale;
    loaded.variant = options.low_rank ? KEEL_VARIANT_LOW_RANK : KEEL_VARIANT_DENSE;
    loaded.memory = RegionMemory(loaded.plan, options.cuda, options.device);
    loaded.on_gpu = options.cuda != nullptr;
    if (before_init) before_init(loaded.plan);

    ProgressBar bar(console, "loading");
    keel_hooks hooks = make<keel_hooks>();
    hooks.user_data = &bar;
    hooks.strftime_now = [](void*, const char* format, char* dst, size_t capacity) {
        const std::time_t now = std::time(nullptr);
        return std::strftime(dst, capacity, format, std::localtime(&now));
    };
    hooks.progress = [](void* user_data, uint64_t done, uint64_t total) {
        static_cast<ProgressBar*>(user_data)->draw(done, total, human_bytes(total));
        return interrupted() ? 1 : 0;
    };
    loaded.config.hooks = &hooks;
    keel_error error = make<keel_error>();
    Result<Engine> engine =
        Engine::init(loaded.file.gguf(), loaded.file.model, loaded.config, loaded.memory.get(), &error);
    loaded.heap_at_init = heap_allocations();
    if (!engine) throw ToolError(engine.status, "cannot load " + options.model, &error);
    loaded.engine = std::move(*engine);
    loaded.config.hooks = nullptr;  // the bar ends here
    if (loaded.drafter && stats_of(*loaded.drafter).vocabulary_hash != stats_of(loaded).vocabulary_hash)
        throw ToolError(kExitFile, options.draft_model + " has another vocabulary than " + options.model);
    loaded.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return loaded;
}

void hold_to_grammar(Session& session, const EngineOptions& options) {
    if (options.grammar.empty() && options.json_schema.empty()) return;
    check(keel_session_set_grammar(session.handle(), KEEL_GRAMMAR_NEXT), "cannot hold the session to the grammar");
}

keel_stats stats_of(const LoadedModel& model) {
    Result<keel_stats> stats = model.engine.stats();
    check(stats.status, "cannot read the engine's statistics");
    if (model.on_gpu) snprintf(stats->kernel_set, sizeof stats->kernel_set, "cuda");
    return *stats;
}

void draft(const LoadedModel& model, Session& session) {
    if (!model.drafter && !model.low_rank_drafts) return;
    const keel_status status = session.draft(model.drafter ? model.draft_session : session).status;
    if (status != KEEL_E_CANCELLED && status != KEEL_E_KV_FULL) check(status, "cannot draft");
}

Session open_session(LoadedModel& model) {
    Result<Session> session = model.engine.open();
    check(session.status, "cannot open a session");
    if (model.variant != KEEL_VARIANT_DENSE)
        check(session->set_variant(model.variant), "cannot choose the low-rank variant");
    if (model.lora_scale != 0) check(session->set_adapter(0, model.lora_scale), "cannot choose the adapter");
    return std::move(*session);
}

Json plan_json(const keel_memory_plan& plan) {
    Json regions = Json::object();
    for (int r = 0; r < KEEL_REGION_COUNT; ++r)
        regions[region_name(r)] = {{"bytes", plan.regions[r].bytes},
                                   {"align_bytes", plan.regions[r].align_bytes},
                                   {"padding_bytes", plan.regions[r].padding_bytes}};
    return {{"regions", regions},
            {"total_bytes", total_bytes(plan)},
            {"mapped_weight_bytes", plan.mapped_weight_bytes},
            {"kv_page_tokens", plan.kv_page_tokens},
            {"kv_page_bytes", plan.kv_page_bytes},
            {"kv_bytes_per_token", plan.kv_bytes_per_token},
            {"kv_pages", plan.kv_pages},
            {"kv_session_bytes", plan.kv_session_bytes},
            {"kv_side_bytes", plan.kv_side_bytes},
            {"context_tokens", plan.context_tokens},
            {"chunk_tokens", plan.chunk_tokens},
            {"max_sessions", plan.max_sessions},
            {"threads", plan.threads},
            {"cpu", cpu_name(plan.cpu)},
            {"decode_bytes", plan.decode_bytes},
            {"step_us", plan.step_us},
            {"adapter_bytes", plan.adapter_bytes},
            {"adapter_decode_bytes", plan.adapter_decode_bytes},
            {"adapter_step_us", plan.adapter_step_us},
            {"note", plan.note}};
}

Json info_json(const keel_model_info& info) {
    return {{"architecture", info.architecture},
            {"name", info.name},
            {"gguf_version", info.gguf_version},
            {"file_bytes", info.file_bytes},
            {"weight_bytes", info.weight_bytes},
            {"weight_types", info.weight_types},
            {"parameters", info.parameters},
            {"fingerprint", hex64(info.fingerprint)},
            {"tensors", info.tensors},
            {"layers", info.layers},
            {"embedding", info.embedding},
            {"feed_forward", info.feed_forward},
            {"heads", info.heads},
            {"kv_heads", info.kv_heads},
            {"head_dim", info.head_dim},
            {"vocabulary", info.vocabulary},
            {"train_context_tokens", info.train_context_tokens},
            {"tokenizer", info.tokenizer},
            {"pre_tokenizer", info.pre_tokenizer},
            {"bos_id", info.bos_id},
            {"eos_id", info.eos_id},
            {"chat_family", chat_family_name(info.chat_family)},
            {"chat_reason", info.chat_reason},
            {"model_bytes", info.model_bytes}};
}

Json regions_json(const keel_stats& stats) {
    Json out = Json::object();
    for (int r = 0; r < KEEL_REGION_COUNT; ++r)
        if (stats.regions[r].planned_bytes)
            out[region_name(r)] = {{"planned_bytes", stats.regions[r].planned_bytes},
                                   {"used_bytes", stats.regions[r].used_bytes},
                                   {"high_water_bytes", stats.regions[r].high_water_bytes}};
    return out;
}

std::string regions_text(const keel_stats& stats) {
    Table table({"region", "planned bytes", "used", "high water"});
    uint64_t planned = 0, used = 0, high = 0;
    const auto number = [](uint64_t v) { return strf("%llu", static_cast<unsigned long long>(v)); };
    for (int r = 0; r < KEEL_REGION_COUNT; ++r) {
        const keel_region_stats& region = stats.regions[r];
        if (!region.planned_bytes) continue;
        table.add(
            {region_name(r), number(region.planned_bytes), number(region.used_bytes), number(region.high_water_bytes)});
        planned += region.planned_bytes;
        used += region.used_bytes;
        high += region.high_water_bytes;
    }
    table.add({"total", number(planned), number(used), number(high)});
    return table.text();
}

std::vector<int32_t> tokenize(const Engine& engine, std::string_view text, uint32_t flags) {
    const Result<size_t> count = engine.token_count(text, flags);
    check(count.status, "cannot tokenize the text");
    std::vector<int32_t> ids(*count);
    check(engine.tokenize(text, ids, flags).status, "cannot tokenize the text");
    return ids;
}

std::string detokenize(const Engine& engine, std::span<const int32_t> ids, uint32_t flags) {
    size_t bytes = 0;
    keel_status status = keel_detokenize(engine.handle(), ids.data(), ids.size(), flags, nullptr, 0, &bytes);
    if (status != KEEL_E_BUFFER_TOO_SMALL) check(status, "cannot detokenize");
    std::string text(bytes, '\0');
    check(engine.detokenize(ids, text, flags).status, "cannot detokenize");
    return text;
}

}  // namespace keel::tools
