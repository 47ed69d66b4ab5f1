// A text computed by a session, token by token: where the logits and the state of each lie.
#pragma once
#include <functional>
#include <span>

#include "keel/keel.hpp"

namespace keel::tools {

// Of an engine that keeps the rows of a whole step. What fails throws ToolError.
class TextRows {
  public:
    // Both have to outlive it. after_step: called behind every step, before what became of it is looked at; or null.
    TextRows(Engine& engine, Session& session, std::function<void()> after_step = {})
        : engine_(engine), session_(session), after_step_(std::move(after_step)) {}
    // Feeds the text, behind what the session has.
    void start(std::span<const int32_t> ids);
    // The session's row of the text's next token; it can be read until the next call.
    uint32_t next();
    // Its logits.
    std::span<const float> next_logits();

  private:
    Engine& engine_;
    Session& session_;
    std::function<void()> after_step_;
    uint32_t row_ = 0, rows_ = 0;
};

}  // namespace keel::tools
