/* One weight matrix: its bytes and what is prepared from them. Multiplication is in weight_matmul.c. */
#include "formats/weight.h"

#include "base/error.h"
#include "base/memory.h"
#include "formats/execution.h"
#include "formats/onednn.h"

#include <string.h>

int weight_shape_check(const struct weight_format *format, const struct weight_shape *shape) {
    int status = 0;
    const size_t most = (size_t)1 << 40;
    if (shape->rows == 0 || shape->columns == 0)
        FAIL(E_SHAPE, "%s: a weight matrix of %zu rows and %zu columns is empty", format->name, shape->rows,
             shape->columns);
    if (shape->rows > most / shape->columns || shape->rows > 1u << 30 || shape->columns > 1u << 16)
        FAIL(E_LIMIT, "%s: a weight matrix of %zu rows and %zu columns is too large", format->name, shape->rows,
             shape->columns);
    if (format->has_groups && shape->group != 32 && shape->group != 64 && shape->group != 128)
        FAIL(E_SHAPE, "%s: group must be one of 32, 64, 128 (got %zu)", format->name, shape->group);
    if (!format->has_groups && shape->group != 0)
        FAIL(E_SHAPE, "%s has no groups (got a group of %zu)", format->name, shape->group);
out:
    return status;
}

double weight_bits(const struct weight_format *format, const struct weight_shape *shape) {
    size_t bytes;
    if (format->size_bytes(shape, &bytes) < 0) return 0;
    return 8.0 * (double)bytes / ((double)shape->rows * (double)shape->columns);
}

int weight_view(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                const void *packed, size_t bytes) {
    int status = 0;
    *weight = (struct weight){0};
    TRY(format->check(shape, packed, bytes));
    weight->format = format;
    weight->shape = *shape;
    weight->packed = packed;
    weight->packed_bytes = bytes;
out:
    return status;
}

int weight_pack_room(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                     const float *w, const struct weight_grid *grid, struct arena *room) {
    int status = 0;
    size_t bytes;
    void *packed = NULL;
    bool owned = false;
    *weight = (struct weight){0};
    TRY(format->size_bytes(shape, &bytes));
    TRY(weight_room_take(room, bytes, &packed, &owned));
    memset(packed, 0, bytes);
    TRY(format->pack(shape, w, grid, packed));
    *weight = (struct weight){
        .format = format, .shape = *shape, .packed = packed, .packed_bytes = bytes, .owns_packed = owned, .room = room};
    owned = false;
out:
    if (owned) memory_release(packed);
    return status;
}

int weight_pack(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                const float *w, const struct weight_grid *grid) {
    return weight_pack_room(weight, format, shape, w, grid, NULL);
}

size_t weight_room_bytes(const struct weight_format *format, const struct weight_shape *shape,
                         enum gemm_backend backend) {
    size_t bytes = 0;
    if (format == &format_f32) {
        if (backend != GEMM_BUILTIN) return 0;
        bytes = panels_of(shape->rows) * 16 * shape->columns * sizeof(float);
    } else if (format->size_bytes(shape, &bytes) < 0) {
        return 0;
    }
    return size_round_up(bytes, MEMORY_ALIGN);
}

int weight_room_take(struct arena *room, size_t bytes, void **block, bool *owned) {
    size_t used = room ? size_round_up(room->used_bytes, MEMORY_ALIGN) : 0;
    *owned = !room || used > room->capacity_bytes || bytes > room->capacity_bytes - used;
    return *owned ? memory_take_raw(block, bytes, 1) : arena_take(room, block, bytes, 1);
}

static void prepared_close(struct weight *weight) {
    struct weight_prepared *prepared = weight->prepared;
    if (!prepared) return;
    if (prepared->owns_panels) memory_release(prepared->panels);
    memory_release(prepared->scale);
    memory_release(prepared->row_negative);
    memory_release(prepared->row_total);
    memory_release(prepared->row_sum);
    memory_release(prepared->row_zero);
    memory_release(prepared->row_value);
    onednn_close(prepared->onednn);
    memory_release(prepared);
    weight->prepared = NULL;
    weight->prepared_bytes = 0;
}

int weight_prepare(struct weight *weight, enum gemm_backend backend) {
    int status = 0;
    struct weight_prepared *prepared = weight->prepared;
    const struct weight_execution *execution = weight->format->execution;
    if (prepared && prepared->backend == backend) goto out;
    prepared_close(weight);
    TRY(memory_take(&weight->prepared, 1, sizeof *prepared));
    prepared = weight->prepared;
    prepared->backend = weight->backend = backend;
    if (execution->prepare) TRY(execution->prepare(weight, prepared, &weight->prepared_bytes));
out:
    if (status < 0) prepared_close(weight);
    return status;
}

void weight_close(struct weight *weight) {
    prepared_close(weight);
    if (weight->owns_packed) memory_release((void *)(size_t)weight->packed);
    *weight = (struct weight){0};
}

bool weight_rounds_to_bf16(const struct weight *weight) { return weight->format == &format_bf16; }

int weight_set_activation(struct weight *weight, const struct activation_quantizer *activation) {
    int status = 0;
    if (!weight->format->quantizes_input)
        FAIL(E_UNSUPPORTED, "%s does not choose how activations are quantized: int8 formats do", weight->format->name);
    TRY(activation_check(activation));
    if (activation->outlier > 0 && weight->format != &format_int8)
        FAIL(E_UNSUPPORTED, "%s does not leave outliers out: int8 does", weight->format->name);
    weight->activation = *activation;
out:
    return status;
}

void weight_scratch_close(struct weight_scratch *scratch) {
    memory_release(scratch->block);
    for (size_t i = 0; i < 2; i++) memory_release(scratch->ahead[i].block);
    *scratch = (struct weight_scratch){0};
}
