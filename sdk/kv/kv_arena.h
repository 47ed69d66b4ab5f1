// The KV arena: fixed pages of kPageTokens positions, shared by all sessions of an engine.
//
// One page holds every layer's K and V rows of its positions. Each head has two planes of fixed-stride rows, codes and
// scales (kernels/formats/kv_formats.h), each rounded up to 16 bytes; the formats may differ from layer to layer:
//
//     page | layer 0: K head 0 codes | scales | K head 1 codes | scales | ... | V head 0 codes | scales | ... | layer 1
//
// A session is a list of page ids; where a page lies only the backend knows. Pages are reference-counted: a fork shares
// all of them, and a session that appends into a shared page copies it first. Nothing here changes when a needed page
// is missing: KEEL_E_KV_FULL comes first.
#pragma once
#include <atomic>

#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"

namespace keel {

constexpr uint32_t kPageTokens = 64;
static_assert(kPageTokens % kernels::kAttentionTile == 0);

// The formats of one layer and how its lattice and trellis rows are scaled.
struct KvLayerFormats {
    kernels::KvFormat k, v;
    kernels::KvScaleMode k_scale, v_scale;
};

// One layer of a page: the planes of head 0, and how far those of the next head lie behind.
struct KvLayer {
    kernels::KvPlane k, v;
    kernels::KvScaleMode k_scale, v_scale;
    uint64_t k_head_bytes, v_head_bytes;

    kernels::KvPlane k_head(uint32_t head) const { return moved(k, head * k_head_bytes); }
    kernels::KvPlane v_head(uint32_t head) const { return moved(v, head * v_head_bytes); }

  private:
    static kernels::KvPlane moved(kernels::KvPlane p, uint64_t bytes) {
        p.codes += bytes;
        p.scales += bytes;
        return p;
    }
};

struct KvGeometry {
    uint32_t layers, kv_heads, head_dim;
    uint64_t page_bytes;   // all parts (KvPart in program.h)
    uint64_t row_bytes;    // of one position: all layers and heads, K and V
    const KvLayer* layer;  // [layers]
};
// Lays out one layer behind `*page_bytes`, which grows by it. The formats fit head_dim.
KvLayer kv_layer(uint32_t kv_heads, uint32_t head_dim, const KvLayerFormats& formats, uint64_t* page_bytes);
// Whether a row of head_dim elements can have the format.
inline bool kv_format_fits(kernels::KvFormat format, uint32_t head_dim) {
    return head_dim <= kernels::kMaxHeadDim && head_dim % kernels::kKvFormats[format].multiple == 0;
}

inline uint32_t kv_pages_for(uint32_t tokens) {
    return (tokens + kPageTokens - 1) / kPageTokens;
}

// The pages of an engine, taken and given back by sessions on different threads without a lock: no thread ever waits
// for another one, whatever their priorities. Free pages are a linked stack; its head carries a number that changes
// with every push and pop, so that a page that went and came back is not mistaken for one that stayed.
struct KvPool {
    uint32_t page_count;
    std::atomic<uint32_t> free_count;  // free pages that nobody has reserved; never more than the stack holds
    std::atomic<uint32_t> high_water_pages;
    std::atomic<uint64_t> head;         // number << 32 | first free page, or kNoPage
    std::atomic<uint32_t>* next_free;   // per page: the one below it in the stack
    std::atomic<uint32_t>* references;  // per page; 0 = free
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);
// All pages are free. next_free and references: [page_count], contents ignored.
void kv_pool_init(KvPool* pool, uint32_t page_count, std::atomic<uint32_t>* next_free,
                  std::atomic<uint32_t>* references);

constexpr uint32_t kNoPage = UINT32_MAX;

// A session's pages, in position order. The array has room for the session's longest context. A page that was evicted
// has the id kNoPage: attention passes over its positions.
struct KvPageList {
    uint32_t* ids;
    uint32_t count;
    uint32_t reserved;  // truncation keeps at least this many
    // A shared page that is being replaced by a copy: the copy, while its bytes are on their way. None: kNoPage. Every
    // change of the list gives it up.
    uint32_t copy_id;
    uint32_t copy_index;  // of the page in `ids`
    uint64_t copied_bytes;
};

// Makes positions [from, to) writable: takes missing pages and replaces shared ones (reserved pages that truncation
// kept may be shared with a fork) by own ones. All or nothing: KEEL_E_KV_FULL leaves everything as it was. Where rows
// before `from` have to be copied, copy_id is set: the caller copies bytes [copied_bytes, page_bytes) of page
// ids[copy_index] to page copy_id, at once or piece by piece, and calls kv_copied before anything is written.
keel_status kv_make_writable(KvPool* pool, KvPageList* list, uint32_t from, uint32_t to);
// The copy is complete: it takes the place of the shared page.
void kv_copied(KvPool* pool, KvPageList* list);
// Gives back the pages that positions [0, tokens) do not need, down to list->reserved.
void kv_truncate(KvPool* pool, KvPageList* list, uint32_t tokens);
// Gives up the list's pages and has own ones for `tokens` positions, contents unknown, but for those of which bit i of
// evicted (null: none) is set; KEEL_E_KV_FULL changes nothing.
keel_status kv_replace(KvPool* pool, KvPageList* list, uint32_t tokens, const uint8_t* evicted);
// Gives back pages [first, last), whose positions keep their place. Returns how many there were.
uint32_t kv_evict(KvPool* pool, KvPageList* list, uint32_t first, uint32_t last);
// Whether pages [first, last) are all the list's own: none is shared and none was evicted.
bool kv_owns(const KvPool& pool, const KvPageList& list, uint32_t first, uint32_t last);
// Gives back every page, reserved ones too.
void kv_release(KvPool* pool, KvPageList* list);
// Makes `to` (empty) hold the first `tokens` positions of `from`. All pages are shared, a partial one too, which may
// have rows of `from` behind those positions.
void kv_fork(KvPool* pool, const KvPageList& from, KvPageList* to, uint32_t tokens);

struct KvUsage {
    uint32_t free_pages, high_water_pages;
};
KvUsage kv_usage(const KvPool& pool);  // any thread

}  // namespace keel
