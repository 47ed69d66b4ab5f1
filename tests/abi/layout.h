/* Sizes and offsets of every public struct as a C compiler sees them, without and with KEEL_EXPERIMENTAL. */
#ifndef KEEL_TESTS_ABI_LAYOUT_H
#define KEEL_TESTS_ABI_LAYOUT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct keel_layout_row {
    const char* type;
    const char* field; /* NULL: the struct itself */
    size_t offset, bytes;
} keel_layout_row;

extern const keel_layout_row keel_layout_basic[], keel_layout_experimental[];
extern const size_t keel_layout_basic_count, keel_layout_experimental_count;

/* What the KEEL_..._INIT macro of a struct gives, as a C compiler sees it. */
typedef struct keel_init_row {
    const char* type;
    size_t struct_size, bytes;
} keel_init_row;
extern const size_t keel_init_count;
keel_init_row keel_init_of(size_t index);

#ifdef __cplusplus
}
#endif
#endif
