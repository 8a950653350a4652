/* Weights made ready to multiply: panels, row sums, 16-bit copies; and the head that is the token embedding.
 *
 * A layer that a technique packed is multiplied from its packed bytes. The others are f32 values, held as the
 * caller asks: as they are, or rounded to 16 bits, in a weight that is replaced when the storage changes.
 */
#include "model/family.h"

#include <string.h>

#include "base/error.h"

const char *weight_storage_name(enum weight_storage storage) {
    static const char *const names[] = {[STORAGE_F32] = "f32", [STORAGE_F16] = "f16", [STORAGE_BF16] = "bf16"};
    return (size_t)storage < sizeof names / sizeof names[0] ? names[storage] : "unknown";
}

static bool has_tied_head(const struct model_config *config) {
    return config->model_heads & HEAD_MASKED_LM || (config->model_heads & HEAD_CAUSAL_LM && config->tied);
}

const struct weight *model_head_weight(const struct model *model) {
    const struct parts *parts = model->family_state;
    if (has_tied_head(&model->config)) return &parts->tied_head;
    return parts->own[PART_HEAD].linear ? &parts->own[PART_HEAD].linear->weight : NULL;
}

void linear_view_values(struct linear *linear) {
    weight_close(&linear->weight);
    linear->weight = (struct weight){
        .format = weight_format_find("f32"),
        .shape = {.rows = linear->rows, .columns = linear->columns, .symmetric = true},
        .packed = linear->value,
        .packed_bytes = linear->rows * linear->columns * sizeof(float),
        .simulated = linear->simulated,
    };
}

/* Make `weight` what multiplies the f32 values of one matrix under `storage`. */
static int weight_hold(struct weight *weight, const float *value, size_t rows, size_t columns, bool simulated,
                       enum weight_storage storage, enum gemm_backend backend) {
    int status = 0;
    const struct weight_format *format = weight_format_find(weight_storage_name(storage));
    struct weight_shape shape = {.rows = rows, .columns = columns, .symmetric = true};

    if (!format) FAIL(E_UNSUPPORTED, "weights in %s are not in this build", weight_storage_name(storage));
    if (weight->format != format) {
        struct weight fresh = {.format = format, .shape = shape, .packed = value, .room = weight->room};
        fresh.packed_bytes = rows * columns * sizeof(float);
        if (storage != STORAGE_F32) TRY(weight_pack_room(&fresh, format, &shape, value, NULL, weight->room));
        weight_close(weight);
        *weight = fresh;
        weight->simulated = simulated;
    }
    TRY(weight_prepare(weight, backend));
out:
    return status;
}

static void read_place(const void *context, size_t begin, size_t end, float *out) {
    place_rows(context, begin, end, out);
}

/* The matrix where it lies in its file, if that is as weight_rows wants halves; else NULL. */
static const uint16_t *place_halves(const struct parameter *parameter) {
    const struct value_place *place = parameter->place;
    size_t N = parameter->columns;
    if (place->tensor->dtype != DTYPE_F16 || place->transposed || place->interleaved || N % 2) return NULL;
    const uint8_t *data = (const uint8_t *)place->tensor->data + place->first * N * sizeof(uint16_t);
    return (uintptr_t)data % 4 == 0 ? (const uint16_t *)(const void *)data : NULL;
}

/* What makes `weight` multiply a matrix that was left in its file; false: it does so already. */
static bool wants_loading(struct weight *weight, const struct parameter *parameter, const struct weight_format *format,
                          struct weight_source *source) {
    if (weight->format == format && weight->prepared) return false;
    *source = (struct weight_source){
        .weight = weight,
        .format = format,
        .shape = {.rows = parameter->rows, .columns = parameter->columns, .symmetric = true},
        .rows = {read_place, parameter->place, place_halves(parameter)},
    };
    return true;
}

/* One block for all that the layers and the head will take, so that pages are few and large. */
static int prepare_room(struct model *model, enum gemm_backend backend, enum weight_storage storage) {
    int status = 0;
    const struct weight_format *stored = weight_format_find(weight_storage_name(storage));
    struct parts *parts = model->family_state;
    const struct parameter *tokens = model_part(model, PART_TOKENS)->weight;
    size_t bytes = 0;

    for (size_t i = 0; stored && i < model->linear_count; i++) {
        const struct linear *linear = &model->linears[i];
        struct weight_shape shape = {.rows = linear->rows, .columns = linear->columns, .symmetric = true};
        if (linear->value || linear->parameter) bytes += weight_room_bytes(stored, &shape, backend);
    }
    if (stored && has_tied_head(&model->config)) {
        struct weight_shape shape = {.rows = tokens->rows, .columns = tokens->columns, .symmetric = true};
        bytes += weight_room_bytes(stored, &shape, backend);
    }
    if (model->panels.base || !bytes) goto out;
    TRY(arena_open_raw(&model->panels, bytes));
out:
    for (size_t i = 0; status == 0 && i < model->linear_count; i++) model->linears[i].weight.room = &model->panels;
    parts->tied_head.room = &model->panels;
    return status;
}

static int prepare_linear(struct linear *linear, enum gemm_backend backend, enum weight_storage storage) {
    if (linear->value)
        return weight_hold(&linear->weight, linear->value, linear->rows, linear->columns, linear->simulated, storage,
                           backend);
    if (linear->parameter) return 0; /* load_matrices */
    return weight_prepare(&linear->weight, backend);
}

static int prepare_head(struct model *model, enum gemm_backend backend, enum weight_storage storage) {
    struct parts *parts = model->family_state;
    const struct parameter *tokens = model_part(model, PART_TOKENS)->weight;
    if (!has_tied_head(&model->config) || !tokens->value) return 0;
    return weight_hold(&parts->tied_head, tokens->value, tokens->rows, tokens->columns, false, storage, backend);
}

static int head_prefix(const struct model *model, int status) {
    return error_prefix(status, "the head over '%s'", model_part(model, PART_TOKENS)->weight->name);
}

/* All matrices that were left in the file, at once. */
static int load_matrices(struct model *model, enum gemm_backend backend, enum weight_storage storage) {
    int status = 0;
    const struct weight_format *format = weight_format_find(weight_storage_name(storage));
    struct parts *parts = model->family_state;
    const struct parameter *tokens = model_part(model, PART_TOKENS)->weight;
    void *block = NULL;
    size_t count = 0, concerned = SIZE_MAX;

    TRY(memory_take(&block, model->linear_count + 1, sizeof(struct weight_source) + sizeof(struct linear *)));
    struct weight_source *sources = block;
    struct linear **owners = (struct linear **)(void *)(sources + model->linear_count + 1); /* NULL: the head */
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        if (linear->value || !linear->parameter) continue;
        if (wants_loading(&linear->weight, linear->parameter, format, &sources[count])) owners[count++] = linear;
    }
    if (has_tied_head(&model->config) && !tokens->value &&
        wants_loading(&parts->tied_head, tokens, format, &sources[count]))
        owners[count++] = NULL;
    if (count && !format) FAIL(E_UNSUPPORTED, "weights in %s are not in this build", weight_storage_name(storage));
    status = weight_load(sources, count, backend, &concerned);
    if (status < 0 && concerned < count) {
        if (owners[concerned]) error_prefix(status, "layer '%s'", owners[concerned]->name);
        else head_prefix(model, status);
    }
    for (size_t i = 0; status == 0 && i < count; i++)
        if (owners[i]) owners[i]->weight.simulated = owners[i]->simulated;
out:
    memory_release(block);
    return status;
}

int model_prepare_as(struct model *model, enum gemm_backend backend, enum weight_storage storage) {
    int status = 0;
    if (model->prepared && model->backend == backend && model->storage == storage) goto out;
    if (model->backend != backend || model->storage != storage) model_unprepare(model);
    TRY(prepare_room(model, backend, storage));
    for (size_t i = 0; i < model->linear_count; i++) {
        struct linear *linear = &model->linears[i];
        status = prepare_linear(linear, backend, storage);
        if (status < 0) {
            error_prefix(status, "layer '%s'", linear->name);
            goto out;
        }
    }
    status = prepare_head(model, backend, storage);
    if (status < 0) {
        head_prefix(model, status);
        goto out;
    }
    TRY(load_matrices(model, backend, storage));
    model->backend = backend;
    model->storage = storage;
    model->prepared = true;
out:
    return status;
}

int model_prepare(struct model *model, enum gemm_backend backend) {
    return model_prepare_as(model, backend, STORAGE_F32);
}

void model_unprepare(struct model *model) {
    struct parts *parts = model->family_state;
    for (size_t i = 0; i < model->linear_count; i++)
        if (model->linears[i].parameter) linear_view_values(&model->linears[i]);
    weight_close(&parts->tied_head);
    arena_close(&model->panels);
    model->prepared = false;
}
