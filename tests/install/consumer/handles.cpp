// keel.hpp from an installed Keel: plan lists, handles that move, close what they own and stay while what they own is
// in use, and a closed session is an error.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "keel/keel.hpp"

#define EXPECT(condition)                                                \
    do {                                                                 \
        if (!(condition)) {                                              \
            std::fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
            return 1;                                                    \
        }                                                                \
    } while (0)

namespace {

struct InUse {
    keel::Session* session = nullptr;
    bool refused = false;
};

}  // namespace

int main(int argc, char** argv) {
    EXPECT(argc == 2);
    auto reader = keel::FileReader::open(argv[1]);
    EXPECT(reader);
    keel_model_info info = keel::make<keel_model_info>();
    EXPECT(keel_inspect(reader->get(), nullptr, nullptr, 0, nullptr, &info, nullptr) == KEEL_OK);
    std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
    const keel_model* model = nullptr;
    EXPECT(keel_inspect(reader->get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info, nullptr) == KEEL_OK);

    keel_config config = keel::make<keel_config>();
    config.context_tokens = 128;
    keel_memory_plan plan = keel::make<keel_memory_plan>();
    EXPECT(keel_plan(reader->get(), model, &config, &plan, nullptr) == KEEL_OK);
    uint32_t count = 0;
    EXPECT(keel::plan_ops(reader->get(), model, config, {}, &count));
    EXPECT(count == plan.op_count);
    std::vector<keel_op_info> ops(count);
    const auto listed = keel::plan_ops(reader->get(), model, config, ops, &count);
    EXPECT(listed && listed->size() == count && listed->back().index == count - 1);
    EXPECT(keel::plan_ops(reader->get(), model, config, std::span(ops).first(1), &count).status ==
           KEEL_E_BUFFER_TOO_SMALL);
    EXPECT(keel::plan_buffers(reader->get(), model, config, {}, &count));
    std::vector<keel_buffer_info> objects(count);
    EXPECT(keel::plan_buffers(reader->get(), model, config, objects, &count)->size() == objects.size());

    // A hook that closes the session it is called for.
    InUse in_use;
    keel_hooks hooks = keel::make<keel_hooks>();
    hooks.user_data = &in_use;
    hooks.allowed_tokens = [](void* user_data, keel_session, const int32_t*, uint32_t, uint8_t*, uint32_t) {
        InUse& use = *static_cast<InUse*>(user_data);
        use.refused = use.session->close() == KEEL_E_BUSY && *use.session;
    };
    config.hooks = &hooks;
#ifdef HAVE_KEEL_MEMORY
    auto memory = keel::DefaultMemory::allocate(plan);
    EXPECT(memory);
    const keel_memory* regions = memory->get();
#else
    keel_memory own = keel::make<keel_memory>();
    for (int r = 0; r < KEEL_REGION_SLOTS; ++r)
        if (plan.regions[r].bytes)
            own.regions[r] = {std::aligned_alloc(4096, (plan.regions[r].bytes + 4095) / 4096 * 4096),
                              plan.regions[r].bytes};
    const keel_memory* regions = &own;
#endif
    auto engine = keel::Engine::init(reader->get(), model, config, regions);
    EXPECT(engine);
    keel::Engine moved = std::move(*engine);
    EXPECT(moved && !*engine);

    auto session = moved.open();
    EXPECT(session);
    const keel_session handle = session->handle();
    int32_t ids[32];
    const auto tokens = moved.tokenize("The sea", ids, KEEL_TOKENIZE_BOS);
    EXPECT(tokens && tokens->size() > 1);
    // An empty buffer has room for nothing; it is no question.
    EXPECT(moved.tokenize("The sea", {}).status == KEEL_E_BUFFER_TOO_SMALL);
    EXPECT(moved.detokenize(*tokens, {}).status == KEEL_E_BUFFER_TOO_SMALL);
    EXPECT(moved.tokenize("", {})->empty());
    EXPECT(moved.token_count("The sea", KEEL_TOKENIZE_BOS).value == tokens->size());
    EXPECT(session->feed(*tokens) == KEEL_OK);
    EXPECT(moved.advance(*session).status == KEEL_OK);
    EXPECT(session->logits()->size() == info.vocabulary);
    in_use.session = &*session;
    EXPECT(session->sample());
    EXPECT(in_use.refused);
    EXPECT(session->tokens()->size() == tokens->size());
    EXPECT(session->close() == KEEL_OK);
    EXPECT(keel_session_truncate(handle, 0) == KEEL_E_HANDLE);
    EXPECT(!session->logits());
    EXPECT(moved.close() == KEEL_OK);
    return 0;
}
