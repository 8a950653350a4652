/* A small JSON reader for model files (headers of safetensors, config.json, tokenizer.json), libc only.
 *
 * Parses a whole text into one array of nodes; strings are decoded to UTF-8 in memory the document owns.
 * Hostile input is the norm: depth, node count and every escape are checked; errors name the byte
 * position. Duplicate keys in an object are an error.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_type type;
    const char *key;          /* in an object: the member's name; else NULL */
    const char *text;         /* JSON_STRING: decoded, zero-terminated; JSON_NUMBER: as written */
    size_t text_bytes;        /* without the terminating zero (a string may hold zeros) */
    size_t count;             /* members of an array or object */
    const struct json *child; /* first member */
    const struct json *next;  /* next sibling */
};

struct json_document {
    struct json *nodes;
    char *strings;
    size_t count;
};

/* E_FORMAT with the position ("byte 17: expected ':'"), E_MEMORY. */
int json_open(struct json_document *document, const char *text, size_t bytes);
void json_close(struct json_document *document);
static inline const struct json *json_root(const struct json_document *document) { return document->nodes; }

const struct json *json_member(const struct json *object, const char *key); /* NULL when absent or not an object */
const struct json *json_item(const struct json *array, size_t index);       /* linear; iterate with child/next */
/* Checked reads: E_FORMAT with the expectation; `what` names the field in the message. */
int json_u64(const struct json *node, const char *what,
             uint64_t *value); /* whole, non-negative, < 2^53 exactly written */
int json_number(const struct json *node, const char *what, double *value);
int json_text(const struct json *node, const char *what, const char **text);

/* Append `text` to a growing buffer as a quoted, escaped JSON string. */
struct json_writer {
    char *text;
    size_t bytes, capacity;
    int status;
};
void json_raw(struct json_writer *writer, const char *text);
void json_quoted(struct json_writer *writer, const char *text);
void json_format(struct json_writer *writer, const char *format, ...) __attribute__((format(printf, 2, 3)));
void json_writer_close(struct json_writer *writer); /* status holds the first error until then */

#endif
