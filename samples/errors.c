/*
 * errors.c - what goes wrong, and what Keel says about it: nothing here crashes, prints or changes what it was asked
 * about.
 *
 *     errors [model.gguf]
 *
 * A line per case: the status, and where the library names them the field and the reason. Exit code 1 if one is another
 * than expected.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/keel.h"

static keel_error error = {.struct_size = sizeof error};
static int surprises = 0;

static void expect(const char* what, keel_status wanted, keel_status got) {
    const int detailed = error.status == got && got != KEEL_OK;
    printf("%-44s %s%s%s%s%s\n", what, keel_status_name(got), detailed ? ": " : "", detailed ? error.field : "",
           detailed && error.field[0] ? ", " : "", detailed ? error.reason : "");
    surprises += got != wanted;
    memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
}

static keel_status broken_disk(void* user_data, uint64_t offset, void* dst, size_t bytes) {
    const keel_reader* file = user_data;
    if (offset > file->size_bytes / 2) return KEEL_E_FILE_READ;
    memcpy(dst, (const char*)file->mapped + offset, bytes);
    return KEEL_OK;
}
static int stop_loading(void* user_data, uint64_t done, uint64_t total) {
    (void)user_data, (void)total;
    return done > 0;
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    keel_reader reader = {.struct_size = sizeof reader}, other = {.struct_size = sizeof other};
    expect("a file that is not there", KEEL_E_FILE_MISSING, keel_reader_open_file("no.gguf", &other));
    expect("a directory", KEEL_E_FILE_KIND, keel_reader_open_file(".", &other));
    expect("a model", KEEL_OK, keel_reader_open_file(path, &reader));

    /* Files. */
    keel_model_info info = {.struct_size = sizeof info};
    expect("a memory block", KEEL_OK, keel_reader_from_memory("no GGUF at all", 14, &other));
    expect("that is no GGUF", KEEL_E_FILE_FORMAT, keel_inspect(&other, NULL, NULL, 0, NULL, &info, &error));
    keel_reader_from_memory(reader.mapped, 5000, &other);
    expect("a file cut short", KEEL_E_FILE_FORMAT, keel_inspect(&other, NULL, NULL, 0, NULL, &info, &error));
    keel_limits limits = {.struct_size = sizeof limits, .max_tensors = 3};
    expect("more tensors than allowed", KEEL_E_FILE_LIMIT,
           keel_inspect(&reader, &limits, NULL, 0, NULL, &info, &error));
    expect("how much memory a model takes", KEEL_OK, keel_inspect(&reader, NULL, NULL, 0, NULL, &info, &error));
    void* buffer = malloc(info.model_bytes);
    const keel_model* model = NULL;
    expect("too little of it", KEEL_E_BUFFER_TOO_SMALL,
           keel_inspect(&reader, NULL, buffer, info.model_bytes - 1, &model, &info, &error));
    expect("enough", KEEL_OK, keel_inspect(&reader, NULL, buffer, info.model_bytes, &model, &info, &error));

    /* Configurations. */
    keel_config config = {.struct_size = sizeof config, .context_tokens = 64, .kv_pages = 1, .max_sessions = 2};
    keel_memory_plan plan = {.struct_size = sizeof plan};
    keel_config odd = config;
    odd.struct_size = 3;
    expect("a struct of no size there ever was", KEEL_E_ABI, keel_plan(&reader, model, &odd, &plan, &error));
    odd = config;
    odd.k_format = (keel_kv_format)99;
    expect("a format that is none", KEEL_E_ARGUMENT, keel_plan(&reader, model, &odd, &plan, &error));
    odd = config;
#if defined(__x86_64__)
    odd.cpu = KEEL_CPU_NEON;
#else
    odd.cpu = KEEL_CPU_AVX2;
#endif
    expect("kernels of another machine", KEEL_E_UNSUPPORTED, keel_plan(&reader, model, &odd, &plan, &error));
    expect("a plan", KEEL_OK, keel_plan(&reader, model, &config, &plan, &error));

    /* Memory and loading. */
    keel_memory memory = {.struct_size = sizeof memory};
    keel_engine engine;
    expect("memory", KEEL_OK, keel_memory_default(&plan, &memory));
    keel_memory small = memory;
    small.regions[KEEL_REGION_KV].bytes = plan.regions[KEEL_REGION_KV].bytes - 1;
    expect("one byte less", KEEL_E_MEMORY_TOO_SMALL,
           keel_engine_init(&reader, model, &config, &small, &engine, &error));
    small = memory;
    small.regions[KEEL_REGION_KV].data = (char*)memory.regions[KEEL_REGION_KV].data + 1;
    expect("one byte further", KEEL_E_MEMORY_ALIGN, keel_engine_init(&reader, model, &config, &small, &engine, &error));
    keel_reader disk = {
        .struct_size = sizeof disk, .size_bytes = reader.size_bytes, .read_at = broken_disk, .user_data = &reader};
    expect("a disk that fails", KEEL_E_FILE_READ, keel_engine_init(&disk, model, &config, &memory, &engine, &error));
    keel_hooks hooks = {.struct_size = sizeof hooks, .progress = stop_loading};
    odd = config;
    odd.hooks = &hooks;
    expect("a person who does not want to wait", KEEL_E_CANCELLED,
           keel_engine_init(&reader, model, &odd, &memory, &engine, &error));
    expect("an engine", KEEL_OK, keel_engine_init(&reader, model, &config, &memory, &engine, &error));

    /* Sessions. */
    keel_session a, b, c;
    int32_t token = 0, many[65] = {0}, none = info.vocabulary;
    size_t count;
    keel_advance_result result = {.struct_size = sizeof result};
    expect("a session", KEEL_OK, keel_session_open(engine, NULL, &a));
    expect("another", KEEL_OK, keel_session_open(engine, NULL, &b));
    expect("one more than planned", KEEL_E_SLOTS_FULL, keel_session_open(engine, NULL, &c));
    expect("a token before there is anything", KEEL_E_NO_LOGITS, keel_session_sample(a, &token));
    expect("a token outside the vocabulary", KEEL_E_ARGUMENT, keel_session_feed(a, &none, 1, 0));
    expect("more tokens than the context", KEEL_E_CONTEXT_FULL, keel_session_feed(a, many, 65, 0));
    expect("ids into too small an array", KEEL_E_BUFFER_TOO_SMALL,
           keel_tokenize(engine, "a b c d", 7, 0, many, 1, &count));
    keel_session_feed(a, many, 4, 0);
    expect("four tokens", KEEL_OK, keel_advance(engine, &a, 1, 0, &result));
    keel_session_feed(b, many, 4, 0);
    expect("a session without a page of KV left", KEEL_E_KV_FULL, keel_advance(engine, &b, 1, 0, &result));
    keel_sampling sampling = {.struct_size = sizeof sampling, .temperature = -1};
    expect("a temperature below zero", KEEL_E_ARGUMENT, keel_session_set_sampling(a, &sampling));
    expect("a saved session that is none", KEEL_E_FILE_FORMAT, keel_session_restore(b, "not a session", 13, &error));
    expect("closed", KEEL_OK, keel_session_close(b));
    expect("and used all the same", KEEL_E_HANDLE, keel_session_feed(b, many, 1, 0));
    expect("the engine closes", KEEL_OK, keel_engine_close(engine));
    expect("and its sessions with it", KEEL_E_HANDLE, keel_session_sample(a, &token));
    keel_memory_release(&memory);
    free(buffer);
    keel_reader_close(&reader);
    return surprises != 0;
}
