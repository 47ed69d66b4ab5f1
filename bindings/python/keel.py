"""Written by bindings/generate.py from include/keel/keel.h, which is the manual. Do not edit.

    keel = load("libkeel.so")
    keel.keel_version()
"""
import ctypes

KEEL_VERSION_MAJOR = 0
KEEL_VERSION_MINOR = 2
KEEL_VERSION_PATCH = 0
KEEL_API_VERSION = 2
KEEL_PACK_MODEL = 0
KEEL_PACK_NOTE = 4294967295
KEEL_PACK_MAX_SECTIONS = 21
KEEL_REGION_SLOTS = 16
KEEL_STEP_COSTS = 16
KEEL_OP_BUFFERS = 8
KEEL_TOKENIZE_SPECIAL = 1
KEEL_TOKENIZE_BOS = 2
KEEL_FEED_ALL_LOGITS = 1
KEEL_FEED_SAMPLE = 2
KEEL_DRAFT_SUFFIX = 1
KEEL_DRAFT_POOL = 2
KEEL_DRAFT_LOGITS = 4
KEEL_DETOKENIZE_SPECIAL = 1

# keel_status
KEEL_OK = 0
KEEL_AGAIN = 1
KEEL_E_ARGUMENT = 10
KEEL_E_ABI = 11
KEEL_E_STATE = 12
KEEL_E_HANDLE = 13
KEEL_E_BUSY = 14
KEEL_E_SLOTS_FULL = 15
KEEL_E_MEMORY_TOO_SMALL = 20
KEEL_E_MEMORY_ALIGN = 21
KEEL_E_BUFFER_TOO_SMALL = 22
KEEL_E_FILE_READ = 30
KEEL_E_FILE_FORMAT = 31
KEEL_E_FILE_LIMIT = 32
KEEL_E_UNSUPPORTED = 33
KEEL_E_FILE_MISMATCH = 34
KEEL_E_FILE_MISSING = 35
KEEL_E_FILE_PERMISSION = 36
KEEL_E_FILE_KIND = 37
KEEL_E_CONTEXT_FULL = 40
KEEL_E_KV_FULL = 41
KEEL_E_CANCELLED = 42
KEEL_E_NO_LOGITS = 43
KEEL_E_NUMERIC = 44
KEEL_E_TEXT_LIMIT = 45
KEEL_E_PLATFORM = 50
KEEL_E_POISONED = 51
KEEL_E_DEVICE = 52

# keel_chat_family
KEEL_CHAT_NONE = 0
KEEL_CHAT_UNKNOWN = 1
KEEL_CHAT_CHATML = 2
KEEL_CHAT_LLAMA3 = 3
KEEL_CHAT_MISTRAL = 4
KEEL_CHAT_GEMMA = 5
KEEL_CHAT_PHI3 = 6
KEEL_CHAT_ZEPHYR = 7
KEEL_CHAT_OTHER = 8

# keel_log_level
KEEL_LOG_ERROR = 1
KEEL_LOG_WARN = 2
KEEL_LOG_INFO = 3

# keel_kv_format
KEEL_KV_DEFAULT = 0
KEEL_KV_F16 = 1
KEEL_KV_Q8_0 = 4
KEEL_KV_TCQ_2 = 14
KEEL_KV_TCQ_3 = 15
KEEL_KV_TCQ_4 = 16
KEEL_KV_TCQ_5 = 17
KEEL_KV_TCQ_6 = 18

# keel_weights
KEEL_WEIGHTS_DEFAULT = 0
KEEL_WEIGHTS_COPY = 1
KEEL_WEIGHTS_MAP = 2
KEEL_WEIGHTS_MAP_LOCKED = 3
KEEL_WEIGHTS_REPACK = 4

# keel_repack_skip
KEEL_REPACK_SKIP_NONE = 0
KEEL_REPACK_SKIP_TYPE = 1
KEEL_REPACK_SKIP_ROWS = 2
KEEL_REPACK_SKIP_LOOKUP = 3
KEEL_REPACK_SKIP_SPEED = 4

# keel_fp32_reason
KEEL_FP32_NONE = 0
KEEL_FP32_TYPE = 1
KEEL_FP32_ACTIVATION = 2
KEEL_FP32_FEW_ROWS = 3

# keel_activation
KEEL_ACTIVATION_DEFAULT = 0
KEEL_ACTIVATION_Q8 = 1
KEEL_ACTIVATION_F32 = 2
KEEL_ACTIVATION_BF16 = 3

# keel_numerics
KEEL_NUMERICS_DEFAULT = 0
KEEL_NUMERICS_DEVICE = 1

# keel_cpu
KEEL_CPU_AUTO = 0
KEEL_CPU_SCALAR = 1
KEEL_CPU_AVX2 = 2
KEEL_CPU_AVX512 = 3
KEEL_CPU_AMX = 4
KEEL_CPU_NEON = 5
KEEL_CPU_NEON_DOTPROD = 6
KEEL_CPU_NEON_I8MM = 7

# keel_part_kind
KEEL_PART_CHAT_TEMPLATE = 1
KEEL_PART_GRAMMAR = 4
KEEL_PART_DRAFT_POOL = 5
KEEL_PART_ADAPTER = 6

# keel_pack_codec
KEEL_PACK_RAW = 0
KEEL_PACK_RANS = 1
KEEL_PACK_ZSTD = 2

# keel_region_kind
KEEL_REGION_PERSISTENT = 0
KEEL_REGION_SCRATCH = 1
KEEL_REGION_PINNED = 2
KEEL_REGION_WEIGHTS = 3
KEEL_REGION_KV = 4
KEEL_REGION_DEVICE_SCRATCH = 5
KEEL_REGION_DEVICE_WEIGHTS = 6
KEEL_REGION_DEVICE_KV = 7
KEEL_REGION_COUNT = 8


class keel_engine(ctypes.Structure):
    pass


class keel_session(ctypes.Structure):
    pass


class keel_model(ctypes.Structure):
    pass


class keel_advance_result(ctypes.Structure):
    pass


class keel_text(ctypes.Structure):
    pass


class keel_error(ctypes.Structure):
    pass


class keel_reader(ctypes.Structure):
    pass


class keel_limits(ctypes.Structure):
    pass


class keel_model_info(ctypes.Structure):
    pass


class keel_hooks(ctypes.Structure):
    pass


class keel_grammar_options(ctypes.Structure):
    pass


class keel_part(ctypes.Structure):
    pass


class keel_pack_section(ctypes.Structure):
    pass


class keel_backend(ctypes.Structure):
    pass


class keel_config(ctypes.Structure):
    pass


class keel_region_plan(ctypes.Structure):
    pass


class keel_memory_plan(ctypes.Structure):
    pass


class keel_region(ctypes.Structure):
    pass


class keel_memory(ctypes.Structure):
    pass


class keel_region_stats(ctypes.Structure):
    pass


class keel_stats(ctypes.Structure):
    pass


class keel_op_info(ctypes.Structure):
    pass


class keel_buffer_info(ctypes.Structure):
    pass


class keel_session_desc(ctypes.Structure):
    pass


class keel_sampling(ctypes.Structure):
    pass


class keel_session_info(ctypes.Structure):
    pass


class keel_chat_message(ctypes.Structure):
    pass


class keel_chat(ctypes.Structure):
    pass


keel_engine._fields_ = [
    ("id", ctypes.c_uint64),
]

keel_session._fields_ = [
    ("id", ctypes.c_uint64),
]

keel_advance_result._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("status", ctypes.c_int),
    ("computed_tokens", ctypes.c_uint32),
    ("pending_tokens", ctypes.c_uint32),
    ("logits_rows", ctypes.c_uint32),
    ("accepted_tokens", ctypes.c_uint32),
]

keel_text._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("stopped", ctypes.c_uint32),
    ("data", ctypes.POINTER(ctypes.c_char)),
    ("bytes", ctypes.c_size_t),
]

keel_error._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("status", ctypes.c_int),
    ("offset", ctypes.c_uint64),
    ("field", ctypes.c_char * 96),
    ("reason", ctypes.c_char * 128),
]

keel_reader._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("size_bytes", ctypes.c_uint64),
    ("read_at", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)),
    ("user_data", ctypes.c_void_p),
    ("mapped", ctypes.c_void_p),
    ("begin_bytes", ctypes.c_uint64),
    ("part", ctypes.c_uint32),
    ("interleaved_rows", ctypes.c_uint32),
    ("coded_bytes", ctypes.c_uint64),
    ("text", ctypes.c_void_p),
    ("text_bytes", ctypes.c_uint64),
    ("text_stored_bytes", ctypes.c_uint64),
]

keel_limits._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("max_metadata_keys", ctypes.c_uint32),
    ("max_tensors", ctypes.c_uint32),
    ("max_string_bytes", ctypes.c_uint32),
    ("max_array_elements", ctypes.c_uint32),
    ("max_name_bytes", ctypes.c_uint32),
    ("max_layers", ctypes.c_uint32),
    ("max_vocabulary", ctypes.c_uint32),
    ("max_alignment_bytes", ctypes.c_uint32),
    ("max_dimension", ctypes.c_uint32),
    ("max_metadata_bytes", ctypes.c_uint64),
]

keel_model_info._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("gguf_version", ctypes.c_uint32),
    ("architecture", ctypes.c_char * 32),
    ("name", ctypes.c_char * 96),
    ("tokenizer", ctypes.c_char * 32),
    ("pre_tokenizer", ctypes.c_char * 32),
    ("weight_types", ctypes.c_char * 96),
    ("file_bytes", ctypes.c_uint64),
    ("weight_bytes", ctypes.c_uint64),
    ("parameters", ctypes.c_uint64),
    ("fingerprint", ctypes.c_uint64),
    ("tensors", ctypes.c_uint32),
    ("layers", ctypes.c_uint32),
    ("embedding", ctypes.c_uint32),
    ("feed_forward", ctypes.c_uint32),
    ("heads", ctypes.c_uint32),
    ("kv_heads", ctypes.c_uint32),
    ("head_dim", ctypes.c_uint32),
    ("vocabulary", ctypes.c_uint32),
    ("train_context_tokens", ctypes.c_uint32),
    ("bos_id", ctypes.c_int32),
    ("eos_id", ctypes.c_int32),
    ("chat_family", ctypes.c_int),
    ("model_bytes", ctypes.c_uint64),
    ("chat_offset", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("chat_reason", ctypes.c_char * 128),
]

keel_hooks._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("user_data", ctypes.c_void_p),
    ("log", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_char))),
    ("progress", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)),
    ("fault", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char))),
    ("parallel_for", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32), ctypes.c_void_p)),
    ("allowed_tokens", ctypes.CFUNCTYPE(None, ctypes.c_void_p, keel_session, ctypes.POINTER(ctypes.c_int32), ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint8), ctypes.c_uint32)),
    ("strftime_now", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)),
]

keel_grammar_options._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("json_schema", ctypes.c_uint32),
]

keel_part._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("kind", ctypes.c_int),
    ("reader", ctypes.POINTER(keel_reader)),
    ("options", ctypes.c_void_p),
]

keel_pack_section._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("kind", ctypes.c_uint32),
    ("json_schema", ctypes.c_uint32),
    ("interleaved_rows", ctypes.c_uint32),
    ("offset", ctypes.c_uint64),
    ("bytes", ctypes.c_uint64),
    ("hash", ctypes.c_uint64),
    ("name", ctypes.c_char * 32),
    ("codec", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("plain_bytes", ctypes.c_uint64),
]

keel_config._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("api_version", ctypes.c_uint32),
    ("context_tokens", ctypes.c_uint32),
    ("max_sessions", ctypes.c_uint32),
    ("kv_pages", ctypes.c_uint32),
    ("chunk_tokens", ctypes.c_uint32),
    ("logits_rows", ctypes.c_uint32),
    ("max_text_bytes", ctypes.c_uint32),
    ("weights", ctypes.c_int),
    ("activation", ctypes.c_int),
    ("cpu", ctypes.c_int),
    ("k_format", ctypes.c_int),
    ("v_format", ctypes.c_int),
    ("threads", ctypes.c_uint32),
    ("pin_threads", ctypes.c_uint32),
    ("tile_us", ctypes.c_uint32),
    ("kv_sink_tokens", ctypes.c_uint32),
    ("kv_recent_tokens", ctypes.c_uint32),
    ("kv_rollback_tokens", ctypes.c_uint32),
    ("part_count", ctypes.c_uint32),
    ("parts", ctypes.POINTER(keel_part)),
    ("hooks", ctypes.POINTER(keel_hooks)),
    ("backend", ctypes.POINTER(keel_backend)),
    ("pre_tokenizer", ctypes.POINTER(ctypes.c_char)),
    ("max_chat_bytes", ctypes.c_uint32),
    ("draft_tokens", ctypes.c_uint32),
    ("backend_options", ctypes.c_void_p),
    ("drafters", ctypes.c_uint32),
    ("numerics", ctypes.c_int),
    ("draft_pool_bytes", ctypes.c_uint64),
]

keel_region_plan._fields_ = [
    ("bytes", ctypes.c_uint64),
    ("align_bytes", ctypes.c_uint64),
    ("padding_bytes", ctypes.c_uint64),
]

keel_memory_plan._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("kv_page_tokens", ctypes.c_uint32),
    ("regions", keel_region_plan * 16),
    ("mapped_weight_bytes", ctypes.c_uint64),
    ("kv_page_bytes", ctypes.c_uint64),
    ("kv_bytes_per_token", ctypes.c_uint64),
    ("kv_session_bytes", ctypes.c_uint64),
    ("kv_side_bytes", ctypes.c_uint64),
    ("decode_bytes", ctypes.c_uint64),
    ("kv_pages", ctypes.c_uint32),
    ("context_tokens", ctypes.c_uint32),
    ("chunk_tokens", ctypes.c_uint32),
    ("max_sessions", ctypes.c_uint32),
    ("threads", ctypes.c_uint32),
    ("cpu", ctypes.c_int),
    ("op_count", ctypes.c_uint32),
    ("low_rank_op_count", ctypes.c_uint32),
    ("low_rank_decode_bytes", ctypes.c_uint64),
    ("low_rank_bytes", ctypes.c_uint64),
    ("low_rank_factors", ctypes.c_uint32),
    ("part_status", ctypes.c_int),
    ("part_index", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("part_offset", ctypes.c_uint64),
    ("part_field", ctypes.c_char * 96),
    ("part_reason", ctypes.c_char * 128),
    ("note", ctypes.c_char * 160),
    ("step_us", ctypes.c_double * 16),
    ("low_rank_step_us", ctypes.c_double * 16),
    ("adapter_count", ctypes.c_uint32),
    ("adapter_op_count", ctypes.c_uint32),
    ("adapter_decode_bytes", ctypes.c_uint64),
    ("adapter_bytes", ctypes.c_uint64),
    ("adapter_step_us", ctypes.c_double * 16),
]

keel_region._fields_ = [
    ("data", ctypes.c_void_p),
    ("bytes", ctypes.c_uint64),
]

keel_memory._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("regions", keel_region * 16),
    ("owner", ctypes.c_void_p),
]

keel_region_stats._fields_ = [
    ("planned_bytes", ctypes.c_uint64),
    ("used_bytes", ctypes.c_uint64),
    ("high_water_bytes", ctypes.c_uint64),
]

keel_stats._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("open_sessions", ctypes.c_uint32),
    ("regions", keel_region_stats * 16),
    ("allocations_after_init", ctypes.c_uint64),
    ("steps", ctypes.c_uint64),
    ("tokens", ctypes.c_uint64),
    ("prefill_tokens", ctypes.c_uint64),
    ("prefill_us", ctypes.c_uint64),
    ("decode_tokens", ctypes.c_uint64),
    ("decode_us", ctypes.c_uint64),
    ("kv_pages_free", ctypes.c_uint32),
    ("threads", ctypes.c_uint32),
    ("kernel_set", ctypes.c_char * 16),
    ("engine_status", ctypes.c_int),
    ("reserved", ctypes.c_uint32),
    ("drafts_computed", ctypes.c_uint64),
    ("drafts_accepted", ctypes.c_uint64),
    ("vocabulary_hash", ctypes.c_uint64),
]

keel_op_info._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("index", ctypes.c_uint32),
    ("name", ctypes.c_char * 32),
    ("weight_type", ctypes.c_char * 16),
    ("layer", ctypes.c_int32),
    ("rows", ctypes.c_uint32),
    ("inner", ctypes.c_uint32),
    ("dispatch", ctypes.c_uint32),
    ("fixed_bytes", ctypes.c_uint64),
    ("token_bytes", ctypes.c_uint64),
    ("predicted_us", ctypes.c_double),
    ("read_count", ctypes.c_uint32),
    ("write_count", ctypes.c_uint32),
    ("reads", ctypes.c_uint32 * 8),
    ("writes", ctypes.c_uint32 * 8),
    ("placement", ctypes.c_int),
    ("repack_skip", ctypes.c_int),
    ("low_rank", ctypes.c_uint32),
    ("low_rank_reason", ctypes.c_uint32),
    ("low_rank_error", ctypes.c_float),
    ("fp32_reason", ctypes.c_int),
]

keel_buffer_info._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("region", ctypes.c_int),
    ("name", ctypes.c_char * 32),
    ("instance", ctypes.c_int32),
    ("first_op", ctypes.c_uint32),
    ("last_op", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("offset", ctypes.c_uint64),
    ("bytes", ctypes.c_uint64),
]

keel_session_desc._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("draft_private", ctypes.c_uint32),
    ("reserved_pages", ctypes.c_uint64),
]

keel_sampling._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("temperature", ctypes.c_float),
    ("top_k", ctypes.c_uint32),
    ("top_p", ctypes.c_float),
    ("min_p", ctypes.c_float),
    ("typical_p", ctypes.c_float),
    ("repetition_penalty", ctypes.c_float),
    ("frequency_penalty", ctypes.c_float),
    ("presence_penalty", ctypes.c_float),
    ("penalty_window", ctypes.c_uint32),
    ("min_tokens", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("seed", ctypes.c_uint64),
    ("bias_ids", ctypes.POINTER(ctypes.c_int32)),
    ("bias_values", ctypes.POINTER(ctypes.c_float)),
    ("bias_count", ctypes.c_uint32),
    ("excluded_count", ctypes.c_uint32),
    ("excluded_ids", ctypes.POINTER(ctypes.c_int32)),
]

keel_session_info._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("token_count", ctypes.c_uint32),
    ("computed_tokens", ctypes.c_uint32),
    ("sampled_tokens", ctypes.c_uint32),
    ("tokens", ctypes.POINTER(ctypes.c_int32)),
    ("kv_pages", ctypes.c_uint32),
    ("context_tokens", ctypes.c_uint32),
    ("variant", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("drafts_computed", ctypes.c_uint64),
    ("drafts_accepted", ctypes.c_uint64),
    ("adapter", ctypes.c_uint32),
    ("adapter_scale", ctypes.c_float),
]

keel_chat_message._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("role", ctypes.POINTER(ctypes.c_char)),
    ("text", ctypes.POINTER(ctypes.c_char)),
    ("bytes", ctypes.c_size_t),
    ("fields", ctypes.POINTER(ctypes.c_char)),
    ("field_bytes", ctypes.c_size_t),
]

keel_chat._fields_ = [
    ("struct_size", ctypes.c_uint32),
    ("message_count", ctypes.c_uint32),
    ("messages", ctypes.POINTER(keel_chat_message)),
    ("open_assistant", ctypes.c_uint32),
    ("reserved", ctypes.c_uint32),
    ("variables", ctypes.POINTER(ctypes.c_char)),
    ("variable_bytes", ctypes.c_size_t),
]


def load(path):
    """The library at `path`, every function with its types."""
    library = ctypes.CDLL(path)
    library.keel_reader_open_file.restype = ctypes.c_int
    library.keel_reader_open_file.argtypes = [ctypes.c_char_p, ctypes.POINTER(keel_reader)]
    library.keel_reader_close.restype = None
    library.keel_reader_close.argtypes = [ctypes.POINTER(keel_reader)]
    library.keel_inspect.restype = ctypes.c_int
    library.keel_inspect.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_limits), ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.POINTER(keel_model)), ctypes.POINTER(keel_model_info), ctypes.POINTER(keel_error)]
    library.keel_plan.restype = ctypes.c_int
    library.keel_plan.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_model), ctypes.POINTER(keel_config), ctypes.POINTER(keel_memory_plan), ctypes.POINTER(keel_error)]
    library.keel_engine_init.restype = ctypes.c_int
    library.keel_engine_init.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_model), ctypes.POINTER(keel_config), ctypes.POINTER(keel_memory), ctypes.POINTER(keel_engine), ctypes.POINTER(keel_error)]
    library.keel_engine_close.restype = ctypes.c_int
    library.keel_engine_close.argtypes = [keel_engine]
    library.keel_session_open.restype = ctypes.c_int
    library.keel_session_open.argtypes = [keel_engine, ctypes.POINTER(keel_session_desc), ctypes.POINTER(keel_session)]
    library.keel_tokenize.restype = ctypes.c_int
    library.keel_tokenize.argtypes = [keel_engine, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.POINTER(ctypes.c_int32), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    library.keel_session_feed.restype = ctypes.c_int
    library.keel_session_feed.argtypes = [keel_session, ctypes.POINTER(ctypes.c_int32), ctypes.c_uint32, ctypes.c_uint32]
    library.keel_session_propose.restype = ctypes.c_int
    library.keel_session_propose.argtypes = [keel_session, ctypes.POINTER(ctypes.c_int32), ctypes.c_uint32]
    library.keel_session_propose_tree.restype = ctypes.c_int
    library.keel_session_propose_tree.argtypes = [keel_session, ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_uint32), ctypes.c_uint32]
    library.keel_session_draft.restype = ctypes.c_int
    library.keel_session_draft.argtypes = [keel_session, keel_session, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32)]
    library.keel_advance.restype = ctypes.c_int
    library.keel_advance.argtypes = [keel_engine, ctypes.POINTER(keel_session), ctypes.c_uint32, ctypes.c_uint64, ctypes.POINTER(keel_advance_result)]
    library.keel_session_set_sampling.restype = ctypes.c_int
    library.keel_session_set_sampling.argtypes = [keel_session, ctypes.POINTER(keel_sampling)]
    library.keel_session_sample.restype = ctypes.c_int
    library.keel_session_sample.argtypes = [keel_session, ctypes.POINTER(ctypes.c_int32)]
    library.keel_session_text.restype = ctypes.c_int
    library.keel_session_text.argtypes = [keel_session, ctypes.c_int32, ctypes.POINTER(keel_text)]
    library.keel_session_close.restype = ctypes.c_int
    library.keel_session_close.argtypes = [keel_session]
    library.keel_status_name.restype = ctypes.c_char_p
    library.keel_status_name.argtypes = [ctypes.c_int]
    library.keel_status_text.restype = ctypes.c_char_p
    library.keel_status_text.argtypes = [ctypes.c_int]
    library.keel_version.restype = ctypes.c_uint32
    library.keel_version.argtypes = []
    library.keel_engine_last_error.restype = ctypes.c_int
    library.keel_engine_last_error.argtypes = [keel_engine, ctypes.POINTER(keel_error)]
    library.keel_reader_from_memory.restype = ctypes.c_int
    library.keel_reader_from_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(keel_reader)]
    library.keel_reader_part.restype = ctypes.c_int
    library.keel_reader_part.argtypes = [ctypes.POINTER(keel_reader), ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(keel_reader)]
    library.keel_pack_sections.restype = ctypes.c_int
    library.keel_pack_sections.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_pack_section), ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(keel_error)]
    library.keel_pack_reader.restype = ctypes.c_int
    library.keel_pack_reader.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_pack_section), ctypes.POINTER(keel_reader)]
    library.keel_pack_verify.restype = ctypes.c_int
    library.keel_pack_verify.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_error)]
    library.keel_engine_stats.restype = ctypes.c_int
    library.keel_engine_stats.argtypes = [keel_engine, ctypes.POINTER(keel_stats)]
    library.keel_engine_save_draft_pool.restype = ctypes.c_int
    library.keel_engine_save_draft_pool.argtypes = [keel_engine, ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
    library.keel_plan_ops.restype = ctypes.c_int
    library.keel_plan_ops.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_model), ctypes.POINTER(keel_config), ctypes.POINTER(keel_op_info), ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(keel_error)]
    library.keel_plan_buffers.restype = ctypes.c_int
    library.keel_plan_buffers.argtypes = [ctypes.POINTER(keel_reader), ctypes.POINTER(keel_model), ctypes.POINTER(keel_config), ctypes.POINTER(keel_buffer_info), ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(keel_error)]
    library.keel_session_set_grammar.restype = ctypes.c_int
    library.keel_session_set_grammar.argtypes = [keel_session, ctypes.c_uint32]
    library.keel_session_allowed.restype = ctypes.c_int
    library.keel_session_allowed.argtypes = [keel_session, ctypes.POINTER(ctypes.c_int32), ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t]
    library.keel_session_forced.restype = ctypes.c_int
    library.keel_session_forced.argtypes = [keel_session, ctypes.POINTER(ctypes.c_int32), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    library.keel_session_set_adapter.restype = ctypes.c_int
    library.keel_session_set_adapter.argtypes = [keel_session, ctypes.c_uint32, ctypes.c_float]
    library.keel_cancel.restype = ctypes.c_int
    library.keel_cancel.argtypes = [keel_session]
    library.keel_session_get.restype = ctypes.c_int
    library.keel_session_get.argtypes = [keel_session, ctypes.POINTER(keel_session_info)]
    library.keel_session_logits.restype = ctypes.c_int
    library.keel_session_logits.argtypes = [keel_session, ctypes.c_uint32, ctypes.POINTER(ctypes.POINTER(ctypes.c_float)), ctypes.POINTER(ctypes.c_uint32)]
    library.keel_session_hidden.restype = ctypes.c_int
    library.keel_session_hidden.argtypes = [keel_session, ctypes.c_uint32, ctypes.POINTER(ctypes.POINTER(ctypes.c_float)), ctypes.POINTER(ctypes.c_uint32)]
    library.keel_session_top_logprobs.restype = ctypes.c_int
    library.keel_session_top_logprobs.argtypes = [keel_session, ctypes.c_uint32, ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_float)]
    library.keel_session_truncate.restype = ctypes.c_int
    library.keel_session_truncate.argtypes = [keel_session, ctypes.c_uint32]
    library.keel_session_evict.restype = ctypes.c_int
    library.keel_session_evict.argtypes = [keel_session, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)]
    library.keel_session_shift.restype = ctypes.c_int
    library.keel_session_shift.argtypes = [keel_session, ctypes.c_uint32, ctypes.c_uint32]
    library.keel_session_fork.restype = ctypes.c_int
    library.keel_session_fork.argtypes = [keel_session, ctypes.POINTER(keel_session)]
    library.keel_session_save_bytes.restype = ctypes.c_int
    library.keel_session_save_bytes.argtypes = [keel_session, ctypes.POINTER(ctypes.c_uint64)]
    library.keel_session_save.restype = ctypes.c_int
    library.keel_session_save.argtypes = [keel_session, ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
    library.keel_session_restore.restype = ctypes.c_int
    library.keel_session_restore.argtypes = [keel_session, ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(keel_error)]
    library.keel_detokenize.restype = ctypes.c_int
    library.keel_detokenize.argtypes = [keel_engine, ctypes.POINTER(ctypes.c_int32), ctypes.c_size_t, ctypes.c_uint32, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    library.keel_token_text.restype = ctypes.c_int
    library.keel_token_text.argtypes = [keel_engine, ctypes.c_int32, ctypes.c_uint32, ctypes.POINTER(ctypes.POINTER(ctypes.c_char)), ctypes.POINTER(ctypes.c_size_t)]
    library.keel_session_set_end_ids.restype = ctypes.c_int
    library.keel_session_set_end_ids.argtypes = [keel_session, ctypes.POINTER(ctypes.c_int32), ctypes.c_uint32]
    library.keel_session_end_ids.restype = ctypes.c_int
    library.keel_session_end_ids.argtypes = [keel_session, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)), ctypes.POINTER(ctypes.c_uint32)]
    library.keel_session_set_stops.restype = ctypes.c_int
    library.keel_session_set_stops.argtypes = [keel_session, ctypes.POINTER(ctypes.POINTER(ctypes.c_char)), ctypes.POINTER(ctypes.c_size_t), ctypes.c_uint32]
    library.keel_chat_format.restype = ctypes.c_int
    library.keel_chat_format.argtypes = [keel_engine, ctypes.POINTER(keel_chat), ctypes.POINTER(ctypes.c_char), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(keel_error)]
    library.keel_chat_tokenize.restype = ctypes.c_int
    library.keel_chat_tokenize.argtypes = [keel_engine, ctypes.POINTER(keel_chat), ctypes.POINTER(ctypes.c_int32), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(keel_error)]
    library.keel_session_chat.restype = ctypes.c_int
    library.keel_session_chat.argtypes = [keel_session, ctypes.POINTER(keel_chat), ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_int32), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(keel_error)]
    return library
