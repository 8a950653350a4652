/* An experiment file from bytes to a frozen plan.
 *
 * Order: bytes → tree of nodes → --set overrides on the tree → top-level keys → plug-ins (they add techniques)
 * → sections by their option tables → cells (harness/plan). Nothing is kept of the tree: what the experiment
 * needs is copied into its store, which one call frees.
 */
#include "config/experiment.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "config/override.h"
#include "config/sections.h"
#include "config/settings.h"
#include "plan/plan.h"

enum { FILE_BYTES_MAX = 4 << 20, EXPERIMENT_NAME_MAX = 80 };

const char *const experiment_keys[] = {"experiment", "description", "model",  "tokenizer", "task", "prepare",
                                       "matrix",     "measure",     "limits", "plugins",   NULL};

/* The whole file, zero-terminated; *text is memory_release'd by the caller. */
static int file_read(const char *path, char **text, size_t *bytes) {
    int status = 0;
    struct stat stat;
    void *block = NULL;
    FILE *file = fopen(path, "rb");
    *text = NULL;
    if (file == NULL) FAIL(E_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (fstat(fileno(file), &stat) == 0 && S_ISDIR(stat.st_mode))
        FAIL(E_IO, "%s: is a directory; name its files, for example %s/*.yaml", path, path);
    TRY(memory_take(&block, FILE_BYTES_MAX + 2, 1));
    *bytes = fread(block, 1, FILE_BYTES_MAX + 1, file);
    if (ferror(file)) FAIL(E_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (*bytes > FILE_BYTES_MAX) FAIL(E_ARGUMENT, "%s: larger than %d MiB", path, FILE_BYTES_MAX >> 20);
    *text = block;
    block = NULL;
out:
    memory_release(block);
    if (file != NULL) fclose(file);
    return status;
}

/* The bytes of one document of the file: all of it where there is only one. Comments above a "---" go with the
 * document before it. */
static void document_cut(const struct document_span *span, const char **text, size_t *bytes) {
    const char *end = *text + *bytes, *begin = *text, *stop = end;
    size_t line = 0;
    if (span->count < 2) return;
    for (const char *c = *text; c < end; c++) {
        if (*c != '\n') continue;
        line++;
        if (line == span->first_line) begin = c + 1;
        if (line == span->end_line) stop = c + 1;
    }
    *text = begin;
    *bytes = (size_t)(stop - begin);
}

/* The document and the overrides, as stored with the results. */
static int text_keep(struct experiment *experiment, const char *text, size_t bytes, const char *const *overrides,
                     size_t count) {
    int status = 0;
    size_t total = bytes + 2, used = bytes;
    void *block;
    for (size_t i = 0; i < count; i++) total += strlen(overrides[i]) + 16;
    TRY(store_take(&experiment->store, total, 1, &block));
    if (text != NULL) memcpy(block, text, bytes);
    if (bytes > 0 && text[bytes - 1] != '\n' && count > 0) ((char *)block)[used++] = '\n';
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf((char *)block + used, total - used, "# --set %s\n", overrides[i]);
    experiment->text = block;
out:
    return status;
}

/* Which document of a file is read, and what the ones before it have used. */
struct document_choice {
    size_t number, count; /* from 0; documents in the file, known after reading */
    bool *used;           /* [overrides] concerned one of the documents so far; NULL: the file may hold only one */
};

/* In a file of several documents an override concerns those that know its path; one that no document knows is reported
 * by the last. */
static int overrides_apply(struct experiment *experiment, struct document *document, const char *const *overrides,
                           size_t count, struct document_choice *choice) {
    int status = 0;
    for (size_t i = 0; i < count; i++) {
        size_t path_bytes;
        void *label;
        TRY(override_split(overrides[i], &path_bytes));
        TRY(store_take(&experiment->store, path_bytes + 8, 1, &label));
        snprintf(label, path_bytes + 8, "--set %.*s", (int)path_bytes, overrides[i]);
        bool strict = choice->used == NULL || (choice->number + 1 == choice->count && !choice->used[i]);
        if (!strict && !override_concerns(document, overrides[i], label)) continue;
        TRY(override_apply(document, overrides[i], label));
        if (choice->used != NULL) choice->used[i] = true;
    }
out:
    return status;
}

static int keys_check(const struct node *root) {
    int status = 0;
    for (size_t i = 0; i < root->count; i++) {
        const char *key = root->keys[i]->text;
        bool found = key[0] == '.';
        for (size_t k = 0; experiment_keys[k] != NULL && !found; k++) found = strcmp(experiment_keys[k], key) == 0;
        if (!found) TRY(unknown_word(&root->keys[i]->at, NULL, "key", key, experiment_keys));
    }
out:
    return status;
}

static int plugins_load(const struct node *node) {
    int status = 0;
    if (node_is_empty(node)) return 0;
    if (node->type != NODE_LIST)
        FAIL_AT(&node->at, "plugins must be a list of paths, not %s", node_type_name(node->type));
    for (size_t i = 0; i < node->count; i++) {
        const struct node *item = node->items[i];
        if (item->type != NODE_SCALAR || item->text[0] == '\0')
            FAIL_AT(&item->at, "plugins: a path such as build/release/technique_mine.so is expected here");
        status = technique_load(item->text);
        if (status < 0) {
            position_prefix(status, &item->at, "plugins");
            goto out;
        }
    }
out:
    return status;
}

/* A name is a folder and a file name later on. */
static int name_read(struct experiment *experiment, const struct node *root, const struct position *at) {
    int status = 0;
    const struct node *node = node_find(root, "experiment"), *description = node_find(root, "description");
    if (node == NULL) FAIL_AT(at, "experiment is required: a name of letters, digits, - and _");
    if (node->type != NODE_SCALAR || node->text[0] == '\0')
        FAIL_AT(&node->at, "experiment must be a name of letters, digits, - and _");
    for (const char *c = node->text; *c != '\0'; c++)
        if (!(isalnum((unsigned char)*c) || *c == '-' || *c == '_') || (unsigned char)*c > 127)
            FAIL_AT(&node->at, "experiment: a name is letters, digits, - and _ (got '%.80s')", node->text);
    if (strlen(node->text) > EXPERIMENT_NAME_MAX)
        FAIL_AT(&node->at, "experiment: the name is longer than %d letters", EXPERIMENT_NAME_MAX);
    TRY(store_text(&experiment->store, node->text, &experiment->name));
    experiment->name_at = (struct position){experiment->path, node->at.line, node->at.column};
    experiment->description = "";
    if (!node_is_empty(description)) {
        if (description->type != NODE_SCALAR)
            FAIL_AT(&description->at, "description must be a text, not %s", node_type_name(description->type));
        TRY(store_text(&experiment->store, description->text, &experiment->description));
    }
out:
    return status;
}

/* What resume goes by: name, measuring plan, and every cell. Limits and description may change in between. */
static void experiment_hash(struct experiment *experiment) {
    struct hash hash;
    const struct measure_plan *measure = &experiment->measure;
    char confidence[40];
    hash_open(&hash);
    hash_text(&hash, "shrinklab experiment 1");
    hash_text(&hash, experiment->name);
    hash_number(&hash, (uint64_t)measure->rounds);
    hash_number(&hash, (uint64_t)measure->samples);
    hash_number(&hash, (uint64_t)measure->warmup);
    hash_number(&hash, (uint64_t)measure->prompt_tokens);
    hash_number(&hash, (uint64_t)measure->new_tokens);
    if (measure->cache != CACHE_F32) hash_number(&hash, (uint64_t)measure->cache);
    snprintf(confidence, sizeof confidence, "%.17g", measure->confidence);
    hash_text(&hash, confidence);
    hash_number(&hash, measure->batch_count);
    for (size_t i = 0; i < measure->batch_count; i++) hash_number(&hash, measure->batch[i]);
    hash_number(&hash, measure->meter_count);
    for (size_t i = 0; i < measure->meter_count; i++) hash_text(&hash, measure->meters[i]);
    hash_number(&hash, experiment->cell_count);
    for (size_t i = 0; i < experiment->cell_count; i++) {
        hash_text(&hash, experiment->cells[i].key);
        hash_text(&hash, experiment->cells[i].label);
    }
    hash_close(&hash, experiment->hash);
}

static int experiment_read_document(struct experiment *experiment, const char *path, const char *const *overrides,
                                    size_t override_count, struct document_choice *choice) {
    int status = 0;
    struct document document = {0};
    struct document_span span;
    char *text = NULL;
    const char *own;
    size_t bytes = 0;
    *experiment = (struct experiment){.notes = ""};
    TRY(store_text(&experiment->store, path, &experiment->path));
    struct position at = {.file = experiment->path, .line = 1, .column = 1};
    TRY(file_read(path, &text, &bytes));
    TRY(document_parse_number(&document, text, bytes, experiment->path, choice->number, &document.root, &span));
    choice->count = span.count;
    if (choice->used == NULL && span.count > 1)
        FAIL_AT(&span.second, "a second document begins; one experiment is expected here");
    own = text;
    document_cut(&span, &own, &bytes);
    TRY(text_keep(experiment, own, bytes, overrides, override_count));
    if (span.count > 1) at.line = span.first_line + 1;
    if (node_is_empty(document.root))
        FAIL_AT(&at, "the %s is empty; an experiment begins with experiment: NAME",
                span.count > 1 ? "document" : "file");
    const struct node *root = document.root;
    if (root->type != NODE_MAP)
        FAIL_AT(&root->at, "an experiment is a map of keys (experiment: NAME, model: ...), not %s",
                node_type_name(root->type));
    TRY(overrides_apply(experiment, &document, overrides, override_count, choice));
    TRY(keys_check(root));
    TRY(name_read(experiment, root, &at));
    TRY(plugins_load(node_find(root, "plugins")));
    TRY(section_model(experiment, node_find(root, "model"), &at));
    TRY(section_tokenizer(experiment, node_find(root, "tokenizer"), &at));
    TRY(section_task(experiment, node_find(root, "task"), &at));
    TRY(section_measure(experiment, node_find(root, "measure"), &at));
    TRY(section_limits(experiment, node_find(root, "limits"), &at));
    TRY(plan_expand(experiment, &document, &at));
    experiment_hash(experiment);
out:
    document_close(&document);
    memory_release(text);
    if (status < 0) experiment_close(experiment);
    return status;
}

int experiment_read(struct experiment *experiment, const char *path, const char *const *overrides,
                    size_t override_count) {
    struct document_choice choice = {0};
    return experiment_read_document(experiment, path, overrides, override_count, &choice);
}

void experiment_close(struct experiment *experiment) {
    memory_release(experiment->cells);
    option_store_close(&experiment->store);
    *experiment = (struct experiment){0};
}

struct experiment_list {
    struct experiment *items;
    size_t count, capacity;
};

/* Two experiments of one name, or one file that was given twice. */
static int twins_refuse(const struct experiment *first, const struct experiment *second) {
    int status = 0;
    const struct position *at = &first->name_at;
    char place[4200];
    if (strcmp(first->path, second->path) == 0 && at->line == second->name_at.line && at->line)
        FAIL(E_ARGUMENT, "%s is given twice", first->path);
    if (at->line) snprintf(place, sizeof place, "%s:%zu:%zu", at->file, at->line, at->column);
    else snprintf(place, sizeof place, "%s", at->file);
    FAIL_AT(&second->name_at, "the experiment '%s' is also at %s; rename one", second->name, place);
out:
    return status;
}

static int list_check_names(const struct experiment_list *list) {
    const struct experiment *last = &list->items[list->count - 1];
    for (size_t i = 0; i + 1 < list->count; i++)
        if (strcmp(list->items[i].name, last->name) == 0) return twins_refuse(&list->items[i], last);
    return 0;
}

/* All documents of one file. The file is read anew for each: a file is small, and each experiment owns its texts. */
static int list_read_file(struct experiment_list *list, const char *path, const char *const *overrides,
                          size_t override_count) {
    int status = 0;
    void *block = NULL;
    struct document_choice choice = {0};
    TRY(memory_take(&block, override_count + 1, sizeof *choice.used));
    choice.used = block;
    do {
        if (list->count == list->capacity) {
            void *items = list->items;
            size_t capacity = list->capacity ? 2 * list->capacity : 4;
            TRY(memory_resize(&items, capacity, sizeof *list->items));
            list->items = items;
            list->capacity = capacity;
        }
        TRY(experiment_read_document(&list->items[list->count], path, overrides, override_count, &choice));
        list->count++;
        TRY(list_check_names(list));
    } while (++choice.number < choice.count);
out:
    memory_release(block);
    return status;
}

int experiments_read(struct experiment **experiments, size_t *count, const char *const *paths, size_t path_count,
                     const char *const *overrides, size_t override_count) {
    int status = 0;
    struct experiment_list list = {0};
    *experiments = NULL;
    *count = 0;
    if (path_count == 0) FAIL(E_ARGUMENT, "no experiment file; try: runexp configs/quickstart.yaml");
    for (size_t i = 0; i < path_count; i++) TRY(list_read_file(&list, paths[i], overrides, override_count));
    *experiments = list.items;
    *count = list.count;
    list = (struct experiment_list){0};
out:
    experiments_close(list.items, list.count);
    return status;
}

void experiments_close(struct experiment *experiments, size_t count) {
    for (size_t i = 0; experiments != NULL && i < count; i++) experiment_close(&experiments[i]);
    memory_release(experiments);
}
