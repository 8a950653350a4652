/* Options as data: one table of rows gives parsing, ranges, help, the JSON Schema and the stored
 * resolved values. Used by techniques (techniques/technique.h), tasks, meters and the experiment
 * file itself. The table is an array that ends with a row whose name is NULL.
 *
 * The storage at `offset` inside the options struct has the C type named beside each type.
 */
#ifndef OPTION_H
#define OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_type {
    OPTION_INTEGER, /* int64_t */
    OPTION_REAL,    /* double */
    OPTION_BOOLEAN, /* bool */
    OPTION_CHOICE,  /* const char *, one of `choices` */
    OPTION_TEXT,    /* const char * */
    OPTION_NAMES,   /* struct option_names: a list of texts; never becomes a matrix axis by itself */
    OPTION_PATH,    /* const char *: a file or folder, "" for none. One that is missing is refused when the
                     * experiment is read, and the bytes of what it names are part of a cell's key. */
    OPTION_PATHS,   /* struct option_names: a list of such files or folders */
};

struct option_names {
    const char *const *items;
    size_t count;
};

struct option {
    const char *name; /* as written in YAML */
    enum option_type type;
    const char *preset;  /* the default as text ("8", "true", "[]"); NULL: required */
    double low, high;    /* inclusive range for numbers; ignored when low > high is false and both 0 */
    const char *choices; /* "a|b|c" for OPTION_CHOICE; "2|3|4|8" for an integer with few values; else NULL */
    const char *unit;    /* "bits", "tokens"; NULL for none */
    const char *help;    /* one sentence */
    size_t offset;
};

#define OPTION_END                                                                                                     \
    { .name = NULL }

/* OPTION_NAMES or OPTION_PATHS. */
bool option_is_list(const struct option *option);
/* What an option names on disk; count 0: nothing, as of other types. Items are those of `target`. */
struct option_names option_paths(const struct option *option, const void *target);

/* Where parsed texts and lists live: the caller's memory, freed at once with option_store_close. */
struct option_store {
    void **blocks;
    size_t count, capacity;
};
void option_store_close(struct option_store *store);

/* Write every default into `target` (zeroed, sizeof the struct). Required options stay zero. */
int option_defaults(const struct option *table, void *target, struct option_store *store);

/* Parse scalar `text` into the option. Errors (E_ARGUMENT) say what was expected and what was given:
 * "bits must be one of 2, 3, 4, 8 (got 5)", without any prefix. */
int option_set(const struct option *option, void *target, const char *text, struct option_store *store);
int option_set_names(const struct option *option, void *target, const char *const *items, size_t count,
                     struct option_store *store);

const struct option *option_find(const struct option *table, const char *name); /* NULL when absent */

/* The nearest name in the table, or NULL when none is near (edit distance > 2 and > a third). */
const char *option_nearest(const struct option *table, const char *name);

/* The same over any list of words (a NULL-terminated array). */
const char *word_nearest(const char *const *words, const char *name);

/* The value as canonical text (numbers in shortest round-trip form): what is stored and hashed.
 * Writes at most `size` bytes with the terminating zero; returns the full length. */
size_t option_print(const struct option *option, const void *target, char *text, size_t size);

#endif
