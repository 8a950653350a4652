/* YAML text as a small tree of nodes that know where they stand.
 *
 * Only what an experiment file needs: maps with scalar keys, lists, scalars, anchors, aliases and merge
 * keys (<<). Aliases are copied, within a limit on the number of nodes, so that a tree can be edited in
 * place and nested aliases cannot grow without bound. A file may hold several documents ("---"), each a tree of its
 * own. Refused with a position: tags, duplicate keys, "${" (environment variables are never substituted), depth
 * beyond 32.
 */
#ifndef YAML_TREE_H
#define YAML_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "config/position.h"

enum node_type { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct node {
    enum node_type type;
    bool quoted;         /* a scalar in quotes or a block scalar */
    const char *text;    /* scalar; "" for none */
    struct node **items; /* list items, or map values */
    struct node **keys;  /* map keys (scalars), beside items */
    size_t count, capacity;
    struct position at;
};

struct document {
    struct node *root; /* NULL: nothing but comments */
    struct document_chunk *chunks;
    size_t node_count;
};

/* Parse text; `file` names it in positions and must outlive the tree. is_override: positions have line 0.
 * E_ARGUMENT with the position, E_MEMORY. The document is zeroed or already holds nodes (the new ones join
 * its memory); *root receives the new tree. A second document is refused. */
int document_parse(struct document *document, const char *text, size_t bytes, const char *file, bool is_override,
                   struct node **root);
/* Where a document of a text stands. Lines from 0. */
struct document_span {
    size_t count;                /* documents in the whole text */
    size_t first_line, end_line; /* of its "---", or 0; of the next one's, 0 for the last */
    struct position second;      /* where the second document begins */
};
enum { DOCUMENTS_MAX = 64 };

/* Parse document `number` (from 0) of a text that may hold several; the others are checked and left. *root is NULL
 * where there is no such document. The values of all documents together count against the limit. */
int document_parse_number(struct document *document, const char *text, size_t bytes, const char *file, size_t number,
                          struct node **root, struct document_span *span);
void document_close(struct document *document); /* accepts a zeroed document */

/* Zeroed memory that lives as long as the document. */
int document_take(struct document *document, size_t bytes, void **block);
int document_text(struct document *document, const char *text, const char **copy);
int node_new(struct document *document, enum node_type type, const struct position *at, struct node **node);
int node_append(struct document *document, struct node *list, struct node *item);
int node_put(struct document *document, struct node *map, struct node *key, struct node *value);

struct node *node_find(const struct node *map, const char *key); /* NULL when absent or not a map */
bool node_is_empty(const struct node *node);                     /* NULL, or an unquoted "", "~" */
const char *node_type_name(enum node_type type);                 /* "a value", "a list", "a map" */

#endif
