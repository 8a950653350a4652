/* Log lines to standard error, one per call, with a level. Thread-safe: a line is one write(). The harness
 * sends a worker's lines to a file by redirecting the worker's standard error. */
#ifndef LOG_H
#define LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level); /* default LOG_INFO */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
