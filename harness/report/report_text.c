/* Growing text, escaping for HTML and for gnuplot data, numbers for people. Everything from the database
 * passes through text_escape or text_field; both also repair bytes that are not UTF-8, because one bad byte
 * would make a whole SVG unreadable to an XML parser. */
#include "report/report_text.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/* Room for `extra` more bytes and the terminating zero. */
static bool text_reserve(struct text *text, size_t extra) {
    if (text->status < 0) return false;
    size_t wanted = 0;
    text->status = size_add(text->length + 1, extra, &wanted);
    if (text->status < 0) return false;
    if (wanted <= text->capacity) return true;
    size_t capacity = text->capacity ? text->capacity : 4096;
    while (capacity < wanted) capacity += capacity / 2;
    void *block = text->bytes;
    text->status = memory_resize(&block, capacity, 1);
    if (text->status < 0) return false;
    text->bytes = block;
    text->capacity = capacity;
    return true;
}

void text_raw_n(struct text *text, const char *bytes, size_t count) {
    if (!text_reserve(text, count)) return;
    if (count) memcpy(text->bytes + text->length, bytes, count);
    text->length += count;
    text->bytes[text->length] = '\0';
}

void text_raw(struct text *text, const char *bytes) { text_raw_n(text, bytes, strlen(bytes)); }

void text_print(struct text *text, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length > 0 && text_reserve(text, (size_t)length)) {
        vsnprintf(text->bytes + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    }
    va_end(again);
}

/* Bytes of the UTF-8 character at `c` (1 to 4), or 0 when it is not well formed or not allowed in XML. */
static size_t character_length(const unsigned char *c) {
    if (c[0] < 0x80) return 1;
    size_t length = c[0] >= 0xC2 && c[0] < 0xE0 ? 2 : (c[0] & 0xF0) == 0xE0 ? 3 : c[0] >= 0xF0 && c[0] < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((c[i] & 0xC0) != 0x80) return 0;
    if (c[0] == 0xE0 && c[1] < 0xA0) return 0;                                    /* overlong */
    if (c[0] == 0xED && c[1] > 0x9F) return 0;                                    /* surrogates */
    if (c[0] == 0xEF && c[1] == 0xBF && c[2] > 0xBD) return 0;                    /* U+FFFE, U+FFFF */
    if ((c[0] == 0xF0 && c[1] < 0x90) || (c[0] == 0xF4 && c[1] > 0x8F)) return 0; /* overlong, > U+10FFFF */
    return length;
}

#define ELLIPSIS "\xE2\x80\xA6"
#define REPLACEMENT "\xEF\xBF\xBD"

void text_escape(struct text *text, const char *bytes) {
    for (const unsigned char *c = (const unsigned char *)(bytes ? bytes : ""); *c;) {
        size_t length = character_length(c);
        if (length == 0 || (*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7F) text_raw(text, REPLACEMENT);
        else if (*c == '&') text_raw(text, "&amp;");
        else if (*c == '<') text_raw(text, "&lt;");
        else if (*c == '>') text_raw(text, "&gt;");
        else if (*c == '"') text_raw(text, "&quot;");
        else if (*c == '\'') text_raw(text, "&#39;");
        else text_raw_n(text, (const char *)c, length);
        c += length ? length : 1;
    }
}

/* Characters begin..end-1 of a field. */
static void put_characters(struct text *text, const char *bytes, size_t begin, size_t end) {
    size_t at = 0;
    for (const unsigned char *c = (const unsigned char *)bytes; *c && at < end; at++) {
        size_t length = character_length(c);
        if (at < begin) {
        } else if (length == 0) text_raw(text, REPLACEMENT);
        else if (*c < 0x20 || *c == 0x7F) text_raw(text, " ");
        else if (*c == '"' || *c == '`') text_raw(text, "'");
        else if (*c == '\\') text_raw(text, "/");
        else text_raw_n(text, (const char *)c, length);
        c += length ? length : 1;
    }
}

/* At most `limit` characters, the last `tail` of them from the end. */
static void put_field(struct text *text, const char *bytes, size_t limit, size_t tail) {
    size_t count = 0;
    if (!bytes) return;
    for (const unsigned char *c = (const unsigned char *)bytes; *c; count++) {
        size_t length = character_length(c);
        c += length ? length : 1;
    }
    if (count <= limit) {
        put_characters(text, bytes, 0, count);
        return;
    }
    put_characters(text, bytes, 0, limit - 1 - tail);
    text_raw(text, ELLIPSIS);
    put_characters(text, bytes, count - tail, count);
}

void text_field(struct text *text, const char *bytes, size_t limit) { put_field(text, bytes, limit, 0); }

void text_label(struct text *text, const char *label, size_t limit) { put_field(text, label, limit, 2 * limit / 5); }

int text_status(const struct text *text) { return text->status; }

void text_close(struct text *text) {
    memory_release(text->bytes);
    *text = (struct text){0};
}

#define MINUS "\xE2\x88\x92"
#define DASH "\xE2\x80\x93"

void text_number(struct text *text, double value, int decimals) {
    char digits[64];
    if (!isfinite(value)) {
        text_raw(text, DASH);
        return;
    }
    snprintf(digits, sizeof digits, fabs(value) < 1e15 ? "%.*f" : "%.*e", decimals, fabs(value));
    bool zero = strspn(digits, "0.") == strlen(digits);
    text_print(text, "%s%s", value < 0 && !zero ? MINUS : "", digits);
}

void text_signed(struct text *text, double value, int decimals) {
    char digits[64];
    snprintf(digits, sizeof digits, "%.*f", decimals, isfinite(value) ? fabs(value) : 0.0);
    if (value > 0 && strspn(digits, "0.") != strlen(digits)) text_raw(text, "+");
    text_number(text, value, decimals);
}

void text_figures(struct text *text, double value, int figures) {
    double size = fabs(value);
    if (!isfinite(value) || size == 0) {
        text_number(text, value, 0);
    } else if (size >= 1e7 || size < 1e-4) {
        text_print(text, "%.*e", figures - 1, value);
    } else {
        int decimals = figures - 1 - (int)floor(log10(size));
        text_number(text, value, decimals > 0 ? decimals : 0);
    }
}

void text_bytes(struct text *text, double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (isfinite(bytes) && fabs(bytes) >= 1024 && unit + 1 < sizeof units / sizeof *units) bytes /= 1024, unit++;
    if (unit == 0) text_number(text, bytes, 0);
    else text_figures(text, bytes, 3);
    if (isfinite(bytes)) text_print(text, " %s", units[unit]);
}

void text_count(struct text *text, double value) {
    char digits[64];
    if (!isfinite(value) || fabs(value) >= 1e15) {
        text_figures(text, value, 4);
        return;
    }
    snprintf(digits, sizeof digits, "%.0f", fabs(value));
    size_t length = strlen(digits);
    if (value <= -0.5) text_raw(text, MINUS);
    for (size_t i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) text_raw(text, ",");
        text_raw_n(text, digits + i, 1);
    }
}

void text_p_value(struct text *text, double p) {
    if (!isfinite(p)) text_raw(text, "p unknown");
    else if (p < 0.001) text_raw(text, "p < 0.001");
    else text_print(text, "p = %.*f", p < 0.1 ? 3 : 2, p);
}
