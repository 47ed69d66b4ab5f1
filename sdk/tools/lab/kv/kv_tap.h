// A view into the forward pass (keel_lab.h) as an object: what laboratories derive from.
#pragma once
#include <exception>
#include <mutex>
#include <utility>

#include "keel/keel_lab.h"

namespace keel::tools {

class KvTap {
  public:
    virtual ~KvTap() = default;
    // Needs one compute thread: its calls depend on one another.
    virtual bool one_thread() const { return false; }
    // A document of so many tokens begins, computed in steps that end at multiples of `chunk`.
    virtual void begin([[maybe_unused]] keel_session session, [[maybe_unused]] uint32_t tokens,
                       [[maybe_unused]] uint32_t chunk) {}
    // Every KV head of every position, both stages; several threads unless one_thread(). May throw.
    virtual void heads(const keel_lab_heads& heads) = 0;
    // The document is computed; its session is still open.
    virtual void end() {}

    // keel_lab_set_tap's function; user_data is the KvTap. Keeps the first exception, and calls nothing after one.
    static void call(void* user_data, const keel_lab_heads* heads) noexcept {
        KvTap& tap = *static_cast<KvTap*>(user_data);
        try {
            if (!tap.failed()) tap.heads(*heads);
        } catch (...) {
            const std::lock_guard lock(tap.mutex_);
            if (!tap.error_) tap.error_ = std::current_exception();
        }
    }
    void rethrow() {
        const std::lock_guard lock(mutex_);
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

  private:
    bool failed() {
        const std::lock_guard lock(mutex_);
        return error_ != nullptr;
    }
    std::mutex mutex_;
    std::exception_ptr error_;
};

// Sizes of what a tap sees.
struct KvShape {
    uint32_t layers = 0, kv_heads = 0, heads = 0, head_dim = 0;
    uint32_t context_tokens = 0;

    uint32_t group() const { return heads / kv_heads; }
    // Index of a row in [layers][kv_heads][context_tokens].
    size_t row(uint32_t layer, uint32_t kv_head, uint32_t position) const {
        return (size_t{layer} * kv_heads + kv_head) * context_tokens + position;
    }
    size_t rows() const { return size_t{layers} * kv_heads * context_tokens; }
};

}  // namespace keel::tools
