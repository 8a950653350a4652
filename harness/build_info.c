/* What this program was built from; the macros come from the generated build_info.h. */
#include "build_info_text.h"

#include "build_info.h"

const char *const build_commit = BUILD_COMMIT;
const char *const build_compiler = BUILD_COMPILER;
const char *const build_flags = BUILD_FLAGS;
const char *const build_mode = BUILD_MODE;
const int build_dirty = BUILD_DIRTY;
