// One forward step as data: flat arrays of numbers, no address among them, so that a backend can take them as they are
// or upload them. sdk/run fills them; they do not change until the step is over.
#pragma once
#include "keel/keel.h"
#include "sdk/kv/kv_f16_window.h"

namespace keel {

constexpr uint32_t kQueryBlockTokens = 8;  // most tokens of a query block
constexpr uint32_t kMaxTreeNodes = 128;    // most tokens of a tree and of what stands in front of it in its step
constexpr uint32_t kNoNode = UINT32_MAX;

// Consecutive tokens of one session that attention handles together.
struct QueryBlock {
    uint32_t first, tokens;
};

struct Step {
    keel_variant variant;  // of all its sessions
    uint32_t op_list;      // of the plan's: by the variant, or kAdaptedList
    uint32_t tokens, sessions, query_blocks, logits_rows;
    uint32_t longest;  // positions that the longest session sees
    bool decode;       // one token per session

    // Per token, [chunk_tokens]. Tokens of one session follow one another.
    int32_t* token;
    int32_t* token_before;  // at the position before: of a draft, what it follows; -1: none
    uint32_t* position;     // of RoPE and of visibility
    uint32_t* slot;         // KV row of its session that the token is stored in: its position, but in a tree
    uint32_t* session;      // index into what is per session below

    QueryBlock* query_block;  // [chunk_tokens]

    // Per row of logits, [chunk_tokens].
    uint32_t* logits_token;  // the token whose logits it has
    uint32_t* logits_row;    // where it goes: row of Program::logits and Program::hidden

    // Per session of the step, [max_sessions].
    uint32_t* session_index;  // among the engine's sessions: which f16 window (kv_f16_window.h) is its own
    KvRecentRows* recent;     // where its recent rows are; not read where none are kept
    uint64_t* session_id;     // its handle, for taps (keel_lab.h)
    uint32_t* adapter;        // KEEL_ADAPTER_OFF: none
    float* adapter_scale;
    uint32_t* page_first;  // [max_sessions + 1]: its pages are page_id[page_first[i]] .. page_id[page_first[i + 1])
    uint32_t* page_id;     // [max_sessions][pages of a context], packed; kNoPage: evicted, seen by nobody
    // A session whose tail is a tree: positions from tail_first on are read from slots of nodes. Node i is in slot
    // tail_first + i, and sees its ancestors of the tail only.
    uint32_t* tail_first;   // kNoNode: no tree
    uint32_t* tail_parent;  // [max_sessions][kMaxTreeNodes]: the node in front of node i, kNoNode: of none in the tail
};

}  // namespace keel
