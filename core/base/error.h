/* Error codes and the one error text of a thread.
 *
 * Functions return 0 or a negative code from `enum error`. The text is recorded once, where the
 * error arises (FAIL), with file and line, in thread-local storage; callers pass the code up (TRY)
 * and only `main` or a worker's top level prints it. Kernels have no status: they cannot fail.
 */
#ifndef ERROR_H
#define ERROR_H

enum error {
    E_OK = 0,
    E_ARGUMENT = -1,     /* the caller (a user, through a config or flag) asked for something invalid */
    E_MEMORY = -2,       /* allocation failed */
    E_IO = -3,           /* a file or pipe could not be read or written */
    E_FORMAT = -4,       /* bytes from outside do not have the promised structure */
    E_SHAPE = -5,        /* dimensions do not fit together */
    E_NUMERIC = -6,      /* NaN, divergence, a matrix that cannot be factored */
    E_UNSUPPORTED = -7,  /* valid, but this build, machine or combination cannot do it */
    E_NOT_FOUND = -8,    /* a named thing does not exist */
    E_STATE = -9,        /* a call in the wrong order, a database of another version */
    E_LIMIT = -10,       /* a wall-time, memory or size limit was reached */
    E_PLUGIN = -11,      /* a plug-in cannot be loaded or broke its contract */
    E_INTERRUPTED = -12, /* the user asked to stop */
};

/* Record `code` and the formatted text for this thread; returns `code`. `file` and `line` say where
 * the error arose in our sources and are shown by error_origin() alone. */
int error_record(int code, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Put "prefix: " in front of the recorded text (a file name, a layer); returns `code` unchanged. */
int error_prefix(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The recorded text of this thread: one line, no newline; "" when none. Valid until the next record. */
const char *error_text(void);

/* "file.c:123" of the record, or "". */
const char *error_origin(void);

/* The code of the record, or 0. */
int error_code(void);

void error_clear(void);

/* A word for a code: "argument", "memory", … */
const char *error_name(int code);

/* In a function with `int status = 0;` and a label `out:`. */
#define FAIL(code, ...)                                                                                                \
    do {                                                                                                               \
        status = error_record((code), __FILE__, __LINE__, __VA_ARGS__);                                                \
        goto out;                                                                                                      \
    } while (0)
#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        status = (expression);                                                                                         \
        if (status < 0) goto out;                                                                                      \
    } while (0)

/* An assert that is never compiled out: programmer errors only. Prints the text and aborts. */
#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__);                                   \
    } while (0)
_Noreturn void check_failed(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
