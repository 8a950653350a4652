/* YAML text to a tree of nodes, over libyaml's events.
 *
 * One recursive descent, at most DEPTH_MAX deep. Nodes come from chunks that the document frees at once.
 * An alias copies the anchored tree; every node counts against NODES_MAX, so "billion laughs" ends with an
 * error after at most that many nodes. An anchor is known only once its node is complete, so a node cannot
 * contain itself.
 */
#include "config/yaml_tree.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <yaml.h>

#include "base/memory.h"

enum { DEPTH_MAX = 32, NODES_MAX = 200000, KEYS_MAX = 1000, CHUNK_BYTES = 65536 };

struct document_chunk {
    struct document_chunk *next;
    size_t used, capacity; /* bytes behind this header */
    max_align_t bytes[];
};

struct anchor {
    const char *name;
    const struct node *node;
};

struct reader {
    yaml_parser_t parser;
    struct document *document;
    const char *text, *file;
    bool is_override;
    struct anchor *anchors;
    size_t anchor_count, anchor_capacity;
};

int position_record(const struct position *at, const char *source, int line, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (at->line == 0) return error_record(E_ARGUMENT, source, line, "%s: %s", at->file, text);
    return error_record(E_ARGUMENT, source, line, "%s:%zu:%zu: %s", at->file, at->line, at->column, text);
}

int position_prefix(int code, const struct position *at, const char *who) {
    if (who != NULL) error_prefix(code, "%s", who);
    if (at->line == 0) return error_prefix(code, "%s", at->file);
    return error_prefix(code, "%s:%zu:%zu", at->file, at->line, at->column);
}

static int chunk_add(struct document *document, size_t bytes) {
    int status = 0;
    void *block = NULL;
    size_t capacity = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    TRY(memory_take(&block, 1, sizeof(struct document_chunk) + capacity));
    struct document_chunk *chunk = block;
    *chunk = (struct document_chunk){.next = document->chunks, .capacity = capacity};
    document->chunks = chunk;
out:
    return status;
}

int document_take(struct document *document, size_t bytes, void **block) {
    int status = 0;
    *block = NULL;
    if (bytes > SIZE_MAX / 2) FAIL(E_LIMIT, "a block of %zu bytes is too large", bytes);
    bytes = size_round_up(bytes, sizeof(max_align_t));
    if (document->chunks == NULL || document->chunks->capacity - document->chunks->used < bytes)
        TRY(chunk_add(document, bytes));
    *block = (char *)document->chunks->bytes + document->chunks->used;
    document->chunks->used += bytes;
out:
    return status;
}

int document_text(struct document *document, const char *text, const char **copy) {
    int status = 0;
    void *block;
    size_t bytes = strlen(text) + 1;
    TRY(document_take(document, bytes, &block));
    memcpy(block, text, bytes);
    *copy = block;
out:
    return status;
}

void document_close(struct document *document) {
    while (document->chunks != NULL) {
        struct document_chunk *next = document->chunks->next;
        memory_release(document->chunks);
        document->chunks = next;
    }
    *document = (struct document){0};
}

int node_new(struct document *document, enum node_type type, const struct position *at, struct node **node) {
    int status = 0;
    void *block;
    if (document->node_count >= NODES_MAX)
        FAIL_AT(at, "more than %d values (aliases count each time they are used)", NODES_MAX);
    TRY(document_take(document, sizeof **node, &block));
    document->node_count++;
    *node = block;
    **node = (struct node){.type = type, .text = "", .at = *at};
out:
    return status;
}

/* Room for one more member: arrays double; the old ones stay in the chunk until the document closes. */
static int node_grow(struct document *document, struct node *node) {
    int status = 0;
    void *items, *keys;
    if (node->count < node->capacity) return 0;
    size_t capacity = node->capacity == 0 ? 4 : 2 * node->capacity;
    TRY(document_take(document, capacity * sizeof *node->items, &items));
    if (node->count > 0) memcpy(items, node->items, node->count * sizeof *node->items);
    if (node->type == NODE_MAP) {
        TRY(document_take(document, capacity * sizeof *node->keys, &keys));
        if (node->count > 0) memcpy(keys, node->keys, node->count * sizeof *node->keys);
        node->keys = keys;
    }
    node->items = items;
    node->capacity = capacity;
out:
    return status;
}

int node_append(struct document *document, struct node *list, struct node *item) {
    int status = 0;
    TRY(node_grow(document, list));
    list->items[list->count++] = item;
out:
    return status;
}

int node_put(struct document *document, struct node *map, struct node *key, struct node *value) {
    int status = 0;
    TRY(node_grow(document, map));
    map->keys[map->count] = key;
    map->items[map->count++] = value;
out:
    return status;
}

struct node *node_find(const struct node *map, const char *key) {
    if (map == NULL || map->type != NODE_MAP) return NULL;
    for (size_t i = 0; i < map->count; i++)
        if (strcmp(map->keys[i]->text, key) == 0) return map->items[i];
    return NULL;
}

bool node_is_empty(const struct node *node) {
    if (node == NULL) return true;
    return node->type == NODE_SCALAR && !node->quoted && (node->text[0] == '\0' || strcmp(node->text, "~") == 0);
}

const char *node_type_name(enum node_type type) {
    switch (type) {
    case NODE_SCALAR: return "a value";
    case NODE_LIST: return "a list";
    case NODE_MAP: return "a map";
    }
    return "?";
}

static int node_copy(struct document *document, const struct node *from, unsigned depth, struct node **to) {
    int status = 0;
    struct node *item;
    if (depth > DEPTH_MAX) FAIL_AT(&from->at, "nested more than %d deep", DEPTH_MAX);
    TRY(node_new(document, from->type, &from->at, to));
    (*to)->quoted = from->quoted;
    (*to)->text = from->text;
    for (size_t i = 0; i < from->count; i++) {
        TRY(node_copy(document, from->items[i], depth + 1, &item));
        if (from->type == NODE_MAP) TRY(node_put(document, *to, from->keys[i], item));
        else TRY(node_append(document, *to, item));
    }
out:
    return status;
}

static struct position reader_position(const struct reader *reader, yaml_mark_t mark) {
    if (reader->is_override) return (struct position){.file = reader->file};
    return (struct position){.file = reader->file, .line = mark.line + 1, .column = mark.column + 1};
}

/* What libyaml found wrong, with its position; bytes that are not text have an offset only. */
/* Whether a line, counted from 0, begins with a tab, blanks aside. */
static bool tab_indents(const char *text, size_t line) {
    for (; line > 0 && *text; text++) line -= *text == '\n';
    return text[strspn(text, " ")] == '\t';
}

static int reader_problem(struct reader *reader) {
    int status = 0;
    const yaml_parser_t *parser = &reader->parser;
    struct position at = reader_position(reader, parser->problem_mark);
    if (parser->error == YAML_MEMORY_ERROR) FAIL(E_MEMORY, "out of memory while reading %s", reader->file);
    if (parser->error == YAML_READER_ERROR && !reader->is_override) {
        at.line = at.column = 1;
        for (size_t i = 0; i < parser->problem_offset; i++) {
            at.column++;
            if (reader->text[i] == '\n') at.line++, at.column = 1;
        }
    }
    if (parser->error == YAML_SCANNER_ERROR && tab_indents(reader->text, parser->problem_mark.line))
        FAIL_AT(&at, "not valid YAML: a tab; indent with blanks");
    FAIL_AT(&at, "not valid YAML: %s%s%s", parser->context != NULL ? parser->context : "",
            parser->context != NULL ? ", " : "", parser->problem != NULL ? parser->problem : "unreadable");
out:
    return status;
}

static int reader_next(struct reader *reader, yaml_event_t *event) {
    if (yaml_parser_parse(&reader->parser, event)) return 0;
    *event = (yaml_event_t){0};
    return reader_problem(reader);
}

static int reader_anchor(struct reader *reader, const yaml_char_t *name, const struct node *node) {
    int status = 0;
    void *block = reader->anchors;
    if (name == NULL) return 0;
    if (reader->anchor_count == reader->anchor_capacity) {
        size_t capacity = reader->anchor_capacity == 0 ? 16 : 2 * reader->anchor_capacity;
        TRY(memory_resize(&block, capacity, sizeof *reader->anchors));
        reader->anchors = block;
        reader->anchor_capacity = capacity;
    }
    struct anchor *anchor = &reader->anchors[reader->anchor_count];
    TRY(document_text(reader->document, (const char *)name, &anchor->name));
    anchor->node = node;
    reader->anchor_count++;
out:
    return status;
}

static int reader_alias(struct reader *reader, const char *name, const struct position *at, unsigned depth,
                        struct node **node) {
    int status = 0;
    for (size_t i = reader->anchor_count; i-- > 0;)
        if (strcmp(reader->anchors[i].name, name) == 0)
            return node_copy(reader->document, reader->anchors[i].node, depth, node);
    FAIL_AT(at, "alias *%s: no anchor &%s is complete before it", name, name);
out:
    return status;
}

static int reader_scalar(struct reader *reader, const yaml_event_t *event, const struct position *at,
                         struct node **node) {
    int status = 0;
    const char *text = (const char *)event->data.scalar.value;
    if (strlen(text) != event->data.scalar.length) FAIL_AT(at, "a text contains a zero byte");
    if (strstr(text, "${") != NULL)
        FAIL_AT(at, "\"${\": environment variables are not substituted; write the value, or use --set");
    TRY(node_new(reader->document, NODE_SCALAR, at, node));
    (*node)->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    TRY(document_text(reader->document, text, &(*node)->text));
out:
    return status;
}

/* Add what a merge key brings: keys that the map does not have itself; the first of several maps wins. */
static int map_merge(struct reader *reader, struct node *map, const struct node *source) {
    int status = 0;
    if (source->type == NODE_MAP) {
        for (size_t i = 0; i < source->count; i++) {
            if (node_find(map, source->keys[i]->text) != NULL) continue;
            if (map->count >= KEYS_MAX) FAIL_AT(&source->at, "a map has more than %d keys", KEYS_MAX);
            TRY(node_put(reader->document, map, source->keys[i], source->items[i]));
        }
    } else if (source->type == NODE_LIST) {
        for (size_t i = 0; i < source->count; i++) {
            if (source->items[i]->type != NODE_MAP) FAIL_AT(&source->items[i]->at, "<< takes maps");
            TRY(map_merge(reader, map, source->items[i]));
        }
    } else {
        FAIL_AT(&source->at, "<< takes a map or a list of maps");
    }
out:
    return status;
}

static int reader_node(struct reader *reader, yaml_event_t *event, unsigned depth, struct node **node);

static int reader_list(struct reader *reader, unsigned depth, struct node *list) {
    int status = 0;
    yaml_event_t event = {0};
    struct node *item;
    for (;;) {
        TRY(reader_next(reader, &event));
        if (event.type == YAML_SEQUENCE_END_EVENT) break;
        TRY(reader_node(reader, &event, depth + 1, &item));
        TRY(node_append(reader->document, list, item));
    }
out:
    yaml_event_delete(&event);
    return status;
}

static int reader_map(struct reader *reader, unsigned depth, struct node *map) {
    int status = 0;
    yaml_event_t event = {0};
    struct node *key, *value;
    const struct node *merge = NULL;
    for (;;) {
        TRY(reader_next(reader, &event));
        if (event.type == YAML_MAPPING_END_EVENT) break;
        TRY(reader_node(reader, &event, depth + 1, &key));
        if (key->type != NODE_SCALAR) FAIL_AT(&key->at, "a key must be a word, not %s", node_type_name(key->type));
        bool is_merge = !key->quoted && strcmp(key->text, "<<") == 0;
        if (node_find(map, key->text) != NULL || (is_merge && merge != NULL))
            FAIL_AT(&key->at, "duplicate key '%s'", key->text);
        if (map->count >= KEYS_MAX) FAIL_AT(&key->at, "a map has more than %d keys", KEYS_MAX);
        TRY(reader_next(reader, &event));
        TRY(reader_node(reader, &event, depth + 1, &value));
        if (is_merge) merge = value;
        else TRY(node_put(reader->document, map, key, value));
    }
    if (merge != NULL) TRY(map_merge(reader, map, merge));
out:
    yaml_event_delete(&event);
    return status;
}

/* Build the node that begins with *event; the event is deleted in every case. */
static int reader_node(struct reader *reader, yaml_event_t *event, unsigned depth, struct node **node) {
    int status = 0;
    struct position at = reader_position(reader, event->start_mark);
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (event->type) {
    case YAML_SCALAR_EVENT: anchor = event->data.scalar.anchor, tag = event->data.scalar.tag; break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = event->data.sequence_start.anchor, tag = event->data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor, tag = event->data.mapping_start.tag;
        break;
    default: break;
    }
    if (tag != NULL) FAIL_AT(&at, "the tag %s: tags are not read; write the plain value", (const char *)tag);
    if (depth > DEPTH_MAX) FAIL_AT(&at, "nested more than %d deep", DEPTH_MAX);
    switch (event->type) {
    case YAML_ALIAS_EVENT: TRY(reader_alias(reader, (const char *)event->data.alias.anchor, &at, depth, node)); break;
    case YAML_SCALAR_EVENT: TRY(reader_scalar(reader, event, &at, node)); break;
    case YAML_SEQUENCE_START_EVENT:
        TRY(node_new(reader->document, NODE_LIST, &at, node));
        TRY(reader_list(reader, depth, *node));
        break;
    case YAML_MAPPING_START_EVENT:
        TRY(node_new(reader->document, NODE_MAP, &at, node));
        TRY(reader_map(reader, depth, *node));
        break;
    default: FAIL_AT(&at, "not valid YAML here");
    }
    TRY(reader_anchor(reader, anchor, *node));
out:
    yaml_event_delete(event);
    return status;
}

/* Every document of the text is read, so that all of it is checked; the tree of document `number` is kept. */
static int reader_documents(struct reader *reader, size_t bytes, size_t number, struct node **root,
                            struct document_span *span) {
    int status = 0;
    bool open = false;
    struct node *other;
    const char *file = reader->file;
    yaml_event_t event = {0};
    *root = NULL;
    *span = (struct document_span){0};
    if (!yaml_parser_initialize(&reader->parser)) FAIL(E_MEMORY, "out of memory while reading %s", file);
    open = true;
    yaml_parser_set_input_string(&reader->parser, (const unsigned char *)reader->text, bytes);
    for (bool end = false; !end;) {
        TRY(reader_next(reader, &event));
        switch (event.type) {
        case YAML_STREAM_END_EVENT: end = true; break;
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT: break;
        case YAML_DOCUMENT_START_EVENT:
            reader->anchor_count = 0; /* anchors are known within their document */
            if (span->count == number && number > 0) span->first_line = event.start_mark.line;
            if (span->count == number + 1) span->end_line = event.start_mark.line;
            if (span->count == 1) span->second = reader_position(reader, event.start_mark);
            span->count++;
            break;
        default: TRY(reader_node(reader, &event, 0, span->count == number + 1 ? root : &other)); break;
        }
        yaml_event_delete(&event);
    }
out:
    yaml_event_delete(&event);
    if (open) yaml_parser_delete(&reader->parser);
    memory_release(reader->anchors);
    return status;
}

int document_parse(struct document *document, const char *text, size_t bytes, const char *file, bool is_override,
                   struct node **root) {
    int status = 0;
    struct document_span span;
    struct reader reader = {.document = document, .text = text, .file = file, .is_override = is_override};
    TRY(reader_documents(&reader, bytes, 0, root, &span));
    if (span.count > 1) FAIL_AT(&span.second, "a second document begins; a value is one document");
out:
    return status;
}

int document_parse_number(struct document *document, const char *text, size_t bytes, const char *file, size_t number,
                          struct node **root, struct document_span *span) {
    int status = 0;
    struct reader reader = {.document = document, .text = text, .file = file};
    TRY(reader_documents(&reader, bytes, number, root, span));
    if (span->count > DOCUMENTS_MAX) FAIL(E_ARGUMENT, "%s: more than %d documents", file, DOCUMENTS_MAX);
out:
    return status;
}
