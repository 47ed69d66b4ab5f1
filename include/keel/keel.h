/*
 * keel.h - Keel, a static LLM inference SDK. This header is the manual. C11; keel.hpp wraps it for C++20.
 *
 * Keel runs a GGUF language model inside memory the caller owns. Three parts:
 *
 *     Basic         from a file to text: the functions of samples/hello.c, in the order it calls them
 *     Full          every struct, and the other functions: fork, truncate, save, stop strings, chat, the plan as data
 *     Experimental  what is declared when KEEL_EXPERIMENTAL is defined before this header: KV formats, KV profiles,
 *                   the low-rank variant. It may change in any release. Structs are laid out the same without it.
 *
 * After keel_engine_init Keel does not allocate, throw, abort, print or block on anything but its own threads.
 *
 * Rules that hold for every function
 *   - It returns a keel_status; results go through out-parameters, which are untouched on error unless said otherwise.
 *   - Structs go by pointer and begin with struct_size = sizeof(the struct), so that a caller built with an older or a
 *     newer header works. Read: missing tail fields are zero, and zero always means "the default"; extra bytes of a
 *     larger struct, or reserved fields, that are not zero are KEEL_E_ABI. Written: no more than struct_size bytes;
 *     fields this library does not know become zero. A struct_size below 4 or more than 256 above this library's is
 *     KEEL_E_ABI before anything is touched: it was not set. C: keel_config c = KEEL_CONFIG_INIT; C++: keel.hpp.
 *   - In an array of such structs element 0's struct_size is the distance to the next element; others' are not read.
 *   - Structs without struct_size never change: handles, keel_region, keel_region_plan, keel_region_stats. No other
 *     struct lies inside a struct.
 *   - Handles are generation-checked: a closed or made-up handle is KEEL_E_HANDLE, never a crash.
 *   - Text is UTF-8 with an explicit length and need not end in NUL, unless said otherwise.
 *   - Nothing is written to stdout or stderr. Hooks are silent until the caller sets them.
 *
 * Threads
 *   | object                  | rule                                                                                  |
 *   | keel_model, readers     | const after keel_inspect; any thread                                                  |
 *   | keel_engine             | immutable after init; tokenize, detokenize, info from any thread                      |
 *   | keel_advance            | one call at a time per engine, keel_session_draft with its sessions too; KEEL_E_BUSY  |
 *   | keel_session            | one thread at a time; KEEL_E_BUSY while another call works on it                      |
 *   | keel_cancel             | any thread, any time, also while keel_advance runs                                    |
 *   | closing                 | no other call may run on what is closed; a handle used after it is KEEL_E_HANDLE      |
 *   A thread that calls Keel has 256 KiB of stack, as Keel's own have. At most 16 engines live in a process at once.
 *
 * Memory and NUMA
 *   Keel moves no page. Memory lies on the node of the thread that touches it first: the caller's (keel_memory_default
 *   touches every page), else that of keel_engine_init, which copies the weights in the calling thread. Worker threads
 *   inherit its affinity mask. On a machine of several nodes bind a process, or the thread that allocates and
 *   initialises, to one node per engine (numactl --cpunodebind --membind).
 *
 * Determinism (sdk/NUMERICS.md)
 *   Same model, same tokens, same seed, same CPU kernel set: same bits, for any thread count, chunk size, time budget,
 *   truncate-and-redo, fork, save and restore, whatever other sessions share the batch and whatever drafts there are.
 *   Who gives that up for speed says KEEL_NUMERICS_DEVICE.
 */
#ifndef KEEL_KEEL_H
#define KEEL_KEEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KEEL_VERSION_MAJOR 0
#define KEEL_VERSION_MINOR 2
#define KEEL_VERSION_PATCH 0
#define KEEL_API_VERSION 2u

/* Exported by libkeel.so and keel.dll. In the static library they are hidden: a plugin that holds one exports none. */
#if !defined(KEEL_BUILDING_SHARED)
#define KEEL_API
#elif defined(_WIN32)
#define KEEL_API __declspec(dllexport)
#else
#define KEEL_API __attribute__((visibility("default")))
#endif

/* ---------------------------------------------------------------------------------------------------------------------
 * Status codes. Grouped in tens by topic; codes below 100 never change their number or meaning.
 * X(symbol, number, what it means)
 */
#define KEEL_STATUS_LIST(X)                                                                              \
    X(KEEL_OK, 0, "done")                                                                                \
    X(KEEL_AGAIN, 1, "budget spent; call again to continue where it stopped")                            \
    X(KEEL_E_ARGUMENT, 10, "an argument is null, out of range or contradicts another")                   \
    X(KEEL_E_ABI, 11, "struct_size or api_version does not fit this library")                            \
    X(KEEL_E_STATE, 12, "the object is not in a state that allows this call")                            \
    X(KEEL_E_HANDLE, 13, "the handle was never valid or its object is closed")                           \
    X(KEEL_E_BUSY, 14, "another call or an unfinished step holds the object")                            \
    X(KEEL_E_SLOTS_FULL, 15, "no engine or session slot is free")                                        \
    X(KEEL_E_MEMORY_TOO_SMALL, 20, "a region is smaller than the plan")                                  \
    X(KEEL_E_MEMORY_ALIGN, 21, "a region is not aligned as the plan says")                               \
    X(KEEL_E_BUFFER_TOO_SMALL, 22, "an output buffer is too small; the needed size was returned")        \
    X(KEEL_E_FILE_READ, 30, "the reader failed or ended early")                                          \
    X(KEEL_E_FILE_FORMAT, 31, "the file contradicts its format")                                         \
    X(KEEL_E_FILE_LIMIT, 32, "the file exceeds a limit of keel_limits")                                  \
    X(KEEL_E_UNSUPPORTED, 33, "well formed, but this library has no support for it")                     \
    X(KEEL_E_FILE_MISMATCH, 34, "well formed, but made for another model or configuration")              \
    X(KEEL_E_FILE_MISSING, 35, "there is no such file")                                                  \
    X(KEEL_E_FILE_PERMISSION, 36, "no permission to read the file, or another program holds it")         \
    X(KEEL_E_FILE_KIND, 37, "a directory, pipe or device where a file is needed")                        \
    X(KEEL_E_CONTEXT_FULL, 40, "the session's context has no room for more tokens")                      \
    X(KEEL_E_KV_FULL, 41, "no free KV page; nothing was changed")                                        \
    X(KEEL_E_CANCELLED, 42, "keel_cancel stopped the call")                                              \
    X(KEEL_E_NO_LOGITS, 43, "the session has no logits: feed and advance first")                         \
    X(KEEL_E_NUMERIC, 44, "logits are not finite, or no token is allowed")                               \
    X(KEEL_E_TEXT_LIMIT, 45, "a run of text without a safe split point exceeds the planned work buffer") \
    X(KEEL_E_PLATFORM, 50, "the operating system refused (threads, mapping, locking)")                   \
    X(KEEL_E_POISONED, 51, "an internal invariant broke; only stats, info and close still work")         \
    X(KEEL_E_DEVICE, 52, "the device or its driver is missing, refused or failed")

typedef enum keel_status {
#define KEEL_STATUS_ENUM(symbol, number, text) symbol = number,
    KEEL_STATUS_LIST(KEEL_STATUS_ENUM)
#undef KEEL_STATUS_ENUM
} keel_status;

/* ---------------------------------------------------------------------------------------------------------------------
 * Basic: from a file to text.
 *
 *     file ──> keel_inspect ──> keel_model
 *                                   │
 *     keel_config ──> keel_plan ──> keel_memory_plan: exact bytes and alignment of every region
 *                                   │
 *     your memory ──> keel_engine_init        whatever can fail for lack of memory fails here
 *                                   │
 *     keel_session_open ──> feed ──> advance ──> sample ──> text, and feed again
 */
typedef struct keel_engine {
    uint64_t id; /* 0 is no engine */
} keel_engine;
typedef struct keel_session {
    uint64_t id; /* 0 is no session */
} keel_session;
typedef struct keel_model keel_model; /* opaque; lies in the buffer handed to keel_inspect; position-independent */

/* The fields of these structs stand in part "Full". Zero is the default of every field but struct_size. */
typedef struct keel_reader keel_reader;           /* where the bytes of a file come from */
typedef struct keel_limits keel_limits;           /* against hostile files */
typedef struct keel_model_info keel_model_info;   /* what a file holds */
typedef struct keel_config keel_config;           /* context_tokens, weights, threads, ... */
typedef struct keel_memory_plan keel_memory_plan; /* regions[kind].bytes and .align_bytes, and what they are made of */
typedef struct keel_memory keel_memory;           /* regions[kind].data and .bytes */
typedef struct keel_session_desc keel_session_desc; /* rarely needed */
typedef struct keel_sampling keel_sampling;         /* temperature, top_p, seed, ... */
typedef struct keel_error keel_error;               /* which field of a file or configuration is wrong, and why */

/* Opens and maps a file read-only; `path` is UTF-8 and ends in NUL. Close with keel_reader_close after the last engine
 * that uses it. KEEL_E_FILE_MISSING, KEEL_E_FILE_PERMISSION, KEEL_E_FILE_KIND; KEEL_E_PLATFORM when it cannot be mapped
 * or the process has too many files open; KEEL_E_FILE_READ when it cannot be opened for another reason.
 * What Keel copies, weights included, is read from the file, so that one cut short meanwhile is KEEL_E_FILE_READ. */
KEEL_API keel_status keel_reader_open_file(const char* path, keel_reader* out);
/* Closes what keel_reader_open_file opened; does nothing to other readers. */
KEEL_API void keel_reader_close(keel_reader* reader);

/* Validates the whole header of a GGUF v2/v3 file and describes it; of the weights it reads 256 bytes of
 * every tensor, for info.fingerprint.
 *   buffer, buffer_bytes  where the keel_model goes (8-byte aligned). NULL, 0 asks for the size: *info then has
 *                         gguf_version, file_bytes, tensors and model_bytes, and nothing else
 *   limits, model, info, error  may be NULL; model receives the pointer into buffer
 * Errors: KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT, KEEL_E_FILE_LIMIT, KEEL_E_UNSUPPORTED (names the architecture, tensor
 * or type), KEEL_E_BUFFER_TOO_SMALL (*info as with NULL, 0). */
KEEL_API keel_status keel_inspect(const keel_reader* reader, const keel_limits* limits, void* buffer,
                                  size_t buffer_bytes, const keel_model** model, keel_model_info* info,
                                  keel_error* error);

/* Exact memory of an engine for this model and configuration. The same function that sizes here places in init.
 * Errors: KEEL_E_ARGUMENT, KEEL_E_ABI, KEEL_E_UNSUPPORTED (a CPU path, format or shape this build lacks),
 * KEEL_E_FILE_MISMATCH (the reader has another size than the file that was inspected); those of the parts. */
KEEL_API keel_status keel_plan(const keel_reader* reader, const keel_model* model, const keel_config* config,
                               keel_memory_plan* out, keel_error* error);

/* Places everything into `memory`, loads or maps weights, starts threads. `model` and its buffer are not needed after.
 * A region one byte short is KEEL_E_MEMORY_TOO_SMALL with the region in error->field; nothing is left behind.
 * KEEL_E_ARGUMENT: regions that overlap each other, the model's buffer, a mapped file (the model's or a part's) or
 * memory of a living engine.
 * KEEL_E_FILE_MISMATCH: not the file that was inspected, by header and samples of the weights (info.fingerprint).
 * Errors: as keel_plan, and KEEL_E_MEMORY_TOO_SMALL, KEEL_E_MEMORY_ALIGN, KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT,
 * KEEL_E_CANCELLED (progress hook), KEEL_E_PLATFORM, KEEL_E_SLOTS_FULL (16 engines live). */
KEEL_API keel_status keel_engine_init(const keel_reader* reader, const keel_model* model, const keel_config* config,
                                      const keel_memory* memory, keel_engine* out, keel_error* error);
/* Closes all its sessions, stops its threads. The caller may then reuse the memory. KEEL_E_BUSY while advancing, and
 * while a call uses one of its sessions: also from a hook of that call. */
KEEL_API keel_status keel_engine_close(keel_engine engine);

/* Opens a session slot. `desc` may be NULL. KEEL_E_SLOTS_FULL, KEEL_E_KV_FULL (reserved_pages not available),
 * KEEL_E_ARGUMENT (more of them than a context has). */
KEEL_API keel_status keel_session_open(keel_engine engine, const keel_session_desc* desc, keel_session* out);

enum {
    KEEL_TOKENIZE_SPECIAL = 1u, /* recognise special tokens written in the text ("<|im_start|>") */
    KEEL_TOKENIZE_BOS = 2u      /* begin as the model wants a sequence to begin (one BOS if the file says so) */
};
/* Text to ids. ids may be NULL with capacity 0: then only *count is filled (KEEL_OK). With a capacity too small:
 * KEEL_E_BUFFER_TOO_SMALL and *count is the need. Without KEEL_TOKENIZE_SPECIAL no text becomes a control token.
 * Invalid UTF-8 is encoded byte by byte; a byte for which the vocabulary has no token is its unknown token, or lost.
 * KEEL_E_TEXT_LIMIT: a run of text is longer than config.max_text_bytes (keel_engine_last_error says at which byte it
 * begins). KEEL_E_BUSY: two threads have a run of more than 256 bytes that cannot be split at once. */
KEEL_API keel_status keel_tokenize(keel_engine engine, const char* text, size_t bytes, uint32_t flags, int32_t* ids,
                                   size_t capacity, size_t* count);

enum {
    KEEL_FEED_ALL_LOGITS = 1u, /* keep logits of every fed position: advance then stops after each step */
    /* keel_advance draws the next token as soon as the last of these is computed, within its budget; what
     * keel_session_sample returns is the same, and only looked up. */
    KEEL_FEED_SAMPLE = 2u
};

/* Appends tokens to be computed by the next keel_advance. No computation happens here.
 * Errors: KEEL_E_ARGUMENT (an id outside the vocabulary), KEEL_E_CONTEXT_FULL, KEEL_E_BUSY (step unfinished),
 * KEEL_E_STATE (tokens fed with other flags are still pending). All or nothing. */
KEEL_API keel_status keel_session_feed(keel_session session, const int32_t* tokens, uint32_t count, uint32_t flags);

/* Guesses how the session goes on, to make it faster: tokens that might be drawn behind those that are pending, which
 * were fed with KEEL_FEED_SAMPLE alone. What is drawn is the same with and without, whatever is guessed; only rows of
 * logits behind a wrong guess, and the time they took, are lost.
 *
 *     feed(prompt, SAMPLE) ──> propose(a b c) ──> advance                     all in one step: prompt a b c
 *                                                    │ draws a, then b, then x: a and b were right, c is forgotten
 *         ┌──────────────────────────────────────────┘
 *         │   accepted_tokens 2      a and b are tokens of the session now, as if they had been sampled and fed
 *         │   keel_session_sample    x, not fed yet
 *         └──> feed(x, SAMPLE) ──> propose(...) ──> advance ...
 *
 * The step that computes the last pending token takes drafts along, from the first on: as many as keep the sessions of
 * one step within config.draft_tokens and chunk_tokens, find free KV pages, and in a call with a budget are predicted
 * to be computed and drawn within it. A step that goes over several calls anyway takes all of them: it lasts longer and
 * brings more, and the call that ends it draws as many as it has time for. A drawn end id is not accepted: it is what
 * keel_session_sample says. Who stops before the last accepted token truncates.
 * Replaces what was proposed before, count 0 by nothing. Used or not, forgotten when the pending tokens are computed,
 * and by feed, truncate, shift and restore; forks and saved sessions have none; cancelling keeps it.
 * KEEL_E_ARGUMENT: an id outside the vocabulary. KEEL_E_STATE: config.draft_tokens is 0, or nothing is pending that was
 * fed so. KEEL_E_BUSY (step unfinished). More than config.draft_tokens, or than the context has room for, are cut. */
KEEL_API keel_status keel_session_propose(keel_session session, const int32_t* tokens, uint32_t count);

/* As a draft's parent: the last of the pending tokens. */
#define KEEL_DRAFT_AT_END UINT32_MAX
/* The same with several guesses for a place, all of them computed in one step: parents[i] is the number of the draft
 * that tokens[i] would follow, below i, or KEEL_DRAFT_AT_END.
 *
 *     tokens    a   b   c   d          pending ──> a ──> c         one of five: nothing, a, ac, b, bd
 *     parents  END END  0   1                  └──> b ──> d        is what the session goes on with, and one token more
 *
 * Several may be KEEL_DRAFT_AT_END. Of equal tokens with one parent the first one counts. Every draft takes a slot of
 * the context, of config.draft_tokens and of chunk_tokens for the time of the step. The last ones are those that are
 * cut, so that the best ones go first; beyond 127 all are. In steps that compute some of the first kv_sink_tokens
 * positions, or more than 113 pending tokens, the first path is all that is taken: the first draft of each place.
 * Who proposes first what is most likely has the fewest K and V rows moved. Everything else as above; KEEL_E_ARGUMENT
 * also where a parent does not come before its draft. */
KEEL_API keel_status keel_session_propose_tree(keel_session session, const int32_t* tokens, const uint32_t* parents,
                                               uint32_t count);

/* Proposes what a faster model draws: `drafter`, a session of an engine with the same vocabulary (a smaller model, or a
 * coarser file of the same one), gets this session's tokens and goes on from there, with this session's sampling, seed
 * and positions, so that at a temperature it agrees as often as the two distributions do. Call it before keel_advance:
 *
 *     feed(x, SAMPLE) ──> keel_session_draft(session, drafter, 0, NULL) ──> advance ...
 *
 *   drafter    keeps what it has in common with the session, so use one for one session. Its tokens and sampling are
 *              this call's; it is not held to the session's grammar, which drafts then do not meet, and the hook it
 *              meets is that of its own engine. It takes no drafts itself, its tokens do not count and nothing learns
 *              from them, nor in a fork, until it is restored, or truncated to 0 tokens and fed.
 *              `session` itself: its low-rank variant drafts over the session's own KV rows (Experimental), which are
 *              the dense ones again afterwards, bit for bit. Not behind more than one pending token.
 *   budget_us  time from entering the call; 0: none. Drafts that are there by then are proposed; what the drafter has
 *              begun it goes on with in the next call. KEEL_AGAIN: there is none yet.
 *   *count     (may be NULL) how many were proposed: as many as pay, by how often such drafts were right in this
 *              session and by the step costs of both plans over their threads; none where config.drafters have some.
 *              What drafts cost beyond what they bring is at most 4 steps and 1.2 % of the session's, by these costs;
 *              the drafter's time for tokens that were fed comes on top.
 * Both sessions, and the drafter's engine as in keel_advance, are used by this call: KEEL_E_BUSY if another has one of
 * them, or a step is unfinished that is not the drafter's. KEEL_E_FILE_MISMATCH: another vocabulary
 * (keel_stats.vocabulary_hash). KEEL_E_STATE: as keel_session_propose; no low-rank variant, or an adapter beside it.
 * KEEL_E_KV_FULL and KEEL_E_CANCELLED are the drafter's; what was drafted before is proposed. */
KEEL_API keel_status keel_session_draft(keel_session session, keel_session drafter, uint64_t budget_us,
                                        uint32_t* count);

typedef struct keel_advance_result {
    uint32_t struct_size;
    keel_status status; /* KEEL_OK: nothing pending (or, with ALL_LOGITS, one step done); KEEL_AGAIN; or an error */
    uint32_t computed_tokens; /* positions whose K and V are in the arena now */
    uint32_t pending_tokens;  /* fed, not yet computed */
    uint32_t logits_rows;     /* rows keel_session_logits can show */
    /* The session's last so many tokens were proposed and then drawn, since the newest feed. */
    uint32_t accepted_tokens;
} keel_advance_result;

/* Computes pending tokens of `count` sessions of one engine together. Every session's result is bit-identical to
 * running it alone.
 *   budget_us   time from entering the call; 0 = until every session is done; else return KEEL_AGAIN once the next
 *               group of work items, or tile of a KV page to be copied, is predicted not to fit. A later call continues
 *               there, in prefill and decode alike. A step once begun belongs to its sessions: the next call must name
 *               all of them (KEEL_E_BUSY otherwise) and may name more, which join at the next step. On a backend that
 *               computes asynchronously the same call enqueues up to the budget and polls.
 *               A draw of KEEL_FEED_SAMPLE is one piece, predicted to take as long as the last one and put off when
 *               that does not fit; one that takes longer ends so much later.
 *               Outside of it: keel_session_sample without KEEL_FEED_SAMPLE (passes over the vocabulary; 0.2 to 0.4 ms
 *               for 150,000 tokens as a model weighs them, 0.9 with typical_p, 0.5 to 1.3 ms where most are about
 *               equally probable), the mask of a grammar where it is in a state not met lately (a walk over the
 *               vocabulary: for 49,000 tokens 0.04 ms at the median of a JSON schema, 0.95 at its 99th percentile, 1.2
 *               at most, and more for grammars made to be slow; in a draw and in keel_session_allowed alike), a hook,
 *               keel_session_fork (copies logits and rows of sinks and recent positions), keel_session_shift (some 1 us
 *               for every position, layer and KV head that moves), save and restore.
 *   results     count entries, of which the first one's struct_size is set; each filled also when the call fails (with
 *               its status and zeros when it is refused whole)
 * Returns KEEL_OK when every session is done, KEEL_AGAIN, KEEL_E_KV_FULL / KEEL_E_CANCELLED if any session stopped so
 * (its result says which, the others went on), or an error about the call itself. */
KEEL_API keel_status keel_advance(keel_engine engine, const keel_session* sessions, uint32_t count, uint64_t budget_us,
                                  keel_advance_result* results);

/* Copies the parameters into the session. NULL restores greedy. KEEL_E_ARGUMENT on NaN or out-of-range values. */
KEEL_API keel_status keel_session_set_sampling(keel_session session, const keel_sampling* sampling);
/* Draws the next token from the newest logits row; does not feed it. Drawing twice gives the same token.
 * KEEL_E_NO_LOGITS, KEEL_E_NUMERIC. */
KEEL_API keel_status keel_session_sample(keel_session session, int32_t* token);

typedef struct keel_text {
    uint32_t struct_size;
    uint32_t stopped; /* 1: a stop string was completed (it is not in the text); 2: one of the session's end ids */
    const char* data; /* text that may be shown now: whole UTF-8 characters, nothing that may begin a stop string */
    size_t bytes;
} keel_text;
/* Streams text: give every generated token once, in order, before or after it is fed. Bytes of an unfinished character
 * or of a possible stop string are held back until decided; those of tokens that the session forgets (truncate,
 * restore) are forgotten with them. token -1 flushes what is held back. data is valid until the next call on the
 * session. */
KEEL_API keel_status keel_session_text(keel_session session, int32_t token, keel_text* out);

/* Frees the slot and its pages; an unfinished step it takes part in is abandoned for all its sessions, whose fed tokens
 * stay pending. KEEL_E_BUSY while another thread computes that step: nothing is closed. keel_engine_close closes the
 * sessions that are open. */
KEEL_API keel_status keel_session_close(keel_session session);

/* ---------------------------------------------------------------------------------------------------------------------
 * Full: status, version, errors.
 */

/* The symbol of a status as text ("KEEL_E_KV_FULL"), static storage; "KEEL_E_UNKNOWN" for a number not in the list. */
KEEL_API const char* keel_status_name(keel_status status);
/* One line of meaning, static storage. */
KEEL_API const char* keel_status_text(keel_status status);
/* Version of the library as linked: major << 16 | minor << 8 | patch. */
KEEL_API uint32_t keel_version(void);

/* Detail of an error in a file or a configuration: which field, at which byte, and why. Every function that reads a
 * file takes an optional pointer to one and fills it on error only. Errors that say all there is (of a handle, of a
 * state, KEEL_E_BUSY, KEEL_E_KV_FULL) may leave it: it belongs to a result where error->status is that result. */
struct keel_error {
    uint32_t struct_size;
    keel_status status;
    uint64_t offset;  /* byte offset in the file, or 0 where no file position applies */
    char field[96];   /* NUL-terminated: key, tensor or struct field, cut if longer */
    char reason[128]; /* NUL-terminated */
};

/* The detail of the newest KEEL_E_ARGUMENT, and of other errors that have a field, of calls on this engine and its
 * sessions: which parameter, and its value and range. status KEEL_OK: none so far. Any thread; of calls that fail on
 * several threads at once one is kept. KEEL_E_BUSY when one is being written. */
KEEL_API keel_status keel_engine_last_error(keel_engine engine, keel_error* out);

/* A struct with its struct_size set and every default: keel_config c = KEEL_CONFIG_INIT. */
#define KEEL_INIT(type) \
    { .struct_size = (uint32_t)sizeof(type) }
#define KEEL_ADVANCE_RESULT_INIT KEEL_INIT(keel_advance_result)
#define KEEL_TEXT_INIT KEEL_INIT(keel_text)
#define KEEL_ERROR_INIT KEEL_INIT(keel_error)
#define KEEL_READER_INIT KEEL_INIT(keel_reader)
#define KEEL_LIMITS_INIT KEEL_INIT(keel_limits)
#define KEEL_MODEL_INFO_INIT KEEL_INIT(keel_model_info)
#define KEEL_HOOKS_INIT KEEL_INIT(keel_hooks)
#define KEEL_PART_INIT KEEL_INIT(keel_part)
#define KEEL_GRAMMAR_OPTIONS_INIT KEEL_INIT(keel_grammar_options)
#define KEEL_PACK_SECTION_INIT KEEL_INIT(keel_pack_section)
#define KEEL_CONFIG_INIT KEEL_INIT(keel_config)
#define KEEL_MEMORY_PLAN_INIT KEEL_INIT(keel_memory_plan)
#define KEEL_MEMORY_INIT KEEL_INIT(keel_memory)
#define KEEL_STATS_INIT KEEL_INIT(keel_stats)
#define KEEL_OP_INFO_INIT KEEL_INIT(keel_op_info)
#define KEEL_BUFFER_INFO_INIT KEEL_INIT(keel_buffer_info)
#define KEEL_SESSION_DESC_INIT KEEL_INIT(keel_session_desc)
#define KEEL_SAMPLING_INIT KEEL_INIT(keel_sampling)
#define KEEL_SESSION_INFO_INIT KEEL_INIT(keel_session_info)
#define KEEL_CHAT_MESSAGE_INIT KEEL_INIT(keel_chat_message)
#define KEEL_CHAT_INIT KEEL_INIT(keel_chat)
#define KEEL_WPROJ_OPTIONS_INIT KEEL_INIT(keel_wproj_options) /* Experimental */

/* ---------------------------------------------------------------------------------------------------------------------
 * Readers: where bytes come from. A file, a memory block, a pack, an encrypted asset: fill one struct.
 */
struct keel_reader {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t size_bytes; /* total size of the file */
    /* Copies exactly `bytes` bytes from `offset` to `dst`. Keel never asks beyond size_bytes. Returns KEEL_OK or
     * KEEL_E_FILE_READ (any other value is treated as KEEL_E_FILE_READ). May be NULL when `mapped` is set; where both
     * are, this one is used for whatever is copied. Calls may come from any thread that calls Keel. */
    keel_status (*read_at)(void* user_data, uint64_t offset, void* dst, size_t bytes);
    void* user_data;
    /* The whole file at one address, or NULL. Needed for KEEL_WEIGHTS_MAP; must then outlive the engine. */
    const void* mapped;
    uint64_t begin_bytes; /* where the file begins in what read_at reads; 0 but for keel_reader_part. Not of `mapped` */
    uint32_t part;        /* nonzero: made by keel_reader_part; keel_reader_close does nothing */
    /* 16: the matrices of a GGUF file in which they can be have their rows interleaved by 16, as KEEL_WEIGHTS_REPACK
     * lays them, so that they are used as they are, also mapped (not with KEEL_ACTIVATION_F32): some packs. 0: a plain
     * GGUF file. */
    uint32_t interleaved_rows;
    /* Nonzero: what read_at and `mapped` have is so many bytes of an entropy-coded file, and size_bytes is that of the
     * plain one: keel_pack_reader of a section with a codec. Keel decodes it wherever it reads; it cannot be used as it
     * is mapped. */
    uint64_t coded_bytes;
    /* Nonzero: so many bytes at the beginning of the file are text that a pack has in fewer bytes, and read_at and
     * `mapped` have text_stored_bytes in place of them. Keel takes them from `text`: keel_pack_expand_text of
     * keel_pack.h fills the caller's memory and lets it point there; before, who needs them is KEEL_E_UNSUPPORTED. That
     * memory is needed as long as the reader of a model is inspected, planned and initialised with, and no longer. */
    const void* text;
    uint64_t text_bytes;
    uint64_t text_stored_bytes;
};

/* A reader over memory the caller keeps alive. */
KEEL_API keel_status keel_reader_from_memory(const void* data, size_t bytes, keel_reader* out);
/* A reader of bytes [offset, offset + bytes) of another: a model inside an archive. The other one stays open as long as
 * the part is used. KEEL_E_ARGUMENT: beyond its end, or the other one has coded_bytes or text_bytes. */
KEEL_API keel_status keel_reader_part(const keel_reader* whole, uint64_t offset, uint64_t bytes, keel_reader* out);

/* Limits against hostile files; zero = default. A file beyond one is KEEL_E_FILE_LIMIT naming the limit. */
struct keel_limits {
    uint32_t struct_size;
    uint32_t max_metadata_keys;   /* default 4,096 */
    uint32_t max_tensors;         /* default 16,384 */
    uint32_t max_string_bytes;    /* one string, default 1 MiB */
    uint32_t max_array_elements;  /* default 4,194,304 */
    uint32_t max_name_bytes;      /* key or tensor name, default 255 */
    uint32_t max_layers;          /* default 512 */
    uint32_t max_vocabulary;      /* default 1,048,576 */
    uint32_t max_alignment_bytes; /* default 65,536 */
    uint32_t max_dimension;       /* one tensor dimension, default 2^30 */
    uint64_t max_metadata_bytes;  /* header up to the tensor data, default 256 MiB */
};

/* ---------------------------------------------------------------------------------------------------------------------
 * What keel_inspect says of a model.
 */
typedef enum keel_chat_family {
    KEEL_CHAT_NONE = 0,    /* the file carries no template */
    KEEL_CHAT_UNKNOWN = 1, /* it carries one that Keel cannot run: chat_reason says why. Keel does not guess */
    KEEL_CHAT_CHATML = 2,
    KEEL_CHAT_LLAMA3 = 3,
    KEEL_CHAT_MISTRAL = 4,
    KEEL_CHAT_GEMMA = 5,
    KEEL_CHAT_PHI3 = 6,
    KEEL_CHAT_ZEPHYR = 7,
    KEEL_CHAT_OTHER = 8 /* it carries one of no named family, which Keel runs like theirs */
} keel_chat_family;

struct keel_model_info {
    uint32_t struct_size;
    uint32_t gguf_version;
    char architecture[32];  /* general.architecture, NUL-terminated */
    char name[96];          /* general.name, cut, NUL-terminated; empty when absent */
    char tokenizer[32];     /* tokenizer.ggml.model */
    char pre_tokenizer[32]; /* tokenizer.ggml.pre; empty when absent */
    char weight_types[96];  /* the tensor types in the file by bytes, largest first, e.g. "Q4_K Q6_K F32" */
    uint64_t file_bytes;
    uint64_t weight_bytes; /* sum over tensors */
    uint64_t parameters;   /* elements over tensors */
    /* 64-bit hash of the header and of a sample of every tensor: names the model in files made for it. */
    uint64_t fingerprint;
    uint32_t tensors;
    uint32_t layers, embedding, feed_forward, heads, kv_heads, head_dim, vocabulary;
    uint32_t train_context_tokens;
    int32_t bos_id, eos_id; /* -1 when absent */
    keel_chat_family chat_family;
    uint64_t model_bytes; /* bytes keel_inspect needs for the keel_model of this file */
    /* Of KEEL_CHAT_UNKNOWN: the construct that Keel does not have, and its byte in the template. Else empty. */
    uint32_t chat_offset;
    uint32_t reserved;
    char chat_reason[128];
};

/* ---------------------------------------------------------------------------------------------------------------------
 * Configuration.
 */
typedef enum keel_log_level { KEEL_LOG_ERROR = 1, KEEL_LOG_WARN = 2, KEEL_LOG_INFO = 3 } keel_log_level;

/* All optional. They belong to one engine and are called from the thread that called Keel, except parallel_for's
 * tasks. A hook may call what any thread may call at that moment: tokenize, detokenize, stats, cancel,
 * keel_session_get, and sessions that the call it comes from does not use. Those it uses are KEEL_E_BUSY, and so is
 * closing the engine. */
typedef struct keel_hooks {
    uint32_t struct_size;
    uint32_t reserved;
    void* user_data;
    /* A structured line: no trailing newline, `text` valid during the call only. */
    void (*log)(void* user_data, keel_log_level level, keel_status code, const char* text);
    /* Loading progress, done of total bytes. Return nonzero to cancel: init then returns KEEL_E_CANCELLED. */
    int (*progress)(void* user_data, uint64_t done_bytes, uint64_t total_bytes);
    /* Called once when an engine becomes poisoned. */
    void (*fault)(void* user_data, const char* where);
    /* Runs task(context, i) for i in 0..tasks-1, each exactly once, on any threads, and returns when all are done. When
     * set, Keel starts no threads of its own; config.threads then says into how many tasks work is cut. */
    void (*parallel_for)(void* user_data, uint32_t tasks, void (*task)(void* context, uint32_t index), void* context);
    /* Narrows what may be sampled: clear bit i%8 of mask[i/8] to forbid token i. All bits are set on entry. `tokens`
     * are the session's tokens so far. Called wherever a token is drawn: in keel_session_sample, in keel_advance with
     * KEEL_FEED_SAMPLE, and in keel_session_draft, there for the drafting session and with drafts among its tokens. */
    void (*allowed_tokens)(void* user_data, keel_session session, const int32_t* tokens, uint32_t token_count,
                           uint8_t* mask, uint32_t vocabulary);
    /* The time now, as strftime writes it, into dst; returns its bytes, at most `capacity`. For templates that call
     * strftime_now; without the hook they see none, and most fall back to a date of their own. */
    size_t (*strftime_now)(void* user_data, const char* format, char* dst, size_t capacity);
} keel_hooks;

/* How K and V rows are coded in the KV arena; kernels/formats/kv_formats.h has the layouts. Bits are those of an
 * element with its share of the row's scale, for heads of 64. TCQ rows are coded after a signed Hadamard rotation,
 * which attention undoes once per query. */
typedef enum keel_kv_format {
    KEEL_KV_DEFAULT = 0, /* the KV profile's, else f16 */
    KEEL_KV_F16 = 1,
    KEEL_KV_Q8_0 = 4,   /* 8.5 bits; head size a multiple of 32 */
    KEEL_KV_TCQ_2 = 14, /* trellis-coded, one scale per row: 2.25 bits */
    KEEL_KV_TCQ_3 = 15,
    KEEL_KV_TCQ_4 = 16,
    KEEL_KV_TCQ_5 = 17,
    KEEL_KV_TCQ_6 = 18,
#ifdef KEEL_EXPERIMENTAL
    KEEL_KV_F32 = 2,
    KEEL_KV_FP8_E4M3 = 3,     /* saturating, no scale */
    KEEL_KV_Q4_0 = 5,         /* 4.5 bits; head size a multiple of 32, as for the next two */
    KEEL_KV_Q8_0_ROTATED = 6, /* rotated as TCQ rows are; E8 rows too */
    KEEL_KV_Q4_0_ROTATED = 7,
    KEEL_KV_E8_2 = 8, /* lattice E8, one scale per row: 2.25 bits */
    KEEL_KV_E8_3 = 9,
    KEEL_KV_E8_4 = 10,
    KEEL_KV_E8_5 = 11,
    KEEL_KV_E8_6 = 12,
    KEEL_KV_E8_8 = 13
#endif
} keel_kv_format;

typedef enum keel_weights {
    KEEL_WEIGHTS_DEFAULT = 0, /* copied, and repacked where the kernel set is faster for it */
    KEEL_WEIGHTS_COPY = 1,    /* copied into the weights region at init, as they are */
    /* Read in place from reader.mapped. The first touch of a page waits for the disk. Who shortens or overwrites the
     * file while an engine lives kills the process (SIGBUS) or changes results: replace files by renaming. On Windows
     * the system forbids both. */
    KEEL_WEIGHTS_MAP = 2,
    KEEL_WEIGHTS_MAP_LOCKED = 3, /* as MAP, prefaulted and locked at init; KEEL_E_PLATFORM when the lock is refused */
    /* Copied; rows of quantized matrices are interleaved by 16 where keel_repack_skip gives no reason against it;
     * others are copied as they are. Same bytes, same bits. */
    KEEL_WEIGHTS_REPACK = 4
} keel_weights;

/* Why copied weights were not repacked. */
typedef enum keel_repack_skip {
    KEEL_REPACK_SKIP_NONE = 0,   /* they are repacked, mapped, not asked to be, or there are none */
    KEEL_REPACK_SKIP_TYPE = 1,   /* no kernel for repacked rows: an unquantized type, or KEEL_ACTIVATION_F32 */
    KEEL_REPACK_SKIP_ROWS = 2,   /* rows are no multiple of 16 */
    KEEL_REPACK_SKIP_LOOKUP = 3, /* embedding table not tied to the output head: rows are gathered, never multiplied */
    KEEL_REPACK_SKIP_SPEED = 4   /* KEEL_WEIGHTS_DEFAULT: the kernel set is not faster for it */
} keel_repack_skip;

/* Why a device multiplies with its FP32 units, in steps of many tokens at half the speed of f16 on matrix units or
 * less: sums of f32 have an order (sdk/NUMERICS.md), which matrix units do not keep. */
typedef enum keel_fp32_reason {
    KEEL_FP32_NONE = 0,       /* matrix units multiply integers; or there is no product, or no device */
    KEEL_FP32_TYPE = 1,       /* an unquantized type: F32, F16, BF16 */
    KEEL_FP32_ACTIVATION = 2, /* KEEL_ACTIVATION_F32 */
    KEEL_FP32_FEW_ROWS = 3    /* F16, BF16: only for up to 8 rows; for more, KEEL_NUMERICS_DEVICE is in force */
} keel_fp32_reason;

/* Saved sessions are for engines with the same value. */
typedef enum keel_activation {
    KEEL_ACTIVATION_DEFAULT = 0, /* Q8 */
    KEEL_ACTIVATION_Q8 = 1,      /* activations in 8-bit blocks against quantized weights (integer dot products) */
    KEEL_ACTIVATION_F32 = 2, /* f32 activations against dequantized weights: slower, for reference and for quality */
    /* As Q8, and both sides of products with F32, F16 and BF16 matrices are rounded to bf16 (8 bits of precision),
     * whose pairs some processors multiply at twice the rate of f32 (AVX512-BF16). The same bits on all others,
     * where it is slower than f32. Adapters stay f32. CPUs only: a GPU refuses it when planning
     * (KEEL_E_UNSUPPORTED). */
    KEEL_ACTIVATION_BF16 = 3
} keel_activation;

typedef enum keel_numerics {
    KEEL_NUMERICS_DEFAULT = 0, /* sdk/NUMERICS.md: the same bits everywhere */
    /* Products with F16 and BF16 matrices, for more than 8 rows of a step, by the device's own library: activations are
     * rounded to the type of the weights (finite ones beyond F16's range to its largest), and sums have the library's
     * order. Prompts are computed several times as fast, and results are the same for the same steps only, on the same
     * device with the same library: not for another chunk_tokens, nor with other sessions or drafts in a step. Budgets,
     * which cut no such product, still change nothing. Saved sessions are for engines with the same value. The plan
     * says which products these are (keel_op_info.fp32_reason) and has a note.
     * KEEL_E_UNSUPPORTED: a backend that has none, such as the CPU, also for some of the layers. */
    KEEL_NUMERICS_DEVICE = 1
} keel_numerics;

typedef enum keel_cpu {
    /* What the environment variable KEEL_CPU names (scalar, avx2, avx512, amx, neon, neon_dotprod or neon_i8mm), else
     * the best this machine has. Read by the keel_plan calls and keel_engine_init, and by nothing else; a name that is
     * unknown or that this machine or build lacks is KEEL_E_UNSUPPORTED. Unset and empty are the same. The only thing
     * Keel reads from the environment. */
    KEEL_CPU_AUTO = 0,
    KEEL_CPU_SCALAR = 1, /* portable reference */
    KEEL_CPU_AVX2 = 2,   /* AVX2 + FMA + F16C; this and the following: KEEL_E_UNSUPPORTED where the machine has none */
    KEEL_CPU_AVX512 = 3, /* AVX-512 F, BW, DQ, VL and VNNI */
    KEEL_CPU_AMX = 4,    /* AVX-512 and AMX int8 tiles */
    KEEL_CPU_NEON = 5,   /* 64-bit ARM, any */
    KEEL_CPU_NEON_DOTPROD = 6, /* with FEAT_DotProd (Cortex-A76, Apple M1) */
    KEEL_CPU_NEON_I8MM = 7     /* with FEAT_DotProd and FEAT_I8MM */
} keel_cpu;

/* A part: an optional file of a configuration. Each kind at most once, but for adapters. Parts are read by the
 * keel_plan calls and keel_engine_init, which name one they refuse config.parts[i] in error->field: KEEL_E_UNSUPPORTED
 * for an unknown kind, KEEL_E_ARGUMENT for a null reader, a kind given twice, and options of a kind that has none. */
typedef enum keel_part_kind {
    /* Template text (Jinja, as in tokenizer.chat_template) in place of the model's own, or the name of a family:
     * chatml, llama3, mistral-v0.1, mistral-v0.2, mistral-v1, mistral-v3, mistral-nemo, gemma, gemma3, phi3, zephyr.
     * KEEL_E_UNSUPPORTED names the construct that Keel does not have; KEEL_E_FILE_LIMIT: longer than 32 KiB. */
    KEEL_PART_CHAT_TEMPLATE = 1,
    /* What a session may be held to by keel_session_set_grammar: GBNF as llama.cpp has it, or with
     * keel_grammar_options.json_schema a JSON Schema. KEEL_E_FILE_FORMAT and KEEL_E_UNSUPPORTED name what is wrong or
     * not known, with its byte in error->offset; KEEL_E_FILE_LIMIT: longer than 32 KiB, or too large a graph.
     * JSON Schema: true, {} and the keywords type (also a list), properties, required, additionalProperties, items,
     * minItems, maxItems, minLength, maxLength, pattern, minimum, maximum, exclusiveMinimum and exclusiveMaximum (whole
     * bounds), enum, const, anyOf, oneOf where no value can be of two of its schemas, allOf of objects, and $ref within
     * the text. $defs, definitions, title, description, default, examples, $schema, $id, $comment, format, readOnly,
     * writeOnly and deprecated constrain nothing. What else there is, also beside one of these, is refused by name. */
    KEEL_PART_GRAMMAR = 4,
    /* What KEEL_DRAFT_POOL begins with: a file of keel_engine_save_draft_pool, made with the same tokenizer
     * (KEEL_E_FILE_MISMATCH of keel_engine_init). Implies that drafter; the pool has the size of the file. No options.
     * KEEL_E_FILE_FORMAT, KEEL_E_UNSUPPORTED: damaged, or another version. */
    KEEL_PART_DRAFT_POOL = 5,
    /* An adapter: LoRA matrices for this model in a GGUF, as llama.cpp reads it (general.type "adapter", adapter.type
     * "lora"), of any weight type. May be given up to 16 times; adapters have numbers from 0 on, in the order of their
     * parts, by which sessions choose one (keel_session_set_adapter). Its matrices are copied, whatever config.weights
     * says. No options. KEEL_E_FILE_MISMATCH: of another architecture or shape; KEEL_E_UNSUPPORTED: for the embedding,
     * the head, norms, or another kind of adapter; also where a device computes layers; KEEL_E_FILE_LIMIT: more than
     * 16, or a rank above 4,096. */
    KEEL_PART_ADAPTER = 6,
#ifdef KEEL_EXPERIMENTAL
    KEEL_PART_KV_PROFILE = 2, /* see Experimental */
    KEEL_PART_WPROJ = 3
#endif
} keel_part_kind;

typedef struct keel_grammar_options {
    uint32_t struct_size;
    uint32_t json_schema; /* nonzero: the text is a JSON Schema; 0: GBNF */
} keel_grammar_options;

typedef struct keel_part {
    uint32_t struct_size;
    keel_part_kind kind;
    const keel_reader* reader;
    const void* options; /* a struct of the kind, with struct_size; NULL: its defaults */
} keel_part;

/* A pack, `.keel`: a model and the parts that belong to it in one file, written by `keel pack`. Sections begin at
 * multiples of 4,096 bytes, so that a pack is mapped as a GGUF file is, unless its model is coded.
 *
 *     keel_reader_open_file ──> keel_pack_sections ──> keel_pack_reader of the KEEL_PACK_MODEL: for keel_inspect ...
 *                                                      of the others, but notes: keel_parts for keel_config
 *
 * keel.hpp has Pack, which does that. A KEEL_PART_DRAFT_POOL needs config.draft_tokens. */
#define KEEL_PACK_MODEL 0u
/* For people and tools. */
#define KEEL_PACK_NOTE 0xffffffffu
/* The model, 16 parts, 4 notes. */
#define KEEL_PACK_MAX_SECTIONS 21
/* How a section is stored: as it is, or a sum of others. */
typedef enum keel_pack_codec {
    KEEL_PACK_RAW = 0, /* as it is */
    /* Tensors entropy coded, without loss. They are decoded by all threads while keel_engine_init loads them, in the
     * memory of the plan; config.weights cannot be KEEL_WEIGHTS_MAP or MAP_LOCKED. */
    KEEL_PACK_RANS = 1,
    /* Text packed with zstd: of a model all that stands before its tensors (tokenizer, chat template, metadata), of a
     * chat template, grammar or note all of it. Its reader has text_bytes, and keel_pack_expand_text comes before its
     * use. Tensors can be mapped as ever. */
    KEEL_PACK_ZSTD = 2
} keel_pack_codec;
typedef struct keel_pack_section {
    uint32_t struct_size;
    uint32_t kind;             /* KEEL_PACK_MODEL, KEEL_PACK_NOTE or a keel_part_kind */
    uint32_t json_schema;      /* of a KEEL_PART_GRAMMAR: as in keel_grammar_options */
    uint32_t interleaved_rows; /* of a model: as in keel_reader */
    uint64_t offset, bytes;
    uint64_t hash;  /* of its bytes, as keel_pack_verify compares it */
    char name[32];  /* of the file it was made of; NUL-terminated: letters, digits, '.', '_', '-' */
    uint32_t codec; /* keel_pack_codec: a sum of those, as of a model that has both */
    uint32_t reserved;
    uint64_t plain_bytes; /* of the file it was made of; with KEEL_PACK_RAW as `bytes` */
} keel_pack_section;

/* The sections of a pack, the model first. Header and table are checked; what a section holds, by who reads it. Array,
 * capacity and count: as keel_plan_ops. `error` may be NULL.
 * KEEL_E_FILE_FORMAT: no pack, or damaged; KEEL_E_UNSUPPORTED: another version; KEEL_E_FILE_READ. */
KEEL_API keel_status keel_pack_sections(const keel_reader* file, keel_pack_section* out, uint32_t capacity,
                                        uint32_t* count, keel_error* error);
/* A section as a file of its own: keel_reader_part, with interleaved_rows, coded_bytes and text_bytes. KEEL_E_ARGUMENT:
 * beyond the end; KEEL_E_ABI: packed text, and the reader of an older keel.h; else as keel_pack_sections. */
KEEL_API keel_status keel_pack_reader(const keel_reader* file, const keel_pack_section* section, keel_reader* out);
/* Reads the whole file: KEEL_E_FILE_FORMAT when a section is not what was written; else as keel_pack_sections. About a
 * second for a GB. */
KEEL_API keel_status keel_pack_verify(const keel_reader* file, keel_error* error);

typedef struct keel_backend keel_backend; /* opaque; a library of its own gives it */

/* What it points to is needed during the keel_plan calls and keel_engine_init only; the backend as long as the
 * engine. */
struct keel_config {
    uint32_t struct_size;
    uint32_t api_version; /* KEEL_API_VERSION, or 0 for the same */
    /* Longest sequence of one session, default min(train context, 4,096), at most 2^24. */
    uint32_t context_tokens;
    uint32_t max_sessions; /* session slots, default 1, at most 64 */
    uint32_t kv_pages;     /* KV pages shared by all sessions; default: enough for every session at full context */
    /* Most tokens in one forward step, default 256, at most 512; a longer prompt is cut at absolute multiples of 64. */
    uint32_t chunk_tokens;
    /* Logits rows kept per session, default 1, at most 512; more for scoring every position of a chunk. */
    uint32_t logits_rows;
    /* Longest unsplittable run of text that keel_tokenize handles, default 16,384, 64 to 2^24; each byte takes 37 of
     * memory. */
    uint32_t max_text_bytes;
    keel_weights weights;
    keel_activation activation;
    keel_cpu cpu;
    /* Of all layers; default: the KV profile's, else f16. KEEL_E_UNSUPPORTED where the head size does not fit. */
    keel_kv_format k_format;
    keel_kv_format v_format;
    /* Compute threads, the caller's included, at most 64; default: one per core in the caller's affinity mask, and no
     * more than the CPU quota of its control groups, rounded down. Each has a stack in KEEL_REGION_PERSISTENT: give a
     * number where buffers are sized for more than one machine. */
    uint32_t threads;
#define KEEL_KV_NO_SINKS UINT32_MAX /* as kv_sink_tokens, whose 0 is the default */
    /* Nonzero: worker threads are bound to cores of the caller's mask, one each; the calling thread stays as it is. */
    uint32_t pin_threads;
    uint32_t tile_us;            /* predicted time between two looks at the clock, default 250, at most 10^6 */
    uint32_t kv_sink_tokens;     /* first positions also read in f16, at most 64; default 1, of f16 and f32 rows none */
    uint32_t kv_recent_tokens;   /* the last so many before each query are read as q8_0; default 0, at most 512 */
    uint32_t kv_rollback_tokens; /* with kv_recent_tokens: how far keel_session_truncate can go back; default 16, at
                                  * most 65,536. Each costs two rows of q8_0 a session */
    uint32_t part_count;
    const keel_part* parts;      /* [part_count] */
    const keel_hooks* hooks;     /* copied by keel_engine_init; NULL: none */
    const keel_backend* backend; /* what computes; NULL: the CPU */
    /* How a byte-level vocabulary cuts text before it merges: a name as in tokenizer.ggml.pre, NUL-terminated, in place
     * of the file's, for files that name none or a wrong one. NULL: the file's. KEEL_E_UNSUPPORTED: Keel has no such
     * pre-tokenizer. KEEL_E_ARGUMENT: the vocabulary is no byte-level one. */
    const char* pre_tokenizer;
    /* Longest text of a conversation, in bytes; its values while it is written have as much. Default: 8 for each token
     * of the context, at least 32,768; at most 2^28. Four times this is planned where there is a chat template. */
    uint32_t max_chat_bytes;
    /* Most drafts (keel_session_propose) of one step, all sessions together; default 0, less than chunk_tokens. Each
     * takes a row of logits. Pages that drafts need are the session's for the time of the step. */
    uint32_t draft_tokens;
    const void* backend_options; /* a struct of the backend, with struct_size; NULL: its defaults. The CPU has none */
    /* KEEL_DRAFT_*: what proposes tokens where the caller does not; needs draft_tokens; default: none. */
    uint32_t drafters;
    keel_numerics numerics;
    uint64_t draft_pool_bytes; /* of KEEL_DRAFT_POOL, rounded down to 64; default 4 MiB, or a KEEL_PART_DRAFT_POOL's */
};

/* Drafters of Keel's own. keel_advance asks them for sessions fed with KEEL_FEED_SAMPLE that nothing was proposed for,
 * and takes along as many drafts as pay: by how often such drafts were right in this session, and by the plan's cost of
 * a step of more tokens. What drafts cost beyond what they bring is at most one step and 1.2 % of the session's steps,
 * by that cost. Texts do not depend on them. */
enum {
    KEEL_DRAFT_SUFFIX = 1, /* what followed the last tokens where they stood before in the session's own text */
    KEEL_DRAFT_POOL = 2,   /* what followed the last 2, 3 or 5 tokens in texts of all sessions: one table, which forgets
                            * what is rare. Drafts may show in how fast a session goes on what others wrote: sessions
                            * opened with keel_session_desc.draft_private are not learned from. */
    KEEL_DRAFT_LOGITS = 4  /* what was most likely behind the last token when it came last, in any session: the eight
                            * likeliest, 32 bytes for each token of the vocabulary. Drafts are a tree (see
                            * keel_session_propose_tree) where longer steps cost so little that second guesses pay, as
                            * on GPUs; where logits stay on a device the last row of a step is copied. */
};

/* ---------------------------------------------------------------------------------------------------------------------
 * Memory.
 */
typedef enum keel_region_kind {
    KEEL_REGION_PERSISTENT = 0, /* engine and session tables, tokenizer, logits; host memory */
    KEEL_REGION_SCRATCH = 1,    /* activations of a step; host memory */
    KEEL_REGION_PINNED = 2,     /* host memory that a device reads and writes; 0 bytes on a CPU */
    KEEL_REGION_WEIGHTS = 3,    /* host memory; only vectors when weights are mapped or a device's */
    KEEL_REGION_KV = 4,         /* host memory; 0 bytes where KV lies on a device */
    /* A device's memory, by its own addresses; 0 bytes on a CPU. */
    KEEL_REGION_DEVICE_SCRATCH = 5,
    KEEL_REGION_DEVICE_WEIGHTS = 6,
    KEEL_REGION_DEVICE_KV = 7,
    KEEL_REGION_COUNT = 8 /* kinds this header knows; no array has this size */
} keel_region_kind;

/* Arrays by keel_region_kind have this size. A caller that serves every slot with bytes in the plan also serves regions
 * that it does not know. Slots without a kind are zero in plans and statistics and not looked at in keel_memory. */
#define KEEL_REGION_SLOTS 16

/* Steps of 1 to so many tokens whose predicted times stand in a plan. */
#define KEEL_STEP_COSTS 16

typedef struct keel_region_plan { /* never changes */
    uint64_t bytes;
    uint64_t align_bytes;
    uint64_t padding_bytes; /* part of bytes that is alignment between objects */
} keel_region_plan;

struct keel_memory_plan {
    uint32_t struct_size;
    uint32_t kv_page_tokens; /* tokens in one KV page */
    keel_region_plan regions[KEEL_REGION_SLOTS];
    uint64_t mapped_weight_bytes; /* weights read in place from the reader */
    uint64_t kv_page_bytes;       /* one page, all layers, K and V */
    uint64_t kv_bytes_per_token;  /* a page over its tokens */
    /* rows of sinks and recent positions, per session slot; part of the KV region, as are, once, the recent rows that a
     * step reads in one layer. */
    uint64_t kv_session_bytes;
    uint64_t kv_side_bytes; /* means, gains and tables of the KV formats, per engine; part of the persistent region */
    uint64_t decode_bytes;  /* bytes one decoded token moves at context 0 (weights once, activations) */
    uint32_t kv_pages;
    uint32_t context_tokens, chunk_tokens, max_sessions, threads; /* the configuration with its defaults resolved */
    keel_cpu cpu;                                                 /* the kernel set init will use */
    uint32_t op_count; /* ops of the dense variant; those of the low-rank variant are numbered on behind them */
    /* The low-rank variant (Experimental); zero where there is none. */
    uint32_t low_rank_op_count;
    uint64_t low_rank_decode_bytes; /* as decode_bytes */
    uint64_t low_rank_bytes;        /* of factors and their biases: part of the weights region, or mapped */
    uint32_t low_rank_factors;      /* products computed with a low-rank factor */
    /* A part that is not used, though the plan stands: today a W_proj cache that is damaged or another model's. */
    keel_status part_status; /* KEEL_OK: every part is used; else why the first such part is not */
    uint32_t part_index;     /* in config.parts */
    uint32_t reserved;
    uint64_t part_offset; /* this and the next two as in keel_error */
    char part_field[96];
    char part_reason[128];
    char note[160]; /* choices worth knowing, e.g. "rope: long factors"; empty if none */
    /* Predicted microseconds of a step of n + 1 tokens, of one session or of several, at context 0 on one thread. What
     * they are for is their relation: what a step of n tokens costs in steps of one, which says how many drafted tokens
     * are worth a step. It is the memory that weights come from, the set's arithmetic and how it takes tokens together;
     * the microseconds themselves are right within a factor of two or so. */
    double step_us[KEEL_STEP_COSTS];
    double low_rank_step_us[KEEL_STEP_COSTS]; /* of the low-rank variant (Experimental); zero where there is none */
    /* Steps with a session that has an adapter; zero where there are none. */
    uint32_t adapter_count;
    uint32_t adapter_op_count;     /* numbered on behind those of the low-rank variant */
    uint64_t adapter_decode_bytes; /* as decode_bytes, with the largest pair of each product */
    uint64_t adapter_bytes;        /* of their matrices: part of the weights region */
    double adapter_step_us[KEEL_STEP_COSTS];
};

typedef struct keel_region { /* never changes */
    void* data;
    uint64_t bytes;
} keel_region;

struct keel_memory {
    uint32_t struct_size;
    uint32_t reserved;
    keel_region regions[KEEL_REGION_SLOTS]; /* data may be NULL where the plan says 0 bytes */
    void* owner;                            /* used by keel_memory_default; otherwise NULL */
};

/* Convenience, in an object file of its own (libkeel_memory.a): allocates every region of a plan with mimalloc, asking
 * for huge pages. The core never calls it. Release with keel_memory_release after keel_engine_close.
 * KEEL_E_UNSUPPORTED: a plan with memory of a device, which its backend's library allocates. KEEL_E_PLATFORM: the
 * system has not so much. */
keel_status keel_memory_default(const keel_memory_plan* plan, keel_memory* out);
void keel_memory_release(keel_memory* memory);

typedef struct keel_region_stats { /* never changes */
    uint64_t planned_bytes;
    uint64_t used_bytes;       /* placed now; for KV, pages in use */
    uint64_t high_water_bytes; /* largest used ever; equals planned for every region that init fills */
} keel_region_stats;

typedef struct keel_stats {
    uint32_t struct_size;
    uint32_t open_sessions;
    keel_region_stats regions[KEEL_REGION_SLOTS];
    uint64_t allocations_after_init; /* placements asked of the regions, and refused, since init: 0 but for a bug */
    uint64_t steps, tokens;          /* forward steps completed, tokens computed in them */
    /* Steps with more than one token of a session; drafts count when accepted, those of keel_session_draft there. */
    uint64_t prefill_tokens, prefill_us;
    uint64_t decode_tokens, decode_us; /* steps with one token per session; the same */
    uint32_t kv_pages_free, threads;
    char kernel_set[16];       /* "scalar", "avx2", ... */
    keel_status engine_status; /* KEEL_OK or KEEL_E_POISONED */
    uint32_t reserved;
    uint64_t drafts_computed, drafts_accepted; /* of all sessions: see keel_session_info */
    uint64_t vocabulary_hash; /* of all tokens' texts: engines that agree in it mean the same by an id */
} keel_stats;

KEEL_API keel_status keel_engine_stats(keel_engine engine, keel_stats* out);

/* The draft pool as a file, for KEEL_PART_DRAFT_POOL: of texts it has seen so far, from any thread. Called with `dst`
 * NULL it says the exact bytes. KEEL_E_STATE: the engine has none; KEEL_E_BUFFER_TOO_SMALL. */
KEEL_API keel_status keel_engine_save_draft_pool(keel_engine engine, void* dst, uint64_t capacity_bytes,
                                                 uint64_t* bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * The execution plan as data, for `keel plan`, profilers and tests.
 */
/* One op. Names:
 *
 *     embed rope_table
 *     attn_norm  attn_q attn_k attn_v | attn_qkv  [qk_norm] rope kv_append attention attention_finish
 *     attn_output [attn_post_norm]  ffn_norm  ffn_gate ffn_up | ffn_gate_up  glu [quantize]
 *     ffn_down [ffn_post_norm]
 *     output_norm output [softcap]
 *
 * and in the low-rank variant, in front of the products whose factors multiply x_sub = Pt x: attn_sub, output_sub,
 * ffn_sub, down_sub, each [quantize]; in steps with adapters, before and behind the products that these change, those
 * of their pairs: attn_q_lora_a and attn_q_lora_b, and so on. A product adds its result to the residual itself, or
 * leaves that to the norm behind it. */
#define KEEL_OP_BUFFERS 8
typedef struct keel_op_info {
    uint32_t struct_size;
    uint32_t index;
    char name[32];
    char weight_type[16]; /* "Q4_K"; empty for ops without weights */
    int32_t layer;        /* -1 outside the layers */
    uint32_t rows, inner; /* elements of a token's output, and inner dimension */
    /* Ops of one dispatch run together, between two barriers. Numbered in each variant from 0, for one token of a short
     * context; with longer contexts and in prefill steps attention and quantizing are dispatches of their own. */
    uint32_t dispatch;
    uint64_t fixed_bytes; /* bytes moved whatever the number of tokens (weights) */
    uint64_t token_bytes; /* and per token */
    double predicted_us;  /* one token at context 0 */
    uint32_t read_count, write_count;
    uint32_t reads[KEEL_OP_BUFFERS], writes[KEEL_OP_BUFFERS]; /* scratch buffers: indices into keel_plan_buffers */
    keel_weights placement; /* where this op's weights live: COPY, MAP, MAP_LOCKED or REPACK; DEFAULT without weights */
    keel_repack_skip repack_skip;
    uint32_t low_rank;        /* 1: an op of the low-rank variant (index >= keel_memory_plan.op_count) */
    uint32_t low_rank_reason; /* a keel_low_rank_reason (Experimental) */
    /* Where a factor exists: its relative squared output error on held-out text; negative: not known. */
    float low_rank_error;
    keel_fp32_reason fp32_reason;
} keel_op_info;

/* One object of a region. Scratch buffers are used again and again: there is an entry for every value that a buffer
 * holds, and entries of which some op is in both ranges do not overlap. */
typedef struct keel_buffer_info {
    uint32_t struct_size;
    keel_region_kind region;
    char name[32];              /* "qkv", "ffn_in.q8_32" (8 bits in blocks of 32), "logits", "attn_q.weight", ... */
    int32_t instance;           /* tells objects of one name apart: a layer, a session slot; -1: there is one */
    uint32_t first_op, last_op; /* scratch: the ops between which it is live; else 0 and UINT32_MAX */
    uint32_t reserved;
    uint64_t offset, bytes; /* in the region; scratch: for chunk_tokens tokens, or for every thread */
} keel_buffer_info;

/* The ops of the plan an engine for this model and configuration would run, those of the low-rank variant behind the
 * others, then those of steps with adapters, and the objects of all its regions, scratch first. out[0].struct_size says
 * how long an element is; *count becomes their number, for which `out` may be NULL. Errors: as keel_plan;
 * KEEL_E_BUFFER_TOO_SMALL: only the first `capacity` are there. */
KEEL_API keel_status keel_plan_ops(const keel_reader* reader, const keel_model* model, const keel_config* config,
                                   keel_op_info* out, uint32_t capacity, uint32_t* count, keel_error* error);
KEEL_API keel_status keel_plan_buffers(const keel_reader* reader, const keel_model* model, const keel_config* config,
                                       keel_buffer_info* out, uint32_t capacity, uint32_t* count, keel_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Sessions: one sequence each.
 */
struct keel_session_desc {
    uint32_t struct_size;
    uint32_t draft_private;  /* nonzero: KEEL_DRAFT_POOL and KEEL_DRAFT_LOGITS do not learn from this session */
    uint64_t reserved_pages; /* KV pages set aside for this session at open; default 0: pages are taken as it grows */
};

struct keel_sampling {
    uint32_t struct_size;
    float temperature;        /* 0 = greedy: the largest adjusted logit, lowest id on a tie */
    uint32_t top_k;           /* 0 = off */
    float top_p;              /* 0 or 1 = off */
    float min_p;              /* 0 = off */
    float typical_p;          /* 0 or 1 = off */
    float repetition_penalty; /* 0 or 1 = off; divides positive logits, multiplies negative ones */
    float frequency_penalty;  /* subtracts this times the count */
    float presence_penalty;   /* subtracts this once if present */
    uint32_t penalty_window;  /* last tokens looked at; 0 = 64; UINT32_MAX = all */
    uint32_t min_tokens;      /* the session's end ids cannot be sampled for the first n sampled tokens */
    uint32_t reserved;
    uint64_t seed;            /* the draw at a position depends on (seed, position) only */
    const int32_t* bias_ids;  /* logit bias, bias_count entries each; at most 256, copied */
    const float* bias_values; /* -INFINITY forbids */
    uint32_t bias_count;
    uint32_t excluded_count;
    /* Ids never sampled, at most 256, copied. With temperature 0: the greedy token among the others. */
    const int32_t* excluded_ids;
};

/* Holds the session to the engine's grammar (KEEL_PART_GRAMMAR): the tokens from position `from` on are its text, and
 * keel_session_sample draws none that cannot go on with it, an end-of-sequence token only where the text may end.
 * allowed_tokens narrows further. What the state is follows from the session's tokens alone, so truncate, fork (which
 * takes `from` along), save and restore need no care; truncating in front of `from` moves it there.
 * KEEL_E_STATE: no grammar. KEEL_E_ARGUMENT: a position that has no token yet. Afterwards keel_session_sample may
 * return KEEL_E_NUMERIC when no token can follow, and KEEL_E_FILE_LIMIT when every one that can leads beyond 256 open
 * alternatives, 256 nested rules or 1,024 nodes of the grammar between two bytes; one that does is not drawn while
 * others can follow. */
#define KEEL_GRAMMAR_OFF UINT32_MAX /* of a new session */
/* From the next token that keel_session_sample returns, keel_session_forced hands out or that is accepted as a draft;
 * not from one that keel_advance draws and nobody asks for. */
#define KEEL_GRAMMAR_NEXT (UINT32_MAX - 1)
KEEL_API keel_status keel_session_set_grammar(keel_session session, uint32_t from);
/* What the grammar allows behind the session's tokens followed by `tokens`, a draft that is not fed: bit id % 8 of
 * mask[id / 8] is set for each token that may come next, the bits keel_session_sample would use there without the
 * allowed_tokens hook. count 0: behind the session's tokens. mask: (vocabulary + 7) / 8 bytes, else
 * KEEL_E_BUFFER_TOO_SMALL. KEEL_E_STATE: the session is not held to a grammar. KEEL_E_FILE_LIMIT as above: then the
 * mask allows nothing. */
KEEL_API keel_status keel_session_allowed(keel_session session, const int32_t* tokens, uint32_t count, uint8_t* mask,
                                          size_t capacity_bytes);
/* Tokens for what the grammar leaves no choice about now, such as the name of a required property: feed them instead of
 * sampling. *count may be 0. Buffer as in keel_tokenize. KEEL_E_STATE: the session is not held to a grammar. */
KEEL_API keel_status keel_session_forced(keel_session session, int32_t* ids, size_t capacity, size_t* count);

/* Chooses one of the engine's adapters (KEEL_PART_ADAPTER) for tokens computed from now on, pending ones included: to
 * every product W x that it has a pair for, scale * alpha / rank * B (A x) is added. KEEL_ADAPTER_OFF, or scale 0:
 * none; then everything is as if the engine had none. Sessions with different ones share steps. What is computed
 * already stays: logits, and K and V of earlier positions, which later tokens go on to read. For a text that is the
 * adapter's from its first token, choose before feeding or truncate to 0 tokens first. A fork has the adapter of its
 * origin, a saved session its identity and scale. KEEL_E_ARGUMENT: no such adapter, or a scale that is not finite;
 * KEEL_E_STATE: the session is in the low-rank variant; KEEL_E_BUSY inside a step. */
#define KEEL_ADAPTER_OFF UINT32_MAX /* of a new session */
KEEL_API keel_status keel_session_set_adapter(keel_session session, uint32_t adapter, float scale);

/* Asks a running or the next keel_advance to stop between two groups of work items for this session, with
 * KEEL_E_CANCELLED. The tokens of the unfinished step stay pending; advancing again continues. Any thread; also where
 * the engine is poisoned, without effect. */
KEEL_API keel_status keel_cancel(keel_session session);

typedef struct keel_session_info {
    uint32_t struct_size;
    uint32_t token_count; /* computed + pending */
    uint32_t computed_tokens;
    uint32_t sampled_tokens; /* of these, drawn by keel_session_sample; what min_tokens counts */
    /* token_count ids, valid until they change: feed, advance, truncate, shift, restore, close. */
    const int32_t* tokens;
    uint32_t kv_pages; /* pages this session refers to; those that were evicted are not among them */
    uint32_t context_tokens;
    uint32_t variant; /* a keel_variant (Experimental); 0: dense */
    uint32_t reserved;
    /* Of what was proposed since the session was opened: tokens that were computed, and those that were drawn. */
    uint64_t drafts_computed, drafts_accepted;
    uint32_t adapter;    /* its number, or KEEL_ADAPTER_OFF */
    float adapter_scale; /* 0: none */
} keel_session_info;
/* Also from a hook of a call that uses the session; else, as every call, from one thread at a time. */
KEEL_API keel_status keel_session_get(keel_session session, keel_session_info* out);

/* Logits of row `row` (0 = first kept, logits_rows - 1 = newest): *view has vocabulary floats, after the model's own
 * soft cap, before any sampling adjustment. Valid until the next feed, advance, truncate or restore on this session.
 * KEEL_E_NO_LOGITS: no such row was kept; the same for the next two. */
KEEL_API keel_status keel_session_logits(keel_session session, uint32_t row, const float** view, uint32_t* vocabulary);
/* Final hidden state (after the output norm) of the same row: *view has `embedding` floats. */
KEEL_API keel_status keel_session_hidden(keel_session session, uint32_t row, const float** view, uint32_t* embedding);
/* The n most probable tokens of the newest row, most probable first (lowest id first on ties): natural-log
 * probabilities of the unadjusted distribution. n at most 256 and at most the vocabulary. */
KEEL_API keel_status keel_session_top_logprobs(keel_session session, uint32_t n, int32_t* ids, float* logprobs);

/* Forgets all tokens from position `tokens` on; pages no longer needed are freed. Abandons its unfinished step.
 * KEEL_E_STATE when that would end inside a page that was evicted, whose first rows are gone, or further back than
 * config.kv_rollback_tokens allow, where the rows of recent positions are gone; 0 tokens are always allowed.
 * KEEL_E_BUSY while another thread computes its step. */
KEEL_API keel_status keel_session_truncate(keel_session session, uint32_t tokens);
/* Gives up the K and V of computed positions [from, to), whole pages of kv_page_tokens inside that range: what is
 * computed later does not see them, everything else stays, positions included, and so do sinks. With
 * config.kv_recent_tokens the newest kv_recent_tokens - 1 + kv_rollback_tokens positions are not given up. Pages of the
 * session's reserve (keel_session_desc.reserved_pages) that are given up are any session's from then on.
 * *evicted_tokens (may be NULL): positions given up by this call. KEEL_E_ARGUMENT (not computed), KEEL_E_BUSY inside a
 * step. */
KEEL_API keel_status keel_session_evict(keel_session session, uint32_t from, uint32_t to, uint32_t* evicted_tokens);
/* Forgets tokens [from, to) and moves those behind down to `from`, so that a conversation longer than the context goes
 * on. Their K rows are rotated to their new positions and rounded to the KV format once more; what was computed while
 * the forgotten tokens were there stays as it is, so results are not those of a session that never had them. Takes the
 * time of reading and writing every row that moves; logits stay. KEEL_E_ARGUMENT (not computed). KEEL_E_UNSUPPORTED
 * where K cannot be rotated again: k_format is neither f16 nor f32, a KV profile, kv_recent_tokens, `from` within the
 * sinks. KEEL_E_STATE: full pages from `from` on are shared with a fork or were evicted, or tokens that a grammar has
 * accepted would be forgotten. KEEL_E_KV_FULL: the last page is shared and none is left for its copy. KEEL_E_BUSY
 * inside a step. No budget cuts it: call it where there is time. */
KEEL_API keel_status keel_session_shift(keel_session session, uint32_t from, uint32_t to);
/* A second session with the same tokens, sampling and text state. All KV pages are shared; of two that share one which
 * is not full, who appends first copies it, inside keel_advance and its budget, and gets KEEL_E_KV_FULL from there when
 * no page is left. Copied here: logits, and rows of sinks and recent positions. KEEL_E_SLOTS_FULL, KEEL_E_BUSY
 * inside a step. */
KEEL_API keel_status keel_session_fork(keel_session session, keel_session* out);

/* Exact bytes keel_session_save will write now. */
KEEL_API keel_status keel_session_save_bytes(keel_session session, uint64_t* bytes);
/* Writes tokens, KV rows, logits, sampling, text state, where its grammar began and its adapter's identity: versioned,
 * checksummed, tied to the model's fingerprint, the KV formats, config.activation and numerics, the grammar, the
 * adapter and, of a model with two sets of RoPE factors, the one that config.context_tokens chose
 * (keel_memory_plan.note).
 * KEEL_E_BUFFER_TOO_SMALL, KEEL_E_BUSY inside a step. */
KEEL_API keel_status keel_session_save(keel_session session, void* dst, uint64_t capacity_bytes,
                                       uint64_t* written_bytes);
/* Replaces an open session's state with a saved one, validated as hostile input: on any error the session is as before.
 * KEEL_E_FILE_FORMAT, KEEL_E_UNSUPPORTED (another version), KEEL_E_FILE_MISMATCH (another model, KV format, activation,
 * numerics or set of RoPE factors, or grammar where the session was held to one; or the engine does not have the
 * adapter it used, which it goes on with whatever its number is here), KEEL_E_STATE (it used one, and this session is
 * in the low-rank variant), KEEL_E_CONTEXT_FULL, KEEL_E_KV_FULL, KEEL_E_BUSY inside a step. */
KEEL_API keel_status keel_session_restore(keel_session session, const void* src, uint64_t bytes, keel_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Text.
 */
enum { KEEL_DETOKENIZE_SPECIAL = 1u }; /* write control tokens as their text instead of nothing */
/* Ids to text, exact bytes, not NUL-terminated. dst may be NULL with capacity 0: then only *bytes is filled (KEEL_OK).
 * With a capacity too small: KEEL_E_BUFFER_TOO_SMALL and *bytes is the need. */
KEEL_API keel_status keel_detokenize(keel_engine engine, const int32_t* ids, size_t count, uint32_t flags, char* dst,
                                     size_t capacity_bytes, size_t* bytes);

/* The exact bytes of one token as it stands inside a text, not NUL-terminated; *data is valid as long as the engine. A
 * leading SentencePiece space is there, which keel_detokenize leaves out where a text begins; a byte token is its byte;
 * a control token is nothing, or its text with KEEL_DETOKENIZE_SPECIAL. KEEL_E_ARGUMENT: an id outside the
 * vocabulary. */
KEEL_API keel_status keel_token_text(keel_engine engine, int32_t token, uint32_t flags, const char** data,
                                     size_t* bytes);

/* Tokens that end the session's text (keel_text.stopped 2; min_tokens keeps them from being sampled). At first those of
 * the file: end of sequence, of turn, of message and of a filled-in middle, which it names by id or which GGUF runtimes
 * know by their text. ids: at most 32 in their place, copied, count 0 for none; NULL for the file's again.
 * KEEL_E_ARGUMENT: more, or one outside the vocabulary. Forks, saved and restored sessions have those of their
 * origin. */
KEEL_API keel_status keel_session_set_end_ids(keel_session session, const int32_t* ids, uint32_t count);
/* *ids is valid until the next keel_session_set_end_ids, restore or close of this session. */
KEEL_API keel_status keel_session_end_ids(keel_session session, const int32_t** ids, uint32_t* count);

/* Stop strings of a session: at most 16, each at most 128 bytes, copied. count 0 removes them. A stop string may spell
 * a control token, alone or among other text. */
KEEL_API keel_status keel_session_set_stops(keel_session session, const char* const* texts, const size_t* bytes,
                                            uint32_t count);

typedef struct keel_chat_message {
    uint32_t struct_size;
    uint32_t reserved;
    const char* role; /* "system", "user", "assistant", "tool", ...: letters, digits, _ and -; NUL-terminated */
    const char* text; /* NULL: the message has no content, as one that only calls tools */
    size_t bytes;
    const char* fields; /* further members, as a JSON object: {"tool_calls": [...]}, {"name": "..."}; may be NULL */
    size_t field_bytes;
} keel_chat_message;

typedef struct keel_chat {
    uint32_t struct_size;
    uint32_t message_count;
    const keel_chat_message* messages; /* element 0's struct_size is the distance to the next */
    uint32_t open_assistant;           /* nonzero: end with the opening of an assistant turn */
    uint32_t reserved;
    /* Variables of the template beside messages, add_generation_prompt, bos_token and eos_token, as a JSON object:
     * {"tools": [...], "enable_thinking": false}; may be NULL. */
    const char* variables;
    size_t variable_bytes;
} keel_chat;

/* Messages as the model's own template writes them (the file's, or that of a part): what jinja2 makes of it with the
 * settings of transformers, default system texts, dates and tools included. The template is Jinja, compiled by
 * keel_engine_init; each call renders it in config.max_chat_bytes, within a bounded number of steps.
 * Errors, with *error (may be NULL) saying what and where in the template: KEEL_E_UNSUPPORTED (no template, an UNKNOWN
 * one, or something met that Keel does not compute); KEEL_E_ARGUMENT (the template refuses these messages, in its own
 * words; JSON or a role that is not well formed); KEEL_E_TEXT_LIMIT (max_chat_bytes); KEEL_E_FILE_LIMIT (a template
 * that takes too many steps); KEEL_E_BUSY while another thread writes a chat with this engine. */

/* To text, for reading: *bytes is its length; KEEL_E_BUFFER_TOO_SMALL as in keel_detokenize. Who tokenizes it lets
 * messages spell control tokens: keel_chat_tokenize does not. */
KEEL_API keel_status keel_chat_format(keel_engine engine, const keel_chat* chat, char* dst, size_t capacity_bytes,
                                      size_t* bytes, keel_error* error);
/* To ids, with BOS where the model wants one. Control tokens come from the template (and from nothing in a message or
 * in JSON): "<|im_end|>" in a message is text. Buffer as in keel_tokenize; also KEEL_E_TEXT_LIMIT of that. */
KEEL_API keel_status keel_chat_tokenize(keel_engine engine, const keel_chat* chat, int32_t* ids, size_t capacity,
                                        size_t* count, keel_error* error);
/* The same for a session that holds the beginning of the conversation: *kept is how many of its tokens stay, and ids
 * are those that follow, at least one unless the conversation has none. Then truncate the session to *kept and feed.
 * *kept is 0 where keel_session_truncate cannot go back so far. */
KEEL_API keel_status keel_session_chat(keel_session session, const keel_chat* chat, uint32_t* kept, int32_t* ids,
                                       size_t capacity, size_t* count, keel_error* error);

/* ---------------------------------------------------------------------------------------------------------------------
 * Experimental. Enumerators of keel_kv_format and keel_part_kind above belong to it too.
 */
#ifdef KEEL_EXPERIMENTAL

/* KEEL_PART_KV_PROFILE: a file of `keel calibrate kv` for this model. Formats per layer, and what is removed from keys
 * and values before they are coded; config.k_format and v_format go before its formats. It has no options. A profile
 * that is damaged or another model's is refused: KEEL_E_FILE_FORMAT, KEEL_E_FILE_MISMATCH. */

/* KEEL_PART_WPROJ: a W_proj cache of this model (`keel wproj build`). Its factors become the low-rank variant. A
 * cache that does not fit or is damaged is not used: keel_memory_plan.part_status says why. Where the model's
 * weights stay mapped its `mapped` is needed too (else KEEL_E_ARGUMENT) and must outlive the engine. Factors that
 * contradict their checksums (version 2) are KEEL_E_FILE_FORMAT of keel_engine_init, which does not look at them
 * under KEEL_WEIGHTS_MAP. */
typedef struct keel_wproj_options {
    uint32_t struct_size;
    uint32_t any_key; /* nonzero: another key or fingerprint is accepted where the shapes match */
    uint64_t key; /* the key it has to have; 0: version 2 is matched by the model's fingerprint, version 1 by none */
    /* Products whose factor has a larger error (keel_op_info) stay dense; 0: no bound. A factor whose error is not
     * known is used. */
    float max_error;
    uint32_t reserved;
} keel_wproj_options;

/* Which weights a session's tokens are computed with. Both variants read and write the same KV rows, so a session may
 * draft in the low-rank variant, truncate to what is known, and compute the drafted tokens again in the dense one: the
 * result is that of the dense variant alone. */
typedef enum keel_variant {
    KEEL_VARIANT_DENSE = 0,   /* of a new session */
    KEEL_VARIANT_LOW_RANK = 1 /* with the factors of a W_proj cache */
} keel_variant;
/* For tokens computed from now on, pending ones included. One step computes one variant; if both are pending in a
 * keel_advance, steps alternate. A fork has the variant of its origin; save and restore leave it.
 * KEEL_E_STATE: the engine has no low-rank variant, or the session has an adapter. KEEL_E_BUSY inside a step.
 * KEEL_E_ARGUMENT: no such variant. */
KEEL_API keel_status keel_session_set_variant(keel_session session, keel_variant variant);

/* keel_op_info.low_rank_reason: whether a product of the low-rank variant uses its factor of the W_proj cache, and if
 * not, why it is the dense one. */
typedef enum keel_low_rank_reason {
    KEEL_LOW_RANK_NONE = 0, /* an op of the dense variant, or one that no factor could replace */
    KEEL_LOW_RANK_USED = 1,
    KEEL_LOW_RANK_NO_FACTOR = 2, /* the cache has none for it */
    KEEL_LOW_RANK_ENERGY = 3,    /* rank below 8, or less than 2 % of the weights' energy */
    KEEL_LOW_RANK_ERROR = 4      /* its error is above keel_wproj_options.max_error */
} keel_low_rank_reason;

#endif /* KEEL_EXPERIMENTAL */

#ifdef __cplusplus
}
#endif
#endif /* KEEL_KEEL_H */
