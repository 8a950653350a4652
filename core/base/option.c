/* Options as data: parsing, ranges, nearest names and canonical text, driven by the table rows alone.
 *
 * Numbers follow a strict grammar (decimal, no hexadecimal, no infinity), so that the same text means the
 * same value in every file. Values that are texts are copied into the option store.
 */
#include "base/option.h"

#include "base/error.h"
#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 64 /* longer words have no near one */

/* ---- store ---------------------------------------------------------------------------------------- */
static int store_keep(struct option_store *store, void *block) {
    int status = 0;
    if (store->count == store->capacity) {
        size_t capacity = store->capacity ? 2 * store->capacity : 8;
        void *blocks = store->blocks;
        TRY(memory_resize(&blocks, capacity, sizeof(void *)));
        store->blocks = blocks;
        store->capacity = capacity;
    }
    store->blocks[store->count++] = block;
out:
    return status;
}

static int store_text(struct option_store *store, const char *text, size_t length, const char **kept) {
    int status = 0;
    char *copy = NULL;
    TRY(memory_string_n(&copy, text, length));
    TRY(store_keep(store, copy));
    *kept = copy;
    copy = NULL;
out:
    memory_release(copy);
    return status;
}

void option_store_close(struct option_store *store) {
    for (size_t i = 0; i < store->count; i++) memory_release(store->blocks[i]);
    memory_release(store->blocks);
    *store = (struct option_store){0};
}

/* ---- numbers -------------------------------------------------------------------------------------- */
static const char *skip_digits(const char *text) {
    while (*text >= '0' && *text <= '9') text++;
    return text;
}

/* [+-] digits [. digits] [e [+-] digits], with a digit before or after the point. */
static bool real_parse(const char *text, double *value) {
    const char *c = text + (*text == '-' || *text == '+');
    const char *whole = c;
    c = skip_digits(c);
    size_t digits = (size_t)(c - whole);
    if (*c == '.') {
        const char *fraction = ++c;
        c = skip_digits(c);
        digits += (size_t)(c - fraction);
    }
    if (!digits) return false;
    if (*c == 'e' || *c == 'E') {
        c++;
        c += *c == '-' || *c == '+';
        const char *exponent = c;
        c = skip_digits(c);
        if (c == exponent) return false;
    }
    if (*c) return false;
    *value = strtod(text, NULL);
    return isfinite(*value);
}

static bool integer_parse(const char *text, int64_t *value) {
    const char *digits = text + (*text == '-' || *text == '+');
    const char *end = skip_digits(digits);
    if (end == digits || *end) return false;
    errno = 0;
    *value = strtoll(text, NULL, 10);
    return errno == 0;
}

/* The fewest digits that read back as the same double; whole numbers without an exponent. */
static void real_print(double value, char text[32]) {
    if (value == floor(value) && fabs(value) < 1e15) {
        snprintf(text, 32, "%.0f", value == 0 ? 0.0 : value);
        return;
    }
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(text, 32, "%.*g", precision, value);
        if (strtod(text, NULL) == value) return;
    }
}

/* ---- choices and ranges --------------------------------------------------------------------------- */
/* The choice equal to text, as a view into "a|b|c"; NULL when there is none. */
static const char *choice_find(const char *choices, const char *text, size_t *length) {
    size_t wanted = strlen(text);
    for (const char *c = choices;; c++) {
        *length = strcspn(c, "|");
        if (*length == wanted && memcmp(c, text, wanted) == 0) return c;
        c += *length;
        if (!*c) return NULL;
    }
}

static int choice_error(const struct option *option, const char *text) {
    char list[512];
    size_t used = 0;
    for (const char *c = option->choices; *c && used < sizeof list - 3; c++) {
        if (*c == '|') list[used++] = ',';
        list[used++] = *c == '|' ? ' ' : *c;
    }
    list[used] = 0;
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be one of %s (got %s)", option->name, list, text);
}

static bool has_range(const struct option *option) { return option->low != 0 || option->high != 0; }

static int range_error(const struct option *option, const char *kind, const char *text) {
    char low[32], high[32], range[96] = "";
    real_print(option->low, low);
    real_print(option->high, high);
    if (has_range(option)) {
        if (isinf(option->high)) snprintf(range, sizeof range, " of at least %s", low);
        else if (isinf(option->low)) snprintf(range, sizeof range, " of at most %s", high);
        else snprintf(range, sizeof range, " in %s..%s", low, high);
    }
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be %s%s (got %s)", option->name, kind, range, text);
}

static int integer_set(const struct option *option, int64_t *slot, const char *text) {
    int64_t value;
    size_t length;
    if (!integer_parse(text, &value)) {
        if (option->choices) return choice_error(option, text);
        double real;
        if (real_parse(text, &real) && real != floor(real))
            return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be a whole number (got %s)", option->name,
                                text);
        return range_error(option, "a whole number", text);
    }
    if (option->choices) {
        char plain[32]; /* "+4" and "04" are 4 */
        snprintf(plain, sizeof plain, "%" PRId64, value);
        if (!choice_find(option->choices, plain, &length)) return choice_error(option, text);
    }
    if (has_range(option) && ((double)value < option->low || (double)value > option->high))
        return range_error(option, "a whole number", text);
    *slot = value;
    return 0;
}

static int real_set(const struct option *option, double *slot, const char *text) {
    double value;
    if (!real_parse(text, &value)) return range_error(option, "a number", text);
    if (has_range(option) && (value < option->low || value > option->high))
        return range_error(option, "a number", text);
    *slot = value;
    return 0;
}

/* ---- lists ---------------------------------------------------------------------------------------- */
/* "[a, b]" with items bare or in double quotes (no escapes), or a bare text as a list of one: how presets
 * and printed values are written. */
static int names_parse(const struct option *option, void *target, const char *text, struct option_store *store) {
    int status = 0;
    void *block = NULL;
    char *copy = NULL;
    size_t count = 0, length = strlen(text);
    if (text[0] != '[') return option_set_names(option, target, &text, 1, store);
    if (text[length - 1] != ']') FAIL(E_ARGUMENT, "%s must be a list such as [a, b] (got %s)", option->name, text);
    TRY(memory_string_n(&copy, text + 1, length - 2));
    TRY(memory_take(&block, length, sizeof(char *)));
    const char **items = block;
    for (char *c = copy + strspn(copy, " "); *c;) {
        char *end;
        if (*c == '"') {
            items[count++] = ++c;
            end = strchr(c, '"');
            if (!end) FAIL(E_ARGUMENT, "%s has a quote that is not closed (got %s)", option->name, text);
            *end++ = 0;
            end += strspn(end, " ");
            if (*end && *end != ',')
                FAIL(E_ARGUMENT, "%s needs a comma after a quoted name (got %s)", option->name, text);
        } else {
            items[count++] = c;
            end = c + strcspn(c, ",");
        }
        bool more = *end == ',';
        char *tail = end; /* cut blanks behind a bare item */
        while (tail > c && tail[-1] == ' ') tail--;
        *tail = 0;
        c = end + more;
        c += strspn(c, " ");
        if (more && !*c) FAIL(E_ARGUMENT, "%s ends in a comma (got %s)", option->name, text);
    }
    TRY(option_set_names(option, target, items, count, store));
out:
    memory_release(block);
    memory_release(copy);
    return status;
}

bool option_is_list(const struct option *option) {
    return option->type == OPTION_NAMES || option->type == OPTION_PATHS;
}

struct option_names option_paths(const struct option *option, const void *target) {
    const void *slot = (const char *)target + option->offset;
    const char *const *path = slot;
    if (option->type == OPTION_PATHS) return *(const struct option_names *)slot;
    if (option->type == OPTION_PATH && *path && **path) return (struct option_names){path, 1};
    return (struct option_names){0};
}

int option_set_names(const struct option *option, void *target, const char *const *items, size_t count,
                     struct option_store *store) {
    int status = 0;
    void *block = NULL;
    if (!option_is_list(option)) FAIL(E_ARGUMENT, "%s takes one value, not a list", option->name);
    TRY(memory_take(&block, count, sizeof(char *)));
    const char **kept = block;
    for (size_t i = 0; i < count; i++) {
        size_t length;
        if (!items[i][0]) FAIL(E_ARGUMENT, "%s must not hold an empty name", option->name);
        if (strchr(items[i], '"')) FAIL(E_ARGUMENT, "%s must not hold quotes (got %s)", option->name, items[i]);
        if (option->choices && !choice_find(option->choices, items[i], &length)) TRY(choice_error(option, items[i]));
        TRY(store_text(store, items[i], strlen(items[i]), &kept[i]));
    }
    TRY(store_keep(store, block));
    *(struct option_names *)(void *)((char *)target + option->offset) =
        (struct option_names){.items = kept, .count = count};
    block = NULL;
out:
    memory_release(block);
    return status;
}

/* ---- set, defaults, print ------------------------------------------------------------------------- */
int option_set(const struct option *option, void *target, const char *text, struct option_store *store) {
    void *slot = (char *)target + option->offset;
    switch (option->type) {
    case OPTION_INTEGER: return integer_set(option, slot, text);
    case OPTION_REAL: return real_set(option, slot, text);
    case OPTION_BOOLEAN:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be true or false (got %s)", option->name,
                                text);
        *(bool *)slot = text[0] == 't';
        return 0;
    case OPTION_CHOICE: {
        size_t length;
        const char *choice = choice_find(option->choices, text, &length);
        return choice ? store_text(store, choice, length, slot) : choice_error(option, text);
    }
    case OPTION_PATH:
    case OPTION_TEXT: return store_text(store, text, strlen(text), slot);
    case OPTION_PATHS:
    case OPTION_NAMES: return names_parse(option, target, text, store);
    }
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s has an unknown type", option->name);
}

int option_defaults(const struct option *table, void *target, struct option_store *store) {
    for (const struct option *option = table; option->name; option++) {
        if (!option->preset) continue;
        int status = option_set(option, target, option->preset, store);
        if (status < 0) return error_prefix(status, "default of '%s'", option->name);
    }
    return 0;
}

/* snprintf semantics for a text built of pieces: `used` counts what would have been written. */
static size_t put(char *text, size_t size, size_t used, const char *piece) {
    size_t length = strlen(piece);
    for (size_t i = 0; i < length && used + i + 1 < size; i++) text[used + i] = piece[i];
    used += length;
    if (size) text[used < size ? used : size - 1] = 0;
    return used;
}

size_t option_print(const struct option *option, const void *target, char *text, size_t size) {
    const void *slot = (const char *)target + option->offset;
    char number[32] = "";
    switch (option->type) {
    case OPTION_INTEGER: snprintf(number, sizeof number, "%" PRId64, *(const int64_t *)slot); break;
    case OPTION_REAL: real_print(*(const double *)slot, number); break;
    case OPTION_BOOLEAN: return put(text, size, 0, *(const bool *)slot ? "true" : "false");
    case OPTION_CHOICE:
    case OPTION_PATH:
    case OPTION_TEXT: {
        const char *value = *(const char *const *)slot;
        return put(text, size, 0, value ? value : "");
    }
    case OPTION_PATHS:
    case OPTION_NAMES: {
        const struct option_names *names = slot;
        size_t used = put(text, size, 0, "[");
        for (size_t i = 0; i < names->count; i++) {
            const char *quote = strpbrk(names->items[i], " ,[]") ? "\"" : "";
            used = put(text, size, used, i ? ", " : "");
            used = put(text, size, used, quote);
            used = put(text, size, used, names->items[i]);
            used = put(text, size, used, quote);
        }
        return put(text, size, used, "]");
    }
    }
    return put(text, size, 0, number);
}

/* ---- names ---------------------------------------------------------------------------------------- */
const struct option *option_find(const struct option *table, const char *name) {
    for (const struct option *option = table; option->name; option++)
        if (strcmp(option->name, name) == 0) return option;
    return NULL;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Damerau-Levenshtein distance in its restricted form (no edit inside a swapped pair): insertions,
 * deletions, replacements and swaps of neighbours. SIZE_MAX for words of WORD_MAX letters or more. */
static size_t word_distance(const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b);
    if (na >= WORD_MAX || nb >= WORD_MAX) return SIZE_MAX;
    size_t rows[3][WORD_MAX]; /* rows i-2, i-1 and i of the table, in turn */
    for (size_t j = 0; j <= nb; j++) rows[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *row = rows[i % 3], *above = rows[(i - 1) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], above2[j - 2] + 1);
        }
    }
    return rows[na % 3][nb];
}

/* Near: at most 2 edits or a third of the longer word, and not every letter replaced. */
static bool word_near(const char *a, const char *b, size_t distance) {
    size_t na = strlen(a), nb = strlen(b), longer = na > nb ? na : nb;
    return distance < longer && (distance <= 2 || distance <= longer / 3);
}

const char *option_nearest(const struct option *table, const char *name) {
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (const struct option *option = table; option->name; option++) {
        size_t distance = word_distance(option->name, name);
        if (distance >= best_distance || !word_near(option->name, name, distance)) continue;
        best = option->name;
        best_distance = distance;
    }
    return best;
}

const char *word_nearest(const char *const *words, const char *name) {
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (; *words; words++) {
        size_t distance = word_distance(*words, name);
        if (distance >= best_distance || !word_near(*words, name, distance)) continue;
        best = *words;
        best_distance = distance;
    }
    return best;
}
