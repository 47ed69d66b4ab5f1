// Token trees: several continuations of a session verified in one go. Internal, not part of the API.
//
//     feed_tree -> keel_advance, keel_session_logits of each node -> accept a path, or truncate to where the tree began
//
// A tree is the session's tail. Its nodes are fed parents first; node i is token and KV row (slot) number base + i,
// with base the tokens before it, but its position is base + depth: it sees those tokens and its ancestors. Each node's
// logits have the bits of plain decoding of its path (NUMERICS section 5), and so has all that an accepted path leaves,
// but for how far the ring of recent rows has moved: by slots, and so perhaps a page further than by the path alone.
//
// Meanwhile the session takes no other tokens and is not sampled or saved (KEEL_E_STATE); a fork of it has no tree.
#pragma once
#include "keel/keel.h"
#include "sdk/plan/step.h"

namespace keel {

struct TokenTree {
    uint32_t first;  // token number of node 0; kNoNode: the session has no tree
    uint32_t parent[kMaxTreeNodes], depth[kMaxTreeNodes];
};

// parents[i]: a node below i, or kNoNode for one that follows the session's last token. Logits of nodes are read as
// with KEEL_FEED_ALL_LOGITS. KEEL_E_ARGUMENT: no tree, an unknown token, or more nodes than a step or kMaxTreeNodes;
// KEEL_E_STATE: tokens are pending, there is a tree, or positions of it would be sinks; KEEL_E_CONTEXT_FULL;
// KEEL_E_BUSY.
keel_status session_feed_tree(keel_session session, const int32_t* tokens, const uint32_t* parents, uint32_t count);

// The nodes of `path`, a root and then child after child, become the session's tokens, as if they alone had been fed;
// the others are forgotten. Logits of the last one stay readable, as row 0, if they were of the newest step.
// KEEL_E_STATE: there is no tree, or a node of the path is not computed; KEEL_E_ARGUMENT: no path; KEEL_E_BUSY.
keel_status session_accept(keel_session session, const uint32_t* path, uint32_t count);

// What the session's grammar allows behind a node: keel_session_allowed of the text on its path, without the other
// nodes. Errors as there; KEEL_E_STATE: there is no tree.
keel_status session_node_allowed(keel_session session, uint32_t node, uint8_t* mask, size_t capacity_bytes);

}  // namespace keel
