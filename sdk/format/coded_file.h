// The plain bytes of a coded file (coded.h), decoded by several threads into the memory of the caller: how an engine
// loads one. Every chunk is compared with its checksum.
#pragma once
#include "sdk/format/coded.h"

namespace keel {

// Who decodes.
struct CodedThreads {
    kernels::RansDecode decode;
    uint32_t threads;  // 1..kMostCodedThreads: so many chunks are decoded at once
    // Runs task(context, i) for i in 0..tasks-1, on any threads, and returns when all are done. Null: the caller runs
    // them.
    void (*run)(void* self, uint32_t tasks, void (*task)(void* context, uint32_t i), void* context);
    void* self;
};
constexpr uint32_t kMostCodedThreads = 64;

class CodedFile {
  public:
    // Of the work memory, which is to be 64-byte aligned: a multiple of 64.
    static uint64_t work_bytes(uint32_t threads);

    // `coded` is one that check_coded has accepted. It and the work memory are used as long as this is.
    void open(const keel_reader& coded, const CodedThreads& threads, void* work);
    // Of the plain file; one thread at a time reads it. It refers to this object.
    keel_reader reader();
    // Of what follows the text.
    keel_status read(uint64_t offset, void* dst, uint64_t bytes);
    // Why the newest read that failed did, where the file is to blame; else null.
    const char* fault() const { return fault_; }

  private:
    keel_status enter(uint64_t offset);
    keel_status decode(uint64_t index, uint32_t count, uint8_t* dst);

    const keel_reader* coded_ = nullptr;
    CodedThreads threads_ = {};
    CodedFooter footer_ = {};
    CodedStretch stretch_ = {};  // whose tables are filled
    kernels::RansTables tables_ = {};
    // Of chunks of the stretch, in batches of one a thread, the newest ones, each in the place of its number modulo
    // kept_batches: so that rows whose parts are read in turn are decoded once.
    static constexpr uint32_t kMostBatches = 8;
    uint64_t kept_batch_[kMostBatches] = {};  // its number and 1; 0: none
    uint32_t* entries_ = nullptr;
    uint16_t* first_slot_ = nullptr;
    uint8_t* stored_ = nullptr;  // [threads][kCodedChunkBytes]
    uint8_t* kept_ = nullptr;    // [kept_batches][threads][kCodedChunkBytes]
    const char* fault_ = nullptr;
};

}  // namespace keel
