/* `runexp techniques [NAME[,OPTION]]`: the techniques, one of them with its options, or one option.
 *
 * Everything printed comes from the technique's struct and its option table. With --format md, one technique
 * is printed as its page of the documentation, docs/techniques/NAME.md.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "config/experiment.h"
#include "verbs/arguments.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

static const struct {
    uint32_t bit;
    const char *text;
} needs_names[] = {
    {NEEDS_TRAINING_DATA, "training data"},
    {NEEDS_UNLABELLED_TEXT, "unlabelled text"},
    {NEEDS_CALIBRATION_DATA, "calibration data"},
    {NEEDS_GRADIENTS, "gradients (no packed layers)"},
};

static void needs_text(uint32_t needs, char *text, size_t size) {
    text[0] = 0;
    for (size_t i = 0; i < sizeof needs_names / sizeof *needs_names; i++) {
        size_t used = strlen(text);
        if (needs & needs_names[i].bit)
            snprintf(text + used, size - used, "%s%s", used ? ", " : "", needs_names[i].text);
    }
    if (!text[0]) snprintf(text, size, "nothing");
}

static const char *type_name(enum option_type type) {
    static const char *const names[] = {"whole number", "number",        "true or false", "choice",
                                        "text",         "list of names", "path",          "list of paths"};
    return (size_t)type < sizeof names / sizeof *names ? names[type] : "unknown";
}

/* "1..64", "2|3|4", "0.." or nothing. */
static void range_text(const struct option *option, char *text, size_t size) {
    text[0] = 0;
    if (option->choices) snprintf(text, size, "%s", option->choices);
    else if ((option->type == OPTION_INTEGER || option->type == OPTION_REAL) && (option->low != 0 || option->high != 0))
        snprintf(text, size, isinf(option->high) ? "%.12g.." : "%.12g..%.12g", option->low, option->high);
}

static int list_fill(struct table *table) {
    int status = 0;
    static const char *const columns[] = {"technique", "summary", "needs", NULL};
    size_t count = 0;
    const struct technique *const *list = technique_list(&count);
    TRY(table_open(table, columns));
    for (size_t i = 0; i < count; i++) {
        char needs[128];
        needs_text(list[i]->needs, needs, sizeof needs);
        table_add_text(table, list[i]->name);
        table_add_text(table, list[i]->summary);
        table_add_text(table, needs);
    }
out:
    return status;
}

/* only: NULL for all options. */
static int options_fill(struct table *table, const struct option *options, const struct option *only) {
    int status = 0;
    static const char *const columns[] = {"option", "type", "default", "range", "unit", "help", NULL};
    TRY(table_open(table, columns));
    for (const struct option *option = options; option && option->name; option++) {
        char range[256];
        if (only && option != only) continue;
        range_text(option, range, sizeof range);
        table_add_text(table, option->name);
        table_add_text(table, type_name(option->type));
        table_add_text(table, option->preset ? option->preset : "required");
        table_add_text(table, range[0] ? range : NULL);
        table_add_text(table, option->unit);
        table_add_text(table, option->help);
    }
out:
    return status;
}

/* An example of the pipeline stage with its defaults, as it is read: an empty text is "". */
static void example_print(const struct technique *technique) {
    printf("  - %s: {", technique->name);
    for (const struct option *option = technique->options; option && option->name; option++) {
        const char *value = option->preset ? option->preset : "...";
        printf("%s%s: %s", option == technique->options ? "" : ", ", option->name, *value ? value : "\"\"");
    }
    printf("}\n");
}

static void head_print(const struct technique *technique, bool markdown) {
    char needs[128];
    needs_text(technique->needs, needs, sizeof needs);
    const char *source = technique->source ? technique->source : "none";
    if (markdown) {
        printf("# %s\n\n%s\n\n- Source: %s\n- Needs: %s\n- Version: %u\n\n", technique->name, technique->summary,
               source, needs, (unsigned)technique->version);
        printf("In a pipeline, with its defaults:\n\n```yaml\n");
        example_print(technique);
        printf("```\n\n");
    } else {
        printf("%s: %s\nsource   %s\nneeds    %s\nversion  %u\n", technique->name, technique->summary, source, needs,
               (unsigned)technique->version);
    }
}

static int technique_fail(const char *name) {
    int status = 0;
    size_t count = 0;
    const struct technique *const *list = technique_list(&count);
    const char *names[129] = {NULL};
    for (size_t i = 0; i < count && i < 128; i++) names[i] = list[i]->name;
    const char *near = word_nearest(names, name);
    if (near) FAIL(E_NOT_FOUND, "no technique named \"%s\"; did you mean \"%s\"?", name, near);
    FAIL(E_NOT_FOUND, "no technique named \"%s\"; `runexp techniques` lists them", name);
out:
    return status;
}

static int option_fail(const struct technique *technique, const char *name) {
    int status = 0;
    const char *near = technique->options ? option_nearest(technique->options, name) : NULL;
    if (near) FAIL(E_NOT_FOUND, "%s has no option \"%s\"; did you mean \"%s\"?", technique->name, name, near);
    FAIL(E_NOT_FOUND, "%s has no option \"%s\"; `runexp techniques %s` lists them", technique->name, name,
         technique->name);
out:
    return status;
}

/* `words`: "NAME" or "NAME,OPTION". */
static int technique_show(const char *words, enum table_format format, struct table *table) {
    int status = 0;
    char name[128];
    const char *comma = strchr(words, ',');
    size_t length = comma ? (size_t)(comma - words) : strlen(words);
    if (length >= sizeof name) FAIL(E_NOT_FOUND, "no technique has a name of %zu letters", length);
    memcpy(name, words, length);
    name[length] = 0;
    const struct technique *technique = technique_find(name);
    if (!technique) TRY(technique_fail(name));
    const struct option *only = NULL;
    if (comma) {
        only = technique->options ? option_find(technique->options, comma + 1) : NULL;
        if (!only) TRY(option_fail(technique, comma + 1));
    }
    bool readable = format == TABLE_TEXT || format == TABLE_MD;
    if (!only && readable) head_print(technique, format == TABLE_MD);
    if (!technique->options || !technique->options[0].name) {
        if (readable) printf("It has no options.\n");
        else TRY(options_fill(table, NULL, NULL));
        goto out;
    }
    if (readable && !only) printf(format == TABLE_MD ? "## Options\n\n" : "\n");
    TRY(options_fill(table, technique->options, only));
out:
    return status;
}

int verb_techniques(int argc, char **argv) {
    int status = 0;
    const char *format = "table", *items[64];
    struct flag_list plugins = {.items = items, .capacity = 64};
    struct table table = {0};
    const struct flag flags[] = {FLAG_FORMAT(&format),
                                 {.name = "plugin",
                                  .type = FLAG_LIST,
                                  .value = "PATH",
                                  .help = "load a technique_NAME.so first",
                                  .target = &plugins},
                                 FLAG_END};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = 0;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 0, 1, "at most one NAME or NAME,OPTION"));
    for (size_t i = 0; i < plugins.count; i++) TRY(technique_load(plugins.items[i]));
    if (argc == 1) TRY(list_fill(&table));
    else TRY(technique_show(argv[1], table_format_of(format), &table));
    if (table.columns) TRY(table_print(&table, table_format_of(format), stdout));
out:
    table_close(&table);
    return status;
}
