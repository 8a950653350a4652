/* Log lines: formatted in full, then written with one write(), so that lines of several threads and
 * processes on one terminal or file never mix. Nothing is kept or buffered; a failing write is ignored,
 * because there is nowhere left to report it.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static atomic_int threshold = LOG_INFO;

void log_set_level(enum log_level level) { atomic_store(&threshold, (int)level); }

void log_line(enum log_level level, const char *format, ...) {
    static const char *const prefix[] = {
        [LOG_ERROR] = "error: ", [LOG_WARN] = "warning: ", [LOG_INFO] = "", [LOG_DEBUG] = "debug: "};
    if ((int)level > atomic_load(&threshold)) return;
    char line[2048];
    size_t start = (size_t)snprintf(line, sizeof line, "%s", prefix[level]);
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(line + start, sizeof line - start - 1, format, arguments);
    va_end(arguments);
    if (written < 0) return;
    size_t length = strlen(line);
    line[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, length);
    (void)ignored;
}
