/*
 * custom_memory.c - everything Keel touches comes from one block of ours: the model file through a reader callback, all
 * regions, and the hooks. This is the shape for consoles, unikernels and processes with a fixed heap.
 *
 *     custom_memory [model.gguf]
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "keel/keel.h"

/* ---- one block, handed out from the front ---- */
typedef struct block {
    unsigned char* data;
    size_t bytes, used;
} block;

static int block_map(block* b, size_t bytes) {
    void* data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *b = (block){data == MAP_FAILED ? NULL : data, bytes, 0};
    return b->data != NULL;
}

/* `align` is a power of two, at most the page size mmap aligns to. */
static void* block_take(block* b, size_t bytes, size_t align) {
    size_t begin = (b->used + align - 1) & ~(align - 1);
    if (begin > b->bytes || bytes > b->bytes - begin) return NULL;
    b->used = begin + bytes;
    return b->data + begin;
}

/* ---- a reader over memory: an asset pack, a network buffer, a decrypted file ---- */
typedef struct asset {
    const unsigned char* data;
    size_t bytes;
    uint64_t calls;
} asset;

static keel_status asset_read(void* user_data, uint64_t offset, void* dst, size_t bytes) {
    asset* a = user_data;
    if (offset > a->bytes || bytes > a->bytes - offset) return KEEL_E_FILE_READ;
    memcpy(dst, a->data + offset, bytes);
    ++a->calls;
    return KEEL_OK;
}

/* ---- hooks: Keel itself never prints ---- */
static void on_log(void* user_data, keel_log_level level, keel_status code, const char* text) {
    (void)user_data;
    fprintf(stderr, "[keel %d %s] %s\n", (int)level, keel_status_name(code), text);
}

static int on_progress(void* user_data, uint64_t done, uint64_t total) {
    int* percent = user_data;
    int now = (int)(100 * (double)done / (double)(total ? total : 1));
    if (now / 25 > *percent / 25) fprintf(stderr, "loading %d %%\n", now);
    *percent = now;
    return 0; /* nonzero would cancel keel_engine_init */
}

static int failed(const char* what, keel_status status, const keel_error* error) {
    if (status == KEEL_OK) return 0;
    fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error->field,
            error->reason);
    return 1;
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    keel_error error = {.struct_size = sizeof error};

    /* The file's bytes stand in for an asset that some loader brought into memory. */
    keel_reader file = {.struct_size = sizeof file};
    if (failed(path, keel_reader_open_file(path, &file), &error)) return 1;
    asset a = {file.mapped, (size_t)file.size_bytes, 0};
    keel_reader reader = {.struct_size = sizeof reader, .size_bytes = a.bytes, .read_at = asset_read, .user_data = &a};

    /* Sizes first; memory after. */
    keel_model_info info = {.struct_size = sizeof info};
    if (failed("inspect", keel_inspect(&reader, NULL, NULL, 0, NULL, &info, &error), &error)) return 1;
    block model_block;
    if (!block_map(&model_block, (size_t)info.model_bytes)) return 1;
    const keel_model* model = NULL;
    if (failed("inspect", keel_inspect(&reader, NULL, model_block.data, model_block.bytes, &model, &info, &error),
               &error))
        return 1;

    int percent = 0;
    keel_hooks hooks = {.struct_size = sizeof hooks, .user_data = &percent, .log = on_log, .progress = on_progress};
    keel_config config = {.struct_size = sizeof config, .context_tokens = 256, .threads = 1, .hooks = &hooks};
    keel_memory_plan plan = {.struct_size = sizeof plan};
    if (failed("plan", keel_plan(&reader, model, &config, &plan, &error), &error)) return 1;

    size_t total = 0;
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r) total += (size_t)(plan.regions[r].bytes + plan.regions[r].align_bytes);
    block all;
    if (!block_map(&all, total)) return 1;
    keel_memory memory = {.struct_size = sizeof memory};
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r) {
        const keel_region_plan* p = &plan.regions[r];
        if (p->bytes == 0) continue;
        memory.regions[r] = (keel_region){block_take(&all, (size_t)p->bytes, (size_t)p->align_bytes), p->bytes};
        if (!memory.regions[r].data) return 1;
    }

    keel_engine engine;
    if (failed("init", keel_engine_init(&reader, model, &config, &memory, &engine, &error), &error)) return 1;
    printf("%zu bytes in one block, %llu reads of the asset\n", all.used, (unsigned long long)a.calls);

    /* With the weights copied, the asset may go away now. */
    keel_reader_close(&file);
    keel_session session;
    int32_t ids[32];
    size_t count = 0;
    if (failed("open", keel_session_open(engine, NULL, &session), &error)) return 1;
    if (failed("tokenize", keel_tokenize(engine, "The sea was", 11, KEEL_TOKENIZE_BOS, ids, 32, &count), &error))
        return 1;
    if (failed("feed", keel_session_feed(session, ids, (uint32_t)count, 0), &error)) return 1;
    printf("The sea was");
    for (int i = 0; i < 16; ++i) {
        keel_advance_result result = {.struct_size = sizeof result};
        int32_t token;
        keel_text text = {.struct_size = sizeof text};
        if (failed("advance", keel_advance(engine, &session, 1, 0, &result), &error)) return 1;
        if (failed("sample", keel_session_sample(session, &token), &error)) return 1;
        if (failed("text", keel_session_text(session, token, &text), &error)) return 1;
        fwrite(text.data, 1, text.bytes, stdout);
        if (failed("feed", keel_session_feed(session, &token, 1, 0), &error)) return 1;
    }
    printf("\n");

    /* After close the block is ours again, for the next engine or anything else. */
    keel_engine_close(engine);
    munmap(all.data, all.bytes);
    munmap(model_block.data, model_block.bytes);
    return 0;
}
