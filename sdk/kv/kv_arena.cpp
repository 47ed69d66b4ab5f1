#include "sdk/kv/kv_arena.h"

#include <new>

namespace keel {
namespace {

uint64_t round16(uint64_t bytes) {
    return (bytes + 15) & ~uint64_t{15};
}

constexpr uint64_t kOnePush = uint64_t{1} << 32;

void push(KvPool* pool, uint32_t id) {
    uint64_t head = pool->head.load(std::memory_order_relaxed);
    do pool->next_free[id].store(static_cast<uint32_t>(head), std::memory_order_relaxed);
    while (!pool->head.compare_exchange_weak(head, (head + kOnePush) >> 32 << 32 | id, std::memory_order_acq_rel,
                                             std::memory_order_relaxed));
}

// Sets `pages` free pages aside for take(), or none of them.
bool reserve(KvPool* pool, uint32_t pages) {
    uint32_t free = pool->free_count.load(std::memory_order_relaxed);
    do
        if (pages > free) return false;
    while (!pool->free_count.compare_exchange_weak(free, free - pages, std::memory_order_acquire,
                                                   std::memory_order_relaxed));
    const uint32_t used = pool->page_count - (free - pages);
    uint32_t most = pool->high_water_pages.load(std::memory_order_relaxed);
    while (used > most && !pool->high_water_pages.compare_exchange_weak(most, used, std::memory_order_relaxed)) {
    }
    return true;
}
void unreserve(KvPool* pool, uint32_t pages) {
    pool->free_count.fetch_add(pages, std::memory_order_release);
}

// One of the pages set aside: pages are pushed before they are counted, so the stack holds it.
uint32_t take(KvPool* pool) {
    uint64_t head = pool->head.load(std::memory_order_acquire);
    uint64_t rest;
    do
        // What it reads of a page that another thread takes meanwhile is thrown away with the exchange that fails.
        rest = (head + kOnePush) >> 32 << 32 |
               pool->next_free[static_cast<uint32_t>(head)].load(std::memory_order_relaxed);
    while (!pool->head.compare_exchange_weak(head, rest, std::memory_order_acq_rel, std::memory_order_acquire));
    const uint32_t id = static_cast<uint32_t>(head);
    pool->references[id].store(1, std::memory_order_relaxed);
    return id;
}
// Whoever drops a page has done reading and writing it; whoever finds it free or its own afterwards sees that.
void drop(KvPool* pool, uint32_t id) {
    if (id == kNoPage || pool->references[id].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    push(pool, id);
    unreserve(pool, 1);
}
void append(KvPageList* list, uint32_t id) {
    list->ids[list->count++] = id;
}
void drop_copy(KvPool* pool, KvPageList* list) {
    drop(pool, list->copy_id);
    list->copy_id = kNoPage;
}
void drop_from(KvPool* pool, KvPageList* list, uint32_t keep) {
    while (list->count > keep) drop(pool, list->ids[--list->count]);
}

// A page that is the list's alone stays so: only who holds a page can share it.
bool own(const KvPool& pool, uint32_t id) {
    return id != kNoPage && pool.references[id].load(std::memory_order_acquire) == 1;
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

void kv_pool_init(KvPool* pool, uint32_t page_count, std::atomic<uint32_t>* next_free,
                  std::atomic<uint32_t>* references) {
    pool->page_count = page_count;
    pool->next_free = next_free;
    pool->references = references;
    pool->high_water_pages.store(0, std::memory_order_relaxed);
    pool->head.store(page_count ? 0 : kNoPage, std::memory_order_relaxed);
    for (uint32_t i = 0; i < page_count; ++i) {
        new (&next_free[i]) std::atomic<uint32_t>(i + 1 < page_count ? i + 1 : kNoPage);
        new (&references[i]) std::atomic<uint32_t>(0);
    }
    pool->free_count.store(page_count, std::memory_order_release);
}

keel_status kv_make_writable(KvPool* pool, KvPageList* list, uint32_t from, uint32_t to) {
    const uint32_t want = kv_pages_for(to);
    const uint32_t missing = want > list->count ? want - list->count : 0;
    const uint32_t first = from / kPageTokens, last = from < to ? want - missing : first;
    const auto copying = [&](uint32_t page) { return list->copy_id != kNoPage && list->copy_index == page; };
    uint32_t shared = 0;
    for (uint32_t page = first; page < last; ++page) shared += !copying(page) && !own(*pool, list->ids[page]);
    if (!reserve(pool, missing + shared)) return KEEL_E_KV_FULL;
    for (uint32_t page = first; page < last; ++page) {
        // Others may have given a page up meanwhile, which makes it this list's own; nobody makes it shared.
        if (copying(page) || own(*pool, list->ids[page])) continue;
        const uint32_t id = take(pool);
        --shared;
        // Only the first page can hold rows before `from`.
        if (page * kPageTokens < from && list->ids[page] != kNoPage) {
            list->copy_id = id;
            list->copy_index = page;
            list->copied_bytes = 0;
            continue;
        }
        drop(pool, list->ids[page]);
        list->ids[page] = id;
    }
    unreserve(pool, shared);
    for (uint32_t i = 0; i < missing; ++i) append(list, take(pool));
    return KEEL_OK;
}

void kv_copied(KvPool* pool, KvPageList* list) {
    drop(pool, list->ids[list->copy_index]);
    list->ids[list->copy_index] = list->copy_id;
    list->copy_id = kNoPage;
}

void kv_truncate(KvPool* pool, KvPageList* list, uint32_t tokens) {
    drop_copy(pool, list);
    const uint32_t need = kv_pages_for(tokens);
    drop_from(pool, list, need > list->reserved ? need : list->reserved);
}

keel_status kv_replace(KvPool* pool, KvPageList* list, uint32_t tokens, const uint8_t* evicted) {
    const uint32_t used = kv_pages_for(tokens), count = used < list->reserved ? list->reserved : used;
    const auto gone = [&](uint32_t page) { return evicted && page < used && evicted[page / 8] >> page % 8 & 1; };
    uint32_t want = 0, mine = 0;
    for (uint32_t i = 0; i < count; ++i) want += !gone(i);
    for (uint32_t i = 0; i < list->count; ++i) mine += own(*pool, list->ids[i]);
    uint32_t fresh = want > mine ? want - mine : 0;
    if (!reserve(pool, fresh)) return KEEL_E_KV_FULL;
    drop_copy(pool, list);
    // Own pages are used again: want - fresh of them, gathered at the front.
    uint32_t kept = 0;
    for (uint32_t i = 0; i < list->count; ++i) {
        const uint32_t id = list->ids[i];
        if (kept < want - fresh && own(*pool, id))
            list->ids[kept++] = id;
        else
            drop(pool, id);
    }
    // From the end, fresh ones first: a place is filled before a gathered page could be overwritten there.
    for (uint32_t i = count; i-- > 0;) {
        if (gone(i))
            list->ids[i] = kNoPage;
        else if (fresh)
            list->ids[i] = take(pool), --fresh;
        else
            list->ids[i] = list->ids[--kept];
    }
    list->count = count;
    return KEEL_OK;
}

uint32_t kv_evict(KvPool* pool, KvPageList* list, uint32_t first, uint32_t last) {
    drop_copy(pool, list);
    uint32_t evicted = 0;
    for (uint32_t page = first; page < last; ++page) {
        if (list->ids[page] == kNoPage) continue;
        drop(pool, list->ids[page]);
        list->ids[page] = kNoPage;
        ++evicted;
    }
    return evicted;
}

bool kv_owns(const KvPool& pool, const KvPageList& list, uint32_t first, uint32_t last) {
    bool owned = true;
    for (uint32_t page = first; page < last; ++page) owned &= own(pool, list.ids[page]);
    return owned;
}

void kv_release(KvPool* pool, KvPageList* list) {
    drop_copy(pool, list);
    list->reserved = 0;
    drop_from(pool, list, 0);
}

void kv_fork(KvPool* pool, const KvPageList& from, KvPageList* to, uint32_t tokens) {
    for (uint32_t i = 0; i < kv_pages_for(tokens); ++i) {
        if (from.ids[i] != kNoPage) pool->references[from.ids[i]].fetch_add(1, std::memory_order_relaxed);
        append(to, from.ids[i]);
    }
}

KvUsage kv_usage(const KvPool& pool) {
    return {pool.free_count.load(std::memory_order_relaxed), pool.high_water_pages.load(std::memory_order_relaxed)};
}

}  // namespace keel
