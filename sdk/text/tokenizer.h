// Tokenizer: text <-> ids from a GGUF's own vocabulary. Two families, one interface:
//   SentencePiece BPE with byte fallback ("llama" in tokenizer.ggml.model), merges by score;
//   byte-level BPE ("gpt2"), merges by rank, after a pre-tokenizer named by tokenizer.ggml.pre.
// Built once into the persistent arena (count mode, then place mode, same function); immutable after, except for the
// work memory of long runs, which one call at a time uses.
//
// Ids are those GGUF runtimes give for the same file, which for most models are those of the published tokenizer too:
//   - A text is first cut at special tokens, the leftmost and there the longest: user-defined ones always, control and
//     unknown ones under KEEL_TOKENIZE_SPECIAL. Without the flag "<s>" in a text is three characters.
//   - No Unicode normalisation, also where the published tokenizer has one (NFC in qwen2).
//   - SentencePiece: a space is added before the text, and again after every special token, unless the file sets
//     tokenizer.ggml.add_space_prefix to false; decoding takes it away again. U+2581 in a text is a space, as in
//     SentencePiece. Characters without a token are their bytes, else one unknown token for a row of them.
//   - Byte-level: a byte without a token is the unknown token. Where the file names none, or names a control token,
//     which no plain text may become, the byte is lost.
//   - Phi-3 ("general.architecture" phi3, SentencePiece): white space after a special token is dropped, but for
//     that after <unk>, <s> and <|endoftext|>.
//   - Of two tokens with one text the lower id is encoded, of two equal merges the first counts; merges of what are no
//     tokens are left out; empty tokens are never encoded. Without tokenizer.ggml.token_type, <0xHH> are byte tokens,
//     and the bos, eos and unknown ids are special.
//   - BOS, when the file does not say: before SentencePiece, llama-bpe and tekken texts; never without a bos id, and
// not
//     before a text that begins with it already.
#pragma once
#include "sdk/core/arena.h"
#include "sdk/format/gguf.h"

namespace keel {

struct Tokenizer;  // lives in the arena
struct PreTokenizer;

constexpr uint32_t kMaxPieceBytes = 512;  // longest text of one token; TextStream is sized for it

// Places the tokenizer of `g`. In count mode *out is null. max_text_bytes: longest run of text without a safe split
// point that encode must handle; sizes the work memory. pre: in place of the file's pre-tokenizer, or null.
// Errors: KEEL_E_UNSUPPORTED (names model or pre-tokenizer), KEEL_E_FILE_FORMAT (vocabulary inconsistent),
// KEEL_E_FILE_LIMIT (a token longer than kMaxPieceBytes, too many, or texts made to collide), KEEL_E_FILE_READ,
// KEEL_E_ARGUMENT (max_text_bytes not within 1 and 2^24), KEEL_E_MEMORY_TOO_SMALL.
keel_status tokenizer_place(const keel_reader& reader, const Gguf& g, uint32_t max_text_bytes, const PreTokenizer* pre,
                            Arena& arena, Tokenizer** out, keel_error* error);

// Whether tokenizer_place will refuse this file, but for a pre-tokenizer that is missing or unknown: a configuration
// can name another.
keel_status tokenizer_check(const keel_reader& reader, const Gguf& g, keel_error* error);

// As keel_tokenize (flags included), from any thread. *error (may be null) says of a KEEL_E_TEXT_LIMIT which run it is:
// `offset` is where it begins in the text.
keel_status tokenizer_encode(Tokenizer* t, const char* text, size_t bytes, uint32_t flags, int32_t* ids,
                             size_t capacity, size_t* count, keel_error* error = nullptr);

// A stretch of a text, and whether control tokens are recognised in it: the scaffold that a chat template writes is
// special, what somebody said is not.
struct TextSegment {
    size_t bytes;
    bool special;
};
// As tokenizer_encode of the whole `text`, which the segments divide from its beginning to its end, but for one thing:
// a control token is recognised only where all of it lies in special segments. So the ids are those of the text with
// KEEL_TOKENIZE_SPECIAL when nobody wrote a control token, and where somebody did it is ordinary text. flags:
// KEEL_TOKENIZE_BOS or 0.
// With `held` (may be null) only those ids are written and counted that follow the held ones: held->kept is how many of
// these the text begins with, but one id at least is written unless there is none.
struct HeldTokens {
    const int32_t* ids;
    size_t count;
    size_t kept;  // set to 0 by the caller
};
keel_status tokenizer_encode_segments(Tokenizer* t, const char* text, const TextSegment* segments,
                                      uint32_t segment_count, uint32_t flags, int32_t* ids, size_t capacity,
                                      size_t* count, keel_error* error = nullptr, HeldTokens* held = nullptr);

// As keel_detokenize.
keel_status tokenizer_decode(const Tokenizer* t, const int32_t* ids, size_t count, uint32_t flags, char* dst,
                             size_t capacity, size_t* bytes);

// Bytes of one token as they appear inside a text (a leading SentencePiece space is a space; byte tokens are their
// byte; control tokens are empty unless KEEL_DETOKENIZE_SPECIAL; nothing for an id outside the vocabulary). Points into
// the arena or a static text. `first`: the token begins a text (SentencePiece drops the space that the tokenizer
// added).
void tokenizer_piece(const Tokenizer* t, int32_t id, uint32_t flags, bool first, const char** data, size_t* bytes);

// True when the token after `previous_id` begins a text in the sense above: `previous_first` is the same question for
// previous_id itself. A text begins at the start, and again after every special token.
bool tokenizer_begins_text(const Tokenizer* t, int32_t previous_id, bool previous_first);

uint32_t tokenizer_vocabulary(const Tokenizer* t);
constexpr uint32_t kMaxEndIds = 32;
// End-of-generation ids: eos; eot, eom and the FIM ids that end a text which the file names; control and user-defined
// tokens whose text is one GGUF runtimes take for an end. At most kMaxEndIds.
uint32_t tokenizer_end_ids(const Tokenizer* t, const int32_t** ids);
int32_t tokenizer_bos(const Tokenizer* t);  // -1 when the file names none
// Hash of all tokens' texts, in the order of their ids: the same for every file with this vocabulary.
uint64_t tokenizer_identity(const Tokenizer* t);
int32_t tokenizer_eos(const Tokenizer* t);  // likewise

// ---- streaming text of one session: holds back unfinished UTF-8 and possible stop strings ----
constexpr uint32_t kMaxStops = 16;
constexpr uint32_t kMaxStopBytes = 128;
// Held back at most: all but one byte of a stop string, and before it all but one byte of a character.
constexpr uint32_t kMaxHeldBytes = kMaxStopBytes - 1 + 3;

struct TextStream {          // POD; all zero is a stream at the beginning of a text
    uint32_t started;        // the next token follows text: a leading SentencePiece space is a space
    uint32_t stopped;        // keel_text.stopped of the last token
    uint32_t next_position;  // of the token behind the last one that was given
    uint32_t stop_count;
    uint32_t stop_bytes[kMaxStops];
    char stops[kMaxStops][kMaxStopBytes];
    uint32_t own_ends;  // 1: `ends` in place of the tokenizer's
    uint32_t end_count;
    int32_t ends[kMaxEndIds];
    uint32_t held_bytes;
    char held[kMaxHeldBytes];
    uint32_t held_origin[kMaxHeldBytes];  // position of the token that a byte is of, and whether it is shown
    // What the last call handed out: no part of the state.
    char shown[2048];
};
constexpr size_t kTextStateBytes = offsetof(TextStream, shown);  // what is saved with a session

// False for a stream that contradicts itself, as one from a file may.
bool text_stream_valid(const TextStream& s, const Tokenizer* t);
// At most kMaxStops texts of 1..kMaxStopBytes bytes, else KEEL_E_ARGUMENT and the old ones stay.
keel_status text_stream_set_stops(TextStream* s, const char* const* texts, const size_t* bytes, uint32_t count);
// Ids that end the text in place of the tokenizer's, at most kMaxEndIds; null: the tokenizer's again. KEEL_E_ARGUMENT
// for more, or for one outside the vocabulary.
keel_status text_stream_set_ends(TextStream* s, const Tokenizer* t, const int32_t* ids, uint32_t count);
uint32_t text_stream_ends(const TextStream& s, const Tokenizer* t, const int32_t** ids);
// Tells the stream that the next token comes after `token`, which is not streamed (the last one of a prompt).
void text_stream_follow(TextStream* s, const Tokenizer* t, int32_t token);
// Forgets what tokens from position `count` on left behind: bytes held back, a stop, where the text begins. `tokens`:
// the `count` before.
void text_stream_truncate(TextStream* s, const Tokenizer* t, const int32_t* tokens, uint32_t count);
// Positions [from, to) are forgotten, and those behind move down to `from`.
void text_stream_shift(TextStream* s, uint32_t from, uint32_t to);
// As keel_session_text, of the token at a position. What is shown is valid UTF-8: bytes that are no character (a
// maximal part of one, as Unicode counts) show as U+FFFD, once it is certain that they will not become one;
// tokenizer_decode has the exact bytes. After a stop the rest of the token is dropped and the stream goes on with the
// next token, `stopped` again 0. A control token is not shown, and to stop strings is its text, all of it or nothing;
// an end token is neither. KEEL_E_ARGUMENT for a token outside the vocabulary, KEEL_E_STATE for a stream that
// contradicts itself.
keel_status text_stream_push(TextStream* s, const Tokenizer* t, int32_t token, uint32_t position, const char** data,
                             size_t* bytes, uint32_t* stopped);

}  // namespace keel
