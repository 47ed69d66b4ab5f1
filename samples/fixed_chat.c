/*
 * fixed_chat.c - a conversation in memory that is there before the program starts: one array for the model, everything
 * Keel needs, and what was said. Nothing is allocated; a conversation longer than the context loses its oldest turns.
 *
 *     fixed_chat model.gguf
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/keel.h"

enum { CONTEXT = 1024, TURNS = 64, TEXT = 1024 };

/* Pages that are never touched cost nothing. Weights are read where the file is mapped. */
static unsigned char block[256 << 20];
static size_t used;
static char said[TURNS][TEXT];
static keel_chat_message messages[TURNS];
static int32_t ids[CONTEXT];
static keel_error error = KEEL_ERROR_INIT;

static void must(const char* what, keel_status status) {
    if (status == KEEL_OK) return;
    fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error.field,
            error.reason);
    exit(1);
}

static void* take(uint64_t bytes, uint64_t align) {
    size_t begin = ((size_t)block + used + align - 1) / align * align - (size_t)block;
    if (bytes > sizeof block || begin > sizeof block - bytes) must("the block", KEEL_E_MEMORY_TOO_SMALL);
    used = begin + bytes;
    return block + begin;
}

int main(int argc, char** argv) {
    if (argc < 2) return fprintf(stderr, "usage: fixed_chat model.gguf\n"), 2;
    keel_reader reader = KEEL_READER_INIT;
    keel_model_info info = KEEL_MODEL_INFO_INIT;
    const keel_model* model = NULL;
    must(argv[1], keel_reader_open_file(argv[1], &reader));
    must(argv[1], keel_inspect(&reader, NULL, NULL, 0, NULL, &info, &error));
    must(argv[1], keel_inspect(&reader, NULL, take(info.model_bytes, 64), info.model_bytes, &model, &info, &error));
    keel_config config = {.struct_size = sizeof config, .context_tokens = CONTEXT, .weights = KEEL_WEIGHTS_MAP};
    keel_memory_plan plan = KEEL_MEMORY_PLAN_INIT;
    keel_memory memory = KEEL_MEMORY_INIT;
    must("plan", keel_plan(&reader, model, &config, &plan, &error));
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r)
        if (plan.regions[r].bytes)
            memory.regions[r] =
                (keel_region){take(plan.regions[r].bytes, plan.regions[r].align_bytes), plan.regions[r].bytes};
    keel_engine engine;
    keel_session session;
    const keel_sampling sampling = {.struct_size = sizeof sampling, .temperature = 0.5f, .min_p = 0.1f};
    must("init", keel_engine_init(&reader, model, &config, &memory, &engine, &error));
    must("open", keel_session_open(engine, NULL, &session));
    must("sampling", keel_session_set_sampling(session, &sampling));
    fprintf(stderr, "%zu of %zu bytes\n", used, sizeof block);

    for (uint32_t turn = 0; fputs("> ", stdout), fflush(stdout), fgets(said[turn], TEXT, stdin); ++turn) {
        said[turn][strcspn(said[turn], "\n")] = 0;
        for (uint32_t i = 0; i <= turn; ++i) {
            const char* role = i % 2 ? "assistant" : "user";
            messages[i] = (keel_chat_message){sizeof messages[i], 0, role, said[i], strlen(said[i]), NULL, 0};
        }
        /* What the session does not hold of the conversation yet, in the model's own template. */
        uint32_t kept = 0, first = turn + 2 < TURNS ? 0 : 2;
        size_t count = CONTEXT;
        for (;; first += 2) {
            const keel_chat chat = {sizeof chat, turn + 1 - first, messages + first, 1, 0, NULL, 0};
            const keel_status status = keel_session_chat(session, &chat, &kept, ids, CONTEXT, &count, &error);
            if (status == KEEL_OK && kept + count <= CONTEXT * 3 / 4) break;
            if (first == turn) must("chat", status == KEEL_OK ? KEEL_E_CONTEXT_FULL : status);
        }
        memmove(said, said[first], (turn + 1 - first) * TEXT); /* the turns that no longer fit */
        turn += 1 - first;
        must("truncate", keel_session_truncate(session, kept));
        must("feed", keel_session_feed(session, ids, (uint32_t)count, KEEL_FEED_SAMPLE));
        size_t length = 0;
        for (int32_t token;;) {
            keel_advance_result result = KEEL_ADVANCE_RESULT_INIT;
            keel_text text = KEEL_TEXT_INIT;
            must("advance", keel_advance(engine, &session, 1, 0, &result));
            must("sample", keel_session_sample(session, &token));
            must("text", keel_session_text(session, token, &text));
            fwrite(text.data, 1, text.bytes, stdout), fflush(stdout);
            if (text.bytes >= TEXT - length) break; /* an answer of TEXT bytes is long enough */
            memcpy(said[turn] + length, text.data, text.bytes);
            said[turn][length += text.bytes] = 0;
            if (text.stopped || keel_session_feed(session, &token, 1, KEEL_FEED_SAMPLE) != KEEL_OK) break;
        }
        fputs("\n", stdout);
    }
    keel_engine_close(engine);
    keel_reader_close(&reader);
    return 0;
}
