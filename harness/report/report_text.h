/* A growing text with a sticky error, and how the report prints numbers.
 *
 * Page and data files are long runs of appends; testing each would bury them. So the first failure is kept in
 * `status`, later appends do nothing, and whoever uses the text asks once with text_status.
 */
#ifndef REPORT_TEXT_H
#define REPORT_TEXT_H

#include <stddef.h>

struct text {
    char *bytes; /* zero-terminated once anything was appended */
    size_t length, capacity;
    int status; /* 0, or the first error */
};

void text_raw(struct text *text, const char *bytes);
void text_raw_n(struct text *text, const char *bytes, size_t count);
void text_print(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Append with & < > " ' escaped and control characters shown as U+FFFD: safe in HTML text and in quoted
 * attributes. Bytes that are not UTF-8 become U+FFFD as well. NULL appends nothing. */
void text_escape(struct text *text, const char *bytes);

/* Append as one field of a tab-separated gnuplot file: at most `limit` characters, and no character that
 * gnuplot or the format gives a meaning (tab, newline, quotes, backslash, control). */
void text_field(struct text *text, const char *bytes, size_t limit);
/* The same of a cell's label, which loses its middle where it is too long: cells often differ at the end. */
void text_label(struct text *text, const char *label, size_t limit);

int text_status(const struct text *text);
void text_close(struct text *text);

/* Numbers for people. NaN prints as an en dash. The texts hold UTF-8 (minus sign, thin spaces are not used). */
void text_number(struct text *text, double value, int decimals); /* -1.5 with a real minus sign */
void text_signed(struct text *text, double value, int decimals); /* +1.5, −1.5, 0.0 */
void text_figures(struct text *text, double value, int figures); /* significant figures, 12300 not 1.23e4 */
void text_bytes(struct text *text, double bytes);                /* 3.91 MiB */
void text_count(struct text *text, double value);                /* 12,345 */
void text_p_value(struct text *text, double p);                  /* p = 0.03, p < 0.001 */

#endif
