/* The parameters of a config by its family's table: names, shapes, and where Hugging Face keeps them. */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

static size_t extent_of(const struct model_config *config, enum extent extent) {
    switch (extent) {
    case EXTENT_ONE: return 1;
    case EXTENT_WIDTH: return config->width;
    case EXTENT_EMBEDDING: return config_embedding_width(config);
    case EXTENT_ATTENTION: return config->heads * config->head_width;
    case EXTENT_KEY_VALUE: return config->key_value_heads * config->head_width;
    case EXTENT_FEED_FORWARD: return config->feed_forward;
    case EXTENT_VOCABULARY: return config->vocabulary;
    case EXTENT_POSITIONS: return config->positions + config->position_offset;
    case EXTENT_TYPES: return config->token_types;
    case EXTENT_CLASSES: return config->classes;
    case EXTENT_SPAN: return 2;
    }
    return 0;
}

static bool row_present(const struct model_config *config, const struct family_row *row) {
    if (row->heads && !(row->heads & config->model_heads)) return false;
    switch (row->when) {
    case ALWAYS: return true;
    case WHEN_UNTIED: return !config->tied;
    case WHEN_PROJECTED: return config_embedding_width(config) != config->width;
    case WHEN_FINAL_NORM: return config->final_norm;
    }
    return true;
}

/* A row's name with the block's number, and its ending. */
static void numbered_name(char name[MODEL_NAME_BYTES], const char *pattern, int block, const char *ending) {
    const char *mark = strstr(pattern, "%zu");
    int length =
        mark ? snprintf(name, MODEL_NAME_BYTES, "%.*s%d%s%s", (int)(mark - pattern), pattern, block, mark + 3, ending)
             : snprintf(name, MODEL_NAME_BYTES, "%s%s", pattern, ending);
    CHECK(length > 0 && length < MODEL_NAME_BYTES, "name of '%s' is too long", pattern);
}

static const char *ending_of(const struct family_row *row, bool bias) {
    if (row->kind == ROW_VECTOR) return "";
    return bias ? ".bias" : ".weight";
}

static bool row_has_bias(const struct model_config *config, const struct family_row *row) {
    return row->kind == ROW_LINEAR || row->kind == ROW_NORM || (row->kind == ROW_LINEAR_QUERY && config->query_bias);
}

static int walk_rows(const struct model_config *config, const struct family_row *row, int block,
                     int (*visit)(void *context, const struct layout_entry *entry), void *context) {
    int status = 0;
    for (; row->name; row++) {
        if (!row_present(config, row)) continue;
        struct layout_entry entry = {.row = row, .block = block};
        size_t rows = extent_of(config, row->rows), columns = extent_of(config, row->columns);
        bool vector = row->kind == ROW_NORM || row->kind == ROW_GAIN || row->kind == ROW_VECTOR;
        entry.kind = row->kind == ROW_EMBEDDING ? PARAMETER_EMBEDDING : vector ? PARAMETER_VECTOR : PARAMETER_MATRIX;
        entry.rows = vector ? 1 : rows;
        entry.columns = vector ? rows : columns;
        numbered_name(entry.name, row->name, block, ending_of(row, false));
        TRY(visit(context, &entry));
        if (!row_has_bias(config, row)) continue;
        entry.bias = true;
        entry.kind = PARAMETER_VECTOR;
        entry.rows = 1;
        entry.columns = rows;
        numbered_name(entry.name, row->name, block, ending_of(row, true));
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

void layout_stored(const struct layout_entry *entry, struct stored_tensor *stored) {
    const struct family_row *row = entry->row;
    size_t outputs = entry->kind == PARAMETER_VECTOR ? entry->columns : entry->rows;
    size_t slices = row->slices ? row->slices : 1;
    numbered_name(stored->name, row->stored ? row->stored : row->name, entry->block, ending_of(row, entry->bias));
    stored->first = row->slice * outputs;
    stored->total = slices * outputs;
    stored->transposed = row->transposed && entry->kind == PARAMETER_MATRIX;
}
