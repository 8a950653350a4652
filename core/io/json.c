/* The JSON reader (RFC 8259) and writer.
 *
 * Two passes. A scan that only knows strings counts openers and commas, which bounds the values, so nodes
 * and strings are allocated once and links are plain pointers. The parse keeps its open containers in a
 * fixed array instead of recursing. Names of an object are compared by sorting when it closes, so that
 * no input makes the duplicate check quadratic.
 */
#include "io/json.h"

#include "base/error.h"
#include "base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 64
#define NODES_MAX (4u << 20) /* a tokenizer of 256,000 entries with its merges as pairs has about 1.5 million */
#define FEW_MEMBERS 8        /* up to here names are compared pair by pair */

struct parser {
    const char *text;
    size_t bytes, at;
    struct json *nodes;
    size_t count, capacity;
    char *strings;
    size_t used;
    void *scratch; /* pointers to the members of the largest object so far */
    size_t scratch_count;
};

#define EXPECT(parser, what) FAIL(E_FORMAT, "byte %zu: expected %s", (parser)->at, (what))

/* ---- scanning ------------------------------------------------------------------------------------- */
/* An upper bound of the values in the text: one, and one behind each opener and comma. */
static size_t values_bound(const char *text, size_t bytes) {
    size_t count = 1;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '"') {
            for (i++; i < bytes && text[i] != '"'; i++)
                if (text[i] == '\\') i++;
        } else if (text[i] == ',' || text[i] == '[' || text[i] == '{') {
            count++;
        }
    }
    return count;
}

static int peek(const struct parser *p) { return p->at < p->bytes ? (unsigned char)p->text[p->at] : -1; }

static void skip_blanks(struct parser *p) {
    for (int c = peek(p); c == ' ' || c == '\n' || c == '\r' || c == '\t'; c = peek(p)) p->at++;
}

static bool is_digit(int c) { return c >= '0' && c <= '9'; }

/* Bytes of the UTF-8 sequence at `text`, 0 when it is not one (overlong forms, surrogates and values above
 * U+10FFFF are not; Unicode 15, table 3-7). */
static size_t utf8_length(const unsigned char *text, size_t bytes) {
    unsigned char a = text[0];
    if (a < 0x80) return 1;
    size_t length = a >= 0xC2 && a <= 0xDF ? 2 : a >= 0xE0 && a <= 0xEF ? 3 : a >= 0xF0 && a <= 0xF4 ? 4 : 0;
    if (!length || length > bytes) return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80) return 0;
    unsigned char b = text[1];
    if ((a == 0xE0 && b < 0xA0) || (a == 0xED && b > 0x9F) || (a == 0xF0 && b < 0x90) || (a == 0xF4 && b > 0x8F))
        return 0;
    return length;
}

static char *utf8_put(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

static int hex4(struct parser *p, uint32_t *value) {
    int status = 0;
    *value = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        int c = peek(p), lower = c | 0x20;
        if (is_digit(c)) *value = *value << 4 | (uint32_t)(c - '0');
        else if (lower >= 'a' && lower <= 'f') *value = *value << 4 | (uint32_t)(lower - 'a' + 10);
        else EXPECT(p, "four hexadecimal digits behind \\u");
    }
out:
    return status;
}

/* Behind "\u": one unit, or two that are a surrogate pair. */
static int unicode_escape(struct parser *p, uint32_t *code) {
    int status = 0;
    uint32_t low;
    TRY(hex4(p, code));
    if (*code >= 0xDC00 && *code <= 0xDFFF) FAIL(E_FORMAT, "byte %zu: low surrogate without a high one", p->at - 4);
    if (*code < 0xD800 || *code > 0xDBFF) return 0;
    if (p->bytes - p->at < 2 || p->text[p->at] != '\\' || p->text[p->at + 1] != 'u')
        EXPECT(p, "\\u with the low surrogate");
    p->at += 2;
    TRY(hex4(p, &low));
    if (low < 0xDC00 || low > 0xDFFF) FAIL(E_FORMAT, "byte %zu: high surrogate without a low one", p->at - 4);
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
out:
    return status;
}

/* A quoted string, decoded behind p->used. Decoding never lengthens and the quotes make room for the zero. */
static int parse_string(struct parser *p, const char **text, size_t *length) {
    int status = 0;
    char *start = p->strings + p->used, *to = start;
    p->at++;
    for (;;) {
        int c = peek(p);
        if (c < 0) EXPECT(p, "'\"' at the end of a string");
        if (c == '"') break;
        if (c < 0x20) FAIL(E_FORMAT, "byte %zu: control character 0x%02x in a string", p->at, (unsigned)c);
        if (c != '\\') {
            size_t n = utf8_length((const unsigned char *)p->text + p->at, p->bytes - p->at);
            if (!n) FAIL(E_FORMAT, "byte %zu: not valid UTF-8", p->at);
            memcpy(to, p->text + p->at, n);
            to += n;
            p->at += n;
            continue;
        }
        p->at++;
        c = peek(p);
        p->at++;
        switch (c) {
        case '"':
        case '\\':
        case '/': *to++ = (char)c; break;
        case 'b': *to++ = '\b'; break;
        case 'f': *to++ = '\f'; break;
        case 'n': *to++ = '\n'; break;
        case 'r': *to++ = '\r'; break;
        case 't': *to++ = '\t'; break;
        case 'u': {
            uint32_t code;
            TRY(unicode_escape(p, &code));
            to = utf8_put(to, code);
            break;
        }
        default: p->at--; EXPECT(p, "one of \"\\/bfnrtu behind a backslash");
        }
    }
    p->at++;
    *to = 0;
    *text = start;
    *length = (size_t)(to - start);
    p->used += *length + 1;
out:
    return status;
}

static int digits(struct parser *p) {
    int status = 0;
    if (!is_digit(peek(p))) EXPECT(p, "a digit");
    while (is_digit(peek(p))) p->at++;
out:
    return status;
}

static int parse_number(struct parser *p, struct json *node) {
    int status = 0;
    size_t start = p->at;
    if (peek(p) == '-') p->at++;
    bool zero = peek(p) == '0';
    TRY(digits(p));
    size_t sign = p->text[start] == '-';
    if (zero && p->at - start - sign > 1) FAIL(E_FORMAT, "byte %zu: a number must not start with 0", start);
    if (peek(p) == '.') {
        p->at++;
        TRY(digits(p));
    }
    if (peek(p) == 'e' || peek(p) == 'E') {
        p->at++;
        if (peek(p) == '+' || peek(p) == '-') p->at++;
        TRY(digits(p));
    }
    node->type = JSON_NUMBER;
    node->text_bytes = p->at - start;
    node->text = memcpy(p->strings + p->used, p->text + start, node->text_bytes);
    p->strings[p->used + node->text_bytes] = 0;
    p->used += node->text_bytes + 1;
out:
    return status;
}

static int parse_word(struct parser *p, const char *word, enum json_type type, struct json *node) {
    int status = 0;
    size_t length = strlen(word);
    if (p->bytes - p->at < length || memcmp(p->text + p->at, word, length) != 0) EXPECT(p, "a value");
    p->at += length;
    node->type = type;
out:
    return status;
}

/* ---- objects -------------------------------------------------------------------------------------- */
static int compare_keys(const void *a, const void *b) {
    const struct json *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

static int check_names(struct parser *p, const struct json *object) {
    int status = 0;
    const struct json *twice = NULL;
    if (object->count <= FEW_MEMBERS) {
        for (const struct json *a = object->child; a; a = a->next)
            for (const struct json *b = a->next; b; b = b->next)
                if (strcmp(a->key, b->key) == 0) twice = b;
    } else {
        if (object->count > p->scratch_count) {
            TRY(memory_resize(&p->scratch, object->count, sizeof(struct json *)));
            p->scratch_count = object->count;
        }
        const struct json **members = p->scratch;
        size_t n = 0;
        for (const struct json *a = object->child; a; a = a->next) members[n++] = a;
        qsort(members, n, sizeof *members, compare_keys);
        for (size_t i = 1; i < n; i++)
            if (strcmp(members[i - 1]->key, members[i]->key) == 0) twice = members[i];
    }
    if (twice) FAIL(E_FORMAT, "byte %zu: the name '%.200s' appears twice in this object", p->at, twice->key);
out:
    return status;
}

/* A member's name and the colon behind it. */
static int parse_name(struct parser *p, const char **key) {
    int status = 0;
    size_t length, start = p->at;
    if (peek(p) != '"') EXPECT(p, "'\"' before a name");
    TRY(parse_string(p, key, &length));
    if (strlen(*key) != length) FAIL(E_FORMAT, "byte %zu: a name must not hold a zero", start);
    skip_blanks(p);
    if (peek(p) != ':') EXPECT(p, "':'");
    p->at++;
    skip_blanks(p);
out:
    return status;
}

/* ---- the parse ------------------------------------------------------------------------------------ */
/* One value, or the opener of a container. */
static int parse_value(struct parser *p, struct json *node) {
    switch (peek(p)) {
    case '{':
    case '[':
        node->type = peek(p) == '{' ? JSON_OBJECT : JSON_ARRAY;
        p->at++;
        return 0;
    case '"': node->type = JSON_STRING; return parse_string(p, &node->text, &node->text_bytes);
    case 't': return parse_word(p, "true", JSON_TRUE, node);
    case 'f': return parse_word(p, "false", JSON_FALSE, node);
    case 'n': return parse_word(p, "null", JSON_NULL, node);
    default: break;
    }
    if (peek(p) == '-' || is_digit(peek(p))) return parse_number(p, node);
    return error_record(E_FORMAT, __FILE__, __LINE__, "byte %zu: expected a value", p->at);
}

static int parse_document(struct parser *p) {
    int status = 0;
    struct {
        struct json *node, *last;
    } open[DEPTH_MAX];
    size_t depth = 0;
    bool fresh = false; /* the last token opened a container */
    do {
        const char *key = NULL;
        skip_blanks(p);
        if (depth) {
            struct json *node = open[depth - 1].node;
            bool object = node->type == JSON_OBJECT;
            if (peek(p) == (object ? '}' : ']')) {
                p->at++;
                if (object) TRY(check_names(p, node));
                depth--;
                fresh = false;
                continue;
            }
            if (!fresh) {
                if (peek(p) != ',') EXPECT(p, object ? "',' or '}'" : "',' or ']'");
                p->at++;
                skip_blanks(p);
            }
            if (object) TRY(parse_name(p, &key));
        }
        if (p->count == p->capacity) FAIL(E_FORMAT, "byte %zu: more than %zu values", p->at, p->capacity);
        struct json *node = &p->nodes[p->count++];
        node->key = key;
        TRY(parse_value(p, node));
        if (depth) {
            struct json *parent = open[depth - 1].node;
            if (open[depth - 1].last) open[depth - 1].last->next = node;
            else parent->child = node;
            open[depth - 1].last = node;
            parent->count++;
        }
        fresh = node->type == JSON_OBJECT || node->type == JSON_ARRAY;
        if (fresh) {
            if (depth == DEPTH_MAX) FAIL(E_FORMAT, "byte %zu: nested deeper than %d levels", p->at - 1, DEPTH_MAX);
            open[depth].node = node;
            open[depth].last = NULL;
            depth++;
        }
    } while (depth);
    skip_blanks(p);
    if (p->at != p->bytes) EXPECT(p, "the end of the text");
out:
    return status;
}

int json_open(struct json_document *document, const char *text, size_t bytes) {
    int status = 0;
    struct parser p = {.text = text, .bytes = bytes};
    void *nodes = NULL, *strings = NULL;
    size_t room;
    *document = (struct json_document){0};
    p.capacity = values_bound(text, bytes);
    if (p.capacity > NODES_MAX) FAIL(E_FORMAT, "more than %u values", NODES_MAX);
    TRY(size_add(bytes, 2, &room)); /* a lone number needs a zero that has no byte in the text */
    TRY(memory_take(&nodes, p.capacity, sizeof(struct json)));
    TRY(memory_take(&strings, room, 1));
    p.nodes = nodes;
    p.strings = strings;
    TRY(parse_document(&p));
    *document = (struct json_document){.nodes = nodes, .strings = strings, .count = p.count};
    nodes = strings = NULL;
out:
    memory_release(nodes);
    memory_release(strings);
    memory_release(p.scratch);
    return status;
}

void json_close(struct json_document *document) {
    memory_release(document->nodes);
    memory_release(document->strings);
    *document = (struct json_document){0};
}

/* ---- reading nodes -------------------------------------------------------------------------------- */
const struct json *json_member(const struct json *object, const char *key) {
    if (!object || object->type != JSON_OBJECT) return NULL;
    for (const struct json *member = object->child; member; member = member->next)
        if (strcmp(member->key, key) == 0) return member;
    return NULL;
}

const struct json *json_item(const struct json *array, size_t index) {
    if (!array || array->type != JSON_ARRAY) return NULL;
    const struct json *item = array->child;
    while (item && index--) item = item->next;
    return item;
}

int json_u64(const struct json *node, const char *what, uint64_t *value) {
    int status = 0;
    *value = 0;
    if (!node || node->type != JSON_NUMBER || node->text_bytes > 16 ||
        strspn(node->text, "0123456789") != node->text_bytes)
        FAIL(E_FORMAT, "%s must be a whole number from 0 to 2^53-1", what);
    uint64_t number = strtoull(node->text, NULL, 10);
    if (number >= 1ull << 53) FAIL(E_FORMAT, "%s must be a whole number from 0 to 2^53-1", what);
    *value = number;
out:
    return status;
}

int json_number(const struct json *node, const char *what, double *value) {
    int status = 0;
    *value = 0;
    if (!node || node->type != JSON_NUMBER) FAIL(E_FORMAT, "%s must be a number", what);
    double number = strtod(node->text, NULL);
    if (!isfinite(number)) FAIL(E_FORMAT, "%s is too large for a number: %.40s", what, node->text);
    *value = number;
out:
    return status;
}

int json_text(const struct json *node, const char *what, const char **text) {
    int status = 0;
    *text = NULL;
    if (!node || node->type != JSON_STRING) FAIL(E_FORMAT, "%s must be a string", what);
    if (strlen(node->text) != node->text_bytes) FAIL(E_FORMAT, "%s must not hold a zero", what);
    *text = node->text;
out:
    return status;
}

/* ---- writing -------------------------------------------------------------------------------------- */
static char *writer_room(struct json_writer *writer, size_t bytes) {
    if (writer->status < 0) return NULL;
    if (bytes >= writer->capacity - writer->bytes) {
        void *text = writer->text;
        size_t capacity = 2 * (writer->bytes + bytes) + 256;
        writer->status = memory_resize(&text, capacity, 1);
        if (writer->status < 0) return NULL;
        writer->text = text;
        writer->capacity = capacity;
    }
    return writer->text + writer->bytes;
}

static void writer_put(struct json_writer *writer, const char *text, size_t bytes) {
    char *to = writer_room(writer, bytes);
    if (!to) return;
    memcpy(to, text, bytes);
    to[bytes] = 0;
    writer->bytes += bytes;
}

void json_raw(struct json_writer *writer, const char *text) { writer_put(writer, text, strlen(text)); }

void json_quoted(struct json_writer *writer, const char *text) {
    size_t left = strlen(text);
    writer_put(writer, "\"", 1);
    while (left) {
        unsigned char c = (unsigned char)*text;
        size_t length = utf8_length((const unsigned char *)text, left);
        if (!length) json_raw(writer, "\\ufffd"); /* a byte that is not UTF-8 */
        else if (c == '"' || c == '\\') json_format(writer, "\\%c", c);
        else if (c < 0x20) json_format(writer, "\\u%04x", c);
        else writer_put(writer, text, length);
        text += length ? length : 1;
        left -= length ? length : 1;
    }
    writer_put(writer, "\"", 1);
}

void json_format(struct json_writer *writer, const char *format, ...) {
    char text[512], *to = text;
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof text && (to = writer_room(writer, (size_t)length)) != NULL) {
        vsnprintf(to, (size_t)length + 1, format, again);
        writer->bytes += (size_t)length;
    } else if (length > 0 && length < (int)sizeof text) {
        writer_put(writer, text, (size_t)length);
    }
    va_end(again);
}

void json_writer_close(struct json_writer *writer) {
    memory_release(writer->text);
    *writer = (struct json_writer){0};
}
