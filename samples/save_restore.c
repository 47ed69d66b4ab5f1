/*
 * save_restore.c - a session goes on in another process.
 *
 *     save_restore save STATE [model.gguf]        computes a prompt and some tokens, and writes the session
 *     save_restore restore STATE [model.gguf]     goes on with the next token, as the first process would
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/keel.h"

static keel_error error = {.struct_size = sizeof error};

static void must(const char* what, keel_status status) {
    if (status == KEEL_OK) return;
    fprintf(stderr, "%s: %s (%s %s)\n", what, keel_status_text(status), error.field, error.reason);
    exit(1);
}

static void write_tokens(keel_engine engine, keel_session session, int count) {
    for (int i = 0; i < count; ++i) {
        keel_advance_result result = {.struct_size = sizeof result};
        int32_t token;
        keel_text text = {.struct_size = sizeof text};
        must("advance", keel_advance(engine, &session, 1, 0, &result));
        must("sample", keel_session_sample(session, &token));
        must("text", keel_session_text(session, token, &text));
        fwrite(text.data, 1, text.bytes, stdout);
        must("feed", keel_session_feed(session, &token, 1, 0));
    }
    printf("\n");
}

int main(int argc, char** argv) {
    if (argc < 3 || (strcmp(argv[1], "save") != 0 && strcmp(argv[1], "restore") != 0)) {
        fprintf(stderr, "usage: save_restore save|restore STATE [model.gguf]\n");
        return 2;
    }
    keel_reader reader = {.struct_size = sizeof reader};
    must("open", keel_reader_open_file(argc > 3 ? argv[3] : "samples/models/books-7m-f16.gguf", &reader));
    keel_model_info info = {.struct_size = sizeof info};
    must("inspect", keel_inspect(&reader, NULL, NULL, 0, NULL, &info, &error));
    void* buffer = malloc(info.model_bytes);
    const keel_model* model = NULL;
    must("inspect", keel_inspect(&reader, NULL, buffer, info.model_bytes, &model, &info, &error));
    keel_config config = {.struct_size = sizeof config, .context_tokens = 256};
    keel_memory_plan plan = {.struct_size = sizeof plan};
    must("plan", keel_plan(&reader, model, &config, &plan, &error));
    keel_memory memory = {.struct_size = sizeof memory};
    must("memory", keel_memory_default(&plan, &memory));
    keel_engine engine;
    must("init", keel_engine_init(&reader, model, &config, &memory, &engine, &error));
    keel_session session;
    must("session", keel_session_open(engine, NULL, &session));

    if (strcmp(argv[1], "save") == 0) {
        static const char prompt[] = "It was a dark night";
        int32_t ids[64];
        size_t count = 0;
        must("tokenize", keel_tokenize(engine, prompt, sizeof prompt - 1, KEEL_TOKENIZE_BOS, ids, 64, &count));
        must("feed", keel_session_feed(session, ids, (uint32_t)count, 0));
        keel_sampling sampling = {
            .struct_size = sizeof sampling, .temperature = 0.8f, .repetition_penalty = 1.1f, .seed = 1};
        must("sampling", keel_session_set_sampling(session, &sampling));
        write_tokens(engine, session, 24);
        /* Tokens, keys and values, logits, the state of sampling and of half a character. */
        uint64_t bytes = 0, written = 0;
        must("save", keel_session_save_bytes(session, &bytes));
        void* state = malloc(bytes);
        must("save", keel_session_save(session, state, bytes, &written));
        FILE* file = fopen(argv[2], "wb");
        if (!file || fwrite(state, 1, written, file) != written || fclose(file) != 0) return 1;
        printf("saved %llu bytes\n", (unsigned long long)written);
        free(state);
        write_tokens(engine, session, 24);
    } else {
        FILE* file = fopen(argv[2], "rb");
        if (!file || fseek(file, 0, SEEK_END) != 0) return 1;
        const long bytes = ftell(file);
        void* state = malloc((size_t)bytes);
        rewind(file);
        if (fread(state, 1, (size_t)bytes, file) != (size_t)bytes) return 1;
        fclose(file);
        must("restore", keel_session_restore(session, state, (uint64_t)bytes, &error));
        free(state);
        write_tokens(engine, session, 24);
    }
    keel_engine_close(engine);
    keel_memory_release(&memory);
    free(buffer);
    keel_reader_close(&reader);
    return 0;
}
