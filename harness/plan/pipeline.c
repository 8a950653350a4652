/* Expansion of one written pipeline: an odometer over every option that was given.
 *
 * A stage first gets its defaults, then each given option is an axis of one or more texts. Each combination
 * gets options structs of its own, parsed from the texts, so a message about a bad value names its place.
 */
#include "plan/pipeline.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "config/sections.h"

struct stage_axis {
    const struct option *option;
    struct values values;
    size_t digit; /* of the odometer */
};

struct stage_pattern {
    const struct technique *technique;
    struct position at;
    void *base; /* defaults and lists of names; NULL without options */
    struct stage_axis *axes;
    size_t axis_count;
    struct stage_given given;
};

int option_text(const struct option *option, const void *target, struct option_store *store, const char **text) {
    int status = 0;
    void *block;
    size_t bytes = option_print(option, target, NULL, 0) + 1;
    TRY(store_take(store, bytes, 1, &block));
    option_print(option, target, block, bytes);
    *text = block;
out:
    return status;
}

static int unknown_technique(const struct node *name) {
    const char *names[257];
    size_t count;
    const struct technique *const *list = technique_list(&count);
    if (count > 256) count = 256;
    for (size_t i = 0; i < count; i++) names[i] = list[i]->name;
    names[count] = NULL;
    return unknown_word(&name->at, NULL, "technique", name->text, names);
}

static int stage_read(struct stage_pattern *stage, struct experiment *experiment, struct document *document,
                      const struct node *node, enum pipeline_use use) {
    int status = 0;
    const struct node *name, *options;
    struct option_store *store = &experiment->store;
    void *block;
    TRY(named_options(node, "a stage", &name, &options));
    stage->at = name->at;
    stage->technique = technique_find(name->text);
    if (stage->technique == NULL) TRY(unknown_technique(name));
    const struct option *table = stage->technique->options;
    const char *who = stage->technique->name;
    TRY(node_require_map(options, who));
    if (stage->technique->options_bytes > 0 && table != NULL) {
        TRY(store_take(store, 1, stage->technique->options_bytes, &stage->base));
        TRY(option_defaults(table, stage->base, store));
    }
    size_t keys = node_is_empty(options) ? 0 : options->count;
    TRY(store_take(store, keys, sizeof *stage->axes, &block));
    stage->axes = block;
    TRY(store_take(store, keys, sizeof *stage->given.options, &block));
    stage->given.options = block;
    for (size_t i = 0; i < keys; i++) {
        const struct node *key = options->keys[i], *value = options->items[i];
        if (key->text[0] == '.') continue;
        const struct option *option = table != NULL ? option_find(table, key->text) : NULL;
        if (option == NULL) TRY(unknown_option(&key->at, who, "option", key->text, table));
        stage->given.options[stage->given.count++] = option;
        if (option_is_list(option) || use == PIPELINE_SINGLE) {
            TRY(settings_set(option, stage->base, value, who, store));
            continue;
        }
        struct stage_axis *axis = &stage->axes[stage->axis_count++];
        axis->option = option;
        TRY(values_read(&axis->values, document, option, value, who));
    }
    for (const struct option *option = table; use != PIPELINE_MATCH && option != NULL && option->name != NULL; option++)
        if (option->preset == NULL && node_find(options, option->name) == NULL)
            FAIL_AT(&stage->at, "%s: %s is required (%s)", who, option->name, option->help);
out:
    return status;
}

/* Name and label of a concrete pipeline. */
static int pipeline_label(struct pipeline *pipeline, struct option_store *store) {
    int status = 0;
    size_t name_bytes = 16, label_bytes = 16, name_used = 0, label_used = 0;
    void *name, *label;
    const char *text;
    for (size_t s = 0; s < pipeline->count; s++) {
        const struct stage_plan *stage = &pipeline->stages[s];
        name_bytes += strlen(stage->technique->name) + 1;
        label_bytes += strlen(stage->technique->name) + 3;
        for (size_t i = 0; i < pipeline->given[s].count; i++) {
            const struct option *option = pipeline->given[s].options[i];
            label_bytes += strlen(option->name) + 2 + option_print(option, stage->options, NULL, 0);
        }
    }
    TRY(store_take(store, name_bytes, 1, &name));
    TRY(store_take(store, label_bytes, 1, &label));
    if (pipeline->count == 0) {
        memcpy(name, "baseline", 9);
        memcpy(label, "baseline", 9);
    }
    for (size_t s = 0; s < pipeline->count; s++) {
        const struct stage_plan *stage = &pipeline->stages[s];
        name_used += (size_t)snprintf((char *)name + name_used, name_bytes - name_used, "%s%s", s > 0 ? "+" : "",
                                      stage->technique->name);
        label_used += (size_t)snprintf((char *)label + label_used, label_bytes - label_used, "%s%s", s > 0 ? " + " : "",
                                       stage->technique->name);
        for (size_t i = 0; i < pipeline->given[s].count; i++) {
            const struct option *option = pipeline->given[s].options[i];
            TRY(option_text(option, stage->options, store, &text));
            label_used +=
                (size_t)snprintf((char *)label + label_used, label_bytes - label_used, " %s=%s", option->name, text);
        }
    }
    for (char *c = label; *c; c++) /* one line, wherever it is printed */
        if ((unsigned char)*c < 32 || *c == 127) *c = ' ';
    pipeline->name = name;
    pipeline->label = label;
out:
    return status;
}

/* The pipeline at the odometer's present digits. */
static int pipeline_build(struct pipeline *pipeline, struct experiment *experiment, const struct stage_pattern *stages,
                          size_t count, const struct position *at) {
    int status = 0;
    struct option_store *store = &experiment->store;
    void *block;
    *pipeline = (struct pipeline){.count = count, .at = *at};
    TRY(store_take(store, count, sizeof *pipeline->stages, &block));
    pipeline->stages = block;
    TRY(store_take(store, count, sizeof *pipeline->given, &block));
    pipeline->given = block;
    for (size_t s = 0; s < count; s++) {
        const struct stage_pattern *stage = &stages[s];
        pipeline->given[s] = stage->given;
        pipeline->stages[s] = (struct stage_plan){.technique = stage->technique, .at = stage->at};
        if (stage->base == NULL) continue;
        size_t bytes = stage->technique->options_bytes;
        TRY(store_take(store, 1, bytes, &block));
        memcpy(block, stage->base, bytes);
        pipeline->stages[s].options = block;
        for (size_t a = 0; a < stage->axis_count; a++) {
            const struct stage_axis *axis = &stage->axes[a];
            status = settings_assign(axis->option, block, axis->values.text[axis->digit], store);
            if (status < 0) {
                position_prefix(status, &axis->values.at[axis->digit], stage->technique->name);
                goto out;
            }
        }
    }
    TRY(pipeline_label(pipeline, store));
out:
    return status;
}

/* Ask the techniques whether options go together. They may set options by others: that is of the run, not of its name.
 */
static int pipeline_settle(struct pipeline *pipeline, struct option_store *store, struct position *at) {
    int status = 0;
    void *copy = NULL;
    for (size_t s = 0; s < pipeline->count && !pipeline->impossible; s++) {
        const struct stage_plan *stage = &pipeline->stages[s];
        const struct technique *technique = stage->technique;
        if (technique->settle == NULL || stage->options == NULL) continue;
        memory_release(copy);
        TRY(memory_take(&copy, 1, technique->options_bytes));
        memcpy(copy, stage->options, technique->options_bytes);
        status = technique->settle(copy);
        if (status == 0) continue;
        if (status == E_MEMORY) goto out;
        error_prefix(status, "%s", technique->name);
        TRY(store_text(store, error_text(), &pipeline->impossible));
        error_clear();
        status = 0;
        *at = stage->at;
    }
out:
    memory_release(copy);
    return status;
}

/* Advance the odometer, the last option fastest; false when it has come round. */
static bool odometer_step(struct stage_pattern *stages, size_t count) {
    for (size_t s = count; s-- > 0;)
        for (size_t a = stages[s].axis_count; a-- > 0;) {
            struct stage_axis *axis = &stages[s].axes[a];
            if (++axis->digit < axis->values.count) return true;
            axis->digit = 0;
        }
    return false;
}

int pipeline_read(struct pipelines *pipelines, struct experiment *experiment, struct document *document,
                  const struct node *node, enum pipeline_use use, const char *who) {
    int status = 0;
    void *block = NULL;
    size_t product = 1, possible = 0;
    struct position impossible_at;
    if (node->type != NODE_LIST)
        FAIL_AT(&node->at, "%s must be a list of stages, for example [rtn: {bits: 8}], not %s", who,
                node_is_empty(node) ? "empty" : node_type_name(node->type));
    TRY(memory_take(&block, node->count, sizeof(struct stage_pattern)));
    struct stage_pattern *stages = block;
    for (size_t s = 0; s < node->count; s++) {
        TRY(stage_read(&stages[s], experiment, document, node->items[s], use));
        for (size_t a = 0; a < stages[s].axis_count; a++) {
            if (stages[s].axes[a].values.count > PIPELINES_MAX / product)
                FAIL_AT(&node->items[s]->at, "the lists of this pipeline give more than %d pipelines", PIPELINES_MAX);
            product *= stages[s].axes[a].values.count;
        }
    }
    if (pipelines->count + product > PIPELINES_MAX) FAIL_AT(&node->at, "more than %d pipelines in all", PIPELINES_MAX);
    do {
        if (pipelines->count == pipelines->capacity) {
            void *items = pipelines->items;
            size_t capacity = pipelines->capacity == 0 ? 16 : 2 * pipelines->capacity;
            TRY(memory_resize(&items, capacity, sizeof *pipelines->items));
            pipelines->items = items;
            pipelines->capacity = capacity;
        }
        struct pipeline *pipeline = &pipelines->items[pipelines->count];
        TRY(pipeline_build(pipeline, experiment, stages, node->count, &node->at));
        if (use != PIPELINE_MATCH) TRY(pipeline_settle(pipeline, &experiment->store, &impossible_at));
        pipelines->count++;
        possible += pipeline->impossible == NULL;
    } while (odometer_step(stages, node->count));
    if (!possible) FAIL_AT(&impossible_at, "%s", pipelines->items[pipelines->count - 1].impossible);
out:
    memory_release(block);
    return status;
}

void pipelines_close(struct pipelines *pipelines) {
    memory_release(pipelines->items);
    *pipelines = (struct pipelines){0};
}

static bool option_equal(const struct option *option, const void *a, const void *b) {
    char left[256], right[256];
    size_t length = option_print(option, a, left, sizeof left);
    return option_print(option, b, right, sizeof right) == length && strcmp(left, right) == 0;
}

bool pipeline_matches(const struct pipeline *pattern, const struct pipeline *pipeline) {
    if (pattern->count != pipeline->count) return false;
    for (size_t s = 0; s < pattern->count; s++)
        if (pattern->stages[s].technique != pipeline->stages[s].technique) return false;
    for (size_t s = 0; s < pattern->count; s++)
        for (size_t i = 0; i < pattern->given[s].count; i++)
            if (!option_equal(pattern->given[s].options[i], pattern->stages[s].options, pipeline->stages[s].options))
                return false;
    return true;
}
