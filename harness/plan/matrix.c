/* The matrix: product of the axes, then exclude, then include (the order of GitHub's matrices).
 *
 * Axes are pipeline, threads, seed, gemm and storage. `zip` advances some of them together: its lists have one length,
 * and the product runs over their common index. An exclude rule that matches nothing is an error: it is a
 * typing mistake far more often than a wish.
 */
#include "plan/matrix.h"

#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "plan/plan.h"

enum { AXES = 4 }; /* rows of axis_options */

static const char *const matrix_keys[] = {"pipeline", "threads", "seed",    "gemm", "storage",
                                          "zip",      "include", "exclude", NULL};
static const char *const point_keys[] = {"pipeline", "threads", "seed", "gemm", "storage", NULL};

/* Values of one axis, parsed; each index fills its own field of an axis_settings. */
struct axis {
    struct axis_settings *values; /* the experiment's store */
    size_t count;                 /* 0: not given */
};

struct range {
    size_t begin, end;
};

static int keys_check(const struct node *map, const char *who, const char *const *known) {
    int status = 0;
    for (size_t i = 0; i < map->count; i++) {
        const char *key = map->keys[i]->text;
        bool found = key[0] == '.';
        for (size_t k = 0; known[k] != NULL && !found; k++) found = strcmp(known[k], key) == 0;
        if (!found) TRY(unknown_word(&map->keys[i]->at, who, "key", key, known));
    }
out:
    return status;
}

static int axis_read(struct axis *axis, struct experiment *experiment, struct document *document,
                     const struct option *option, const struct node *node, const char *who) {
    int status = 0;
    struct values values = {0};
    void *block;
    TRY(values_read(&values, document, option, node, who));
    TRY(store_take(&experiment->store, values.count, sizeof *axis->values, &block));
    axis->values = block;
    axis->count = values.count;
    for (size_t i = 0; i < values.count; i++) {
        status = settings_assign(option, &axis->values[i], values.text[i], &experiment->store);
        if (status < 0) {
            position_prefix(status, &values.at[i], who);
            goto out;
        }
        if (axis->values[i].threads == 0) axis->values[i].threads = threads_get();
    }
out:
    return status;
}

/* The axes that a map gives; the others keep count 0. */
static int axes_read(struct axis axes[AXES], struct experiment *experiment, struct document *document,
                     const struct node *map, const char *who) {
    int status = 0;
    for (size_t a = 0; a < AXES; a++) {
        const struct node *node = node_find(map, axis_options[a].name);
        if (node != NULL) TRY(axis_read(&axes[a], experiment, document, &axis_options[a], node, who));
    }
out:
    return status;
}

/* Copy the field of axis a. */
static void setting_take(struct axis_settings *setting, size_t a, const struct axis_settings *from) {
    switch (a) {
    case 0: setting->threads = from->threads; break;
    case 1: setting->seed = from->seed; break;
    case 2: setting->gemm = from->gemm; break;
    default: setting->storage = from->storage; break;
    }
}

static bool setting_has(const struct axis *axis, size_t a, const struct axis_settings *setting) {
    for (size_t i = 0; i < axis->count; i++) {
        const struct axis_settings *value = &axis->values[i];
        if (a == 0   ? value->threads == setting->threads
            : a == 1 ? value->seed == setting->seed
            : a == 2 ? strcmp(value->gemm, setting->gemm) == 0
                     : strcmp(value->storage, setting->storage) == 0)
            return true;
    }
    return axis->count == 0;
}

static int point_add(struct matrix *matrix, const struct matrix_point *point) {
    int status = 0;
    if (matrix->count == matrix->capacity) {
        void *points = matrix->points;
        size_t capacity = matrix->capacity == 0 ? 64 : 2 * matrix->capacity;
        TRY(memory_resize(&points, capacity, sizeof *matrix->points));
        matrix->points = points;
        matrix->capacity = capacity;
    }
    matrix->points[matrix->count++] = *point;
out:
    return status;
}

/* Expand the list of pipelines under a `pipeline` key; ranges[i] is what entry i gave. */
static int pipelines_read(struct matrix *matrix, struct experiment *experiment, struct document *document,
                          const struct node *node, struct range *ranges, const char *who) {
    int status = 0;
    if (node->type != NODE_LIST)
        FAIL_AT(&node->at, "%s: pipeline must be a list of pipelines, for example [[], [rtn: {bits: 8}]]", who);
    if (node->count == 0) FAIL_AT(&node->at, "%s: pipeline is an empty list: no cell would remain", who);
    for (size_t i = 0; i < node->count; i++) {
        size_t begin = matrix->pipelines.count;
        if (node->items[i]->type != NODE_LIST)
            FAIL_AT(&node->items[i]->at,
                    "%s: each pipeline is a list of stages: write [rtn: {bits: 8}], with the brackets", who);
        TRY(pipeline_read(&matrix->pipelines, experiment, document, node->items[i], PIPELINE_AXES, "pipeline"));
        ranges[i] = (struct range){begin, matrix->pipelines.count};
    }
out:
    return status;
}

/* The axes of zip and their common length (1 and nothing zipped when there is no zip). */
static int zip_read(struct matrix *matrix, struct experiment *experiment, struct document *document,
                    const struct node *map, struct axis zipped[AXES], struct range **ranges, size_t *length) {
    int status = 0;
    const struct node *zip = node_find(map, "zip"), *pipeline = node_find(zip, "pipeline");
    const char *first = NULL;
    void *block;
    *length = 1;
    if (zip == NULL) return 0;
    TRY(node_require_map(zip, "zip"));
    if (node_is_empty(zip) || zip->count == 0) FAIL_AT(&zip->at, "zip is empty; name at least two axes");
    TRY(keys_check(zip, "zip", point_keys));
    for (size_t i = 0; i < zip->count; i++)
        if (zip->keys[i]->text[0] != '.' && node_find(map, zip->keys[i]->text) != NULL)
            FAIL_AT(&zip->keys[i]->at, "zip: %s is an axis of the matrix as well; keep one of the two",
                    zip->keys[i]->text);
    TRY(axes_read(zipped, experiment, document, zip, "zip"));
    if (pipeline != NULL) {
        TRY(store_take(&experiment->store, pipeline->count, sizeof **ranges, &block));
        *ranges = block;
        TRY(pipelines_read(matrix, experiment, document, pipeline, *ranges, "zip"));
        first = "pipeline";
        *length = pipeline->count;
    }
    for (size_t a = 0; a < AXES; a++) {
        if (zipped[a].count == 0) continue;
        if (first != NULL && zipped[a].count != *length)
            FAIL_AT(&zip->at, "zip: lists must have one length, but %s has %zu and %s has %zu", first, *length,
                    axis_options[a].name, zipped[a].count);
        first = axis_options[a].name;
        *length = zipped[a].count;
    }
out:
    return status;
}

/* The product: settings outside, pipelines inside, so that each baseline stands before its cells. */
static int product_read(struct matrix *matrix, struct experiment *experiment, struct document *document,
                        const struct node *map, struct axis_settings *first) {
    int status = 0;
    struct axis axes[AXES] = {0}, zipped[AXES] = {0};
    struct range *zip_ranges = NULL, whole = {0, 0};
    const struct node *pipeline = node_find(map, "pipeline");
    size_t zip_length;
    void *block;
    TRY(axes_read(axes, experiment, document, map, "matrix"));
    if (pipeline != NULL) {
        TRY(store_take(&experiment->store, pipeline->type == NODE_LIST ? pipeline->count : 0, sizeof(struct range),
                       &block));
        TRY(pipelines_read(matrix, experiment, document, pipeline, block, "matrix"));
    }
    whole.end = matrix->pipelines.count;
    TRY(zip_read(matrix, experiment, document, map, zipped, &zip_ranges, &zip_length));
    if (pipeline == NULL && zip_ranges == NULL) { /* axes alone: baselines */
        struct node empty = {.type = NODE_LIST, .text = "", .at = map->at};
        TRY(pipeline_read(&matrix->pipelines, experiment, document, &empty, PIPELINE_SINGLE, "pipeline"));
        whole.end = matrix->pipelines.count;
    }
    for (size_t a = 0; a < AXES; a++) {
        if (axes[a].count > 0) continue;
        TRY(store_take(&experiment->store, 1, sizeof *axes[a].values, &block));
        axes[a].values = block;
        axes[a].count = 1;
        setting_take(&axes[a].values[0], a, first);
    }
    double product =
        (double)axes[0].count * (double)axes[1].count * (double)axes[2].count * (double)axes[3].count *
        (zip_ranges != NULL ? (double)(matrix->pipelines.count - whole.end) : (double)zip_length * (double)whole.end);
    if (product > CELLS_MAX) FAIL_AT(&map->at, "the matrix has %.0f cells; at most %d are allowed", product, CELLS_MAX);
    size_t combinations = axes[0].count * axes[1].count * axes[2].count * axes[3].count;
    for (size_t c = 0; c < combinations; c++)
        for (size_t z = 0; z < zip_length; z++) {
            struct matrix_point point = {0};
            struct range range = zip_ranges != NULL ? zip_ranges[z] : whole;
            size_t rest = c; /* the last axis turns fastest */
            for (size_t a = AXES; a-- > 0; rest /= axes[a].count)
                setting_take(&point.setting, a,
                             zipped[a].count > 0 ? &zipped[a].values[z] : &axes[a].values[rest % axes[a].count]);
            for (size_t p = range.begin; p < range.end; p++) {
                point.pipeline = p;
                TRY(point_add(matrix, &point));
            }
        }
    if (matrix->count > 0) *first = matrix->points[0].setting;
out:
    return status;
}

/* Drop the points that one exclude rule matches. */
static int exclude_apply(struct matrix *matrix, struct experiment *experiment, struct document *document,
                         const struct node *rule) {
    int status = 0;
    struct axis axes[AXES] = {0};
    struct pipelines patterns = {0};
    const struct node *pipeline = node_find(rule, "pipeline");
    size_t kept = 0;
    if (rule->type != NODE_MAP || rule->count == 0)
        FAIL_AT(&rule->at, "exclude: a rule is a map such as {threads: 1, gemm: onednn}");
    TRY(keys_check(rule, "exclude", point_keys));
    TRY(axes_read(axes, experiment, document, rule, "exclude"));
    if (pipeline != NULL) TRY(pipeline_read(&patterns, experiment, document, pipeline, PIPELINE_MATCH, "pipeline"));
    for (size_t i = 0; i < matrix->count; i++) {
        const struct matrix_point *point = &matrix->points[i];
        bool matches = pipeline == NULL;
        for (size_t p = 0; p < patterns.count && !matches; p++)
            matches = pipeline_matches(&patterns.items[p], &matrix->pipelines.items[point->pipeline]);
        for (size_t a = 0; a < AXES && matches; a++) matches = setting_has(&axes[a], a, &point->setting);
        if (!matches) matrix->points[kept++] = *point;
    }
    if (kept == matrix->count) FAIL_AT(&rule->at, "exclude: this rule matches no cell; remove or mend it");
    matrix->count = kept;
out:
    pipelines_close(&patterns);
    return status;
}

/* Add the points of one include entry; an axis it does not name has the matrix's first value. */
static int include_apply(struct matrix *matrix, struct experiment *experiment, struct document *document,
                         const struct node *entry, const struct axis_settings *first) {
    int status = 0;
    struct axis axes[AXES] = {0};
    struct matrix_point point = {.setting = *first, .include = &entry->at};
    const struct node *pipeline = node_find(entry, "pipeline");
    size_t begin = matrix->pipelines.count;
    if (pipeline == NULL) FAIL_AT(&entry->at, "include: an entry is a map with a pipeline, such as {pipeline: [null]}");
    TRY(keys_check(entry, "include", point_keys));
    TRY(axes_read(axes, experiment, document, entry, "include"));
    for (size_t a = 0; a < AXES; a++) {
        if (axes[a].count > 1)
            FAIL_AT(&entry->at, "include: %s takes one value; write an entry for each", axis_options[a].name);
        if (axes[a].count == 1) setting_take(&point.setting, a, &axes[a].values[0]);
    }
    TRY(pipeline_read(&matrix->pipelines, experiment, document, pipeline, PIPELINE_AXES, "pipeline"));
    for (point.pipeline = begin; point.pipeline < matrix->pipelines.count; point.pipeline++)
        TRY(point_add(matrix, &point));
out:
    return status;
}

/* The list under `key` of the matrix; NULL when absent. */
static int entries_find(const struct node *map, const char *key, const struct node **list) {
    int status = 0;
    *list = node_find(map, key);
    if (*list != NULL && (*list)->type != NODE_LIST)
        FAIL_AT(&(*list)->at, "matrix: %s must be a list of maps, not %s", key,
                node_is_empty(*list) ? "empty" : node_type_name((*list)->type));
out:
    return status;
}

int matrix_read(struct matrix *matrix, struct experiment *experiment, struct document *document,
                const struct node *node) {
    int status = 0;
    struct axis_settings first = {0};
    struct node none = {.type = NODE_MAP, .text = "", .at = {.file = experiment->path}};
    const struct node *map = node_is_empty(node) ? &none : node, *include, *exclude;
    TRY(node_require_map(node, "matrix"));
    if (node != NULL && (node_is_empty(node) || node->count == 0))
        FAIL_AT(&node->at, "the matrix is empty; give it a pipeline, for example [[], [rtn: {bits: 8}]]");
    TRY(keys_check(map, "matrix", matrix_keys));
    TRY(option_defaults(axis_options, &first, &experiment->store));
    first.threads = threads_get();
    TRY(product_read(matrix, experiment, document, map, &first));
    TRY(entries_find(map, "exclude", &exclude));
    for (size_t i = 0; exclude != NULL && i < exclude->count; i++)
        TRY(exclude_apply(matrix, experiment, document, exclude->items[i]));
    TRY(entries_find(map, "include", &include));
    for (size_t i = 0; include != NULL && i < include->count; i++)
        TRY(include_apply(matrix, experiment, document, include->items[i], &first));
    if (matrix->count == 0) FAIL_AT(&map->at, "matrix: exclude leaves no cell");
    if (matrix->count > CELLS_MAX)
        FAIL_AT(&map->at, "the matrix has %zu cells; at most %d are allowed", matrix->count, CELLS_MAX);
out:
    return status;
}

void matrix_close(struct matrix *matrix) {
    pipelines_close(&matrix->pipelines);
    memory_release(matrix->points);
    *matrix = (struct matrix){0};
}
