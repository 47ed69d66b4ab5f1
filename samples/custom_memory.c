/*
 * custom_memory.c - everything Keel touches comes from one block of ours: the model file through a reader callback, all
 * regions, and the hooks. This is the shape for consoles, unikernels and processes with a fixed heap.
 *
 *     custom_memory [model.gguf]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "keel/keel.h"

static keel_error error = KEEL_ERROR_INIT;

static void must(const char* what, keel_status status) {
    if (status == KEEL_OK) return;
    fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error.field,
            error.reason);
    exit(1);
}

/* ---- one block, handed out from the front ---- */
typedef struct block {
    unsigned char* data;
    size_t bytes, used;
} block;

static block block_map(size_t bytes) {
    void* data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) must("mmap", KEEL_E_PLATFORM);
    return (block){data, bytes, 0};
}

/* `align` is a power of two, at most the page size mmap aligns to. */
static void* block_take(block* b, size_t bytes, size_t align) {
    size_t begin = (b->used + align - 1) & ~(align - 1);
    if (begin > b->bytes || bytes > b->bytes - begin) must("the block", KEEL_E_MEMORY_TOO_SMALL);
    b->used = begin + bytes;
    return b->data + begin;
}

/* ---- a reader over memory: an asset pack, a network buffer, a decrypted file ---- */
typedef struct asset {
    const unsigned char* data;
    size_t bytes;
} asset;

static keel_status asset_read(void* user_data, uint64_t offset, void* dst, size_t bytes) {
    const asset* a = user_data;
    if (offset > a->bytes || bytes > a->bytes - offset) return KEEL_E_FILE_READ;
    memcpy(dst, a->data + offset, bytes);
    return KEEL_OK;
}

/* ---- hooks: Keel itself never prints ---- */
static void on_log(void* user_data, keel_log_level level, keel_status code, const char* text) {
    (void)user_data;
    fprintf(stderr, "[keel %d %s] %s\n", (int)level, keel_status_name(code), text);
}

static int on_progress(void* user_data, uint64_t done, uint64_t total) {
    fprintf(stderr, "\rloading %3.0f %%%s", 100 * (double)done / (double)(total ? total : 1), done < total ? "" : "\n");
    return *(const int*)user_data; /* nonzero cancels keel_engine_init */
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";

    /* The file's bytes stand in for an asset that some loader brought into memory. */
    keel_reader file = {.struct_size = sizeof file};
    must(path, keel_reader_open_file(path, &file));
    asset a = {file.mapped, (size_t)file.size_bytes};
    keel_reader reader = {.struct_size = sizeof reader, .size_bytes = a.bytes, .read_at = asset_read, .user_data = &a};

    /* Sizes first; memory after. */
    keel_model_info info = {.struct_size = sizeof info};
    must("inspect", keel_inspect(&reader, NULL, NULL, 0, NULL, &info, &error));
    block model_block = block_map((size_t)info.model_bytes);
    const keel_model* model = NULL;
    must("inspect", keel_inspect(&reader, NULL, model_block.data, model_block.bytes, &model, &info, &error));

    const int cancel = 0;
    keel_hooks hooks = {
        .struct_size = sizeof hooks, .user_data = (void*)&cancel, .log = on_log, .progress = on_progress};
    keel_config config = {.struct_size = sizeof config, .context_tokens = 256, .threads = 1, .hooks = &hooks};
    keel_memory_plan plan = {.struct_size = sizeof plan};
    must("plan", keel_plan(&reader, model, &config, &plan, &error));

    size_t total = 0;
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r) total += (size_t)(plan.regions[r].bytes + plan.regions[r].align_bytes);
    block all = block_map(total);
    keel_memory memory = {.struct_size = sizeof memory};
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r) {
        const keel_region_plan* p = &plan.regions[r];
        if (p->bytes) memory.regions[r] = (keel_region){block_take(&all, p->bytes, p->align_bytes), p->bytes};
    }

    keel_engine engine;
    must("init", keel_engine_init(&reader, model, &config, &memory, &engine, &error));
    printf("%zu bytes in one block\n", all.used);

    /* With the weights copied, the asset may go away now. */
    keel_reader_close(&file);
    keel_session session;
    int32_t ids[32];
    size_t count = 0;
    must("open", keel_session_open(engine, NULL, &session));
    must("tokenize", keel_tokenize(engine, "The sea was", 11, KEEL_TOKENIZE_BOS, ids, 32, &count));
    must("feed", keel_session_feed(session, ids, (uint32_t)count, 0));
    printf("The sea was");
    for (int i = 0; i < 16; ++i) {
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

    /* After close the block is ours again, for the next engine or anything else. */
    keel_engine_close(engine);
    munmap(all.data, all.bytes);
    munmap(model_block.data, model_block.bytes);
    return 0;
}
