/* C11, with KEEL_EXPERIMENTAL. */
#ifndef KEEL_EXPERIMENTAL
#define KEEL_EXPERIMENTAL
#endif
#define KEEL_LAYOUT keel_layout_experimental
#define KEEL_LAYOUT_COUNT keel_layout_experimental_count
#include "tests/abi/layout_rows.h"
