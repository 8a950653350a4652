/* Weights made ready from rows that are decoded on demand: no f32 copy of a matrix ever exists.
 *
 * Threads take panels of 16 rows, through all the matrices as if they were one, so that none waits at the end of each:
 * decode them into a strip of their own that stays in a second-level cache, check that all is finite, and write the
 * panel once, in the storage's own layout. */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "formats/execution.h"
#include "kernels/kernels.h"

#include <string.h>

#define GRAIN 4 /* panels */

/* One matrix at work. */
struct loading {
    const struct weight_source *source;
    struct weight fresh;     /* what is to replace the source's weight */
    const uint16_t *halves;  /* the rows as f16 where that is what they become, or NULL */
    float *panels;           /* f32, or NULL */
    void *packed;            /* 16 bits, or NULL */
    size_t first;            /* its first panel among those of all matrices */
    int bad, beyond, failed; /* set by any thread */
};

struct loadings {
    struct loading *items; /* in the order of `first` */
    size_t count;
    float *strips;       /* for each thread */
    size_t strip_values; /* 16 rows of the widest matrix */
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

static void load_panel(struct loading *loading, size_t panel, float *strip) {
    const struct weight_source *source = loading->source;
    size_t R = source->shape.rows, N = source->shape.columns;
    size_t first = panel * 16, count = R - first < 16 ? R - first : 16;
    if (loading->halves) {
        if (!float16_fill_halves(&source->shape, panel, count, loading->halves + first * N, loading->packed))
            __atomic_store_n(&loading->bad, 1, __ATOMIC_RELAXED);
        return;
    }
    source->rows.read(source->rows.context, first, first + count, strip);
    if (source->format->bits == 16) {
        if (!float16_fill(source->format, &source->shape, first, count, strip, loading->packed))
            __atomic_store_n(finite(strip, count * N) ? &loading->beyond : &loading->bad, 1, __ATOMIC_RELAXED);
        return;
    }
    if (!finite(strip, count * N)) __atomic_store_n(&loading->bad, 1, __ATOMIC_RELAXED);
    if (loading->panels) kernels.pack_f32(N, strip, N, count, loading->panels + panel * 16 * N);
    else if (weight_fill_rows(source->format, &source->shape, first, count, strip, loading->packed) < 0)
        __atomic_store_n(&loading->failed, 1, __ATOMIC_RELAXED);
}

/* The matrix that a panel of all belongs to. */
static struct loading *find(const struct loadings *loadings, size_t panel) {
    size_t low = 0, high = loadings->count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (loadings->items[middle].first <= panel) low = middle;
        else high = middle;
    }
    return &loadings->items[low];
}

static void load_panels(void *context, size_t begin, size_t end, int worker) {
    const struct loadings *loadings = context;
    struct loading *last = loadings->items + loadings->count - 1, *loading = find(loadings, begin);
    for (size_t panel = begin; panel < end; panel++) {
        while (loading < last && loading[1].first <= panel) loading++;
        load_panel(loading, panel - loading->first, loadings->strips + (size_t)worker * loadings->strip_values);
    }
}

/* Room for what a matrix becomes. */
static int take_room(struct loading *loading, enum gemm_backend backend) {
    int status = 0;
    const struct weight_source *source = loading->source;
    struct weight *fresh = &loading->fresh;
    struct weight_prepared *prepared;

    *fresh = (struct weight){.format = source->format, .shape = source->shape, .room = source->weight->room};
    TRY(source->format->size_bytes(&source->shape, &fresh->packed_bytes));
    if (source->format == &format_f16) loading->halves = source->rows.halves;
    if (source->format == &format_f32 && backend == GEMM_BUILTIN) { /* no packed bytes, only panels */
        TRY(memory_take(&fresh->prepared, 1, sizeof *prepared));
        prepared = fresh->prepared;
        prepared->backend = fresh->backend = backend;
        fresh->prepared_bytes = panels_of(source->shape.rows) * 16 * source->shape.columns * sizeof(float);
        TRY(weight_room_take(fresh->room, fresh->prepared_bytes, (void **)&prepared->panels, &prepared->owns_panels));
        loading->panels = prepared->panels;
    } else {
        TRY(weight_room_take(fresh->room, fresh->packed_bytes, &loading->packed, &fresh->owns_packed));
        fresh->packed = loading->packed;
    }
out:
    return status;
}

static int finish(struct loading *loading, enum gemm_backend backend) {
    int status = 0;
    if (loading->failed) FAIL(E_UNSUPPORTED, "%s cannot be filled row by row", loading->source->format->name);
    if (loading->bad) FAIL(E_NUMERIC, "holds a value that is not finite");
    if (loading->beyond) FAIL(E_NUMERIC, "holds a value beyond the range of %s", loading->source->format->name);
    if (loading->packed) TRY(weight_prepare(&loading->fresh, backend));
out:
    return status;
}

int weight_load(const struct weight_source *sources, size_t count, enum gemm_backend backend, size_t *concerned) {
    int status = 0;
    struct loadings loadings = {.count = count};
    size_t panels = 0;
    void *items = NULL, *strips = NULL;

    *concerned = SIZE_MAX;
    if (count == 0) goto out;
    TRY(memory_take(&items, count, sizeof *loadings.items));
    loadings.items = items;
    for (size_t i = 0; i < count; i++) {
        size_t values = 16 * sources[i].shape.columns;
        *concerned = i;
        loadings.items[i] = (struct loading){.source = &sources[i], .first = panels};
        TRY(take_room(&loadings.items[i], backend));
        panels += panels_of(sources[i].shape.rows);
        if (values > loadings.strip_values) loadings.strip_values = values;
    }
    TRY(memory_take(&strips, (size_t)threads_get() * loadings.strip_values, sizeof(float)));
    loadings.strips = strips;
    parallel_for(panels, GRAIN, load_panels, &loadings);
    for (size_t i = 0; i < count; i++) {
        *concerned = i;
        TRY(finish(&loadings.items[i], backend));
    }
    for (size_t i = 0; i < count; i++) {
        weight_close(sources[i].weight);
        *sources[i].weight = loadings.items[i].fresh;
        loadings.items[i].fresh = (struct weight){0};
    }
out:
    for (size_t i = 0; loadings.items && i < count; i++) weight_close(&loadings.items[i].fresh);
    memory_release(items);
    memory_release(strips);
    return status;
}
