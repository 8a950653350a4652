/* Weights made ready from rows that are decoded on demand: no f32 copy of the matrix ever exists.
 *
 * Threads take panels of 16 rows: decode them into a strip of their own that stays in a second-level cache, check
 * that all is finite, and write the panel once, in the storage's own layout. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "formats/execution.h"
#include "kernels/kernels.h"

#include <string.h>

struct loading {
    const struct weight_format *format;
    struct weight_shape shape;
    const struct weight_rows *rows;
    const uint16_t *halves; /* the rows as f16 where that is what they become, or NULL */
    float *panels;          /* f32, or NULL */
    void *packed;           /* 16 bits, or NULL */
    float *strips;          /* 16 rows for each thread */
    int bad, failed;
};

static bool finite(const float *value, size_t count) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &value[i], sizeof bits);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return !bad;
}

static void load_panels(void *context, size_t begin, size_t end, int worker) {
    struct loading *loading = context;
    size_t R = loading->shape.rows, N = loading->shape.columns;
    float *strip = loading->strips + (size_t)worker * 16 * N;
    for (size_t panel = begin; panel < end; panel++) {
        size_t first = panel * 16, count = R - first < 16 ? R - first : 16;
        if (loading->halves) {
            if (!float16_fill_halves(&loading->shape, panel, count, loading->halves + first * N, loading->packed))
                __atomic_store_n(&loading->bad, 1, __ATOMIC_RELAXED);
            continue;
        }
        loading->rows->read(loading->rows->context, first, first + count, strip);
        if (!finite(strip, count * N)) __atomic_store_n(&loading->bad, 1, __ATOMIC_RELAXED);
        if (loading->panels) kernels.pack_f32(N, strip, N, count, loading->panels + panel * 16 * N);
        else if (weight_fill_rows(loading->format, &loading->shape, first, count, strip, loading->packed) < 0)
            __atomic_store_n(&loading->failed, 1, __ATOMIC_RELAXED);
    }
}

int weight_load(struct weight *weight, const struct weight_format *format, const struct weight_shape *shape,
                const struct weight_rows *rows, enum gemm_backend backend) {
    int status = 0;
    struct loading loading = {.format = format, .shape = *shape, .rows = rows};
    struct weight fresh = {.format = format, .shape = *shape, .room = weight->room};
    struct weight_prepared *prepared;
    size_t panels = panels_of(shape->rows);
    bool direct = format == &format_f32 && backend == GEMM_BUILTIN;
    void *block = NULL;

    TRY(format->size_bytes(shape, &fresh.packed_bytes));
    TRY(memory_take(&block, (size_t)threads_get() * 16 * shape->columns, sizeof(float)));
    loading.strips = block;
    if (format == &format_f16) loading.halves = rows->halves;
    if (direct) {
        TRY(memory_take(&fresh.prepared, 1, sizeof *prepared));
        prepared = fresh.prepared;
        prepared->backend = fresh.backend = backend;
        fresh.prepared_bytes = panels * 16 * shape->columns * sizeof(float);
        TRY(weight_room_take(fresh.room, fresh.prepared_bytes, (void **)&prepared->panels, &prepared->owns_panels));
        loading.panels = prepared->panels; /* there are no packed bytes, only panels */
    } else {
        TRY(weight_room_take(fresh.room, fresh.packed_bytes, &loading.packed, &fresh.owns_packed));
        fresh.packed = loading.packed;
    }
    parallel_for(panels, 4, load_panels, &loading);
    if (loading.failed) FAIL(E_UNSUPPORTED, "%s cannot be filled row by row", format->name);
    if (loading.bad) FAIL(E_NUMERIC, "holds a value that is not finite");
    if (!direct) TRY(weight_prepare(&fresh, backend));
    weight_close(weight);
    *weight = fresh;
    fresh = (struct weight){0};
out:
    memory_release(block);
    weight_close(&fresh);
    return status;
}
