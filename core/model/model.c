/* A model in memory: its parameters by name, its linear layers, what each is for.
 *
 * One arena holds every f32 value that is not mapped, one the names and tables. The layout comes from the
 * family's table alone (layout_walk), so creating, opening and saving list the parameters in the same order.
 */
#include "model/family.h"

#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "model/layers.h"
#include "model/model_source.h"

#define RANDOM_TILE 4096

const char *linear_role_name(enum linear_role role) {
    static const char *const names[] = {
        [ROLE_QUERY] = "query",
        [ROLE_KEY] = "key",
        [ROLE_VALUE] = "value",
        [ROLE_ATTENTION_OUTPUT] = "attention_output",
        [ROLE_UP] = "up",
        [ROLE_GATE] = "gate",
        [ROLE_DOWN] = "down",
        [ROLE_POOLER] = "pooler",
        [ROLE_CLASSIFIER] = "classifier",
        [ROLE_HEAD_TRANSFORM] = "head_transform",
        [ROLE_SPAN] = "span",
        [ROLE_HEAD] = "head",
        [ROLE_PROJECT_IN] = "project_in",
        [ROLE_PROJECT_OUT] = "project_out",
    };
    return (size_t)role < sizeof names / sizeof names[0] ? names[role] : "unknown";
}

const char *model_head_name(enum model_head head) {
    switch (head) {
    case HEAD_NONE: return "no";
    case HEAD_CLASSIFICATION: return "classification";
    case HEAD_MASKED_LM: return "masked-LM";
    case HEAD_POOLER: return "pooler";
    case HEAD_CAUSAL_LM: return "causal-LM";
    case HEAD_SPAN: return "span";
    }
    return "unknown";
}

static enum linear_role role_of(enum part part) {
    switch (part) {
    case PART_QUERY: return ROLE_QUERY;
    case PART_KEY: return ROLE_KEY;
    case PART_VALUE: return ROLE_VALUE;
    case PART_ATTENTION_OUTPUT: return ROLE_ATTENTION_OUTPUT;
    case PART_UP: return ROLE_UP;
    case PART_GATE: return ROLE_GATE;
    case PART_DOWN: return ROLE_DOWN;
    case PART_POOLER: return ROLE_POOLER;
    case PART_CLASSIFIER: return ROLE_CLASSIFIER;
    case PART_SPAN: return ROLE_SPAN;
    case PART_HEAD: return ROLE_HEAD;
    case PART_PROJECT_IN: return ROLE_PROJECT_IN;
    case PART_PROJECT_OUT: return ROLE_PROJECT_OUT;
    default: return ROLE_HEAD_TRANSFORM;
    }
}

/* ---- layout ---------------------------------------------------------------------------------------- */

struct layout {
    struct model *model;
    struct packed_entry *packed;
    size_t packed_count;
    size_t parameters, linears, name_bytes; /* counted first, then used as cursors */
};

static struct packed_entry *packed_of(const struct layout *layout, const struct layout_entry *entry) {
    size_t length = strlen(entry->name) - strlen(".weight");
    for (size_t i = 0; i < layout->packed_count; i++)
        if (strlen(layout->packed[i].name) == length && memcmp(layout->packed[i].name, entry->name, length) == 0)
            return &layout->packed[i];
    return NULL;
}

static bool is_packed(const struct packed_entry *packed) { return packed && packed->format->bits != 32; }

static int layout_count(void *context, const struct layout_entry *entry) {
    struct layout *layout = context;
    layout->parameters++;
    if (entry->kind == PARAMETER_MATRIX) layout->linears++;
    layout->name_bytes += 2 * size_round_up(strlen(entry->name) + 1, MEMORY_ALIGN);
    return 0;
}

static int take_name(struct model *model, const char **copy, const char *name, size_t length) {
    void *view;
    int status = arena_take(&model->names, &view, length + 1, 1);
    if (status < 0) return status;
    memcpy(view, name, length);
    *copy = view;
    return 0;
}

static int layout_fill(void *context, const struct layout_entry *entry) {
    int status = 0;
    struct layout *layout = context;
    struct model *model = layout->model;
    struct parts *parts = model->family_state;
    enum part part = entry->row->part;
    struct part_view *view = entry->block < 0 ? &parts->own[part] : &parts->block[entry->block][part];
    struct packed_entry *packed = entry->kind == PARAMETER_MATRIX ? packed_of(layout, entry) : NULL;
    struct parameter *parameter = NULL;

    if (!is_packed(packed)) {
        parameter = &model->parameters[model->parameter_count++];
        TRY(take_name(model, &parameter->name, entry->name, strlen(entry->name)));
        parameter->kind = entry->kind;
        parameter->rows = entry->rows;
        parameter->columns = entry->columns;
    }
    if (entry->bias) {
        view->bias = parameter;
        if (view->linear) view->linear->bias_parameter = parameter;
        goto out;
    }
    view->weight = parameter;
    if (entry->kind != PARAMETER_MATRIX) goto out;

    struct linear *linear = view->linear = &model->linears[model->linear_count++];
    TRY(take_name(model, &linear->name, entry->name, strlen(entry->name) - strlen(".weight")));
    linear->block = entry->block;
    linear->heads = entry->row->heads;
    linear->role = role_of(part);
    linear->rows = entry->rows;
    linear->columns = entry->columns;
    linear->parameter = parameter;
    if (packed) {
        if (packed->shape.rows != entry->rows || packed->shape.columns != entry->columns)
            FAIL(E_SHAPE, "layer '%s' is packed as %zux%zu but the config says %zux%zu", linear->name,
                 packed->shape.rows, packed->shape.columns, entry->rows, entry->columns);
        packed->used = true;
        linear->simulated = packed->simulated;
    }
out:
    return status;
}

int model_layout(struct model *model, struct packed_entry *packed, size_t packed_count) {
    int status = 0;
    struct layout layout = {.model = model, .packed = packed, .packed_count = packed_count};
    void *block;
    size_t bytes;

    TRY(layout_walk(&model->config, layout_count, &layout));
    TRY(memory_take(&block, layout.parameters, sizeof *model->parameters));
    model->parameters = block;
    TRY(memory_take(&block, layout.linears, sizeof *model->linears));
    model->linears = block;
    bytes = sizeof(struct parts) + model->config.layers * sizeof(struct part_view[PARTS]);
    TRY(memory_take(&block, 1, bytes));
    model->family_state = block;
    ((struct parts *)block)->family = family_find(model->config.family);
    TRY(arena_open(&model->names, layout.name_bytes));
    TRY(layout_walk(&model->config, layout_fill, &layout));
    for (size_t i = 0; i < packed_count; i++)
        if (!packed[i].used)
            FAIL(E_SHAPE, "packed layer '%.100s' is not part of the model that the config describes", packed[i].name);
out:
    return status;
}

void model_bind(struct model *model) {
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        linear->bias = linear->bias_parameter ? linear->bias_parameter->value : NULL;
        if (!linear->parameter) continue;
        linear->value = linear->parameter->value;
        linear_view_values(linear);
    }
}

/* ---- create ---------------------------------------------------------------------------------------- */

struct fill {
    const struct parameter *parameter;
    uint64_t seed;
    double deviation;
};

/* One tile of a parameter has a stream of its own, so the values do not depend on the number of threads. */
static void fill_normal(void *context, size_t begin, size_t end, int worker) {
    const struct fill *fill = context;
    struct random random;
    (void)worker;
    random_open(&random, fill->seed, random_stream(fill->parameter->name, begin / RANDOM_TILE, 0));
    for (size_t i = begin; i < end; i++) fill->parameter->value[i] = (float)(fill->deviation * random_normal(&random));
}

void parameter_fill(const struct model *model, const struct parameter *parameter, uint64_t seed, double deviation) {
    size_t count = parameter->rows * parameter->columns;
    if (parameter->kind != PARAMETER_VECTOR) {
        struct fill fill = {.parameter = parameter, .seed = seed, .deviation = deviation};
        parallel_for(count, RANDOM_TILE, fill_normal, &fill);
        if (parameter == model_part(model, PART_TOKENS)->weight && model->config.pad_id >= 0)
            memset(parameter->value + (size_t)model->config.pad_id * parameter->columns, 0,
                   parameter->columns * sizeof(float));
        return;
    }
    size_t length = strlen(parameter->name);
    bool gain = length > 7 && strcmp(parameter->name + length - 7, ".weight") == 0;
    for (size_t i = 0; i < count; i++) parameter->value[i] = gain ? 1.0f : 0.0f;
}

int model_blank(struct model *model, const struct model_config *config, int (*open)(struct arena *, size_t)) {
    int status = 0;
    size_t bytes = 0;
    void *view;

    memset(model, 0, sizeof *model);
    TRY(model_config_check(config));
    model->config = *config;
    model->editable = true;
    TRY(model_layout(model, NULL, 0));
    for (size_t i = 0; i < model->parameter_count; i++)
        bytes += size_round_up(model->parameters[i].rows * model->parameters[i].columns * sizeof(float), MEMORY_ALIGN);
    TRY(open(&model->arena, bytes));
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        TRY(arena_take(&model->arena, &view, parameter->rows * parameter->columns, sizeof(float)));
        parameter->value = view;
    }
    model_bind(model);
out:
    if (status < 0) model_close(model);
    return status;
}

int model_create(struct model *model, const struct model_config *config, uint64_t seed, double deviation) {
    int status = 0;
    TRY(model_blank(model, config, arena_open));
    for (size_t i = 0; i < model->parameter_count; i++) parameter_fill(model, &model->parameters[i], seed, deviation);
out:
    return status;
}

void model_close(struct model *model) {
    for (size_t i = 0; i < model->linear_count; i++) weight_close(&model->linears[i].weight);
    if (model->family_state) weight_close(&((struct parts *)model->family_state)->tied_head);
    for (size_t i = 0; i < model->metadata_count; i++) {
        memory_release(model->metadata[i].key);
        memory_release(model->metadata[i].value);
    }
    memory_release(model->metadata);
    memory_release(model->parameters);
    memory_release(model->linears);
    memory_release(model->family_state);
    arena_close(&model->arena);
    arena_close(&model->panels);
    arena_close(&model->names);
    arena_close(&model->gradients);
    if (model->source) model_source_close(model->source);
    memory_release(model->source);
    memory_release(model->places);
    memset(model, 0, sizeof *model);
}

/* ---- by name --------------------------------------------------------------------------------------- */

void parameter_rows(const struct parameter *parameter, size_t begin, size_t end, float *out) {
    size_t columns = parameter->columns;
    if (parameter->value) memcpy(out, parameter->value + begin * columns, (end - begin) * columns * sizeof *out);
    else place_rows(parameter->place, begin, end, out);
}

const struct parameter *model_parameter(const struct model *model, const char *name) {
    for (size_t i = 0; i < model->parameter_count; i++)
        if (strcmp(model->parameters[i].name, name) == 0) return &model->parameters[i];
    return NULL;
}

struct linear *model_linear_find(struct model *model, const char *name) {
    for (size_t i = 0; i < model->linear_count; i++)
        if (strcmp(model->linears[i].name, name) == 0) return &model->linears[i];
    return NULL;
}

const char *model_metadata(const struct model *model, const char *key) {
    for (size_t i = 0; i < model->metadata_count; i++)
        if (strcmp(model->metadata[i].key, key) == 0) return model->metadata[i].value;
    return NULL;
}

int model_set_metadata(struct model *model, const char *key, const char *value) {
    int status = 0;
    char *key_copy = NULL, *value_copy = NULL;
    void *grown = model->metadata;

    if (strcmp(key, "config") == 0 || strcmp(key, "weights") == 0 || strcmp(key, "format") == 0)
        FAIL(E_ARGUMENT, "metadata key '%s' is the model's own", key);
    TRY(memory_string(&value_copy, value));
    for (size_t i = 0; i < model->metadata_count; i++)
        if (strcmp(model->metadata[i].key, key) == 0) {
            memory_release(model->metadata[i].value);
            model->metadata[i].value = value_copy;
            value_copy = NULL;
            goto out;
        }
    TRY(memory_string(&key_copy, key));
    TRY(memory_resize(&grown, model->metadata_count + 1, sizeof *model->metadata));
    model->metadata = grown;
    model->metadata[model->metadata_count].key = key_copy;
    model->metadata[model->metadata_count++].value = value_copy;
    key_copy = value_copy = NULL;
out:
    memory_release(key_copy);
    memory_release(value_copy);
    return status;
}

/* ---- packing, gradients ------------------------------------------------------------------ */

/* Take a parameter out of the list and mend every pointer behind it. */
static void parameter_forget(struct model *model, struct parameter *gone) {
    struct parts *parts = model->family_state;
    struct part_view *view = parts->own;
    size_t behind = (size_t)(model->parameters + model->parameter_count - (gone + 1));

    memmove(gone, gone + 1, behind * sizeof *gone);
    model->parameter_count--;
    for (size_t i = 0; i < PARTS * (model->config.layers + 1); i++) {
        view = i < PARTS ? &parts->own[i] : &parts->block[i / PARTS - 1][i % PARTS];
        if (view->weight == gone) view->weight = NULL;
        else if (view->weight > gone) view->weight--;
        if (view->bias > gone) view->bias--;
    }
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (linear->parameter == gone) linear->parameter = NULL;
        else if (linear->parameter > gone) linear->parameter--;
        if (linear->bias_parameter > gone) linear->bias_parameter--;
    }
}

int linear_pack(struct model *model, struct linear *linear, const struct weight_format *format, size_t group,
                bool symmetric, const struct weight_grid *grid) {
    int status = 0;
    struct weight packed = {0};
    struct weight_shape shape = {linear->rows, linear->columns, group, symmetric};

    if (!linear->value)
        FAIL(E_STATE, "layer '%s' %s", linear->name,
             linear->parameter ? "is in its file's own format: open the model editable" : "is packed already");
    if (format->bits == 32) FAIL(E_UNSUPPORTED, "layer '%s': %s is not a packed format", linear->name, format->name);
    status = weight_pack(&packed, format, &shape, linear->value, grid);
    if (status < 0) {
        error_prefix(status, "layer '%s'", linear->name);
        goto out;
    }
    packed.simulated = linear->simulated;
    weight_close(&linear->weight);
    linear->weight = packed;
    linear->value = NULL;
    parameter_forget(model, linear->parameter);
    model->prepared = false;
out:
    return status;
}

int linear_set_activation(struct model *model, struct linear *linear, const struct activation_quantizer *activation) {
    int status = 0;
    (void)model; /* what is prepared serves every way */
    if (linear->value || linear->parameter) FAIL(E_STATE, "layer '%s' is not packed", linear->name);
    status = weight_set_activation(&linear->weight, activation);
    if (status < 0) error_prefix(status, "layer '%s'", linear->name);
out:
    return status;
}

int model_check_int8_attention(const struct model *model) {
    int status = 0;
    const struct model_config *config = &model->config;
    if (config->causal)
        FAIL(E_UNSUPPORTED, "attention of a %s model is causal, over a cache: 8-bit attention is for encoders",
             config->family);
    if (config->positions > INT8_ATTENTION_KEYS)
        FAIL(E_UNSUPPORTED, "%zu positions, 8-bit attention sums over at most %d", config->positions,
             INT8_ATTENTION_KEYS);
out:
    return status;
}

int model_set_int8_attention(struct model *model) {
    int status = model_check_int8_attention(model);
    if (status == 0) model->int8_attention = true;
    return status;
}

/* The parameter of a layout's entry; NULL: it is packed. */
static struct parameter *entry_parameter(struct model *model, const struct layout_entry *entry) {
    for (size_t i = 0; i < model->parameter_count; i++)
        if (strcmp(model->parameters[i].name, entry->name) == 0) return &model->parameters[i];
    return NULL;
}

struct setting_aside {
    struct model *model;
    unsigned heads;
};

static int aside_visit(void *context, const struct layout_entry *entry) {
    const struct setting_aside *setting = context;
    struct parameter *parameter = entry_parameter(setting->model, entry);
    if (parameter) parameter->aside = entry->row->heads && !(entry->row->heads & setting->heads);
    return 0;
}

void model_set_aside(struct model *model, unsigned heads) {
    struct setting_aside setting = {model, heads};
    layout_walk(&model->config, aside_visit, &setting);
    for (size_t i = 0; i < model->linear_count; i++)
        model->linears[i].aside = model->linears[i].heads && !(model->linears[i].heads & heads);
}

/* Parameters that training over `heads` moves: the body and those heads' rows, but for the frozen ones. */
struct trained {
    struct model *model;
    unsigned heads;
    const bool *frozen;
    bool take;
    size_t bytes;
};

static int gradient_visit(void *context, const struct layout_entry *entry) {
    int status = 0;
    struct trained *trained = context;
    struct parameter *parameter = entry_parameter(trained->model, entry);
    void *view;

    if (!parameter) goto out; /* packed */
    if (trained->frozen && trained->frozen[parameter - trained->model->parameters]) goto out;
    if (entry->row->heads && !(entry->row->heads & trained->heads)) goto out;
    if (trained->take) {
        TRY(arena_take(&trained->model->gradients, &view, entry->rows * entry->columns, sizeof(float)));
        parameter->gradient = view;
    } else {
        trained->bytes += size_round_up(entry->rows * entry->columns * sizeof(float), MEMORY_ALIGN);
    }
out:
    return status;
}

int model_gradients_open(struct model *model, unsigned heads) {
    for (size_t i = 0; i < model->linear_count; i++)
        if (!model->linears[i].parameter)
            return error_record(E_STATE, __FILE__, __LINE__,
                                "layer '%s' is packed as %s and cannot be trained: train before quantizing",
                                model->linears[i].name, model->linears[i].weight.format->name);
    return model_gradients_open_some(model, heads, NULL);
}

int model_gradients_open_some(struct model *model, unsigned heads, const bool *frozen) {
    int status = 0;
    struct trained trained = {.model = model, .heads = heads, .frozen = frozen};

    if (!model->editable) FAIL(E_STATE, "the model was opened for reading only and cannot be trained");
    for (unsigned bit = 1; bit <= HEAD_SPAN; bit <<= 1)
        if (heads & bit & ~model->config.model_heads)
            FAIL(E_UNSUPPORTED, "the model has no %s head", model_head_name((enum model_head)bit));
    model_gradients_close(model);
    TRY(layout_walk(&model->config, gradient_visit, &trained));
    TRY(arena_open_lazy(&model->gradients, trained.bytes));
    trained.take = true;
    TRY(layout_walk(&model->config, gradient_visit, &trained));
out:
    if (status < 0) model_gradients_close(model);
    return status;
}

void model_gradients_close(struct model *model) {
    for (size_t i = 0; i < model->parameter_count; i++) model->parameters[i].gradient = NULL;
    arena_close(&model->gradients);
}
