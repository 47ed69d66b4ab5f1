/*
 * errors.c - what goes wrong, and what Keel says about it: nothing here crashes, prints or changes what it was asked
 * about.
 *
 *     errors [model.gguf]
 *
 * A line per call: the status, and where the library names them the field and the reason. Exit code 1 if one is another
 * than expected. What a program cannot bring about by itself is at the end of the output.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keel/keel.h"

static keel_error error = KEEL_ERROR_INIT;
static int seen[100], surprises = 0;

static void expect(keel_status wanted, keel_status got, const char* call) {
    const int detailed = error.status == got && got != KEEL_OK;
    printf("%s%.90s\n    %s%s%s%s%s\n", got == wanted ? "" : "NOT AS EXPECTED ", call, keel_status_name(got),
           detailed ? ": " : "", detailed ? error.field : "", detailed && error.field[0] ? ", " : "",
           detailed ? error.reason : "");
    surprises += got != wanted, seen[got] = 1, error = (keel_error)KEEL_ERROR_INIT;
}
#define EXPECT(status, call) expect(status, call, #call)

static keel_status broken_disk(void* user_data, uint64_t offset, void* dst, size_t bytes) {
    const keel_reader* file = user_data;
    if (offset > file->size_bytes / 2) return KEEL_E_FILE_READ;
    memcpy(dst, (const char*)file->mapped + offset, bytes);
    return KEEL_OK;
}
static int stop_loading(void* user_data, uint64_t done, uint64_t total) {
    return user_data == NULL && done < total;
}
static void forbid_all(void* user_data, keel_session s, const int32_t* t, uint32_t n, uint8_t* mask, uint32_t size) {
    (void)user_data, (void)t, (void)n;
    memset(mask, 0, (size + 7) / 8);
    EXPECT(KEEL_E_BUSY, keel_session_truncate(s, 0));
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    keel_reader file = {.struct_size = sizeof file}, other = file;
    EXPECT(KEEL_E_FILE_MISSING, keel_reader_open_file("no.gguf", &other));
    EXPECT(KEEL_E_FILE_KIND, keel_reader_open_file(".", &other));
    EXPECT(KEEL_OK, keel_reader_open_file(path, &file));

    keel_model_info info = {.struct_size = sizeof info};
    const keel_limits limits = {.struct_size = sizeof limits, .max_tensors = 3};
    keel_reader_from_memory(file.mapped, 5000, &other);
    EXPECT(KEEL_E_FILE_FORMAT, keel_inspect(&other, NULL, NULL, 0, NULL, &info, &error));
    EXPECT(KEEL_E_FILE_LIMIT, keel_inspect(&file, &limits, NULL, 0, NULL, &info, &error));
    EXPECT(KEEL_OK, keel_inspect(&file, NULL, NULL, 0, NULL, &info, &error));
    void* const buffer = malloc((size_t)info.model_bytes);
    const keel_model* model;
    EXPECT(KEEL_E_BUFFER_TOO_SMALL,
           keel_inspect(&file, NULL, buffer, (size_t)info.model_bytes - 1, &model, &info, &error));
    EXPECT(KEEL_OK, keel_inspect(&file, NULL, buffer, (size_t)info.model_bytes, &model, &info, &error));

    keel_hooks impatient = {.struct_size = sizeof impatient, .progress = stop_loading}, strict = impatient;
    strict.progress = NULL, strict.allowed_tokens = forbid_all;
    keel_config config = {.struct_size = sizeof config, .context_tokens = 64, .kv_pages = 1, .max_sessions = 2};
    config.max_text_bytes = 300, config.hooks = &strict, config.k_format = KEEL_KV_Q8_0;
    keel_config small = config, odd = config, stopped = config;
    small.struct_size = 3, odd.k_format = (keel_kv_format)99, stopped.hooks = &impatient;
    keel_memory_plan plan = {.struct_size = sizeof plan};
    EXPECT(KEEL_E_ABI, keel_plan(&file, model, &small, &plan, &error));
    EXPECT(KEEL_E_ARGUMENT, keel_plan(&file, model, &odd, &plan, &error));
    EXPECT(KEEL_E_FILE_MISMATCH, keel_plan(&other, model, &config, &plan, &error));
    EXPECT(KEEL_OK, keel_plan(&file, model, &config, &plan, &error));

    keel_engine engine;
    keel_memory memory = {.struct_size = sizeof memory};
    keel_memory_default(&plan, &memory);
    keel_memory less = memory, skew = memory;
    --less.regions[KEEL_REGION_KV].bytes, skew.regions[KEEL_REGION_KV].data = (char*)buffer + 1;
    const keel_reader disk = {.struct_size = sizeof disk, 0, file.size_bytes, broken_disk, &file, NULL};
    EXPECT(KEEL_E_MEMORY_TOO_SMALL, keel_engine_init(&file, model, &config, &less, &engine, &error));
    EXPECT(KEEL_E_MEMORY_ALIGN, keel_engine_init(&file, model, &config, &skew, &engine, &error));
    EXPECT(KEEL_E_FILE_READ, keel_engine_init(&disk, model, &config, &memory, &engine, &error));
    EXPECT(KEEL_E_CANCELLED, keel_engine_init(&file, model, &stopped, &memory, &engine, &error));
    EXPECT(KEEL_OK, keel_engine_init(&file, model, &config, &memory, &engine, &error));

    keel_session a, b, c;
    keel_advance_result result = {.struct_size = sizeof result};
    char text[2000];
    size_t count;
    int32_t token, many[65] = {0};
    keel_session_open(engine, NULL, &a);
    keel_session_open(engine, NULL, &b);
    for (size_t i = 0; i < sizeof text; ++i) text[i] = "er"[i % 2];
    EXPECT(KEEL_E_SLOTS_FULL, keel_session_open(engine, NULL, &c));
    EXPECT(KEEL_E_NO_LOGITS, keel_session_sample(a, &token));
    EXPECT(KEEL_E_STATE, keel_session_set_grammar(a, KEEL_GRAMMAR_NEXT));
    EXPECT(KEEL_E_CONTEXT_FULL, keel_session_feed(a, many, 65, 0));
    EXPECT(KEEL_E_TEXT_LIMIT, keel_tokenize(engine, text, sizeof text, 0, NULL, 0, &count));
    keel_session_feed(a, many, 4, 0);
    EXPECT(KEEL_AGAIN, keel_advance(engine, &a, 1, 1, &result));
    keel_advance(engine, &a, 1, 0, &result);
    EXPECT(KEEL_E_NUMERIC, keel_session_sample(a, &token));
    EXPECT(KEEL_E_UNSUPPORTED, keel_session_shift(a, 0, 2));
    keel_session_feed(b, many, 4, 0);
    EXPECT(KEEL_E_KV_FULL, keel_advance(engine, &b, 1, 0, &result));
    keel_engine_close(engine);
    EXPECT(KEEL_E_HANDLE, keel_session_sample(a, &token));
    /* Left open until the process ends: Linux lets it have fewer. */
    for (count = 0; count < 70000 && keel_reader_open_file(path, &other) == KEEL_OK;) ++count;
    if (count < 70000) EXPECT(KEEL_E_PLATFORM, keel_reader_open_file(path, &other));

#define NAME(symbol, number, meaning) \
    if (!seen[number]) printf("not here: %s, %s\n", #symbol, meaning);
    KEEL_STATUS_LIST(NAME)
    keel_memory_release(&memory);
    free(buffer);
    keel_reader_close(&file);
    return surprises != 0;
}
