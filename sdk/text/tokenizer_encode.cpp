// Text to ids. A text is cut at special tokens; between them it is cut into runs that no token crosses; in a run,
// neighbours merge one pair at a time, the best pair first, until none is left. Only a run needs memory.
#include <string.h>

#include <atomic>

#include "sdk/core/status.h"
#include "sdk/text/tokenizer_layout.h"

namespace keel {
namespace {

// Runs up to here are worked on in memory of the call, so that any number of threads encode at once.
constexpr uint32_t kSmallRunBytes = 256;

class Encoder {
  public:
    Encoder(Tokenizer& t, const char* text, const TextSegment* segments, uint32_t segment_count, HeldTokens* held,
            int32_t* ids, size_t capacity, keel_error* error)
        : t_(t),
          text_(text),
          segments_(segments),
          segment_count_(segment_count),
          held_(held),
          ids_(ids),
          capacity_(capacity),
          error_(error),
          work_{small_text_, small_symbols_, small_heap_,
                t.run_capacity < kSmallRunBytes ? t.run_capacity : kSmallRunBytes} {
        for (uint32_t i = 0; i < segment_count; ++i) text_bytes_ += segments[i].bytes;
    }
    ~Encoder() { give_back(); }
    Encoder(const Encoder&) = delete;
    keel_status run(bool begin_with_bos);
    void emit(int32_t id) {
        last_id_ = id;
        if (held_ && count_ == 0 && held_->kept < held_->count && held_->ids[held_->kept] == id) {
            ++held_->kept;
            return;
        }
        if (count_ < capacity_) ids_[count_] = id;
        ++count_;
    }
    // Of ids that are all held already, the last one is not kept.
    void leave_one() {
        if (!held_ || count_ || !held_->kept) return;
        --held_->kept;
        if (capacity_) ids_[0] = last_id_;
        count_ = 1;
    }
    size_t count() const { return count_; }

  private:
    keel_status ordinary(size_t begin, size_t end);
    keel_status add(uint32_t code, size_t at, const char* text, uint32_t bytes);
    keel_status add_bytes(size_t begin, size_t end);
    keel_status grow();
    void give_back();
    void finish_run();
    void emit_symbol(const Symbol& s);

    size_t control_end(size_t at);
    bool find_special(size_t from, size_t* begin, size_t* length, int32_t* id);

    // The heap of mergeable pairs, named by their left symbol.
    void pair_up(uint32_t left);
    void heap_put(uint32_t place, uint64_t entry) {
        work_.heap[place] = entry;
        work_.symbols[static_cast<uint32_t>(entry)].heap_place = place;
    }
    void sift_up(uint32_t place, uint64_t entry);
    void sift_down(uint32_t place, uint64_t entry);
    void heap_set(uint32_t symbol, uint32_t key);
    void heap_remove(uint32_t symbol);

    Tokenizer& t_;
    const char* const text_;
    size_t text_bytes_ = 0;
    const TextSegment* const segments_;
    const uint32_t segment_count_;
    uint32_t segment_ = 0;  // the next one behind the stretch below
    size_t stretch_end_ = 0;
    bool stretch_special_ = false;  // neighbouring segments of one kind are one stretch
    HeldTokens* const held_;        // may be null
    int32_t last_id_ = -1;
    int32_t* const ids_;
    const size_t capacity_;
    keel_error* const error_;
    size_t count_ = 0;
    size_t run_begin_ = 0;  // in text_
    uint32_t run_bytes_ = 0, run_symbols_ = 0, heap_count_ = 0;
    uint32_t last_code_ = 0;     // of the run's newest element
    RunWork work_;               // the small one below, or the tokenizer's
    bool last_unknown_ = false;  // the newest id stands for unknown characters, and goes on to
    char small_text_[kSmallRunBytes];
    Symbol small_symbols_[kSmallRunBytes];
    uint64_t small_heap_[kSmallRunBytes];
};

// ---- heap: a binary heap of key << 32 | symbol, every symbol knowing its place, so that a pair is changed in place
// and the heap never outgrows the run ----

void Encoder::sift_up(uint32_t place, uint64_t entry) {
    for (; place > 0; place = (place - 1) / 2) {
        const uint64_t parent = work_.heap[(place - 1) / 2];
        if (parent <= entry) break;
        heap_put(place, parent);
    }
    heap_put(place, entry);
}

void Encoder::sift_down(uint32_t place, uint64_t entry) {
    for (uint32_t child; (child = 2 * place + 1) < heap_count_; place = child) {
        if (child + 1 < heap_count_ && work_.heap[child + 1] < work_.heap[child]) ++child;
        if (entry <= work_.heap[child]) break;
        heap_put(place, work_.heap[child]);
    }
    heap_put(place, entry);
}

void Encoder::heap_set(uint32_t symbol, uint32_t key) {
    const uint64_t entry = uint64_t{key} << 32 | symbol;
    const uint32_t place = work_.symbols[symbol].heap_place;
    if (place == kNoSymbol)
        sift_up(heap_count_++, entry);
    else if (entry < work_.heap[place])
        sift_up(place, entry);
    else
        sift_down(place, entry);
}

void Encoder::heap_remove(uint32_t symbol) {
    const uint32_t place = work_.symbols[symbol].heap_place;
    if (place == kNoSymbol) return;
    work_.symbols[symbol].heap_place = kNoSymbol;
    const uint64_t last = work_.heap[--heap_count_];
    if (place == heap_count_) return;
    if (place > 0 && last < work_.heap[(place - 1) / 2])
        sift_up(place, last);
    else
        sift_down(place, last);
}

// ---- merging ----

// Scores as integers in descending order: the largest score has the smallest key.
uint32_t score_key(float score) {
    uint32_t bits;
    score += 0.0f;  // -0 and 0 are one score
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

// Looks up what `left` and its next symbol merge to, and keeps the heap so.
void Encoder::pair_up(uint32_t left) {
    Symbol& a = work_.symbols[left];
    if (a.next != kNoSymbol) {
        const Symbol& b = work_.symbols[a.next];
        if (!t_.byte_level) {
            const int32_t id = find_piece(t_, t_.pieces, work_.text + a.begin, a.bytes + b.bytes);
            if (id >= 0) {
                a.merged_id = id;
                return heap_set(left, score_key(t_.scores[id]));
            }
        } else if (a.id >= 0 && b.id >= 0) {
            const uint32_t x = static_cast<uint32_t>(a.id), y = static_cast<uint32_t>(b.id);
            const MergeSlot* found = nullptr;
            probe(static_cast<uint32_t>(merge_hash(x, y) >> 32), t_.merge_slots, t_.longest_merge, [&](uint32_t slot) {
                const MergeSlot& m = t_.merges[slot];
                if (m.result_plus_1 && m.left == x && m.right == y) found = &m;
                return found || m.result_plus_1 == 0;
            });
            if (found) {
                a.merged_id = static_cast<int32_t>(found->result_plus_1 - 1);
                return heap_set(left, found->rank);
            }
        }
    }
    heap_remove(left);
}

void Encoder::emit_symbol(const Symbol& s) {
    if (s.id >= 0) {
        last_unknown_ = false;
        return emit(s.id);
    }
    bool has_bytes = true;
    for (uint32_t i = 0; i < s.bytes; ++i) has_bytes &= t_.byte_ids[static_cast<uint8_t>(work_.text[s.begin + i])] >= 0;
    if (has_bytes) {
        last_unknown_ = false;
        for (uint32_t i = 0; i < s.bytes; ++i) emit(t_.byte_ids[static_cast<uint8_t>(work_.text[s.begin + i])]);
        return;
    }
    // SentencePiece has one unknown token for neighbouring unknown characters, byte-level BPE one for each.
    if (t_.unknown_id >= 0 && (t_.byte_level || !last_unknown_)) emit(t_.unknown_id);
    last_unknown_ = true;
}

void Encoder::finish_run() {
    heap_count_ = 0;
    for (uint32_t i = 0; i < run_symbols_; ++i) {
        Symbol& s = work_.symbols[i];
        s.previous = i ? i - 1 : kNoSymbol;
        s.next = i + 1 < run_symbols_ ? i + 1 : kNoSymbol;
        s.heap_place = kNoSymbol;
    }
    for (uint32_t i = 0; i + 1 < run_symbols_; ++i) pair_up(i);
    while (heap_count_) {
        const uint32_t left = static_cast<uint32_t>(work_.heap[0]);
        Symbol& a = work_.symbols[left];
        const Symbol b = work_.symbols[a.next];
        heap_remove(a.next);
        a.bytes += b.bytes;
        a.id = a.merged_id;
        a.next = b.next;
        if (b.next != kNoSymbol) work_.symbols[b.next].previous = left;
        pair_up(left);
        if (a.previous != kNoSymbol) pair_up(a.previous);
    }
    if (run_symbols_)
        for (uint32_t i = 0; i != kNoSymbol; i = work_.symbols[i].next) emit_symbol(work_.symbols[i]);
    run_bytes_ = run_symbols_ = 0;
    give_back();
}

// The run goes on in the tokenizer's work memory, which one thread at a time has.
keel_status Encoder::grow() {
    if (work_.capacity == t_.run_capacity)
        return fail(error_, KEEL_E_TEXT_LIMIT, run_begin_, "max_text_bytes",
                    "a run of text without a safe split point is longer");
    if (std::atomic_ref(t_.work_taken).exchange(1, std::memory_order_acquire)) return KEEL_E_BUSY;
    memcpy(t_.work.text, work_.text, run_bytes_);
    memcpy(static_cast<void*>(t_.work.symbols), work_.symbols, run_symbols_ * sizeof(Symbol));
    work_ = t_.work;
    return KEEL_OK;
}

void Encoder::give_back() {
    if (work_.text == small_text_) return;
    work_ = {small_text_, small_symbols_, small_heap_, kSmallRunBytes};
    std::atomic_ref(t_.work_taken).store(0, std::memory_order_release);
}

// Appends one element to the run, after closing it if nothing joins the two. `at`: where it stands in the text.
keel_status Encoder::add(uint32_t code, size_t at, const char* text, uint32_t bytes) {
    if (run_symbols_ && !may_join(t_, last_code_, code)) finish_run();
    if (run_symbols_ == 0) run_begin_ = at;
    if (bytes > work_.capacity - run_bytes_) {
        KEEL_TRY(grow());
        if (bytes > work_.capacity - run_bytes_) return grow();
    }
    last_code_ = code;
    memcpy(work_.text + run_bytes_, text, bytes);
    Symbol& s = work_.symbols[run_symbols_++];
    s.begin = run_bytes_;
    s.bytes = bytes;
    s.id = t_.byte_level ? t_.byte_ids[code] : find_piece(t_, t_.pieces, text, bytes);
    run_bytes_ += bytes;
    return KEEL_OK;
}

// ---- text ----

keel_status Encoder::add_bytes(size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) KEEL_TRY(add(static_cast<uint8_t>(text_[i]), i, text_ + i, 1));
    finish_run();
    return KEEL_OK;
}

// Text between special tokens, or between one and an end of the whole text.
keel_status Encoder::ordinary(size_t begin, size_t end) {
    if (begin == end) return KEEL_OK;
    last_unknown_ = false;
    if (t_.byte_level) {
        PreTokenCursor words(*t_.pre, text_ + begin, end - begin);
        for (size_t from, to; words.next(&from, &to);) {
            const char* const word = text_ + begin + from;
            const size_t length = to - from;
            const int32_t whole =
                t_.ignore_merges && length <= kMaxPieceBytes ? find_piece(t_, t_.pieces, word, length) : -1;
            if (whole >= 0)
                emit(whole);
            else
                KEEL_TRY(add_bytes(begin + from, begin + to));
        }
        return KEEL_OK;
    }
    if (t_.add_space_prefix) KEEL_TRY(add(' ', begin, " ", 1));
    for (size_t i = begin; i < end;) {
        const Utf8Char c = utf8_decode(text_ + i, end - i);
        KEEL_TRY(c.code == kSpaceMark ? add(' ', i, " ", 1) : add(c.code, i, text_ + i, c.bytes));
        i += c.bytes;
    }
    finish_run();
    return KEEL_OK;
}

// Where the stretch around `at` ends in which control tokens are recognised; `at` where they are not. Asked in
// ascending order.
size_t Encoder::control_end(size_t at) {
    while (at >= stretch_end_ && segment_ < segment_count_) {
        stretch_special_ = segments_[segment_].special;
        for (; segment_ < segment_count_; ++segment_) {
            if (segments_[segment_].bytes && segments_[segment_].special != stretch_special_) break;
            stretch_end_ += segments_[segment_].bytes;
        }
    }
    return stretch_special_ ? stretch_end_ : at;
}

// The leftmost special token from `from` on, the longest of those that begin there.
bool Encoder::find_special(size_t from, size_t* begin, size_t* length, int32_t* id) {
    if (t_.special_length_count == 0) return false;
    for (size_t at = from; at < text_bytes_; ++at) {
        const uint8_t first = static_cast<uint8_t>(text_[at]);
        if (!(t_.special_first[first >> 6] >> (first & 63) & 1)) continue;
        const size_t control_bytes = control_end(at) - at;
        uint64_t hash = kHashSeed;
        size_t hashed = 0;
        *id = -1;
        for (uint32_t i = 0; i < t_.special_length_count && t_.special_lengths[i] <= text_bytes_ - at; ++i) {
            const size_t candidate = t_.special_lengths[i];
            hash = hash_update(hash, text_ + at + hashed, candidate - hashed);
            hashed = candidate;
            const int32_t found = find_piece(t_, t_.specials, hash_finish(hash), text_ + at, candidate);
            if (found < 0 || (t_.types[found] != kTokenUserDefined && candidate > control_bytes)) continue;
            *id = found;
            *length = candidate;
        }
        if (*id >= 0) {
            *begin = at;
            return true;
        }
    }
    return false;
}

// Of special tokens whose white space is dropped, those that keep it, as llama.cpp has it.
bool keeps_space_behind(const Tokenizer& t, int32_t id) {
    uint32_t bytes;
    const char* text = token_text(t, static_cast<uint32_t>(id), &bytes);
    for (const char* kept : {"<unk>", "<s>", "<|endoftext|>"})
        if (strlen(kept) == bytes && memcmp(kept, text, bytes) == 0) return true;
    return false;
}

keel_status Encoder::run(bool begin_with_bos) {
    if (begin_with_bos) emit(t_.bos_id);
    for (size_t at = 0;;) {
        size_t begin = text_bytes_, length = 0;
        int32_t id = -1;
        const bool found = find_special(at, &begin, &length, &id);
        KEEL_TRY(ordinary(at, begin));
        if (!found) return KEEL_OK;
        if (begin > 0 || id != t_.bos_id || !begin_with_bos)
            emit(id);  // a text that begins with BOS gets no second one
        at = begin + length;
        if (t_.strip_after_special && !keeps_space_behind(t_, id))
            while (at < text_bytes_ && (text_[at] == ' ' || (text_[at] >= '\t' && text_[at] <= '\r'))) ++at;
    }
}

}  // namespace

keel_status tokenizer_encode_segments(Tokenizer* t, const char* text, const TextSegment* segments,
                                      uint32_t segment_count, uint32_t flags, int32_t* ids, size_t capacity,
                                      size_t* count, keel_error* error, HeldTokens* held) {
    Encoder encoder(*t, text, segments, segment_count, held, ids, capacity, error);
    KEEL_TRY(encoder.run((flags & KEEL_TOKENIZE_BOS) && t->add_bos));
    encoder.leave_one();
    *count = encoder.count();
    return ids && encoder.count() > capacity ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

keel_status tokenizer_encode(Tokenizer* t, const char* text, size_t bytes, uint32_t flags, int32_t* ids,
                             size_t capacity, size_t* count, keel_error* error) {
    if (!count || (!text && bytes) || (!ids && capacity) || (flags & ~(KEEL_TOKENIZE_SPECIAL | KEEL_TOKENIZE_BOS)))
        return KEEL_E_ARGUMENT;
    const TextSegment whole = {bytes, (flags & KEEL_TOKENIZE_SPECIAL) != 0};
    return tokenizer_encode_segments(t, text, &whole, 1, flags, ids, capacity, count, error);
}

}  // namespace keel
