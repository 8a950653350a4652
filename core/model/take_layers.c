/* Copying a model's parameters into a smaller one, by the part that each plays: see take_layers.h.
 *
 * The layout of the smaller model says what is needed, and for rows and columns of each entry what they run over
 * (enum extent); so one index map per extent, from the smaller to the larger model, is all that narrowing takes, and no
 * family has code of its own here.
 */
#include "model/take_layers.h"

#include <string.h>

#include "base/error.h"
#include "model/family.h"

struct taking {
    struct model *taken;
    const struct model *source;
    const size_t *layers;
    size_t next;   /* parameter of `taken`, in the order of the layout */
    float *values; /* a whole matrix or vector of the source */
};

void layers_spread(size_t from, size_t count, size_t *layers) {
    for (size_t i = 0; i < count; i++)
        layers[i] = count > 1 ? (2 * i * (from - 1) + (count - 1)) / (2 * (count - 1)) : 0;
}

/* Where element i of a head of width D lies in a wider one: pairs of rotary positions stay pairs. */
static size_t head_place(const struct model_config *to, const struct model_config *from, size_t i) {
    size_t half = to->head_width / 2;
    if (to->position != POSITION_ROTARY || i < half) return i;
    return from->head_width / 2 + i - half;
}

/* Index i of an extent of `to` as an index of that extent of `from`. */
static size_t place_in(const struct model_config *to, const struct model_config *from, enum extent extent, size_t i) {
    size_t head = i / to->head_width, group = to->heads / to->key_value_heads;
    if (extent != EXTENT_ATTENTION && extent != EXTENT_KEY_VALUE) return i;
    if (extent == EXTENT_ATTENTION) head = head / group * (from->heads / from->key_value_heads) + head % group;
    return head * from->head_width + head_place(to, from, i % to->head_width);
}

/* All values of the source's parameter or packed layer behind an entry: *values (rows, columns) of the source. */
static int read_source(const struct taking *taking, const struct layout_entry *entry, size_t *columns) {
    int status = 0;
    const struct parts *parts = taking->source->family_state;
    enum part part = entry->row->part;
    const struct part_view *view =
        entry->block < 0 ? &parts->own[part] : &parts->block[taking->layers[entry->block]][part];
    const struct parameter *parameter = entry->bias ? view->bias : view->weight;

    if (!parameter) {
        const struct linear *linear = view->linear;
        if (!linear || entry->bias) FAIL(E_SHAPE, "'%s' has no values in the model to take it from", entry->name);
        *columns = linear->columns;
        TRY(linear->weight.format->unpack(&linear->weight.shape, linear->weight.packed, taking->values));
        goto out;
    }
    *columns = parameter->columns;
    parameter_rows(parameter, 0, parameter->rows, taking->values);
    if (!parameter->value && !values_finite(taking->values, parameter->rows * parameter->columns))
        FAIL(E_NUMERIC, "'%s' holds values that are not finite", parameter->name);
out:
    return status;
}

static int take_entry(void *context, const struct layout_entry *entry) {
    int status = 0;
    struct taking *taking = context;
    const struct model_config *to = &taking->taken->config, *from = &taking->source->config;
    struct parameter *parameter = &taking->taken->parameters[taking->next++];
    bool vector = entry->kind == PARAMETER_VECTOR;
    enum extent row_extent = vector ? EXTENT_ONE : entry->row->rows,
                column_extent = vector ? entry->row->rows : entry->row->columns;
    size_t columns = 0;

    TRY(read_source(taking, entry, &columns));
    for (size_t r = 0; r < entry->rows; r++) {
        const float *row = taking->values + place_in(to, from, row_extent, r) * columns;
        float *out = parameter->value + r * entry->columns;
        if (entry->columns == columns) {
            memcpy(out, row, columns * sizeof *out);
            continue;
        }
        for (size_t c = 0; c < entry->columns; c++) out[c] = row[place_in(to, from, column_extent, c)];
    }
out:
    return status;
}

static int check_size(const char *name, size_t to, size_t from, bool exact) {
    if (exact ? to == from : to <= from) return 0;
    return error_record(E_SHAPE, __FILE__, __LINE__, "%s %zu cannot be taken from a model of %s %zu", name, to, name,
                        from);
}

static bool is_projected(const struct model_config *config) { return config_embedding_width(config) != config->width; }

int model_take_check(const struct model_config *to, const struct model_config *from) {
    int status = 0;
    TRY(check_size("width", to->width, from->width, false));
    TRY(check_size("feed_forward", to->feed_forward, from->feed_forward, false));
    TRY(check_size("heads", to->heads, from->heads, false));
    TRY(check_size("key_value_heads", to->key_value_heads, from->key_value_heads, false));
    TRY(check_size("heads per key_value_head", to->heads / to->key_value_heads, from->heads / from->key_value_heads,
                   false));
    TRY(check_size("head_width", to->head_width, from->head_width, false));
    TRY(check_size("embedding_width", config_embedding_width(to), config_embedding_width(from), false));
    TRY(check_size("vocabulary", to->vocabulary, from->vocabulary, true));
    TRY(check_size("positions", to->positions, from->positions, true));
    TRY(check_size("token_types", to->token_types, from->token_types, true));
    if (to->model_heads & HEAD_CLASSIFICATION) TRY(check_size("classes", to->classes, from->classes, true));
    if (strcmp(to->family, from->family) != 0)
        FAIL(E_SHAPE, "a %s model cannot be taken from a %s model", to->family, from->family);
    if (to->model_heads & ~from->model_heads || to->tied != from->tied || to->query_bias != from->query_bias ||
        to->final_norm != from->final_norm || to->norm_first != from->norm_first ||
        (is_projected(to) && !is_projected(from)))
        FAIL(E_SHAPE, "the model asked for has other parts than the one it is to be taken from");
out:
    return status;
}

/* The parameters' memory, undefined, and room for the source's largest. */
static int take_memory(struct taking *taking) {
    int status = 0;
    struct model *taken = taking->taken;
    size_t bytes = 0, largest = 0;
    void *view;

    for (size_t i = 0; i < taken->parameter_count; i++)
        bytes += size_round_up(taken->parameters[i].rows * taken->parameters[i].columns * sizeof(float), MEMORY_ALIGN);
    for (size_t i = 0; i < taking->source->parameter_count; i++) {
        const struct parameter *parameter = &taking->source->parameters[i];
        if (parameter->rows * parameter->columns > largest) largest = parameter->rows * parameter->columns;
    }
    for (size_t i = 0; i < taking->source->linear_count; i++) {
        const struct linear *linear = &taking->source->linears[i];
        if (linear->rows * linear->columns > largest) largest = linear->rows * linear->columns;
    }
    TRY(arena_open_raw(&taken->arena, bytes));
    for (size_t i = 0; i < taken->parameter_count; i++) {
        struct parameter *parameter = &taken->parameters[i];
        TRY(arena_take(&taken->arena, &view, parameter->rows * parameter->columns, sizeof(float)));
        parameter->value = view;
    }
    TRY(memory_take_raw(&view, largest, sizeof(float)));
    taking->values = view;
out:
    return status;
}

int model_take_layers(struct model *taken, const struct model *source, const struct model_config *config,
                      const size_t *layers, size_t count) {
    int status = 0;
    struct taking taking = {.taken = taken, .source = source, .layers = layers};

    memset(taken, 0, sizeof *taken);
    taken->config = config ? *config : source->config;
    taken->config.layers = count;
    taken->editable = true;
    if (count == 0) FAIL(E_ARGUMENT, "no layers were chosen");
    for (size_t i = 0; i < count; i++)
        if (layers[i] >= source->config.layers)
            FAIL(E_ARGUMENT, "layer %zu does not exist: the model has layers 0 to %zu", layers[i],
                 source->config.layers - 1);
    TRY(model_config_check(&taken->config));
    TRY(model_take_check(&taken->config, &source->config));
    TRY(model_layout(taken, NULL, 0));
    TRY(take_memory(&taking));
    TRY(layout_walk(&taken->config, take_entry, &taking));
    model_bind(taken);
    for (size_t i = 0; i < source->metadata_count; i++)
        TRY(model_set_metadata(taken, source->metadata[i].key, source->metadata[i].value));
out:
    memory_release(taking.values);
    if (status < 0) model_close(taken);
    return status;
}
