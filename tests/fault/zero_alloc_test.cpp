// After keel_engine_init Keel does not allocate, print, or call the system for anything but its own threads: a child
// process with static memory seals itself after init and then uses every function of keel.h, in its good ways and its
// errors.
#include <gtest/gtest.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "keel/keel.h"
#include "tests/adapter_builder.h"
#include "tests/fault/alloc_guard.h"
#include "tests/fault/guarded_child.h"
#include "tests/wproj_builder.h"

namespace {

const char* const kModelPath = KEEL_SOURCE_DIR "/samples/models/books-7m-f16.gguf";
constexpr uint32_t kContext = 2048, kSessions = 3, kRows = 8, kDrafts = 3;
constexpr uint32_t kPromptTokens = 300, kDecodedTokens = 1000;

// ---- static memory ----
alignas(4096) uint8_t pool[160u << 20];
size_t pool_used;
alignas(64) uint8_t saved[24u << 20], damaged[24u << 20], pool_file[1u << 17];

void* place(uint64_t bytes, uint64_t align) {
    const size_t at = (pool_used + align - 1) / align * align;
    CHILD_CHECK(align <= 4096 && bytes <= sizeof(pool) - at);
    pool_used = at + bytes;
    return pool + at;
}

template <class T>
T versioned() {
    T value = {};
    value.struct_size = sizeof(T);
    return value;
}

// ---- the engine under test ----
enum class Mask { kAll, kOdd, kNothing } mask_mode;
void allowed_tokens(void*, keel_session, const int32_t*, uint32_t, uint8_t* mask, uint32_t vocabulary) {
    if (mask_mode == Mask::kAll) return;
    memset(mask, mask_mode == Mask::kOdd ? 0xAA : 0, (vocabulary + 7) / 8);
}
uint32_t faults;
void on_fault(void*, const char*) {
    ++faults;
}

keel_reader reader;
const keel_model* model;
keel_model_info info;
keel_config config;
keel_memory_plan plan;
keel_memory memory;
keel_engine engine;

keel_reader chat_template, grammar;
constexpr char kGrammar[] = "root ::= \"yes\" (\" \" [a-z]+)*";
keel_part parts[4];
keel_hooks hooks;

constexpr char kChatTemplate[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

keel_status plan_engine() {
    plan = versioned<keel_memory_plan>();
    return keel_plan(&reader, model, &config, &plan, nullptr);
}

void inspect_and_plan(uint32_t threads, const keel_reader* wproj = nullptr, const keel_reader* adapter = nullptr) {
    reader = versioned<keel_reader>();
    info = versioned<keel_model_info>();
    CHILD_STATUS(KEEL_OK, keel_reader_open_file(kModelPath, &reader));
    CHILD_STATUS(KEEL_OK, keel_inspect(&reader, nullptr, nullptr, 0, nullptr, &info, nullptr));
    void* buffer = place(info.model_bytes, 64);
    CHILD_STATUS(KEEL_OK, keel_inspect(&reader, nullptr, buffer, info.model_bytes, &model, &info, nullptr));
    config = versioned<keel_config>();
    config.max_sessions = kSessions;
    config.context_tokens = kContext;
    config.logits_rows = kRows;
    config.draft_tokens = kDrafts;
    config.drafters = KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL | KEEL_DRAFT_LOGITS;
    config.draft_pool_bytes = sizeof(pool_file) / 2;
    config.threads = threads;
    config.max_text_bytes = 1024;
    chat_template = versioned<keel_reader>();
    CHILD_STATUS(KEEL_OK, keel_reader_from_memory(kChatTemplate, sizeof(kChatTemplate) - 1, &chat_template));
    for (keel_part& part : parts) part = versioned<keel_part>();
    parts[0].kind = KEEL_PART_CHAT_TEMPLATE;
    parts[0].reader = &chat_template;
    grammar = versioned<keel_reader>();
    CHILD_STATUS(KEEL_OK, keel_reader_from_memory(kGrammar, sizeof(kGrammar) - 1, &grammar));
    parts[1].kind = KEEL_PART_GRAMMAR;
    parts[1].reader = &grammar;
    parts[2].kind = KEEL_PART_WPROJ;
    parts[2].reader = wproj;
    config.parts = parts;
    config.part_count = 2;
    if (wproj) ++config.part_count;
    if (adapter) {
        keel_part& part = parts[config.part_count++];
        part.kind = KEEL_PART_ADAPTER;
        part.reader = adapter;
    }
    hooks = versioned<keel_hooks>();
    hooks.allowed_tokens = allowed_tokens;
    hooks.fault = on_fault;
    config.hooks = &hooks;
    CHILD_STATUS(KEEL_OK, plan_engine());
    // One session may become full; all of them may not.
    config.kv_pages = kContext / plan.kv_page_tokens + 4;
    CHILD_STATUS(KEEL_OK, plan_engine());
    memory = versioned<keel_memory>();
    for (int kind = 0; kind < KEEL_REGION_COUNT; ++kind) {
        const keel_region_plan& region = plan.regions[kind];
        if (region.bytes) memory.regions[kind] = {place(region.bytes, region.align_bytes), region.bytes};
    }
}

// ---- pieces of the scenario ----
int32_t prompt[kContext];

void check_text() {
    const char text[] =
        "It was a bright cold day \xF0\x9F\x98\x80 and the clocks \xFF\xC3 were striking; <s> he said.\n\n  Twice.";
    const size_t bytes = sizeof(text) - 1;
    static int32_t ids[512];
    static char back[1024];
    size_t need = 0, count = 0, written = 0;
    for (uint32_t flags : {0u, 1u, 2u, 3u}) {
        CHILD_STATUS(KEEL_OK, keel_tokenize(engine, text, bytes, flags, nullptr, 0, &need));
        CHILD_CHECK(need > 10 && need < 512);
        CHILD_STATUS(KEEL_E_BUFFER_TOO_SMALL, keel_tokenize(engine, text, bytes, flags, ids, need - 1, &count));
        CHILD_CHECK(count == need);
        CHILD_STATUS(KEEL_OK, keel_tokenize(engine, text, bytes, flags, ids, need, &count));
        CHILD_CHECK(count == need);
    }
    CHILD_STATUS(KEEL_OK, keel_tokenize(engine, text, bytes, 0, ids, 512, &count));
    CHILD_STATUS(KEEL_OK, keel_detokenize(engine, ids, count, KEEL_DETOKENIZE_SPECIAL, back, sizeof(back), &written));
    CHILD_CHECK(written >= bytes && memcmp(back + written - bytes, text, bytes) == 0);
    CHILD_STATUS(KEEL_E_BUFFER_TOO_SMALL, keel_detokenize(engine, ids, count, 0, back, 3, &need));
    CHILD_CHECK(need + 1 >= bytes);
    CHILD_STATUS(KEEL_OK, keel_tokenize(engine, "", 0, 0, ids, 512, &count));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_tokenize(engine, nullptr, 4, 0, ids, 512, &count));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_tokenize(engine, text, bytes, 0, ids, 512, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_tokenize(engine, text, bytes, 0x80u, ids, 512, &count));
    ids[0] = -5;
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_detokenize(engine, ids, 1, 0, back, sizeof(back), &written));
    // Longer than the planned work buffer, with and without places to split.
    static char lines[4096];
    for (size_t i = 0; i < sizeof(lines); ++i) lines[i] = i % 7 ? 'a' : ' ';
    const keel_status split = keel_tokenize(engine, lines, sizeof(lines), 0, nullptr, 0, &count);
    CHILD_CHECK(split == KEEL_OK || split == KEEL_E_TEXT_LIMIT);
    memset(lines, 'z', sizeof(lines));
    const keel_status unsplit = keel_tokenize(engine, lines, sizeof(lines), 0, nullptr, 0, &count);
    CHILD_CHECK(unsplit == KEEL_OK || unsplit == KEEL_E_TEXT_LIMIT);
}

void check_chat() {
    constexpr uint32_t kStride = sizeof(keel_chat_message);
    const keel_chat_message messages[] = {{kStride, 0, "system", "Be brief.", 9, nullptr, 0},
                                          {kStride, 0, "user", "Hello", 5, nullptr, 0}};
    const keel_chat_message wizard = {kStride, 0, "wiz<ard", "Hello", 5, nullptr, 0};
    keel_chat chat = versioned<keel_chat>(), refused = versioned<keel_chat>();
    chat.messages = messages;
    chat.message_count = 2;
    chat.open_assistant = 1;
    refused.messages = &wizard;
    refused.message_count = 1;
    keel_error error = versioned<keel_error>();
    static char text[256];
    size_t bytes = 0;
    CHILD_STATUS(KEEL_OK, keel_chat_format(engine, &chat, text, sizeof(text), &bytes, &error));
    const char expected[] =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n";
    CHILD_CHECK(bytes == sizeof(expected) - 1 && memcmp(text, expected, bytes) == 0);
    size_t need = 0;
    CHILD_STATUS(KEEL_E_BUFFER_TOO_SMALL, keel_chat_format(engine, &chat, text, 10, &need, &error));
    CHILD_CHECK(need == bytes);
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_chat_format(engine, &refused, text, sizeof(text), &bytes, &error));
    static int32_t ids[256];
    size_t count = 0;
    CHILD_STATUS(KEEL_OK, keel_chat_tokenize(engine, &chat, ids, 256, &count, &error));
    CHILD_CHECK(count > 10);
}

keel_status advance(keel_session session, uint64_t budget_us, keel_advance_result* result) {
    return keel_advance(engine, &session, 1, budget_us, result);
}

// In time slices; inside a step the session refuses what would change it.
void prefill_in_slices(keel_session session) {
    for (uint32_t i = 0; i < kContext; ++i) prompt[i] = i == 0 ? 1 : static_cast<int32_t>(3 + i * 2654435761u % 4000);
    CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt, kPromptTokens, 0));
    keel_advance_result result = versioned<keel_advance_result>();
    uint32_t slices = 0, refused = 0;
    for (keel_status status = KEEL_AGAIN; status == KEEL_AGAIN; ++slices) {
        status = advance(session, 1, &result);
        CHILD_CHECK(status == KEEL_OK || status == KEEL_AGAIN);
        CHILD_CHECK(slices < 1'000'000);
        uint64_t written;
        if (status == KEEL_AGAIN && keel_session_save(session, saved, sizeof(saved), &written) == KEEL_E_BUSY) {
            keel_session copy;
            ++refused;
            CHILD_STATUS(KEEL_E_BUSY, keel_session_feed(session, prompt, 1, 0));
            CHILD_STATUS(KEEL_E_BUSY, keel_session_fork(session, &copy));
        }
    }
    CHILD_CHECK(slices > 2 && refused > 0);
    CHILD_CHECK(result.computed_tokens == kPromptTokens && result.pending_tokens == 0 && result.logits_rows == 1);
}

void check_views(keel_session session) {
    const float *logits = nullptr, *hidden = nullptr;
    uint32_t vocabulary = 0, embedding = 0;
    CHILD_STATUS(KEEL_OK, keel_session_logits(session, 0, &logits, &vocabulary));
    CHILD_STATUS(KEEL_OK, keel_session_hidden(session, 0, &hidden, &embedding));
    CHILD_CHECK(vocabulary == info.vocabulary && embedding == info.embedding);
    for (uint32_t i = 0; i < vocabulary; ++i) CHILD_CHECK(isfinite(logits[i]));
    for (uint32_t i = 0; i < embedding; ++i) CHILD_CHECK(isfinite(hidden[i]));
    CHILD_STATUS(KEEL_E_NO_LOGITS, keel_session_logits(session, 1, &logits, &vocabulary));
    CHILD_STATUS(KEEL_E_NO_LOGITS, keel_session_hidden(session, 1, &hidden, &embedding));
    static int32_t ids[257];
    static float logprobs[257];
    for (uint32_t n : {1u, 10u, 256u}) {
        CHILD_STATUS(KEEL_OK, keel_session_top_logprobs(session, n, ids, logprobs));
        for (uint32_t i = 1; i < n; ++i) CHILD_CHECK(logprobs[i - 1] >= logprobs[i]);
    }
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_top_logprobs(session, 257, ids, logprobs));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_top_logprobs(session, 0, ids, logprobs));
}

// Bit k of `combination` switches the k-th part of the sampler on; all 512 occur within the decoded tokens.
constexpr uint32_t kCombinations = 512;
keel_sampling sampling_of(uint32_t combination) {
    static int32_t biased[] = {10, 20, 30}, excluded[] = {40, 50};
    static float values[] = {1.5f, -2.0f, -INFINITY};
    keel_sampling s = versioned<keel_sampling>();
    const auto on = [&](uint32_t bit) { return (combination >> bit & 1) != 0; };
    if (on(0)) s.temperature = 0.8f;
    if (on(1)) s.top_k = 40;
    if (on(2)) s.top_p = 0.9f;
    if (on(3)) s.min_p = 0.05f;
    if (on(4)) s.typical_p = 0.9f;
    if (on(5))
        s.repetition_penalty = 1.1f, s.frequency_penalty = 0.1f, s.presence_penalty = 0.1f,
        s.penalty_window = UINT32_MAX;
    if (on(6))
        s.bias_ids = biased, s.bias_values = values, s.bias_count = 3, s.excluded_ids = excluded, s.excluded_count = 2;
    if (on(7)) s.min_tokens = 100'000;
    mask_mode = on(8) ? Mask::kOdd : Mask::kAll;
    s.seed = 7;
    return s;
}

void decode(keel_session session) {
    const char* const stops[] = {"the end", "\n\n", "qq"};
    const size_t stop_bytes[] = {7, 2, 2};
    CHILD_STATUS(KEEL_OK, keel_session_set_stops(session, stops, stop_bytes, 3));
    size_t shown = 0;
    for (uint32_t i = 0; i < kDecodedTokens; ++i) {
        const keel_sampling sampling = sampling_of(i % kCombinations);
        CHILD_STATUS(KEEL_OK, keel_session_set_sampling(session, &sampling));
        int32_t token = -1, again = -1;
        CHILD_STATUS(KEEL_OK, keel_session_sample(session, &token));
        CHILD_STATUS(KEEL_OK, keel_session_sample(session, &again));
        CHILD_CHECK(token == again && token >= 0 && token < static_cast<int32_t>(info.vocabulary));
        keel_text text = versioned<keel_text>();
        CHILD_STATUS(KEEL_OK, keel_session_text(session, token, &text));
        shown += text.bytes;
        if (text.stopped) {
            CHILD_STATUS(KEEL_OK, keel_session_text(session, -1, &text));
            CHILD_STATUS(KEEL_OK, keel_session_set_stops(session, stops, stop_bytes, 3));
        }
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, &token, 1, 0));
        keel_advance_result result = versioned<keel_advance_result>();
        if (i % 10 == 3) {
            keel_status status = KEEL_AGAIN;
            while (status == KEEL_AGAIN) status = advance(session, 100, &result);
            CHILD_STATUS(KEEL_OK, status);
        } else {
            CHILD_STATUS(KEEL_OK, advance(session, 0, &result));
        }
    }
    CHILD_CHECK(shown > 100);
    mask_mode = Mask::kNothing;
    int32_t token = -1;
    CHILD_STATUS(KEEL_E_NUMERIC, keel_session_sample(session, &token));
    mask_mode = Mask::kAll;
    CHILD_STATUS(KEEL_OK, keel_session_set_sampling(session, nullptr));
    CHILD_STATUS(KEEL_OK, keel_session_set_stops(session, nullptr, nullptr, 0));
}

// Drafts that are right up to one of them, in slices and at once; there as a tree, behind a sibling that is wrong.
void speculate(keel_session session) {
    keel_advance_result result = versioned<keel_advance_result>();
    int32_t drawn[kDrafts + 2], token = -1;
    for (uint32_t right = 0; right <= kDrafts; ++right) {
        keel_session copy;
        CHILD_STATUS(KEEL_OK, keel_session_fork(session, &copy));
        for (int32_t& id : drawn) {
            CHILD_STATUS(KEEL_OK, keel_session_sample(copy, &id));
            CHILD_STATUS(KEEL_OK, keel_session_feed(copy, &id, 1, 0));
            CHILD_STATUS(KEEL_OK, advance(copy, 0, &result));
        }
        CHILD_STATUS(KEEL_OK, keel_session_close(copy));
        CHILD_STATUS(KEEL_OK, keel_session_sample(session, &token));
        CHILD_CHECK(token == drawn[0]);
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, &token, 1, KEEL_FEED_SAMPLE));
        const int32_t next = drawn[1 + right];
        drawn[1 + right] = next == 10 ? 11 : 10;
        const uint32_t most = right % 2 ? kDrafts - 1 : kDrafts;
        int32_t tree[kDrafts] = {drawn[1] == 12 ? 13 : 12};
        uint32_t parents[kDrafts] = {KEEL_DRAFT_AT_END, KEEL_DRAFT_AT_END};
        for (uint32_t i = 1; i < kDrafts; ++i) tree[i] = drawn[i], parents[i] = i == 1 ? KEEL_DRAFT_AT_END : i - 1;
        CHILD_STATUS(KEEL_OK, most < kDrafts ? keel_session_propose_tree(session, tree, parents, kDrafts)
                                             : keel_session_propose(session, drawn + 1, kDrafts));
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) status = advance(session, right % 2 ? 0 : 1'000'000, &result);
        CHILD_STATUS(KEEL_OK, status);
        CHILD_CHECK(result.accepted_tokens <= right);
        CHILD_CHECK(result.accepted_tokens == (right < most ? right : most) || right % 2 == 0);
        CHILD_STATUS(KEEL_OK, keel_session_sample(session, &token));
        CHILD_CHECK(token == (result.accepted_tokens == right ? next : drawn[1 + result.accepted_tokens]));
    }
}

uint64_t drafts_computed_of(keel_session session) {
    keel_session_info state = versioned<keel_session_info>();
    CHILD_STATUS(KEEL_OK, keel_session_get(session, &state));
    return state.drafts_computed;
}

// The library's own drafters, at once and in slices, over a text that repeats itself; their pool as a file; and, where
// there is one, the low-rank variant as what drafts.
void draft_by_itself(keel_session session, bool low_rank) {
    keel_advance_result result = versioned<keel_advance_result>();
    for (int again = 0; again < 6; ++again)
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt + 20, 30, KEEL_FEED_SAMPLE));
    const uint64_t before = drafts_computed_of(session);
    for (uint32_t i = 0; i < 60; ++i) {
        if (low_rank) CHILD_STATUS(KEEL_OK, keel_session_draft(session, session, 0, nullptr));
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) status = advance(session, i % 3 ? 0 : 300, &result);
        CHILD_STATUS(KEEL_OK, status);
        int32_t token = -1;
        CHILD_STATUS(KEEL_OK, keel_session_sample(session, &token));
        // What was fed comes back, whatever the model makes of it.
        const int32_t fed = i < 30 ? prompt[20 + i] : token;
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, &fed, 1, KEEL_FEED_SAMPLE));
    }
    CHILD_CHECK(drafts_computed_of(session) > before);
    CHILD_STATUS(KEEL_OK, advance(session, 0, &result));
    if (low_rank) return;
    uint64_t bytes = 0;
    CHILD_STATUS(KEEL_OK, keel_engine_save_draft_pool(engine, nullptr, 0, &bytes));
    CHILD_CHECK(bytes <= sizeof(pool_file));
    CHILD_STATUS(KEEL_E_BUFFER_TOO_SMALL, keel_engine_save_draft_pool(engine, pool_file, bytes - 1, &bytes));
    CHILD_STATUS(KEEL_OK, keel_engine_save_draft_pool(engine, pool_file, sizeof(pool_file), &bytes));
}

void check_cancel(keel_session session) {
    keel_advance_result result = versioned<keel_advance_result>();
    CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt, 8, 0));
    CHILD_STATUS(KEEL_OK, keel_cancel(session));
    CHILD_STATUS(KEEL_E_CANCELLED, advance(session, 0, &result));
    CHILD_CHECK(result.status == KEEL_E_CANCELLED && result.pending_tokens == 8);
    CHILD_STATUS(KEEL_OK, advance(session, 0, &result));
    CHILD_CHECK(result.pending_tokens == 0);
}

uint32_t tokens_of(keel_session session) {
    keel_session_info state = versioned<keel_session_info>();
    CHILD_STATUS(KEEL_OK, keel_session_get(session, &state));
    return state.token_count;
}

int32_t greedy_step(keel_session session) {
    keel_advance_result result = versioned<keel_advance_result>();
    int32_t token = -1;
    CHILD_STATUS(KEEL_OK, keel_session_sample(session, &token));
    CHILD_STATUS(KEEL_OK, keel_session_feed(session, &token, 1, 0));
    CHILD_STATUS(KEEL_OK, advance(session, 0, &result));
    return token;
}

void check_save_restore(keel_session session) {
    uint64_t bytes = 0, written = 0;
    CHILD_STATUS(KEEL_OK, keel_session_save_bytes(session, &bytes));
    CHILD_CHECK(bytes <= sizeof(saved));
    CHILD_STATUS(KEEL_E_BUFFER_TOO_SMALL, keel_session_save(session, saved, bytes - 1, &written));
    CHILD_STATUS(KEEL_OK, keel_session_save(session, saved, bytes, &written));
    CHILD_CHECK(written == bytes);
    const uint32_t tokens = tokens_of(session);
    const int32_t first = greedy_step(session);
    const int32_t second = greedy_step(session);

    // A changed bit anywhere, and a blob cut anywhere: refused, and the session is as before.
    keel_error error = versioned<keel_error>();
    memcpy(damaged, saved, bytes);
    for (uint64_t i = 0; i < 200; ++i) {
        const uint64_t at = i < 100 ? i * 4 : bytes / 100 * (i - 100);
        damaged[at] ^= static_cast<uint8_t>(1u << i % 8);
        const keel_status status = keel_session_restore(session, damaged, bytes, &error);
        CHILD_CHECK(status == KEEL_E_FILE_FORMAT || status == KEEL_E_FILE_MISMATCH || status == KEEL_E_UNSUPPORTED ||
                    status == KEEL_E_CONTEXT_FULL);
        damaged[at] = saved[at];
    }
    for (uint64_t cut : {uint64_t{0}, uint64_t{1}, uint64_t{63}, bytes / 2, bytes - 1, bytes + 1}) {
        const keel_status status = keel_session_restore(session, damaged, cut, &error);
        CHILD_CHECK(status == KEEL_E_FILE_FORMAT || status == KEEL_E_FILE_MISMATCH);
    }
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_restore(session, nullptr, bytes, &error));
    CHILD_CHECK(tokens_of(session) == tokens + 2);

    CHILD_STATUS(KEEL_OK, keel_session_restore(session, saved, bytes, &error));
    CHILD_CHECK(tokens_of(session) == tokens);
    CHILD_CHECK(greedy_step(session) == first);
    CHILD_CHECK(greedy_step(session) == second);
}

void check_fork_truncate(keel_session session) {
    keel_session copy, other;
    CHILD_STATUS(KEEL_OK, keel_session_fork(session, &copy));
    CHILD_STATUS(KEEL_OK, keel_session_open(engine, nullptr, &other));
    CHILD_STATUS(KEEL_E_SLOTS_FULL, keel_session_open(engine, nullptr, &other));
    CHILD_STATUS(KEEL_E_SLOTS_FULL, keel_session_fork(session, &other));
    CHILD_STATUS(KEEL_OK, keel_session_close(other));

    for (int i = 0; i < 5; ++i) {  // both in one batch: the same tokens
        const keel_session both[] = {session, copy};
        keel_advance_result results[2] = {versioned<keel_advance_result>()};
        int32_t tokens[2];
        for (int s = 0; s < 2; ++s) {
            CHILD_STATUS(KEEL_OK, keel_session_sample(both[s], &tokens[s]));
            CHILD_STATUS(KEEL_OK, keel_session_feed(both[s], &tokens[s], 1, 0));
        }
        CHILD_CHECK(tokens[0] == tokens[1]);
        CHILD_STATUS(KEEL_OK, keel_advance(engine, both, 2, 0, results));
    }
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_truncate(copy, kContext + 1));
    CHILD_STATUS(KEEL_OK, keel_session_truncate(copy, 100));
    CHILD_CHECK(tokens_of(copy) == 100);
    int32_t token;
    CHILD_STATUS(KEEL_E_NO_LOGITS, keel_session_sample(copy, &token));
    CHILD_STATUS(KEEL_OK, keel_session_truncate(copy, 0));
    CHILD_STATUS(KEEL_OK, keel_session_close(copy));
}

void check_all_logits(keel_session session) {
    CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt, 3 * kRows - 1, KEEL_FEED_ALL_LOGITS));
    keel_advance_result result = versioned<keel_advance_result>();
    uint32_t rows = 0;
    do {
        CHILD_STATUS(KEEL_OK, advance(session, 0, &result));
        for (uint32_t row = 0; row < result.logits_rows; ++row) {
            const float* view;
            uint32_t width;
            CHILD_STATUS(KEEL_OK, keel_session_logits(session, row, &view, &width));
            CHILD_STATUS(KEEL_OK, keel_session_hidden(session, row, &view, &width));
        }
        rows += result.logits_rows;
    } while (result.pending_tokens);
    CHILD_CHECK(rows == 3 * kRows - 1);
}

void check_full(keel_session session) {
    const uint32_t used = tokens_of(session);
    CHILD_STATUS(KEEL_E_CONTEXT_FULL, keel_session_feed(session, prompt, kContext - used + 1, 0));
    CHILD_CHECK(tokens_of(session) == used);
    int32_t outside = static_cast<int32_t>(info.vocabulary);
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_feed(session, &outside, 1, 0));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_feed(session, nullptr, 1, 0));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_feed(session, prompt, 1, 0x80u));

    keel_session greedy;
    keel_session_desc desc = versioned<keel_session_desc>();
    desc.reserved_pages = kContext / plan.kv_page_tokens;
    CHILD_STATUS(KEEL_E_KV_FULL, keel_session_open(engine, &desc, &greedy));
    desc.reserved_pages = 1;
    CHILD_STATUS(KEEL_OK, keel_session_open(engine, &desc, &greedy));
    CHILD_STATUS(KEEL_OK, keel_session_feed(greedy, prompt, kContext, 0));
    const keel_session both[] = {greedy, session};
    keel_advance_result results[2] = {versioned<keel_advance_result>()};
    CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt, 1, 0));
    CHILD_STATUS(KEEL_E_KV_FULL, keel_advance(engine, both, 2, 0, results));
    CHILD_CHECK(results[0].status == KEEL_E_KV_FULL && results[1].status == KEEL_OK && results[1].pending_tokens == 0);
    uint64_t bytes = 0;
    CHILD_STATUS(KEEL_OK, keel_session_save(session, saved, sizeof(saved), &bytes));
    CHILD_STATUS(KEEL_E_KV_FULL, keel_session_restore(greedy, saved, bytes, nullptr));
    CHILD_STATUS(KEEL_OK, keel_session_close(greedy));

    // To the very end of the context.
    const uint32_t left = kContext - tokens_of(session);
    keel_advance_result result = versioned<keel_advance_result>();
    CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt, left, 0));
    CHILD_STATUS(KEEL_OK, advance(session, 0, &result));
    CHILD_STATUS(KEEL_E_CONTEXT_FULL, keel_session_feed(session, prompt, 1, 0));
}

void check_sampling_arguments(keel_session session) {
    keel_sampling s = versioned<keel_sampling>();
    s.temperature = NAN;
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_sampling(session, &s));
    s = versioned<keel_sampling>();
    s.top_p = -1;
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_sampling(session, &s));
    s = versioned<keel_sampling>();
    s.bias_count = 1;
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_sampling(session, &s));
    s = versioned<keel_sampling>();
    s.struct_size = 0;
    CHILD_STATUS(KEEL_E_ABI, keel_session_set_sampling(session, &s));
    struct {
        keel_sampling known;
        uint64_t unknown;
    } newer = {versioned<keel_sampling>(), 1};
    newer.known.struct_size = sizeof(newer);
    CHILD_STATUS(KEEL_E_ABI, keel_session_set_sampling(session, &newer.known));
    const char* const empty_stop[] = {""};
    const size_t zero[] = {0}, huge[] = {129};
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_stops(session, empty_stop, zero, 1));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_stops(session, empty_stop, huge, 1));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_stops(session, empty_stop, zero, 17));
}

void expect_no_session(keel_session s) {
    static float floats[4];
    static int32_t ids[4];
    const float* view;
    const char* const texts[] = {"x"};
    const size_t lengths[] = {1};
    uint32_t width;
    uint64_t bytes;
    keel_session_info state = versioned<keel_session_info>();
    keel_text text = versioned<keel_text>();
    keel_advance_result result = versioned<keel_advance_result>();
    keel_session copy;
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_close(s));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_feed(s, prompt, 1, 0));
    CHILD_STATUS(KEEL_E_HANDLE, keel_advance(engine, &s, 1, 0, &result));
    CHILD_STATUS(KEEL_E_HANDLE, keel_cancel(s));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_get(s, &state));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_logits(s, 0, &view, &width));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_hidden(s, 0, &view, &width));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_top_logprobs(s, 4, ids, floats));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_set_sampling(s, nullptr));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_sample(s, ids));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_truncate(s, 0));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_fork(s, &copy));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_save_bytes(s, &bytes));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_save(s, saved, sizeof(saved), &bytes));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_restore(s, saved, 100, nullptr));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_set_stops(s, texts, lengths, 1));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_text(s, 1, &text));
}

void expect_no_engine(keel_engine e) {
    keel_session session = {0};
    keel_stats stats = versioned<keel_stats>();
    keel_advance_result result = versioned<keel_advance_result>();
    size_t count;
    CHILD_STATUS(KEEL_E_HANDLE, keel_engine_close(e));
    CHILD_STATUS(KEEL_E_HANDLE, keel_engine_stats(e, &stats));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_open(e, nullptr, &session));
    CHILD_STATUS(KEEL_E_HANDLE, keel_advance(e, &session, 1, 0, &result));
    CHILD_STATUS(KEEL_E_HANDLE, keel_tokenize(e, "x", 1, 0, nullptr, 0, &count));
    CHILD_STATUS(KEEL_E_HANDLE, keel_detokenize(e, prompt, 1, 0, nullptr, 0, &count));
    CHILD_STATUS(KEEL_E_HANDLE, keel_chat_format(e, nullptr, nullptr, 0, &count, nullptr));
}

void check_handles_and_arguments(keel_session live) {
    keel_session closed;
    CHILD_STATUS(KEEL_OK, keel_session_open(engine, nullptr, &closed));
    CHILD_STATUS(KEEL_OK, keel_session_close(closed));
    for (uint64_t id : {uint64_t{0}, ~uint64_t{0}, closed.id, live.id + 1, live.id ^ uint64_t{1} << 63, engine.id}) {
        if (id != live.id) expect_no_session({id});
    }
    for (uint64_t id : {uint64_t{0}, ~uint64_t{0}, engine.id + 1, live.id}) expect_no_engine({id});

    keel_advance_result results[2] = {versioned<keel_advance_result>()};
    const keel_session twice[] = {live, live};
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_advance(engine, twice, 2, 0, results));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_advance(engine, nullptr, 1, 0, results));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_advance(engine, &live, 1, 0, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_advance(engine, &live, 0, 0, results));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_sample(live, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_fork(live, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_save_bytes(live, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_get(live, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_logits(live, 0, nullptr, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_open(engine, nullptr, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_engine_stats(engine, nullptr));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_text(live, -2, nullptr));
    keel_session_info small = {};
    CHILD_STATUS(KEEL_E_ABI, keel_session_get(live, &small));
    CHILD_CHECK(keel_status_name(static_cast<keel_status>(12345)) && keel_status_text(KEEL_E_KV_FULL) &&
                keel_version() != 0);
}

// Held to the grammar: a mask, the forced tokens, and free again. The hook may have forbidden what the grammar allows.
void check_grammar(keel_session session) {
    int32_t token = -1, ids[64];
    size_t count = 0;
    CHILD_STATUS(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_NEXT));
    const keel_status sampled = keel_session_sample(session, &token);
    CHILD_CHECK(sampled == KEEL_OK || sampled == KEEL_E_NUMERIC);
    CHILD_STATUS(KEEL_OK, keel_session_forced(session, ids, 64, &count));
    CHILD_CHECK(count > 0);
    CHILD_STATUS(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_OFF));
}

void use_everything() {
    check_text();
    check_chat();
    keel_session session;
    CHILD_STATUS(KEEL_OK, keel_session_open(engine, nullptr, &session));
    int32_t token;
    CHILD_STATUS(KEEL_E_NO_LOGITS, keel_session_sample(session, &token));
    prefill_in_slices(session);
    check_views(session);
    decode(session);
    check_grammar(session);
    check_views(session);
    speculate(session);
    draft_by_itself(session, false);
    check_cancel(session);
    check_save_restore(session);
    check_fork_truncate(session);
    check_all_logits(session);
    check_sampling_arguments(session);
    check_handles_and_arguments(session);
    check_full(session);

    keel_stats stats = versioned<keel_stats>();
    CHILD_STATUS(KEEL_OK, keel_engine_stats(engine, &stats));
    CHILD_CHECK(stats.allocations_after_init == 0);
    CHILD_STATUS(KEEL_OK, stats.engine_status);
    CHILD_CHECK(stats.decode_tokens >= kDecodedTokens && stats.prefill_tokens >= kPromptTokens);
    CHILD_CHECK(faults == 0);
    CHILD_STATUS(KEEL_OK, keel_session_close(session));
}

// Prefill and decode in the low-rank variant, from one pass to the other and back, among forks, and what set_variant
// refuses.
void use_low_rank() {
    keel_session session, copy;
    keel_advance_result results[2] = {versioned<keel_advance_result>()};
    CHILD_STATUS(KEEL_OK, keel_session_open(engine, nullptr, &session));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_variant(session, static_cast<keel_variant>(2)));
    CHILD_STATUS(KEEL_OK, keel_session_set_variant(session, KEEL_VARIANT_LOW_RANK));
    prefill_in_slices(session);
    check_views(session);
    uint32_t refused = 0;
    for (uint32_t i = 0; i < 96; ++i) {
        // Runs of 1 to 4 tokens, by turns; some in slices, within which the pass stays.
        CHILD_STATUS(KEEL_OK, keel_session_set_variant(
                                  session, i / (1 + i / 24) % 2 ? KEEL_VARIANT_DENSE : KEEL_VARIANT_LOW_RANK));
        if (i % 8) {
            greedy_step(session);
            continue;
        }
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt + 1, 100, 0));
        for (keel_status status = KEEL_AGAIN; status != KEEL_OK;) {
            status = advance(session, 1, results);
            CHILD_CHECK(status == KEEL_OK || status == KEEL_AGAIN);
            refused += keel_session_set_variant(session, KEEL_VARIANT_DENSE) == KEEL_E_BUSY;
        }
        CHILD_STATUS(KEEL_OK, keel_session_truncate(session, tokens_of(session) - 60));
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, prompt + 7, 1, 0));
        CHILD_STATUS(KEEL_OK, advance(session, 0, results));
    }
    CHILD_CHECK(refused > 0);
    CHILD_STATUS(KEEL_OK, keel_session_set_variant(session, KEEL_VARIANT_DENSE));
    draft_by_itself(session, true);
    CHILD_STATUS(KEEL_OK, keel_session_set_variant(session, KEEL_VARIANT_LOW_RANK));
    check_save_restore(session);
    check_fork_truncate(session);
    CHILD_STATUS(KEEL_OK, keel_session_fork(session, &copy));
    CHILD_STATUS(KEEL_OK, keel_session_set_variant(copy, KEEL_VARIANT_DENSE));
    for (int i = 0; i < 8; ++i) {  // one call, two passes, both in time slices
        const keel_session both[] = {session, copy};
        for (keel_session s : both) {
            const uint32_t count = s.id == copy.id ? 1 : 40;
            CHILD_STATUS(KEEL_OK, keel_session_feed(s, prompt + 1, count, 0));
        }
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) status = keel_advance(engine, both, 2, 20, results);
        CHILD_STATUS(KEEL_OK, status);
    }
    check_views(session);
    check_views(copy);
    CHILD_STATUS(KEEL_OK, keel_session_close(copy));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_set_variant(copy, KEEL_VARIANT_DENSE));
    keel_stats stats = versioned<keel_stats>();
    CHILD_STATUS(KEEL_OK, keel_engine_stats(engine, &stats));
    CHILD_CHECK(stats.allocations_after_init == 0 && faults == 0);
    CHILD_STATUS(KEEL_OK, stats.engine_status);
    CHILD_STATUS(KEEL_OK, keel_session_close(session));
}

// Prefill and decode with an adapter, beside a session without one, and what set_adapter refuses.
void use_adapter() {
    keel_session session, copy;
    keel_advance_result results[2] = {versioned<keel_advance_result>()};
    CHILD_STATUS(KEEL_OK, keel_session_open(engine, nullptr, &session));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_adapter(session, 1, 1));
    CHILD_STATUS(KEEL_E_ARGUMENT, keel_session_set_adapter(session, 0, NAN));
    CHILD_STATUS(KEEL_OK, keel_session_set_adapter(session, 0, 0.1f));
    prefill_in_slices(session);
    check_views(session);
    for (uint32_t i = 0; i < 24; ++i) {
        if (i % 4 == 3)
            CHILD_STATUS(KEEL_OK, keel_session_set_adapter(session, i % 8 == 3 ? KEEL_ADAPTER_OFF : 0, 0.1f));
        greedy_step(session);
    }
    CHILD_STATUS(KEEL_OK, keel_session_set_adapter(session, 0, 0.1f));
    check_save_restore(session);
    check_fork_truncate(session);
    CHILD_STATUS(KEEL_OK, keel_session_fork(session, &copy));
    CHILD_STATUS(KEEL_OK, keel_session_set_adapter(copy, KEEL_ADAPTER_OFF, 1));
    uint32_t refused = 0;
    for (int i = 0; i < 8; ++i) {
        const keel_session both[] = {session, copy};
        for (keel_session s : both) CHILD_STATUS(KEEL_OK, keel_session_feed(s, prompt + 1, 20, 0));
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) {
            status = keel_advance(engine, both, 2, 20, results);
            refused += keel_session_set_adapter(session, 0, 0.1f) == KEEL_E_BUSY;
        }
        CHILD_STATUS(KEEL_OK, status);
    }
    CHILD_CHECK(refused > 0);
    CHILD_STATUS(KEEL_OK, keel_session_close(copy));
    CHILD_STATUS(KEEL_E_HANDLE, keel_session_set_adapter(copy, 0, 1));
    keel_stats stats = versioned<keel_stats>();
    CHILD_STATUS(KEEL_OK, keel_engine_stats(engine, &stats));
    CHILD_CHECK(stats.allocations_after_init == 0 && faults == 0);
    CHILD_STATUS(KEEL_OK, stats.engine_status);
    CHILD_STATUS(KEEL_OK, keel_session_close(session));
}

void expect_pass(const keel_test::ChildResult& result) {
    if (result.skipped) GTEST_SKIP() << result.text;
    EXPECT_TRUE(result.ok) << result.text;
}

TEST(ZeroAlloc, NothingAfterInit) {
    expect_pass(keel_test::run_in_child([] {
        inspect_and_plan(2);
        CHILD_STATUS(KEEL_OK, keel_engine_init(&reader, model, &config, &memory, &engine, nullptr));
        keel_test::child_forbid_allocation();
        keel_test::child_forbid_system_calls();
        use_everything();
    }));
}

TEST(ZeroAlloc, NothingInTheLowRankPass) {
    expect_pass(keel_test::run_in_child([] {
        static const keel_test::InspectedFile file(kModelPath);  // static: the child ends without freeing them
        keel_test::WprojOptions factors;
        factors.slots = 0xf6;  // K stays dense
        factors.bias = true;
        static const keel_test::WprojBytes cache(
            keel::tools::encode_wproj_v2(keel_test::random_wproj(file, factors), 1));
        inspect_and_plan(2, &cache.reader);
        CHILD_STATUS(KEEL_OK, plan.part_status);
        CHILD_CHECK(plan.low_rank_factors == 8 * 6);
        CHILD_STATUS(KEEL_OK, keel_engine_init(&reader, model, &config, &memory, &engine, nullptr));
        keel_test::child_forbid_allocation();
        keel_test::child_forbid_system_calls();
        use_low_rank();
    }));
}

TEST(ZeroAlloc, NothingWithAnAdapter) {
    expect_pass(keel_test::run_in_child([] {
        static const keel_test::InspectedFile file(kModelPath);
        static const keel_test::AdapterBytes adapter = keel_test::random_adapter(file, {});
        inspect_and_plan(2, nullptr, &adapter.reader);
        CHILD_CHECK(plan.adapter_count == 1 && plan.adapter_bytes == adapter.matrix_bytes);
        CHILD_STATUS(KEEL_OK, keel_engine_init(&reader, model, &config, &memory, &engine, nullptr));
        keel_test::child_forbid_allocation();
        keel_test::child_forbid_system_calls();
        use_adapter();
    }));
}

// Without threads of its own the library allocates nothing at any time, from opening the file to closing it.
TEST(ZeroAlloc, NoHeapFromOpenToClose) {
    expect_pass(keel_test::run_in_child([] {
        keel_reader file = versioned<keel_reader>();
        keel_test::alloc_guard_arm();
        CHILD_STATUS(KEEL_OK, keel_reader_open_file(kModelPath, &file));
        keel_reader_close(&file);
        keel_test::alloc_guard_disarm();
        CHILD_CHECK(keel_test::alloc_guard_count() == 1);  // the mapping itself
        CHILD_CHECK(strcmp(keel_test::alloc_guard_first().function, "mmap") == 0);

        pool_used = 0;
        inspect_and_plan(1);
        keel_test::child_forbid_allocation();
        keel_model_info again = versioned<keel_model_info>();
        CHILD_STATUS(KEEL_OK, keel_inspect(&reader, nullptr, nullptr, 0, nullptr, &again, nullptr));
        CHILD_STATUS(KEEL_OK, plan_engine());
        static keel_op_info ops[256];
        static keel_buffer_info buffers[1024];
        ops[0].struct_size = sizeof ops[0];
        buffers[0].struct_size = sizeof buffers[0];
        uint32_t count = 0;
        CHILD_STATUS(KEEL_OK, keel_plan_ops(&reader, model, &config, ops, 256, &count, nullptr));
        CHILD_CHECK(count == plan.op_count);
        CHILD_STATUS(KEEL_OK, keel_plan_buffers(&reader, model, &config, buffers, 1024, &count, nullptr));
        keel_memory small = memory;
        small.regions[KEEL_REGION_KV].bytes -= 1;
        keel_error error = versioned<keel_error>();
        CHILD_STATUS(KEEL_E_MEMORY_TOO_SMALL, keel_engine_init(&reader, model, &config, &small, &engine, &error));
        CHILD_STATUS(KEEL_OK, keel_engine_init(&reader, model, &config, &memory, &engine, &error));
        keel_session session;
        keel_advance_result result = versioned<keel_advance_result>();
        const int32_t ids[] = {1, 100, 200};
        CHILD_STATUS(KEEL_OK, keel_session_open(engine, nullptr, &session));
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, ids, 3, 0));
        CHILD_STATUS(KEEL_OK, advance(session, 0, &result));
        const keel_engine closed = engine;
        CHILD_STATUS(KEEL_OK, keel_engine_close(engine));
        expect_no_session(session);
        expect_no_engine(closed);
        keel_reader_close(&reader);
    }));
}

// The guard sees what happens inside the engine, on its threads: a hook that allocates is caught.
TEST(ZeroAlloc, GuardReachesIntoTheEngine) {
    const keel_test::ChildResult result = keel_test::run_in_child([] {
        inspect_and_plan(2);
        CHILD_STATUS(KEEL_OK, keel_engine_init(&reader, model, &config, &memory, &engine, nullptr));
        keel_session session;
        keel_advance_result advanced = versioned<keel_advance_result>();
        const int32_t ids[] = {1, 100, 200};
        CHILD_STATUS(KEEL_OK, keel_session_open(engine, nullptr, &session));
        CHILD_STATUS(KEEL_OK, keel_session_feed(session, ids, 3, 0));
        CHILD_STATUS(KEEL_OK, advance(session, 0, &advanced));
        keel_test::child_forbid_allocation();
        keel_test::child_forbid_system_calls();
        keel_engine_close(engine);  // its threads leave: a system call
    });
    if (result.skipped) GTEST_SKIP() << result.text;
    EXPECT_FALSE(result.ok);
    EXPECT_NE(result.text.find("system call"), std::string::npos) << result.text;
}

}  // namespace
