/* Every struct with struct_size, declared by its macro. */
#undef KEEL_EXPERIMENTAL
#define KEEL_EXPERIMENTAL
#include "keel/keel.h"
#include "keel/keel_lab.h"
#include "keel/keel_pack.h"
#include "tests/abi/layout.h"

#define STRUCTS(X)                                     \
    X(keel_advance_result, KEEL_ADVANCE_RESULT_INIT)   \
    X(keel_text, KEEL_TEXT_INIT)                       \
    X(keel_error, KEEL_ERROR_INIT)                     \
    X(keel_reader, KEEL_READER_INIT)                   \
    X(keel_limits, KEEL_LIMITS_INIT)                   \
    X(keel_model_info, KEEL_MODEL_INFO_INIT)           \
    X(keel_hooks, KEEL_HOOKS_INIT)                     \
    X(keel_grammar_options, KEEL_GRAMMAR_OPTIONS_INIT) \
    X(keel_pack_section, KEEL_PACK_SECTION_INIT)       \
    X(keel_part, KEEL_PART_INIT)                       \
    X(keel_config, KEEL_CONFIG_INIT)                   \
    X(keel_memory_plan, KEEL_MEMORY_PLAN_INIT)         \
    X(keel_memory, KEEL_MEMORY_INIT)                   \
    X(keel_stats, KEEL_STATS_INIT)                     \
    X(keel_op_info, KEEL_OP_INFO_INIT)                 \
    X(keel_buffer_info, KEEL_BUFFER_INFO_INIT)         \
    X(keel_session_desc, KEEL_SESSION_DESC_INIT)       \
    X(keel_sampling, KEEL_SAMPLING_INIT)               \
    X(keel_session_info, KEEL_SESSION_INFO_INIT)       \
    X(keel_chat_message, KEEL_CHAT_MESSAGE_INIT)       \
    X(keel_chat, KEEL_CHAT_INIT)                       \
    X(keel_wproj_options, KEEL_WPROJ_OPTIONS_INIT)     \
    X(keel_lab_op_time, KEEL_LAB_OP_TIME_INIT)         \
    X(keel_pack_info, KEEL_PACK_INFO_INIT)             \
    X(keel_pack_text_info, KEEL_PACK_TEXT_INFO_INIT)

keel_init_row keel_init_of(size_t index) {
#define ROW(type, init)                                                     \
    {                                                                       \
        const type value = init;                                            \
        const keel_init_row row = {#type, value.struct_size, sizeof(type)}; \
        if (index-- == 0) return row;                                       \
    }
    STRUCTS(ROW)
    const keel_init_row none = {0, 0, 0};
    return none;
}

#define ONE(type, init) +1
const size_t keel_init_count = STRUCTS(ONE);
