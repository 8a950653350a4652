/* Overrides from the command line, applied to the tree of nodes.
 *
 * The value is parsed by the same reader as the file, so the same things are refused. The tree never shares
 * nodes (aliases are copies), so changing one place changes nothing else.
 */
#include "config/override.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "config/experiment.h"
#include "config/sections.h"
#include "config/settings.h"

int override_split(const char *text, size_t *path_bytes) {
    int status = 0;
    const char *equal = strchr(text, '=');
    if (equal == NULL || equal == text)
        FAIL(E_ARGUMENT, "--set %.100s: write --set path.to.key=value, for example --set measure.rounds=5", text);
    *path_bytes = (size_t)(equal - text);
out:
    return status;
}

/* The sections in which a lone word may name a setting. */
struct place {
    const char *section;
    const struct option *table;
};

/* "rounds" → "measure.rounds". */
static int path_complete(struct document *document, const char *word, const char *label, const char **section,
                         const char **inner) {
    int status = 0;
    struct position at = {.file = label};
    const struct node *task = node_find(document->root, "task"), *name, *options;
    const struct task_kind *kind = NULL;
    const char *words[256];
    size_t count = 0, hits = 0;
    *inner = NULL;
    if (task != NULL && named_options(task, "task", &name, &options) == 0) kind = task_kind_find(name->text);
    const struct place places[] = {{"task", kind != NULL ? kind->options : NULL},
                                   {"model", model_options},
                                   {"tokenizer", tokenizer_options},
                                   {"measure", measure_options},
                                   {"limits", limits_options},
                                   {"matrix", axis_options}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        for (const struct option *option = places[i].table; option != NULL && option->name != NULL; option++) {
            if (count < 240) words[count++] = option->name;
            if (strcmp(option->name, word) != 0) continue;
            if (hits++ > 0)
                FAIL_AT(&at, "%s and %s both have '%s'; write the whole path", *section, places[i].section, word);
            *section = places[i].section;
            if (i == 0) *inner = kind->name;
        }
    for (size_t i = 0; experiment_keys[i] != NULL && count < 255; i++) words[count++] = experiment_keys[i];
    words[count] = NULL;
    if (hits == 0) {
        const char *near = word_nearest(words, word);
        FAIL_AT(&at, "unknown key '%.80s'%s%s%s; write a path such as task.wordnet.data or measure.rounds", word,
                near != NULL ? "; did you mean '" : "", near != NULL ? near : "", near != NULL ? "'?" : "");
    }
out:
    return status;
}

static bool word_in(const char *const *words, const char *word) {
    for (; *words != NULL; words++)
        if (strcmp(*words, word) == 0) return true;
    return false;
}

/* The place of `key` in a map: its value's slot, made (empty) when absent. */
static int map_slot(struct document *document, struct node *map, const char *key, const struct position *at,
                    struct node ***slot) {
    int status = 0;
    struct node *name, *value;
    for (size_t i = 0; i < map->count; i++)
        if (strcmp(map->keys[i]->text, key) == 0) {
            *slot = &map->items[i];
            return 0;
        }
    TRY(node_new(document, NODE_SCALAR, at, &name));
    TRY(document_text(document, key, &name->text));
    TRY(node_new(document, NODE_SCALAR, at, &value));
    TRY(node_put(document, map, name, value));
    *slot = &map->items[map->count - 1];
out:
    return status;
}

/* The place in a list: by number, or by the name of a stage (a bare name becomes NAME: {}). */
static int list_slot(struct document *document, struct node *list, const char *key, const struct position *at,
                     struct node ***slot) {
    int status = 0;
    char *end;
    struct node *map;
    if (isdigit((unsigned char)key[0])) {
        unsigned long long index = strtoull(key, &end, 10);
        if (*end != '\0' || index >= list->count)
            FAIL_AT(at, "'%.80s' is not a place in a list of %zu (the first is 0)", key, list->count);
        *slot = &list->items[index];
        return 0;
    }
    for (size_t i = 0; i < list->count; i++) {
        struct node *item = list->items[i];
        bool bare = item->type == NODE_SCALAR && strcmp(item->text, key) == 0;
        if (bare) {
            TRY(node_new(document, NODE_MAP, &item->at, &map));
            list->items[i] = map;
        }
        if (bare || node_find(item, key) != NULL) return map_slot(document, list->items[i], key, at, slot);
    }
    FAIL_AT(at, "the list has no stage '%.80s'; name one that is there, or give its number (the first is 0)", key);
out:
    return status;
}

/* The member that one key of a path names, or NULL. A bare name ("task: wordnet") is a map of itself. */
static const struct node *node_step(const struct node *node, const char *key, size_t bytes) {
    for (size_t i = 0; node->type == NODE_MAP && i < node->count; i++)
        if (strlen(node->keys[i]->text) == bytes && strncmp(node->keys[i]->text, key, bytes) == 0)
            return node->items[i];
    if (node->type == NODE_SCALAR) return strlen(node->text) == bytes && !strncmp(node->text, key, bytes) ? node : NULL;
    if (node->type != NODE_LIST) return NULL;
    if (isdigit((unsigned char)key[0])) {
        unsigned long long index = strtoull(key, NULL, 10);
        return index < node->count ? node->items[index] : NULL;
    }
    for (size_t i = 0; i < node->count; i++) {
        const struct node *found = node_step(node->items[i], key, bytes);
        if (found != NULL) return found;
    }
    return NULL;
}

/* Does the task state this setting? */
static bool task_states(const struct document *document, const char *word) {
    const struct node *task = node_find(document->root, "task"), *name, *options;
    return task != NULL && named_options(task, "task", &name, &options) == 0 && options != NULL &&
           options->type == NODE_MAP && node_find(options, word) != NULL;
}

bool override_concerns(struct document *document, const char *text, const char *label) {
    size_t bytes;
    const char *section, *inner, *dot;
    char word[128];
    const struct node *node = document->root;
    if (override_split(text, &bytes) < 0) return true;
    if (memchr(text, '.', bytes) == NULL) {
        if (bytes >= sizeof word) return true;
        memcpy(word, text, bytes);
        word[bytes] = '\0';
        if (word_in(experiment_keys, word)) return true;
        bool found = path_complete(document, word, label, &section, &inner) == 0;
        if (!found) error_clear();
        return found && (strcmp(section, "task") != 0 || task_states(document, word));
    }
    for (size_t depth = 0; (dot = memchr(text, '.', bytes)) != NULL && node != NULL; depth++) {
        size_t key = (size_t)(dot - text);
        node = node_step(node, text, key);
        bool section_of_all = depth == 0 && !(key == 4 && strncmp(text, "task", 4) == 0) &&
                              !(key == 7 && strncmp(text, "prepare", 7) == 0);
        text = dot + 1;
        bytes -= key + 1;
        if (node == NULL && section_of_all && memchr(text, '.', bytes) == NULL) return true;
    }
    return node != NULL;
}

/* A path below `task` that names another one: an experiment has one task, so nothing is created there. */
static int task_check(const struct node *task, const char *word, const struct position *at) {
    int status = 0;
    const struct node *name, *options;
    if (task->type != NODE_MAP || task->count != 1) goto out;
    TRY(named_options(task, "task", &name, &options));
    if (strcmp(name->text, word) != 0) FAIL_AT(at, "the task is %.80s, not '%.80s'", name->text, word);
out:
    return status;
}

int override_apply(struct document *document, const char *text, const char *label) {
    int status = 0;
    struct position at = {.file = label};
    size_t path_bytes;
    struct node *value;
    void *block;
    TRY(override_split(text, &path_bytes));
    TRY(document_parse(document, text + path_bytes + 1, strlen(text + path_bytes + 1), label, true, &value));
    if (value == NULL) TRY(node_new(document, NODE_SCALAR, &at, &value));
    TRY(document_take(document, path_bytes + 1, &block));
    char *path = block;
    memcpy(path, text, path_bytes);
    const char *section = NULL, *inner = NULL;
    if (strchr(path, '.') == NULL && !word_in(experiment_keys, path))
        TRY(path_complete(document, path, label, &section, &inner));
    struct node **slot = &document->root;
    const char *lead[] = {section, inner};
    char *key = path;
    bool below_task = false;
    for (size_t step = 0; key != NULL; step++) {
        const char *word = step < 2 ? lead[step] : NULL;
        if (step < 2 && word == NULL) continue;
        bool is_last = false;
        if (word == NULL) {
            char *dot = strchr(key, '.');
            if (dot != NULL) *dot = '\0';
            word = key;
            key = dot != NULL ? dot + 1 : NULL;
            is_last = key == NULL;
        }
        if (word[0] == '\0') FAIL_AT(&at, "the path has an empty part");
        if (node_is_empty(*slot)) TRY(node_new(document, NODE_MAP, &at, slot));
        if ((*slot)->type == NODE_SCALAR && !is_last) {
            /* `task: wordnet` and a path below it: the bare name becomes a map */
            struct node *map;
            if (strcmp((*slot)->text, word) != 0) FAIL_AT(&at, "'%.80s' is below a value, not a map or list", word);
            TRY(node_new(document, NODE_MAP, &(*slot)->at, &map));
            *slot = map;
        }
        if ((*slot)->type == NODE_SCALAR) FAIL_AT(&at, "'%.80s' is below a value, not a map or list", word);
        if (below_task) TRY(task_check(*slot, word, &at));
        below_task = slot == &document->root && strcmp(word, "task") == 0;
        TRY((*slot)->type == NODE_MAP ? map_slot(document, *slot, word, &at, &slot)
                                      : list_slot(document, *slot, word, &at, &slot));
    }
    *slot = value;
out:
    return status;
}
