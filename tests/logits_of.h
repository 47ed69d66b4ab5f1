// The last logits of a few tokens, through an engine made for them.
#pragma once
#include <stdexcept>

#include "tests/backend_under_test.h"
#include "tests/test_engine.h"

namespace keel_test {

// Of the backend under test, and of `config` but for its backend and context, in exactly the planned memory: a byte
// less is refused. In *plan_out the plan.
inline std::vector<float> logits_of(const keel_reader& reader, const keel_model* model, keel_config config,
                                    keel_memory_plan* plan_out = nullptr) {
    config.context_tokens = 64;
    config.backend = backend_under_test().backend;
    config.backend_options = backend_under_test().options;
    keel_memory_plan plan = sized<keel_memory_plan>();
    keel_error error = sized<keel_error>();
    check(keel_plan(&reader, model, &config, &plan, &error), "keel_plan", &error);
    if (plan_out) *plan_out = plan;
    const Memory memory(plan);
    keel_engine engine;
    for (int region = 0; region < KEEL_REGION_SLOTS; ++region) {
        keel_memory less = *memory.get();
        if (less.regions[region].bytes == 0) continue;
        --less.regions[region].bytes;
        if (keel_engine_init(&reader, model, &config, &less, &engine, nullptr) != KEEL_E_MEMORY_TOO_SMALL)
            throw std::logic_error("an engine in a byte less than was planned");
    }
    check(keel_engine_init(&reader, model, &config, memory.get(), &engine, &error), "keel_engine_init", &error);
    keel_session session;
    check(keel_session_open(engine, nullptr, &session), "keel_session_open");
    const int32_t ids[] = {1, 20, 3, 40, 5};
    check(keel_session_feed(session, ids, 5, 0), "keel_session_feed");
    keel_advance_result result = sized<keel_advance_result>();
    do check(keel_advance(engine, &session, 1, 0, &result), "keel_advance");
    while (result.pending_tokens);
    const float* row;
    uint32_t n;
    check(keel_session_logits(session, 0, &row, &n), "keel_session_logits");
    const std::vector<float> out(row, row + n);
    check(keel_engine_close(engine), "keel_engine_close");
    return out;
}

}  // namespace keel_test
