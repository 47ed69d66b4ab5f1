/*
 * endless.c - a text longer than the context: when the context is full, the oldest half of it is forgotten but for the
 * first few tokens, and what follows moves down (keel_session_shift).
 *
 *     cc endless.c $(pkg-config --cflags --libs keel) -o endless
 *     ./endless samples/models/books-7m-f16.gguf 400
 */
#include <stdio.h>
#include <stdlib.h>

#include "keel/keel.h"

enum { CONTEXT = 256, KEPT = 8 };

static keel_error error = {.struct_size = sizeof error};

static void must(const char* what, keel_status status) {
    if (status == KEEL_OK) return;
    fprintf(stderr, "%s: %s (%s %s)\n", what, keel_status_text(status), error.field, error.reason);
    exit(1);
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    const long tokens = argc > 2 ? atol(argv[2]) : 400;
    static const char prompt[] = "It was a dark night";

    keel_reader reader = {.struct_size = sizeof reader};
    keel_model_info info = {.struct_size = sizeof info};
    const keel_model* model = NULL;
    must(path, keel_reader_open_file(path, &reader));
    must(path, keel_inspect(&reader, NULL, NULL, 0, NULL, &info, &error));
    void* model_memory = malloc(info.model_bytes);
    must(path, keel_inspect(&reader, NULL, model_memory, info.model_bytes, &model, &info, &error));

    /* Keys can be rotated again only where they are kept in f16 or f32. */
    keel_config config = {.struct_size = sizeof config, .context_tokens = CONTEXT, .k_format = KEEL_KV_F16};
    keel_memory_plan plan = {.struct_size = sizeof plan};
    keel_memory memory = {.struct_size = sizeof memory};
    must("plan", keel_plan(&reader, model, &config, &plan, &error));
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r) {
        const keel_region_plan* region = &plan.regions[r];
        if (!region->bytes) continue;
        const uint64_t whole = (region->bytes + region->align_bytes - 1) / region->align_bytes * region->align_bytes;
        memory.regions[r] = (keel_region){aligned_alloc(region->align_bytes, whole), region->bytes};
    }
    keel_engine engine;
    keel_session session;
    must("init", keel_engine_init(&reader, model, &config, &memory, &engine, &error));
    must("open", keel_session_open(engine, NULL, &session));

    int32_t ids[64];
    size_t count = 0;
    must("tokenize", keel_tokenize(engine, prompt, sizeof prompt - 1, KEEL_TOKENIZE_BOS, ids, 64, &count));
    must("feed", keel_session_feed(session, ids, (uint32_t)count, 0));
    fputs(prompt, stdout);
    uint32_t used = (uint32_t)count;
    for (long i = 0; i < tokens; ++i) {
        keel_advance_result result = {.struct_size = sizeof result};
        keel_text text = {.struct_size = sizeof text};
        int32_t token;
        must("advance", keel_advance(engine, &session, 1, 0, &result));
        must("sample", keel_session_sample(session, &token));
        must("text", keel_session_text(session, token, &text));
        fwrite(text.data, 1, text.bytes, stdout);
        if (used == CONTEXT) {
            must("shift", keel_session_shift(session, KEPT, KEPT + CONTEXT / 2));
            used -= CONTEXT / 2;
        }
        must("feed", keel_session_feed(session, &token, 1, 0));
        ++used;
    }
    fputs("\n", stdout);
    keel_engine_close(engine);
    keel_reader_close(&reader);
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r) free(memory.regions[r].data);
    free(model_memory);
    return 0;
}
