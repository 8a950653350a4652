/* Maps of an experiment file read through option tables, and lists and ranges of values.
 *
 * One function reads every section: model, tokenizer, task, measure, limits and a technique's options differ
 * only in their tables.
 */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "base/option.h"
#include "config/yaml_tree.h"

/* Read `map` (NULL or empty: defaults alone) into target (zeroed). who: what messages begin with ("rtn"). at: where a
 * missing required option is reported. */
int settings_read(const struct option *table, void *target, const struct node *map, const char *who,
                  const struct position *at, struct option_store *store);

/* Set one option from a scalar, or from a list for options that are lists. Messages begin with position and who. */
int settings_set(const struct option *option, void *target, const struct node *node, const char *who,
                 struct option_store *store);

/* option_set, which also refuses a path (OPTION_PATH) that cannot be read: "teacher: models/x: No such file …". */
int settings_assign(const struct option *option, void *target, const char *text, struct option_store *store);

/* Several values: a scalar, a range "1..8", "1..9+2", "64..1024*2" (numbers only), or a list of those. */
struct values {
    const char **text;
    struct position *at;
    size_t count, capacity; /* in the document's memory */
};
int values_read(struct values *values, struct document *document, const struct option *option, const struct node *node,
                const char *who);

/* "file:1:2: who: unknown option 'bit'; did you mean 'bits'? (known: bits, group)". words is NULL-terminated. */
int unknown_word(const struct position *at, const char *who, const char *kind, const char *word,
                 const char *const *words);
int unknown_option(const struct position *at, const char *who, const char *kind, const char *word,
                   const struct option *table);

/* Is `node` a map (or empty)? Otherwise E_ARGUMENT: "who must be a map of settings, not a list". */
int node_require_map(const struct node *node, const char *who);

/* Memory and texts that live as long as the store. */
int store_keep(struct option_store *store, void *block); /* takes the block, also on error (then it is released) */
int store_take(struct option_store *store, size_t count, size_t size, void **block);
int store_text(struct option_store *store, const char *text, const char **copy);

#endif
