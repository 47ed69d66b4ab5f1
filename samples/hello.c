/*
 * hello.c - a language model in static buffers: no malloc, no C++.
 *
 *     cc hello.c $(pkg-config --cflags --libs keel) -o hello
 *     ./hello samples/models/books-7m-f16.gguf
 */
#include <stdio.h>

#include "keel/keel.h"

/* One buffer per region. Too small a buffer is an error that says so, never a crash; `keel plan MODEL` prints the
 * sizes. */
#define MIB (1024u * 1024u)
static _Alignas(4096) unsigned char persistent[4 * MIB], scratch[4 * MIB], weights[1 * MIB], kv[8 * MIB];
static _Alignas(8) unsigned char model_memory[1 * MIB];

static keel_error error = {.struct_size = sizeof error};

static int failed(const char* what, keel_status status) {
    if (status == KEEL_OK) return 0;
    fprintf(stderr, "%s: %s (%s %s)\n", what, keel_status_text(status), error.field, error.reason);
    return 1;
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    static const char prompt[] = "It was a dark night";

    /* 1. Look at the file. */
    keel_reader reader = {.struct_size = sizeof reader};
    if (failed(path, keel_reader_open_file(path, &reader))) return 1;
    const keel_model* model = NULL;
    keel_model_info info = {.struct_size = sizeof info};
    if (failed(path, keel_inspect(&reader, NULL, model_memory, sizeof model_memory, &model, &info, &error))) return 1;

    /* 2. Plan, compare with the buffers, start. Weights are read in place from the mapped file. */
    keel_config config = {
        .struct_size = sizeof config, .context_tokens = 512, .weights = KEEL_WEIGHTS_MAP, .threads = 2};
    keel_memory_plan plan = {.struct_size = sizeof plan};
    if (failed("plan", keel_plan(&reader, model, &config, &plan, &error))) return 1;
    keel_memory memory = {.struct_size = sizeof memory};
    memory.regions[KEEL_REGION_PERSISTENT] = (keel_region){persistent, sizeof persistent};
    memory.regions[KEEL_REGION_SCRATCH] = (keel_region){scratch, sizeof scratch};
    memory.regions[KEEL_REGION_WEIGHTS] = (keel_region){weights, sizeof weights}; /* the few that must be unpacked */
    memory.regions[KEEL_REGION_KV] = (keel_region){kv, sizeof kv};
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r)
        if (plan.regions[r].bytes > memory.regions[r].bytes)
            fprintf(stderr, "region %d needs %llu bytes\n", r, (unsigned long long)plan.regions[r].bytes);
    keel_engine engine;
    if (failed("init", keel_engine_init(&reader, model, &config, &memory, &engine, &error))) return 1;

    /* 3. Feed the prompt. */
    keel_session session;
    int32_t ids[64];
    size_t count = 0;
    if (failed("open", keel_session_open(engine, NULL, &session))) return 1;
    if (failed("tokenize", keel_tokenize(engine, prompt, sizeof prompt - 1, KEEL_TOKENIZE_BOS, ids, 64, &count)))
        return 1;
    if (failed("feed", keel_session_feed(session, ids, (uint32_t)count, 0))) return 1;
    keel_sampling sampling = {
        .struct_size = sizeof sampling, .temperature = 0.8f, .repetition_penalty = 1.1f, .seed = 1};
    if (failed("sampling", keel_session_set_sampling(session, &sampling))) return 1;

    /* 4. Compute, sample, show, feed: one token after another. */
    setvbuf(stdout, NULL, _IONBF, 0); /* text appears at once, and stdio allocates no buffer */
    fputs(prompt, stdout);
    for (int i = 0; i < 64; ++i) {
        keel_advance_result result = {.struct_size = sizeof result};
        int32_t token;
        keel_text text = {.struct_size = sizeof text};
        if (failed("advance", keel_advance(engine, &session, 1, 0, &result))) return 1;
        if (failed("sample", keel_session_sample(session, &token))) return 1;
        if (failed("text", keel_session_text(session, token, &text))) return 1;
        fwrite(text.data, 1, text.bytes, stdout);
        if (text.stopped) break;
        if (failed("feed", keel_session_feed(session, &token, 1, 0))) return 1;
    }
    fputs("\n", stdout);

    keel_engine_close(engine);
    keel_reader_close(&reader);
    return 0;
}
