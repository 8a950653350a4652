/* Configurations: defaults of a family, the check of sizes, and Hugging Face's config.json both ways.
 *
 * A config from outside is trusted only after model_config_check: every size has a ceiling, so that no
 * product of two of them overflows and a lying file cannot ask for absurd memory before its tensors are seen.
 */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

static const struct family *const families[] = {&family_bert, NULL};

const struct family *family_find(const char *name) {
    for (size_t i = 0; families[i]; i++)
        if (strcmp(families[i]->name, name) == 0) return families[i];
    return NULL;
}

static void families_text(char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; families[i]; i++) {
        size_t length = strlen(families[i]->name);
        if (used + length + 3 > size) return;
        if (i) memcpy(text + used, ", ", 2), used += 2;
        memcpy(text + used, families[i]->name, length + 1);
        used += length;
    }
}

int model_config_family(struct model_config *config, const char *name) {
    const struct family *family = family_find(name);
    if (!family) {
        char known[128];
        families_text(known, sizeof known);
        return error_record(E_NOT_FOUND, __FILE__, __LINE__, "unknown model family '%.40s' (known: %s)", name, known);
    }
    memset(config, 0, sizeof *config);
    memcpy(config->family, family->name, strlen(family->name) + 1);
    family->defaults(config);
    return 0;
}

static int check_range(const char *name, size_t value, size_t low, size_t high) {
    if (value >= low && value <= high) return 0;
    return error_record(E_ARGUMENT, __FILE__, __LINE__, "%s must be in %zu..%zu (got %zu)", name, low, high, value);
}

int model_config_check(const struct model_config *config) {
    int status = 0;
    const struct {
        const char *name;
        size_t value, low, high;
    } ranges[] = {
        {"layers", config->layers, 1, 1024},
        {"width", config->width, 1, 1u << 16},
        {"heads", config->heads, 1, 1u << 12},
        {"feed_forward", config->feed_forward, 1, 1u << 20},
        {"vocabulary", config->vocabulary, 1, 1u << 24},
        {"positions", config->positions, 1, 1u << 20},
        {"token_types", config->token_types, 1, 1u << 10},
    };
    const struct family *family = NULL;
    struct model_config usual;

    if (memchr(config->family, 0, sizeof config->family)) family = family_find(config->family);
    if (!family) FAIL(E_ARGUMENT, "unknown model family '%.15s'", config->family);
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        TRY(check_range(ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high));
    if (config->model_heads & ~(unsigned)(HEAD_CLASSIFICATION | HEAD_MASKED_LM | HEAD_POOLER))
        FAIL(E_ARGUMENT, "model_heads has unknown bits (%#x)", config->model_heads);
    if (config->model_heads & HEAD_CLASSIFICATION) TRY(check_range("classes", config->classes, 1, 1u << 20));
    if (config->width % config->heads)
        FAIL(E_SHAPE, "width %zu is not a multiple of heads %zu", config->width, config->heads);
    if (config->head_width != config->width / config->heads)
        FAIL(E_SHAPE, "head_width %zu is not width %zu / heads %zu", config->head_width, config->width, config->heads);
    if (config->key_value_heads != config->heads)
        FAIL(E_UNSUPPORTED, "key_value_heads %zu differs from heads %zu: family %s has no grouped queries",
             config->key_value_heads, config->heads, family->name);
    if (!(config->norm_epsilon > 0 && config->norm_epsilon < 1))
        FAIL(E_ARGUMENT, "norm_epsilon must be between 0 and 1 (got %g)", (double)config->norm_epsilon);
    if (config->pad_id < -1 || (config->pad_id >= 0 && (size_t)config->pad_id >= config->vocabulary))
        FAIL(E_ARGUMENT, "pad_id %d is outside the vocabulary of %zu", config->pad_id, config->vocabulary);
    TRY(model_config_family(&usual, family->name));
    if (config->norm != usual.norm || config->norm_first != usual.norm_first || config->causal != usual.causal ||
        config->activation != usual.activation || config->position != usual.position)
        FAIL(E_UNSUPPORTED, "norm, activation, position and causal are fixed in family %s", family->name);
out:
    return status;
}

int model_config_parse(struct model_config *config, const char *json, size_t bytes) {
    int status = 0;
    struct json_document document = {0};
    const char *type = NULL;
    const struct json *root, *member;
    const struct family *family;

    TRY(json_open(&document, json, bytes));
    root = json_root(&document);
    if (root->type != JSON_OBJECT) FAIL(E_FORMAT, "expected an object");
    member = json_member(root, "model_type");
    if (!member) FAIL(E_FORMAT, "field \"model_type\" is missing");
    TRY(json_text(member, "model_type", &type));
    family = family_find(type);
    if (!family) {
        char known[128];
        families_text(known, sizeof known);
        FAIL(E_UNSUPPORTED, "model_type \"%.40s\" is not supported (known: %s)", type, known);
    }
    TRY(model_config_family(config, type));
    TRY(family->parse(config, root));
    TRY(model_config_check(config));
out:
    json_close(&document);
    return status;
}

int model_config_print(const struct model_config *config, char **json) {
    int status = 0;
    struct json_writer writer = {0};
    const struct family *family;

    *json = NULL;
    TRY(model_config_check(config));
    family = family_find(config->family);
    TRY(family->print(config, &writer));
    TRY(writer.status);
    *json = writer.text;
    writer.text = NULL;
out:
    json_writer_close(&writer);
    return status;
}

static size_t extent_of(const struct model_config *config, enum extent extent) {
    switch (extent) {
    case EXTENT_ONE: return 1;
    case EXTENT_WIDTH: return config->width;
    case EXTENT_ATTENTION: return config->heads * config->head_width;
    case EXTENT_KEY_VALUE: return config->key_value_heads * config->head_width;
    case EXTENT_FEED_FORWARD: return config->feed_forward;
    case EXTENT_VOCABULARY: return config->vocabulary;
    case EXTENT_POSITIONS: return config->positions;
    case EXTENT_TYPES: return config->token_types;
    case EXTENT_CLASSES: return config->classes;
    }
    return 0;
}

/* The name of one parameter: the row's name with the block's number, and its ending. */
static int entry_name(struct layout_entry *entry, const char *ending) {
    const char *name = entry->row->name, *mark = strstr(name, "%zu");
    int length = mark ? snprintf(entry->name, sizeof entry->name, "%.*s%d%s%s", (int)(mark - name), name, entry->block,
                                 mark + 3, ending)
                      : snprintf(entry->name, sizeof entry->name, "%s%s", name, ending);
    CHECK(length > 0 && (size_t)length < sizeof entry->name, "name of '%s' is too long", name);
    return length;
}

static int walk_rows(const struct model_config *config, const struct family_row *row, int block,
                     int (*visit)(void *context, const struct layout_entry *entry), void *context) {
    int status = 0;
    for (; row->name; row++) {
        if (row->heads && !(row->heads & config->model_heads)) continue;
        struct layout_entry entry = {.row = row, .block = block};
        size_t rows = extent_of(config, row->rows), columns = extent_of(config, row->columns);
        bool matrix = row->kind == ROW_LINEAR || row->kind == ROW_EMBEDDING;
        entry.kind = row->kind == ROW_EMBEDDING ? PARAMETER_EMBEDDING : matrix ? PARAMETER_MATRIX : PARAMETER_VECTOR;
        entry.rows = matrix ? rows : 1;
        entry.columns = matrix ? columns : rows;
        entry_name(&entry, row->kind == ROW_VECTOR ? "" : ".weight");
        TRY(visit(context, &entry));
        if (row->kind != ROW_LINEAR && row->kind != ROW_NORM) continue;
        entry.bias = true;
        entry.kind = PARAMETER_VECTOR;
        entry.rows = 1;
        entry.columns = rows;
        entry_name(&entry, ".bias");
        TRY(visit(context, &entry));
    }
out:
    return status;
}

int layout_walk(const struct model_config *config, int (*visit)(void *context, const struct layout_entry *entry),
                void *context) {
    int status = 0;
    const struct family *family = family_find(config->family);
    if (!family) FAIL(E_ARGUMENT, "unknown model family '%.15s'", config->family);
    TRY(walk_rows(config, family->before, -1, visit, context));
    for (size_t block = 0; block < config->layers; block++)
        TRY(walk_rows(config, family->block, (int)block, visit, context));
    TRY(walk_rows(config, family->after, -1, visit, context));
out:
    return status;
}
