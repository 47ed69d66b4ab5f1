/*
 * embedded_weights.c - a program that is its own model file: weights inside the executable, read in place.
 *
 *     cc -DMODEL='"samples/models/books-7m-f16.gguf"' embedded_weights.c $(pkg-config --cflags --libs keel)
 *
 * Nothing is opened or mapped, and no byte of a matrix is copied: the loader's pages of the executable are the weights.
 */
#include <stdio.h>
#include <stdlib.h>

#include "keel/keel.h"

__asm__(
    ".pushsection .rodata\n"
    ".balign 64\n"
    "model_begin:\n"
    ".incbin \"" MODEL
    "\"\n"
    "model_end:\n"
    ".popsection\n");
extern const unsigned char model_begin[], model_end[];

#define MIB (1024u * 1024u)
static _Alignas(4096) unsigned char persistent[4 * MIB], scratch[4 * MIB], weights[1 * MIB], kv[8 * MIB];
static _Alignas(8) unsigned char model_memory[1 * MIB];
static keel_error error = {.struct_size = sizeof error};

static void must(const char* what, keel_status status) {
    if (status == KEEL_OK) return;
    fprintf(stderr, "%s: %s (%s %s)\n", what, keel_status_text(status), error.field, error.reason);
    exit(1);
}

int main(void) {
    keel_reader reader = {.struct_size = sizeof reader};
    must("reader", keel_reader_from_memory(model_begin, (size_t)(model_end - model_begin), &reader));
    const keel_model* model = NULL;
    keel_model_info info = {.struct_size = sizeof info};
    must("inspect", keel_inspect(&reader, NULL, model_memory, sizeof model_memory, &model, &info, &error));
    keel_config config = {
        .struct_size = sizeof config, .context_tokens = 512, .weights = KEEL_WEIGHTS_MAP, .threads = 2};
    keel_memory memory = {.struct_size = sizeof memory};
    memory.regions[KEEL_REGION_PERSISTENT] = (keel_region){persistent, sizeof persistent};
    memory.regions[KEEL_REGION_SCRATCH] = (keel_region){scratch, sizeof scratch};
    memory.regions[KEEL_REGION_WEIGHTS] = (keel_region){weights, sizeof weights};
    memory.regions[KEEL_REGION_KV] = (keel_region){kv, sizeof kv};
    keel_engine engine;
    must("init", keel_engine_init(&reader, model, &config, &memory, &engine, &error));

    static const char prompt[] = "It was a dark night";
    keel_session session;
    int32_t ids[64];
    size_t count = 0;
    must("open", keel_session_open(engine, NULL, &session));
    must("tokenize", keel_tokenize(engine, prompt, sizeof prompt - 1, KEEL_TOKENIZE_BOS, ids, 64, &count));
    must("feed", keel_session_feed(session, ids, (uint32_t)count, 0));
    printf("%s", prompt);
    for (int i = 0; i < 32; ++i) {
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
    keel_engine_close(engine);
    return 0;
}
