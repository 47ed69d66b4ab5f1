// Written by bindings/generate.py from include/keel/keel.h, which is the manual. Do not edit.
// Delegates belong to fields of the same name: Marshal.GetFunctionPointerForDelegate.
using System;
using System.Runtime.InteropServices;

namespace Keel
{
    public enum keel_status : int
    {
        KEEL_OK = 0,
        KEEL_AGAIN = 1,
        KEEL_E_ARGUMENT = 10,
        KEEL_E_ABI = 11,
        KEEL_E_STATE = 12,
        KEEL_E_HANDLE = 13,
        KEEL_E_BUSY = 14,
        KEEL_E_SLOTS_FULL = 15,
        KEEL_E_MEMORY_TOO_SMALL = 20,
        KEEL_E_MEMORY_ALIGN = 21,
        KEEL_E_BUFFER_TOO_SMALL = 22,
        KEEL_E_FILE_READ = 30,
        KEEL_E_FILE_FORMAT = 31,
        KEEL_E_FILE_LIMIT = 32,
        KEEL_E_UNSUPPORTED = 33,
        KEEL_E_FILE_MISMATCH = 34,
        KEEL_E_FILE_MISSING = 35,
        KEEL_E_FILE_PERMISSION = 36,
        KEEL_E_FILE_KIND = 37,
        KEEL_E_CONTEXT_FULL = 40,
        KEEL_E_KV_FULL = 41,
        KEEL_E_CANCELLED = 42,
        KEEL_E_NO_LOGITS = 43,
        KEEL_E_NUMERIC = 44,
        KEEL_E_TEXT_LIMIT = 45,
        KEEL_E_PLATFORM = 50,
        KEEL_E_POISONED = 51,
        KEEL_E_DEVICE = 52,
    }

    public enum keel_chat_family : int
    {
        KEEL_CHAT_NONE = 0,
        KEEL_CHAT_UNKNOWN = 1,
        KEEL_CHAT_CHATML = 2,
        KEEL_CHAT_LLAMA3 = 3,
        KEEL_CHAT_MISTRAL = 4,
        KEEL_CHAT_GEMMA = 5,
        KEEL_CHAT_PHI3 = 6,
        KEEL_CHAT_ZEPHYR = 7,
        KEEL_CHAT_OTHER = 8,
    }

    public enum keel_log_level : int
    {
        KEEL_LOG_ERROR = 1,
        KEEL_LOG_WARN = 2,
        KEEL_LOG_INFO = 3,
    }

    public enum keel_kv_format : int
    {
        KEEL_KV_DEFAULT = 0,
        KEEL_KV_F16 = 1,
        KEEL_KV_Q8_0 = 4,
        KEEL_KV_TCQ_2 = 14,
        KEEL_KV_TCQ_3 = 15,
        KEEL_KV_TCQ_4 = 16,
        KEEL_KV_TCQ_5 = 17,
        KEEL_KV_TCQ_6 = 18,
    }

    public enum keel_weights : int
    {
        KEEL_WEIGHTS_DEFAULT = 0,
        KEEL_WEIGHTS_COPY = 1,
        KEEL_WEIGHTS_MAP = 2,
        KEEL_WEIGHTS_MAP_LOCKED = 3,
        KEEL_WEIGHTS_REPACK = 4,
    }

    public enum keel_repack_skip : int
    {
        KEEL_REPACK_SKIP_NONE = 0,
        KEEL_REPACK_SKIP_TYPE = 1,
        KEEL_REPACK_SKIP_ROWS = 2,
        KEEL_REPACK_SKIP_LOOKUP = 3,
        KEEL_REPACK_SKIP_SPEED = 4,
    }

    public enum keel_fp32_reason : int
    {
        KEEL_FP32_NONE = 0,
        KEEL_FP32_TYPE = 1,
        KEEL_FP32_ACTIVATION = 2,
        KEEL_FP32_FEW_ROWS = 3,
    }

    public enum keel_activation : int
    {
        KEEL_ACTIVATION_DEFAULT = 0,
        KEEL_ACTIVATION_Q8 = 1,
        KEEL_ACTIVATION_F32 = 2,
        KEEL_ACTIVATION_BF16 = 3,
    }

    public enum keel_numerics : int
    {
        KEEL_NUMERICS_DEFAULT = 0,
        KEEL_NUMERICS_DEVICE = 1,
    }

    public enum keel_cpu : int
    {
        KEEL_CPU_AUTO = 0,
        KEEL_CPU_SCALAR = 1,
        KEEL_CPU_AVX2 = 2,
        KEEL_CPU_AVX512 = 3,
        KEEL_CPU_AMX = 4,
        KEEL_CPU_NEON = 5,
        KEEL_CPU_NEON_DOTPROD = 6,
        KEEL_CPU_NEON_I8MM = 7,
    }

    public enum keel_part_kind : int
    {
        KEEL_PART_CHAT_TEMPLATE = 1,
        KEEL_PART_GRAMMAR = 4,
        KEEL_PART_DRAFT_POOL = 5,
        KEEL_PART_ADAPTER = 6,
    }

    public enum keel_pack_codec : int
    {
        KEEL_PACK_RAW = 0,
        KEEL_PACK_RANS = 1,
        KEEL_PACK_ZSTD = 2,
    }

    public enum keel_region_kind : int
    {
        KEEL_REGION_PERSISTENT = 0,
        KEEL_REGION_SCRATCH = 1,
        KEEL_REGION_PINNED = 2,
        KEEL_REGION_WEIGHTS = 3,
        KEEL_REGION_KV = 4,
        KEEL_REGION_DEVICE_SCRATCH = 5,
        KEEL_REGION_DEVICE_WEIGHTS = 6,
        KEEL_REGION_DEVICE_KV = 7,
        KEEL_REGION_COUNT = 8,
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_engine
    {
        public ulong id;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_session
    {
        public ulong id;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_model
    {
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_advance_result
    {
        public uint struct_size;
        public keel_status status;
        public uint computed_tokens;
        public uint pending_tokens;
        public uint logits_rows;
        public uint accepted_tokens;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_text
    {
        public uint struct_size;
        public uint stopped;
        public byte* data;
        public UIntPtr bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_error
    {
        public uint struct_size;
        public keel_status status;
        public ulong offset;
        public fixed byte field[96];
        public fixed byte reason[128];
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_reader
    {
        public uint struct_size;
        public uint reserved;
        public ulong size_bytes;
        public IntPtr read_at;
        public void* user_data;
        public void* mapped;
        public ulong begin_bytes;
        public uint part;
        public uint interleaved_rows;
        public ulong coded_bytes;
        public void* text;
        public ulong text_bytes;
        public ulong text_stored_bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_limits
    {
        public uint struct_size;
        public uint max_metadata_keys;
        public uint max_tensors;
        public uint max_string_bytes;
        public uint max_array_elements;
        public uint max_name_bytes;
        public uint max_layers;
        public uint max_vocabulary;
        public uint max_alignment_bytes;
        public uint max_dimension;
        public ulong max_metadata_bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_model_info
    {
        public uint struct_size;
        public uint gguf_version;
        public fixed byte architecture[32];
        public fixed byte name[96];
        public fixed byte tokenizer[32];
        public fixed byte pre_tokenizer[32];
        public fixed byte weight_types[96];
        public ulong file_bytes;
        public ulong weight_bytes;
        public ulong parameters;
        public ulong fingerprint;
        public uint tensors;
        public uint layers;
        public uint embedding;
        public uint feed_forward;
        public uint heads;
        public uint kv_heads;
        public uint head_dim;
        public uint vocabulary;
        public uint train_context_tokens;
        public int bos_id;
        public int eos_id;
        public keel_chat_family chat_family;
        public ulong model_bytes;
        public uint chat_offset;
        public uint reserved;
        public fixed byte chat_reason[128];
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_hooks
    {
        public uint struct_size;
        public uint reserved;
        public void* user_data;
        public IntPtr log;
        public IntPtr progress;
        public IntPtr fault;
        public IntPtr parallel_for;
        public IntPtr allowed_tokens;
        public IntPtr strftime_now;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_grammar_options
    {
        public uint struct_size;
        public uint json_schema;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_part
    {
        public uint struct_size;
        public keel_part_kind kind;
        public keel_reader* reader;
        public void* options;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_pack_section
    {
        public uint struct_size;
        public uint kind;
        public uint json_schema;
        public uint interleaved_rows;
        public ulong offset;
        public ulong bytes;
        public ulong hash;
        public fixed byte name[32];
        public uint codec;
        public uint reserved;
        public ulong plain_bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_backend
    {
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_config
    {
        public uint struct_size;
        public uint api_version;
        public uint context_tokens;
        public uint max_sessions;
        public uint kv_pages;
        public uint chunk_tokens;
        public uint logits_rows;
        public uint max_text_bytes;
        public keel_weights weights;
        public keel_activation activation;
        public keel_cpu cpu;
        public keel_kv_format k_format;
        public keel_kv_format v_format;
        public uint threads;
        public uint pin_threads;
        public uint tile_us;
        public uint kv_sink_tokens;
        public uint kv_recent_tokens;
        public uint kv_rollback_tokens;
        public uint part_count;
        public keel_part* parts;
        public keel_hooks* hooks;
        public keel_backend* backend;
        public byte* pre_tokenizer;
        public uint max_chat_bytes;
        public uint draft_tokens;
        public void* backend_options;
        public uint drafters;
        public keel_numerics numerics;
        public ulong draft_pool_bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_region_plan
    {
        public ulong bytes;
        public ulong align_bytes;
        public ulong padding_bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_memory_plan
    {
        public uint struct_size;
        public uint kv_page_tokens;
        public keel_region_plan regions_0, regions_1, regions_2, regions_3, regions_4, regions_5, regions_6, regions_7, regions_8, regions_9, regions_10, regions_11, regions_12, regions_13, regions_14, regions_15;
        public ulong mapped_weight_bytes;
        public ulong kv_page_bytes;
        public ulong kv_bytes_per_token;
        public ulong kv_session_bytes;
        public ulong kv_side_bytes;
        public ulong decode_bytes;
        public uint kv_pages;
        public uint context_tokens;
        public uint chunk_tokens;
        public uint max_sessions;
        public uint threads;
        public keel_cpu cpu;
        public uint op_count;
        public uint low_rank_op_count;
        public ulong low_rank_decode_bytes;
        public ulong low_rank_bytes;
        public uint low_rank_factors;
        public keel_status part_status;
        public uint part_index;
        public uint reserved;
        public ulong part_offset;
        public fixed byte part_field[96];
        public fixed byte part_reason[128];
        public fixed byte note[160];
        public fixed double step_us[16];
        public fixed double low_rank_step_us[16];
        public uint adapter_count;
        public uint adapter_op_count;
        public ulong adapter_decode_bytes;
        public ulong adapter_bytes;
        public fixed double adapter_step_us[16];
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_region
    {
        public void* data;
        public ulong bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_memory
    {
        public uint struct_size;
        public uint reserved;
        public keel_region regions_0, regions_1, regions_2, regions_3, regions_4, regions_5, regions_6, regions_7, regions_8, regions_9, regions_10, regions_11, regions_12, regions_13, regions_14, regions_15;
        public void* owner;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_region_stats
    {
        public ulong planned_bytes;
        public ulong used_bytes;
        public ulong high_water_bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_stats
    {
        public uint struct_size;
        public uint open_sessions;
        public keel_region_stats regions_0, regions_1, regions_2, regions_3, regions_4, regions_5, regions_6, regions_7, regions_8, regions_9, regions_10, regions_11, regions_12, regions_13, regions_14, regions_15;
        public ulong allocations_after_init;
        public ulong steps;
        public ulong tokens;
        public ulong prefill_tokens;
        public ulong prefill_us;
        public ulong decode_tokens;
        public ulong decode_us;
        public uint kv_pages_free;
        public uint threads;
        public fixed byte kernel_set[16];
        public keel_status engine_status;
        public uint reserved;
        public ulong drafts_computed;
        public ulong drafts_accepted;
        public ulong vocabulary_hash;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_op_info
    {
        public uint struct_size;
        public uint index;
        public fixed byte name[32];
        public fixed byte weight_type[16];
        public int layer;
        public uint rows;
        public uint inner;
        public uint dispatch;
        public ulong fixed_bytes;
        public ulong token_bytes;
        public double predicted_us;
        public uint read_count;
        public uint write_count;
        public fixed uint reads[8];
        public fixed uint writes[8];
        public keel_weights placement;
        public keel_repack_skip repack_skip;
        public uint low_rank;
        public uint low_rank_reason;
        public float low_rank_error;
        public keel_fp32_reason fp32_reason;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_buffer_info
    {
        public uint struct_size;
        public keel_region_kind region;
        public fixed byte name[32];
        public int instance;
        public uint first_op;
        public uint last_op;
        public uint reserved;
        public ulong offset;
        public ulong bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_session_desc
    {
        public uint struct_size;
        public uint draft_private;
        public ulong reserved_pages;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_sampling
    {
        public uint struct_size;
        public float temperature;
        public uint top_k;
        public float top_p;
        public float min_p;
        public float typical_p;
        public float repetition_penalty;
        public float frequency_penalty;
        public float presence_penalty;
        public uint penalty_window;
        public uint min_tokens;
        public uint reserved;
        public ulong seed;
        public int* bias_ids;
        public float* bias_values;
        public uint bias_count;
        public uint excluded_count;
        public int* excluded_ids;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_session_info
    {
        public uint struct_size;
        public uint token_count;
        public uint computed_tokens;
        public uint sampled_tokens;
        public int* tokens;
        public uint kv_pages;
        public uint context_tokens;
        public uint variant;
        public uint reserved;
        public ulong drafts_computed;
        public ulong drafts_accepted;
        public uint adapter;
        public float adapter_scale;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_chat_message
    {
        public uint struct_size;
        public uint reserved;
        public byte* role;
        public byte* text;
        public UIntPtr bytes;
        public byte* fields;
        public UIntPtr field_bytes;
    }

    [StructLayout(LayoutKind.Sequential)]
    public unsafe struct keel_chat
    {
        public uint struct_size;
        public uint message_count;
        public keel_chat_message* messages;
        public uint open_assistant;
        public uint reserved;
        public byte* variables;
        public UIntPtr variable_bytes;
    }

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    public unsafe delegate keel_status keel_reader_read_at(void* user_data, ulong offset, void* dst, UIntPtr bytes);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    public unsafe delegate void keel_hooks_log(void* user_data, keel_log_level level, keel_status code, byte* text);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    public unsafe delegate int keel_hooks_progress(void* user_data, ulong done_bytes, ulong total_bytes);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    public unsafe delegate void keel_hooks_fault(void* user_data, byte* where);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    public unsafe delegate void keel_hooks_parallel_for(void* user_data, uint tasks, IntPtr task, void* context);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    public unsafe delegate void keel_hooks_allowed_tokens(void* user_data, keel_session session, int* tokens, uint token_count, byte* mask, uint vocabulary);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    public unsafe delegate UIntPtr keel_hooks_strftime_now(void* user_data, byte* format, byte* dst, UIntPtr capacity);

    public static unsafe class Native
    {
        public const string Library = "keel";  // libkeel.so, keel.dll
        public const uint KEEL_VERSION_MAJOR = 0;
        public const uint KEEL_VERSION_MINOR = 2;
        public const uint KEEL_VERSION_PATCH = 0;
        public const uint KEEL_API_VERSION = 2;
        public const uint KEEL_PACK_MODEL = 0;
        public const uint KEEL_PACK_NOTE = 4294967295;
        public const uint KEEL_PACK_MAX_SECTIONS = 21;
        public const uint KEEL_REGION_SLOTS = 16;
        public const uint KEEL_STEP_COSTS = 16;
        public const uint KEEL_OP_BUFFERS = 8;
        public const uint KEEL_TOKENIZE_SPECIAL = 1;
        public const uint KEEL_TOKENIZE_BOS = 2;
        public const uint KEEL_FEED_ALL_LOGITS = 1;
        public const uint KEEL_FEED_SAMPLE = 2;
        public const uint KEEL_DRAFT_SUFFIX = 1;
        public const uint KEEL_DRAFT_POOL = 2;
        public const uint KEEL_DRAFT_LOGITS = 4;
        public const uint KEEL_DETOKENIZE_SPECIAL = 1;

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_reader_open_file(byte* path, keel_reader* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern void keel_reader_close(keel_reader* reader);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_inspect(keel_reader* reader, keel_limits* limits, void* buffer, UIntPtr buffer_bytes, keel_model** model, keel_model_info* info, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_plan(keel_reader* reader, keel_model* model, keel_config* config, keel_memory_plan* @out, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_engine_init(keel_reader* reader, keel_model* model, keel_config* config, keel_memory* memory, keel_engine* @out, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_engine_close(keel_engine engine);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_open(keel_engine engine, keel_session_desc* desc, keel_session* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_tokenize(keel_engine engine, byte* text, UIntPtr bytes, uint flags, int* ids, UIntPtr capacity, UIntPtr* count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_feed(keel_session session, int* tokens, uint count, uint flags);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_propose(keel_session session, int* tokens, uint count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_propose_tree(keel_session session, int* tokens, uint* parents, uint count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_draft(keel_session session, keel_session drafter, ulong budget_us, uint* count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_advance(keel_engine engine, keel_session* sessions, uint count, ulong budget_us, keel_advance_result* results);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_set_sampling(keel_session session, keel_sampling* sampling);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_sample(keel_session session, int* token);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_text(keel_session session, int token, keel_text* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_close(keel_session session);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern byte* keel_status_name(keel_status status);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern byte* keel_status_text(keel_status status);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern uint keel_version();

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_engine_last_error(keel_engine engine, keel_error* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_reader_from_memory(void* data, UIntPtr bytes, keel_reader* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_reader_part(keel_reader* whole, ulong offset, ulong bytes, keel_reader* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_pack_sections(keel_reader* file, keel_pack_section* @out, uint capacity, uint* count, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_pack_reader(keel_reader* file, keel_pack_section* section, keel_reader* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_pack_verify(keel_reader* file, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_engine_stats(keel_engine engine, keel_stats* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_engine_save_draft_pool(keel_engine engine, void* dst, ulong capacity_bytes, ulong* bytes);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_plan_ops(keel_reader* reader, keel_model* model, keel_config* config, keel_op_info* @out, uint capacity, uint* count, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_plan_buffers(keel_reader* reader, keel_model* model, keel_config* config, keel_buffer_info* @out, uint capacity, uint* count, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_set_grammar(keel_session session, uint from);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_allowed(keel_session session, int* tokens, uint count, byte* mask, UIntPtr capacity_bytes);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_forced(keel_session session, int* ids, UIntPtr capacity, UIntPtr* count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_set_adapter(keel_session session, uint adapter, float scale);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_cancel(keel_session session);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_get(keel_session session, keel_session_info* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_logits(keel_session session, uint row, float** view, uint* vocabulary);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_hidden(keel_session session, uint row, float** view, uint* embedding);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_top_logprobs(keel_session session, uint n, int* ids, float* logprobs);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_truncate(keel_session session, uint tokens);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_evict(keel_session session, uint from, uint to, uint* evicted_tokens);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_shift(keel_session session, uint from, uint to);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_fork(keel_session session, keel_session* @out);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_save_bytes(keel_session session, ulong* bytes);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_save(keel_session session, void* dst, ulong capacity_bytes, ulong* written_bytes);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_restore(keel_session session, void* src, ulong bytes, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_detokenize(keel_engine engine, int* ids, UIntPtr count, uint flags, byte* dst, UIntPtr capacity_bytes, UIntPtr* bytes);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_token_text(keel_engine engine, int token, uint flags, byte** data, UIntPtr* bytes);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_set_end_ids(keel_session session, int* ids, uint count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_end_ids(keel_session session, int** ids, uint* count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_set_stops(keel_session session, byte** texts, UIntPtr* bytes, uint count);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_chat_format(keel_engine engine, keel_chat* chat, byte* dst, UIntPtr capacity_bytes, UIntPtr* bytes, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_chat_tokenize(keel_engine engine, keel_chat* chat, int* ids, UIntPtr capacity, UIntPtr* count, keel_error* error);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        public static extern keel_status keel_session_chat(keel_session session, keel_chat* chat, uint* kept, int* ids, UIntPtr capacity, UIntPtr* count, keel_error* error);
    }
}
