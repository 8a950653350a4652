/* What this program was built from: stored with every session. */
#ifndef BUILD_INFO_TEXT_H
#define BUILD_INFO_TEXT_H

#define RUNEXP_VERSION "0.1.0"

extern const char *const build_commit;   /* short hash, or "unknown" outside a checkout */
extern const char *const build_compiler; /* first line of `cc --version` */
extern const char *const build_flags;
extern const char *const build_mode; /* "release", "debug", "asan", "tsan" */
extern const int build_dirty;        /* 1: tracked files differ from the commit */

#endif
