/* Option tables against maps of the experiment file.
 *
 * Unknown words are errors with the nearest spelling and, where short, the list of what is known. A range is
 * expanded to texts, each then parsed like one written by hand, so ranges and lists obey the same checks.
 */
#include "config/settings.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

enum { RANGE_MAX = 100000, WORDS_MAX = 256, KNOWN_BYTES = 320 };

int store_keep(struct option_store *store, void *block) {
    int status = 0;
    void *blocks = store->blocks;
    if (store->count == store->capacity) {
        size_t capacity = store->capacity == 0 ? 32 : 2 * store->capacity;
        TRY(memory_resize(&blocks, capacity, sizeof *store->blocks));
        store->blocks = blocks;
        store->capacity = capacity;
    }
    store->blocks[store->count++] = block;
    block = NULL;
out:
    memory_release(block);
    return status;
}

int store_take(struct option_store *store, size_t count, size_t size, void **block) {
    int status = 0;
    *block = NULL;
    TRY(memory_take(block, count, size));
    status = store_keep(store, *block);
    if (status < 0) *block = NULL;
out:
    return status;
}

int store_text(struct option_store *store, const char *text, const char **copy) {
    int status = 0;
    char *fresh = NULL;
    *copy = NULL;
    TRY(memory_string(&fresh, text));
    TRY(store_keep(store, fresh));
    *copy = fresh;
out:
    return status;
}

int unknown_word(const struct position *at, const char *who, const char *kind, const char *word,
                 const char *const *words) {
    int status = 0;
    char known[KNOWN_BYTES] = "";
    size_t used = 0;
    const char *near = word_nearest(words, word);
    for (size_t i = 0; words[i] != NULL; i++) {
        size_t length = strlen(words[i]);
        if (used + length + 8 > sizeof known) {
            snprintf(known + used, sizeof known - used, ", ...");
            break;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", words[i]);
    }
    FAIL_AT(at, "%s%sunknown %s '%.80s'%s%s%s (known: %s)", who != NULL ? who : "", who != NULL ? ": " : "", kind, word,
            near != NULL ? "; did you mean '" : "", near != NULL ? near : "", near != NULL ? "'?" : "",
            known[0] != '\0' ? known : "none");
out:
    return status;
}

int unknown_option(const struct position *at, const char *who, const char *kind, const char *word,
                   const struct option *table) {
    const char *words[WORDS_MAX + 1];
    size_t count = 0;
    for (; table != NULL && table->name != NULL && count < WORDS_MAX; table++) words[count++] = table->name;
    words[count] = NULL;
    return unknown_word(at, who, kind, word, words);
}

int node_require_map(const struct node *node, const char *who) {
    int status = 0;
    if (!node_is_empty(node) && node->type != NODE_MAP)
        FAIL_AT(&node->at, "%s must be a map of settings (name: value), not %s", who, node_type_name(node->type));
out:
    return status;
}

/* What an option names on disk can be read. */
static int paths_check(const struct option *option, const void *target) {
    int status = 0;
    struct option_names paths = option_paths(option, target);
    for (size_t i = 0; i < paths.count; i++)
        if (access(paths.items[i], R_OK) != 0)
            FAIL(E_ARGUMENT, "%s: %s: %s", option->name, paths.items[i], strerror(errno));
out:
    return status;
}

int settings_assign(const struct option *option, void *target, const char *text, struct option_store *store) {
    int status = 0;
    TRY(option_set(option, target, text, store));
    TRY(paths_check(option, target));
out:
    return status;
}

int settings_set(const struct option *option, void *target, const struct node *node, const char *who,
                 struct option_store *store) {
    int status = 0;
    const char **items = NULL;
    void *block = NULL;
    if (node_is_empty(node)) FAIL_AT(&node->at, "%s: %s has no value", who, option->name);
    if (node->type == NODE_MAP) FAIL_AT(&node->at, "%s: %s takes a value, not a map", who, option->name);
    if (option_is_list(option)) {
        size_t count = node->type == NODE_LIST ? node->count : 1;
        TRY(memory_take(&block, count, sizeof *items));
        items = block;
        for (size_t i = 0; i < count; i++) {
            const struct node *item = node->type == NODE_LIST ? node->items[i] : node;
            if (item->type != NODE_SCALAR || node_is_empty(item))
                FAIL_AT(&item->at, "%s: %s is a list of words; item %zu is %s", who, option->name, i + 1,
                        item->type == NODE_SCALAR ? "empty" : node_type_name(item->type));
            items[i] = item->text;
        }
        status = option_set_names(option, target, items, count, store);
        if (status == 0) status = paths_check(option, target);
    } else {
        if (node->type == NODE_LIST)
            FAIL_AT(&node->at, "%s: %s takes one value here, not a list (lists become axes inside matrix alone)", who,
                    option->name);
        status = settings_assign(option, target, node->text, store);
    }
    if (status < 0) position_prefix(status, &node->at, who);
out:
    memory_release(block);
    return status;
}

int settings_read(const struct option *table, void *target, const struct node *map, const char *who,
                  const struct position *at, struct option_store *store) {
    int status = 0;
    if (table != NULL) TRY(option_defaults(table, target, store));
    TRY(node_require_map(map, who));
    if (!node_is_empty(map)) {
        for (size_t i = 0; i < map->count; i++) {
            const char *key = map->keys[i]->text;
            if (key[0] == '.') continue;
            const struct option *option = table != NULL ? option_find(table, key) : NULL;
            if (option == NULL) TRY(unknown_option(&map->keys[i]->at, who, "option", key, table));
            TRY(settings_set(option, target, map->items[i], who, store));
        }
    }
    for (const struct option *option = table; option != NULL && option->name != NULL; option++)
        if (option->preset == NULL && node_find(map, option->name) == NULL)
            FAIL_AT(at, "%s: %s is required (%s)", who, option->name, option->help);
out:
    return status;
}

static int values_add(struct values *values, struct document *document, const char *text, const struct position *at) {
    int status = 0;
    void *texts, *positions;
    if (values->count == values->capacity) {
        size_t capacity = values->capacity == 0 ? 8 : 2 * values->capacity;
        TRY(document_take(document, capacity * sizeof *values->text, &texts));
        TRY(document_take(document, capacity * sizeof *values->at, &positions));
        if (values->count > 0) {
            memcpy(texts, values->text, values->count * sizeof *values->text);
            memcpy(positions, values->at, values->count * sizeof *values->at);
        }
        values->text = texts;
        values->at = positions;
        values->capacity = capacity;
    }
    values->text[values->count] = text;
    values->at[values->count++] = *at;
out:
    return status;
}

/* One number of a range, [text, stop): copied out, because "1..8" begins with the number "1." as well. */
static bool range_number(const char *text, const char *stop, double *value) {
    char copy[48], *end;
    size_t length = (size_t)(stop - text);
    if (length == 0 || length >= sizeof copy || strchr("-.0123456789", *text) == NULL) return false;
    memcpy(copy, text, length);
    copy[length] = '\0';
    *value = strtod(copy, &end);
    return *end == '\0' && fabs(*value) <= 9007199254740992.0;
}

/* Expand "first..last", "first..last+step", "first..last*factor". The values are first + i*step and first *
 * factor^i, printed with 12 digits so that 0.1..0.5+0.1 gives 0.3 and not 0.30000000000000004. */
static int range_expand(struct values *values, struct document *document, const struct option *option,
                        const struct node *node, const char *who) {
    int status = 0;
    const char *dots = strstr(node->text, ".."), *last = dots + 2;
    const char *mark = strpbrk(last, "+*"), *end = last + strlen(last);
    if (mark == last || (mark != NULL && mark > last && (mark[-1] == 'e' || mark[-1] == 'E')))
        mark = strpbrk(mark + 1, "+*"); /* 1e+3: the sign belongs to the number */
    double low = 0, high = 0, step = 1;
    bool multiply = mark != NULL && *mark == '*';
    if (!range_number(node->text, dots, &low) || !range_number(last, mark != NULL ? mark : end, &high) ||
        (mark != NULL && !range_number(mark + 1, end, &step)))
        FAIL_AT(&node->at, "%s: %s: '%.60s' is not a range; write first..last, first..last+step or first..last*factor",
                who, option->name, node->text);
    if (low > high) FAIL_AT(&node->at, "%s: %s: the range %.60s is empty", who, option->name, node->text);
    if (multiply ? (step <= 1 || low <= 0) : step <= 0)
        FAIL_AT(&node->at, "%s: %s: the range %.60s never ends; %s", who, option->name, node->text,
                multiply ? "a factor must be above 1 and the first value above 0" : "a step must be above 0");
    double value = low, slack = 1e-9 * (multiply ? high : step);
    for (size_t i = 0; value <= high + slack; i++) {
        char text[40];
        const char *copy;
        if (i >= RANGE_MAX)
            FAIL_AT(&node->at, "%s: %s: the range %.60s has more than %d values", who, option->name, node->text,
                    RANGE_MAX);
        snprintf(text, sizeof text, "%.12g", value);
        if (option->type == OPTION_INTEGER && value == floor(value)) snprintf(text, sizeof text, "%.0f", value);
        TRY(document_text(document, text, &copy));
        TRY(values_add(values, document, copy, &node->at));
        value = multiply ? value * step : low + (double)(i + 1) * step;
    }
out:
    return status;
}

int values_read(struct values *values, struct document *document, const struct option *option, const struct node *node,
                const char *who) {
    int status = 0;
    if (node_is_empty(node)) FAIL_AT(&node->at, "%s: %s has no value", who, option->name);
    if (node->type == NODE_MAP) FAIL_AT(&node->at, "%s: %s takes a value, not a map", who, option->name);
    if (node->type == NODE_LIST) {
        if (node->count == 0) FAIL_AT(&node->at, "%s: %s is an empty list: no cell would remain", who, option->name);
        for (size_t i = 0; i < node->count; i++) {
            const struct node *item = node->items[i];
            if (item->type == NODE_LIST)
                FAIL_AT(&item->at, "%s: %s takes a list of values, not a list of lists", who, option->name);
            TRY(values_read(values, document, option, item, who));
        }
    } else if ((option->type == OPTION_INTEGER || option->type == OPTION_REAL) && strstr(node->text, "..") != NULL) {
        TRY(range_expand(values, document, option, node, who));
    } else {
        TRY(values_add(values, document, node->text, &node->at));
    }
out:
    return status;
}
