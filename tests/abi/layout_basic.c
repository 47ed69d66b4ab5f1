/* C11, without KEEL_EXPERIMENTAL. */
#undef KEEL_EXPERIMENTAL
#define KEEL_LAYOUT keel_layout_basic
#define KEEL_LAYOUT_COUNT keel_layout_basic_count
#include "tests/abi/layout_rows.h"
