/*
 * keel_lab.h - experimental: a view into the forward pass for laboratories. Nothing here is stable. The rules of
 * keel.h hold.
 */
#ifndef KEEL_KEEL_LAB_H
#define KEEL_KEEL_LAB_H

#include "keel/keel.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum keel_lab_stage {
    KEEL_LAB_BEFORE_ROPE = 1, /* after biases and head norms */
    KEEL_LAB_AFTER_ROPE = 2   /* before gains and rotations of the KV format; a K mean removed before RoPE is gone */
} keel_lab_stage;

/* One KV head of one position of one layer, and the query heads that read it. The tap may change q, k and v. */
typedef struct keel_lab_heads {
    uint32_t struct_size;
    keel_lab_stage stage;
    keel_session session;
    uint32_t layer, kv_head, position;
    uint32_t query_heads; /* of this KV head */
    uint32_t head_dim;
    uint32_t rope_dims;                       /* rotated elements of a head, the first ones */
    uint32_t rope_neox;                       /* pairs (i, i + rope_dims / 2); else (2i, 2i + 1) */
    uint32_t window;                          /* positions that a query of this layer sees; 0: all */
    float* q;                                 /* [query_heads][head_dim] */
    float* k;                                 /* [head_dim] */
    float* v;                                 /* [head_dim] */
    const float* cos_sin;                     /* [rope_dims]: cos and sin of each pair at this position */
    float attention_scale, attention_softcap; /* of scores; softcap 0: none */
} keel_lab_heads;

/* Sets what sees every head before it is stored; NULL removes it. Called by compute threads, several at once unless the
 * engine has one thread. Positions of a step come in ascending order within a head; with more than one position in the
 * step all of them come before any is read. KEEL_E_STATE while a session is open; KEEL_E_UNSUPPORTED on a backend with
 * memory of its own, as for row taps. */
KEEL_API keel_status keel_lab_set_tap(keel_engine engine, void (*tap)(void* user_data, const keel_lab_heads* heads),
                                      void* user_data);

/* What the products of a layer multiply. */
typedef enum keel_lab_site {
    KEEL_LAB_ATTN_IN = 0,   /* by Q, K and V: the normalised residual */
    KEEL_LAB_ATTN_OUT = 1,  /* by O: the heads of attention, side by side */
    KEEL_LAB_FFN_IN = 2,    /* by gate and up: the normalised residual */
    KEEL_LAB_FFN_HIDDEN = 3 /* by down: the activated gate times up */
} keel_lab_site;

/* Elements [first, first + count) of one such vector, to read, before they are quantized. */
typedef struct keel_lab_row {
    uint32_t struct_size;
    keel_lab_site site;
    keel_session session;
    uint32_t layer, position;
    uint32_t first, count;
    uint32_t total; /* elements of the whole vector */
    uint32_t reserved;
    const float* x; /* [count] */
} keel_lab_row;

/* Sets what sees these vectors, each of them once, in parts that come in no order; NULL removes it. Called by compute
 * threads, several at once unless the engine has one thread. KEEL_E_STATE while a session is open. */
KEEL_API keel_status keel_lab_set_row_tap(keel_engine engine, void (*tap)(void* user_data, const keel_lab_row* row),
                                          void* user_data);

/* A stored row, to read or to change: f32 formats without a profile, and the CPU's backend, whose memory the host can
 * address; else KEEL_E_STATE. May be called inside a tap for
 * rows of the same session stored before. KEEL_E_ARGUMENT for a row that does not exist. */
KEEL_API keel_status keel_lab_kv_row(keel_session session, uint32_t layer, uint32_t kv_head, uint32_t position,
                                     int value, float** row);

/* A stored row of any format decoded into row, f32[head_dim], in the coordinates of KEEL_LAB_AFTER_ROPE: rotated back,
 * gains undone, the K mean that was removed after RoPE, or the V mean, added. KEEL_E_ARGUMENT for a row that is not
 * computed. */
KEEL_API keel_status keel_lab_decode_kv_row(keel_session session, uint32_t layer, uint32_t kv_head, uint32_t position,
                                            int value, float* row);

/* What one dispatch of a step took: ops that ran together. */
typedef struct keel_lab_op_time {
    uint32_t struct_size;
    uint32_t op;  /* the first of them, as keel_plan_ops numbers them */
    uint32_t ops; /* how many */
    uint32_t reserved;
    double begin_us; /* since the step's first one began */
    double us;
    double predicted_us; /* what it was expected to take when it was enqueued, after what earlier steps took */
} keel_lab_op_time;
#define KEEL_LAB_OP_TIME_INIT KEEL_INIT(keel_lab_op_time)

/* Nonzero: steps that begin from now on are timed dispatch by dispatch. A GPU always does; the CPU looks at the clock
 * once more for each. KEEL_E_BUSY inside a step; KEEL_E_UNSUPPORTED: a backend without times. */
KEEL_API keel_status keel_lab_time_ops(keel_engine engine, uint32_t on);
/* The dispatches of the newest step that was computed whole, in order. `out` as in keel_plan_ops: NULL asks for
 * the count, which is 0 where no step was timed. KEEL_E_BUSY while advancing. */
KEEL_API keel_status keel_lab_op_times(keel_engine engine, keel_lab_op_time* out, uint32_t capacity, uint32_t* count);

#ifdef __cplusplus
}
#endif
#endif /* KEEL_KEEL_LAB_H */
