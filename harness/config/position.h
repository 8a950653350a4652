/* Where something stands in an experiment file, and errors that begin with that place.
 *
 * Values given with --set have the file "--set PATH" and line 0; their messages begin "--set PATH: ".
 */
#ifndef POSITION_H
#define POSITION_H

#include <stddef.h>

#include "base/error.h"

struct position {
    const char *file;
    size_t line, column; /* 1-based; line 0: the whole file, or --set */
};

/* Record E_ARGUMENT with "file:line:column: text"; source and line are those of FAIL_AT. Returns E_ARGUMENT. */
int position_record(const struct position *at, const char *source, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Put the position (and "who: " when who is not NULL) in front of the recorded text; returns code unchanged. */
int position_prefix(int code, const struct position *at, const char *who);

#define FAIL_AT(at, ...)                                                                                               \
    do {                                                                                                               \
        status = position_record((at), __FILE__, __LINE__, __VA_ARGS__);                                               \
        goto out;                                                                                                      \
    } while (0)

#endif
