/* The error record of each thread: a code, one line of text, and where it arose.
 *
 * Fixed buffers in thread-local storage, so recording cannot fail and out-of-memory can be reported.
 * Control characters become spaces: a text from a hostile file stays one line on the terminal.
 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES 1024
#define ORIGIN_BYTES 128

static _Thread_local struct {
    int code;
    char text[TEXT_BYTES];
    char origin[ORIGIN_BYTES];
} record;

static void one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = ' ';
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int error_record(int code, const char *file, int line, const char *format, ...) {
    /* Formatted aside first: an argument may be the text recorded before. */
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    one_line(text);
    record.code = code;
    memcpy(record.text, text, sizeof text);
    snprintf(record.origin, sizeof record.origin, "%s:%d", file_name(file), line);
    return code;
}

int error_prefix(int code, const char *format, ...) {
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t length = strlen(text);
    if (length < sizeof text - 2) {
        memcpy(text + length, ": ", 3);
        length += 2;
        size_t room = sizeof text - 1 - length, old = strlen(record.text);
        memcpy(text + length, record.text, old < room ? old : room);
        text[length + (old < room ? old : room)] = 0;
    }
    one_line(text);
    memcpy(record.text, text, sizeof text);
    return code;
}

const char *error_text(void) { return record.text; }

const char *error_origin(void) { return record.origin; }

int error_code(void) { return record.code; }

void error_clear(void) {
    record.code = 0;
    record.text[0] = 0;
    record.origin[0] = 0;
}

const char *error_name(int code) {
    switch (code) {
    case E_OK: return "ok";
    case E_ARGUMENT: return "argument";
    case E_MEMORY: return "memory";
    case E_IO: return "io";
    case E_FORMAT: return "format";
    case E_SHAPE: return "shape";
    case E_NUMERIC: return "numeric";
    case E_UNSUPPORTED: return "unsupported";
    case E_NOT_FOUND: return "not found";
    case E_STATE: return "state";
    case E_LIMIT: return "limit";
    case E_PLUGIN: return "plug-in";
    case E_INTERRUPTED: return "interrupted";
    default: return "unknown";
    }
}

void check_failed(const char *file, int line, const char *condition, const char *format, ...) {
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s:%d: check failed: %s: %s\n", file_name(file), line, condition, text);
    abort();
}
