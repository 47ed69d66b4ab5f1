#include "sdk/kv/kv_arena.h"

namespace keel {
namespace {

uint64_t round16(uint64_t bytes) {
    return (bytes + 15) & ~uint64_t{15};
}

struct PoolLock {
    explicit PoolLock(KvPool* pool) : pool_(pool) {
        while (pool_->lock.exchange(1, std::memory_order_acquire)) {
        }
    }
    ~PoolLock() { pool_->lock.store(0, std::memory_order_release); }
    PoolLock(const PoolLock&) = delete;
    KvPool* pool_;
};

// All under the lock.
uint32_t take(KvPool* pool) {
    const uint32_t id = pool->free_list[--pool->free_count];
    pool->references[id] = 1;
    const uint32_t used = pool->page_count - pool->free_count;
    if (used > pool->high_water_pages) pool->high_water_pages = used;
    return id;
}
void drop(KvPool* pool, uint32_t id) {
    if (id != kNoPage && --pool->references[id] == 0) pool->free_list[pool->free_count++] = id;
}
void append(KvPageList* list, uint32_t id) {
    list->ids[list->count++] = id;
}
void drop_from(KvPool* pool, KvPageList* list, uint32_t keep) {
    while (list->count > keep) drop(pool, list->ids[--list->count]);
}

bool own(const KvPool& pool, uint32_t id) {
    return id != kNoPage && pool.references[id] == 1;
}

}  // namespace

KvLayer kv_layer(uint32_t kv_heads, uint32_t head_dim, const KvLayerFormats& formats, uint64_t* page_bytes) {
    KvLayer layer = {};
    const auto plane = [&](kernels::KvFormat format, uint64_t* head_bytes) {
        kernels::KvPlane p = {};
        p.format = format;
        p.code_bytes = kernels::kv_code_bytes(format, head_dim);
        p.scale_bytes = kernels::kv_scale_bytes(format, head_dim);
        p.codes = *page_bytes;
        const uint64_t codes = round16(uint64_t{kPageTokens} * p.code_bytes);
        p.scales = p.codes + codes;
        *head_bytes = codes + round16(uint64_t{kPageTokens} * p.scale_bytes);
        *page_bytes += kv_heads * *head_bytes;
        return p;
    };
    layer.k = plane(formats.k, &layer.k_head_bytes);
    layer.v = plane(formats.v, &layer.v_head_bytes);
    layer.k_scale = formats.k_scale;
    layer.v_scale = formats.v_scale;
    return layer;
}

void kv_pool_init(KvPool* pool, uint32_t page_count, uint64_t page_bytes, uint32_t* free_list, uint32_t* references) {
    pool->page_count = pool->free_count = page_count;
    pool->page_bytes = page_bytes;
    pool->high_water_pages = 0;
    pool->free_list = free_list;
    pool->references = references;
    for (uint32_t i = 0; i < page_count; ++i) {
        pool->free_list[i] = page_count - 1 - i;
        pool->references[i] = 0;
    }
}

keel_status kv_make_writable(KvPool* pool, KvPageList* list, uint32_t from, uint32_t to) {
    PoolLock lock(pool);
    const uint32_t want = kv_pages_for(to);
    const uint32_t missing = want > list->count ? want - list->count : 0;
    const uint32_t first = from / kPageTokens, last = from < to ? want - missing : first;
    uint32_t shared = 0;
    for (uint32_t page = first; page < last; ++page) shared += !own(*pool, list->ids[page]);
    if (missing + shared > pool->free_count) return KEEL_E_KV_FULL;
    for (uint32_t page = first; page < last; ++page) {
        if (own(*pool, list->ids[page])) continue;
        const uint32_t id = take(pool);
        // Only the first page can hold rows before `from`, so a copy that fails finds nothing replaced.
        if (page * kPageTokens < from && list->ids[page] != kNoPage) {
            const keel_status copied = pool->copier.copy(pool->copier.context, id, list->ids[page]);
            if (copied != KEEL_OK) return drop(pool, id), copied;
        }
        drop(pool, list->ids[page]);
        list->ids[page] = id;
    }
    for (uint32_t i = 0; i < missing; ++i) append(list, take(pool));
    return KEEL_OK;
}

void kv_truncate(KvPool* pool, KvPageList* list, uint32_t tokens) {
    PoolLock lock(pool);
    const uint32_t need = kv_pages_for(tokens);
    drop_from(pool, list, need > list->reserved ? need : list->reserved);
}

keel_status kv_replace(KvPool* pool, KvPageList* list, uint32_t tokens, const uint8_t* evicted) {
    PoolLock lock(pool);
    const uint32_t used = kv_pages_for(tokens), count = used < list->reserved ? list->reserved : used;
    const auto gone = [&](uint32_t page) { return evicted && page < used && evicted[page / 8] >> page % 8 & 1; };
    uint32_t want = 0, mine = 0;
    for (uint32_t i = 0; i < count; ++i) want += !gone(i);
    for (uint32_t i = 0; i < list->count; ++i) mine += own(*pool, list->ids[i]);
    if (want > pool->free_count + mine) return KEEL_E_KV_FULL;
    drop_from(pool, list, 0);
    while (list->count < count) append(list, gone(list->count) ? kNoPage : take(pool));
    return KEEL_OK;
}

uint32_t kv_evict(KvPool* pool, KvPageList* list, uint32_t first, uint32_t last) {
    PoolLock lock(pool);
    uint32_t evicted = 0;
    for (uint32_t page = first; page < last; ++page) {
        if (list->ids[page] == kNoPage) continue;
        drop(pool, list->ids[page]);
        list->ids[page] = kNoPage;
        ++evicted;
    }
    return evicted;
}

bool kv_owns(KvPool* pool, const KvPageList& list, uint32_t first, uint32_t last) {
    PoolLock lock(pool);
    bool owned = true;
    for (uint32_t page = first; page < last; ++page) owned &= own(*pool, list.ids[page]);
    return owned;
}

void kv_release(KvPool* pool, KvPageList* list) {
    PoolLock lock(pool);
    list->reserved = 0;
    drop_from(pool, list, 0);
}

keel_status kv_fork(KvPool* pool, const KvPageList& from, KvPageList* to, uint32_t tokens) {
    PoolLock lock(pool);
    const uint32_t full = tokens / kPageTokens, partial = tokens % kPageTokens ? 1 : 0;
    if (partial > pool->free_count) return KEEL_E_KV_FULL;
    const uint32_t own_page = partial ? take(pool) : kNoPage;
    if (partial) {
        const keel_status copied = pool->copier.copy(pool->copier.context, own_page, from.ids[full]);
        if (copied != KEEL_OK) return drop(pool, own_page), copied;
    }
    for (uint32_t i = 0; i < full; ++i) {
        if (from.ids[i] != kNoPage) ++pool->references[from.ids[i]];
        append(to, from.ids[i]);
    }
    if (partial) append(to, own_page);
    return KEEL_OK;
}

KvUsage kv_usage(KvPool* pool) {
    PoolLock lock(pool);
    return {pool->free_count, pool->high_water_pages};
}

}  // namespace keel
