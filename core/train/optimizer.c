/* Updates over fixed chunks (Loshchilov and Hutter 2019, Algorithm 2; Kingma and Ba 2015; Sutskever et al. 2013 as
 * torch's SGD has it).
 *
 * The norm is the sum over chunks, in their order, of the sum over rows, in their order, of each row's own sum: so it
 * is the same at any number of threads, and leaving out rows whose gradient is zero changes none of its bits. A row
 * without gradient and moments is p·s - r·0/(0 + eps) = p·s under AdamW, so all it misses are factors s = 1 -
 * rate·decay; they are kept in a list and multiplied one by one, as the steps would have done.
 */
#include "train/optimizer.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#define CHUNK 32768     /* elements: 512 KiB of values, gradients and moments */
#define CLEAR (1 << 18) /* elements of new moments zeroed by a thread at a time */
#define SETTLE_ROWS 256
#define MEET_ROWS 64
#define LANES 8
#define CATCH_UP 32 /* elements multiplied side by side: hides the latency of the chain of factors */

static size_t elements(const struct trainable *trainable) { return trainable->rows * trainable->columns; }

/* Whole rows where they fit, so that a chunk never splits one. */
static size_t chunk_elements(const struct trainable *trainable) {
    return trainable->columns && trainable->columns <= CHUNK ? CHUNK / trainable->columns * trainable->columns : CHUNK;
}

static bool keeps_rows_apart(const struct optimizer_settings *settings, const struct trainable *trainable) {
    bool coupled = settings->kind != OPTIMIZER_ADAMW && settings->weight_decay != 0 && trainable->decay;
    return trainable->sparse && !coupled && trainable->columns <= CHUNK;
}

static bool has_momentum(const struct optimizer_settings *settings) {
    return settings->kind != OPTIMIZER_SGD || settings->momentum != 0;
}

/* ---- storage ----------------------------------------------------------------------------------------- */

struct clear {
    float *values;
};

static void clear_body(void *context, size_t begin, size_t end, int worker) {
    struct clear *clear = context;
    (void)worker;
    memset(clear->values + begin, 0, (end - begin) * sizeof(float));
}

static int take_moment(struct optimizer *optimizer, bool apart, size_t count, float **moment) {
    int status = 0;
    void *view;
    TRY(arena_take(apart ? &optimizer->sparse : &optimizer->arena, &view, count, sizeof(float)));
    *moment = view;
    if (!apart) parallel_for(count, CLEAR, clear_body, &(struct clear){*moment});
out:
    return status;
}

static int take_item(struct optimizer *optimizer, size_t index) {
    int status = 0;
    const struct trainable *trainable = &optimizer->trainables->items[index];
    struct optimizer_item *item = &optimizer->items[index];
    bool apart = keeps_rows_apart(&optimizer->settings, trainable);
    size_t count = elements(trainable), piece = chunk_elements(trainable);
    void *view;

    if (has_momentum(&optimizer->settings)) TRY(take_moment(optimizer, apart, count, &item->m));
    if (optimizer->settings.kind != OPTIMIZER_SGD) TRY(take_moment(optimizer, apart, count, &item->v));
    if (apart) {
        TRY(arena_take(&optimizer->sparse, &view, trainable->rows, sizeof *item->last));
        item->last = view;
    }
    for (size_t begin = 0; begin < count; begin += piece)
        optimizer->chunks[optimizer->chunk_count++] =
            (struct optimizer_chunk){(uint32_t)index, begin, begin + piece < count ? begin + piece : count};
out:
    return status;
}

static int take_all(struct optimizer *optimizer, size_t chunks, size_t widest, size_t longest) {
    int status = 0;
    void *view;
    TRY(arena_take(&optimizer->arena, &view, optimizer->trainables->count, sizeof *optimizer->items));
    optimizer->items = view;
    memset(view, 0, optimizer->trainables->count * sizeof *optimizer->items);
    TRY(arena_take(&optimizer->arena, &view, chunks, sizeof *optimizer->chunks));
    optimizer->chunks = view;
    TRY(arena_take(&optimizer->arena, &view, chunks, sizeof *optimizer->partial));
    optimizer->partial = view;
    TRY(arena_take(&optimizer->arena, &view, widest, sizeof *optimizer->zeros));
    optimizer->zeros = view;
    memset(view, 0, widest * sizeof *optimizer->zeros);
    TRY(arena_take(&optimizer->arena, &view, longest, sizeof *optimizer->met));
    optimizer->met = view;
    for (size_t i = 0; i < optimizer->trainables->count; i++) TRY(take_item(optimizer, i));
out:
    return status;
}

int optimizer_open(struct optimizer *optimizer, const struct optimizer_settings *settings,
                   const struct trainables *trainables) {
    int status = 0;
    size_t chunks = 0, dense = 0, sparse = 0, widest = 0, longest = 0, moments;

    *optimizer = (struct optimizer){.settings = *settings, .trainables = trainables};
    moments = settings->kind != OPTIMIZER_SGD ? 2 : has_momentum(settings);
    for (size_t i = 0; i < trainables->count; i++) {
        const struct trainable *trainable = &trainables->items[i];
        size_t count = elements(trainable), piece = chunk_elements(trainable);
        size_t bytes = moments * size_round_up(count * sizeof(float), MEMORY_ALIGN);
        chunks += (count + piece - 1) / piece;
        if (!keeps_rows_apart(settings, trainable)) {
            dense += bytes;
            continue;
        }
        sparse += bytes + size_round_up(trainable->rows * sizeof(uint32_t), MEMORY_ALIGN);
        if (trainable->columns > widest) widest = trainable->columns;
        if (trainable->rows > longest) longest = trainable->rows;
    }
    dense += size_round_up(trainables->count * sizeof *optimizer->items, MEMORY_ALIGN) +
             size_round_up(chunks * sizeof *optimizer->chunks, MEMORY_ALIGN) +
             size_round_up(chunks * sizeof *optimizer->partial, MEMORY_ALIGN) +
             size_round_up(widest * sizeof *optimizer->zeros, MEMORY_ALIGN) +
             size_round_up(longest * sizeof *optimizer->met, MEMORY_ALIGN);
    TRY(arena_open_raw(&optimizer->arena, dense));
    TRY(arena_open_lazy(&optimizer->sparse, sparse));
    TRY(take_all(optimizer, chunks, widest, longest));
out:
    if (status < 0) optimizer_close(optimizer);
    return status;
}

void optimizer_close(struct optimizer *optimizer) {
    arena_close(&optimizer->arena);
    arena_close(&optimizer->sparse);
    memory_release(optimizer->missed);
    *optimizer = (struct optimizer){0};
}

/* ---- rows that wait ---------------------------------------------------------------------------------- */

static void catch_up(const struct optimizer *optimizer, size_t count, float *value) {
    for (size_t i = 0; i < count; i += CATCH_UP) {
        size_t n = count - i < CATCH_UP ? count - i : CATCH_UP;
        float part[CATCH_UP] = {0};
        memcpy(part, value + i, n * sizeof *part);
        for (size_t k = 0; k < optimizer->missed_count; k++)
            for (size_t j = 0; j < CATCH_UP; j++) part[j] *= optimizer->missed[k];
        memcpy(value + i, part, n * sizeof *part);
    }
}

static bool decays(const struct optimizer *optimizer, const struct trainable *trainable) {
    return trainable->decay && optimizer->settings.weight_decay != 0;
}

struct rows {
    const struct optimizer *optimizer;
    size_t item;
};

/* Rows that occur for the first time: their values catch up. Zeros that are there by right are written all the same:
 * a page that is read first is mapped twice, the second time with all threads interrupted. */
static void meet_body(void *context, size_t begin, size_t end, int worker) {
    const struct rows *rows = context;
    const struct optimizer *optimizer = rows->optimizer;
    const struct trainable *trainable = &optimizer->trainables->items[rows->item];
    const struct optimizer_item *item = &optimizer->items[rows->item];
    size_t columns = trainable->columns;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t at = optimizer->met[i] * columns;
        if (decays(optimizer, trainable)) catch_up(optimizer, columns, trainable->value + at);
        memset(trainable->gradient + at, 0, columns * sizeof(float));
        if (item->m) memset(item->m + at, 0, columns * sizeof(float));
        if (item->v) memset(item->v + at, 0, columns * sizeof(float));
    }
}

void optimizer_touch(struct optimizer *optimizer, size_t item, const int32_t *rows, size_t count) {
    uint32_t *last = item < optimizer->trainables->count ? optimizer->items[item].last : NULL;
    size_t met = 0;
    for (size_t i = 0; last && i < count; i++) {
        size_t row = (size_t)rows[i];
        if (!last[row]) optimizer->met[met++] = row;
        last[row] = (uint32_t)optimizer->step + 1;
    }
    parallel_for(met, MEET_ROWS, meet_body, &(struct rows){optimizer, item});
}

static void settle_body(void *context, size_t begin, size_t end, int worker) {
    const struct rows *settle = context;
    const struct trainable *trainable = &settle->optimizer->trainables->items[settle->item];
    (void)worker;
    for (size_t row = begin; row < end; row++)
        if (!settle->optimizer->items[settle->item].last[row])
            catch_up(settle->optimizer, trainable->columns, trainable->value + row * trainable->columns);
}

void optimizer_settle(struct optimizer *optimizer) {
    for (size_t i = 0; optimizer->missed_count && i < optimizer->trainables->count; i++)
        if (optimizer->items[i].last && decays(optimizer, &optimizer->trainables->items[i]))
            parallel_for(optimizer->trainables->items[i].rows, SETTLE_ROWS, settle_body, &(struct rows){optimizer, i});
    optimizer->missed_count = 0;
}

/* Remember a step's decay for the rows that it passed over. A factor of exactly 1 moves nothing. */
static int miss(struct optimizer *optimizer, float factor) {
    int status = 0;
    void *grown = optimizer->missed;
    if (factor == 1.0f || optimizer->sparse.used_bytes == 0) goto out;
    if (optimizer->missed_count == optimizer->missed_room) {
        size_t room = optimizer->missed_room ? 2 * optimizer->missed_room : 1024;
        TRY(memory_resize(&grown, room, sizeof *optimizer->missed));
        optimizer->missed = grown;
        optimizer->missed_room = room;
    }
    optimizer->missed[optimizer->missed_count++] = factor;
out:
    return status;
}

/* ---- one step ---------------------------------------------------------------------------------------- */

struct update {
    struct optimizer *optimizer;
    float scale, rate, correction1, correction2;
};

static double squares(const float *g, size_t count) {
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (size_t k = 0; k < LANES; k++) lane[k] += (double)g[i + k] * (double)g[i + k];
    for (size_t k = 0; i < count; i++, k++) lane[k] += (double)g[i] * (double)g[i];
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t k = 0; k < half; k++) lane[k] += lane[k + half];
    return lane[0];
}

static void sum_squares(void *context, size_t begin, size_t end, int worker) {
    const struct optimizer *optimizer = ((struct update *)context)->optimizer;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const struct optimizer_chunk *chunk = &optimizer->chunks[i];
        const struct trainable *trainable = &optimizer->trainables->items[chunk->item];
        const uint32_t *last = optimizer->items[chunk->item].last;
        size_t columns = trainable->columns <= CHUNK ? trainable->columns : CHUNK;
        double sum = 0;
        for (size_t at = chunk->begin; at < chunk->end; at += columns) {
            if (last && last[at / columns] != optimizer->step + 1) continue;
            sum += squares(trainable->gradient + at, chunk->end - at < columns ? chunk->end - at : columns);
        }
        optimizer->partial[i] = sum;
    }
}

/* p -= rate·d with d = g + decay·p, through the momentum b = momentum·b + d; nesterov: d + momentum·b. */
static void sgd(const struct update *update, size_t count, float *p, const float *grad, float *b, float decay) {
    float rate = update->rate, scale = update->scale, momentum = (float)update->optimizer->settings.momentum;
    bool nesterov = update->optimizer->settings.nesterov;
    for (size_t i = 0; i < count; i++) {
        float d = grad[i] * scale + decay * p[i];
        if (b) {
            b[i] = momentum * b[i] + d;
            d = nesterov ? d + momentum * b[i] : b[i];
        }
        p[i] -= rate * d;
    }
}

/* Elements at..at+count-1 of a trainable, with this gradient. */
static void move_part(const struct update *update, size_t index, size_t at, size_t count, const float *grad) {
    const struct optimizer_settings *settings = &update->optimizer->settings;
    const struct trainable *trainable = &update->optimizer->trainables->items[index];
    const struct optimizer_item *item = &update->optimizer->items[index];
    float decay = trainable->decay ? (float)settings->weight_decay : 0.0f, scale = update->scale;
    float *p = trainable->value + at, coupled[1024];
    bool l2 = settings->kind == OPTIMIZER_ADAM_L2 && decay != 0;
    const size_t most = sizeof coupled / sizeof *coupled;

    if (settings->kind == OPTIMIZER_SGD) {
        sgd(update, count, p, grad, item->m ? item->m + at : NULL, decay);
        return;
    }
    for (size_t i = 0, n; i < count; i += n) {
        n = l2 && count - i > most ? most : count - i;
        for (size_t k = 0; l2 && k < n; k++) coupled[k] = grad[i + k] * scale + decay * p[i + k];
        kernels.adamw(n, p + i, l2 ? coupled : grad + i, l2 ? 1.0f : scale, item->m + at + i, item->v + at + i,
                      update->rate, settings->beta1, settings->beta2, (float)settings->epsilon, l2 ? 0.0f : decay,
                      update->correction1, update->correction2);
    }
}

static void move(void *context, size_t begin, size_t end, int worker) {
    const struct update *update = context;
    const struct optimizer *optimizer = update->optimizer;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const struct optimizer_chunk *chunk = &optimizer->chunks[i];
        const struct trainable *trainable = &optimizer->trainables->items[chunk->item];
        const uint32_t *last = optimizer->items[chunk->item].last;
        size_t columns = trainable->columns;
        if (!last) {
            move_part(update, chunk->item, chunk->begin, chunk->end - chunk->begin, trainable->gradient + chunk->begin);
            continue;
        }
        for (size_t at = chunk->begin; at < chunk->end; at += columns)
            if (last[at / columns])
                move_part(update, chunk->item, at, columns,
                          last[at / columns] == optimizer->step + 1 ? trainable->gradient + at : optimizer->zeros);
    }
}

int optimizer_step(struct optimizer *optimizer, double rate, double *norm) {
    int status = 0;
    const struct optimizer_settings *settings = &optimizer->settings;
    double sum = 0, t = (double)(optimizer->step + 1);
    struct update update = {.optimizer = optimizer, .scale = 1, .rate = (float)rate};

    parallel_for(optimizer->chunk_count, 1, sum_squares, &update);
    for (size_t i = 0; i < optimizer->chunk_count; i++) sum += optimizer->partial[i];
    *norm = sqrt(sum);
    if (!isfinite(*norm)) FAIL(E_NUMERIC, "the gradient's norm is %g", *norm);
    if (settings->clip_norm > 0 && *norm + 1e-6 > settings->clip_norm)
        update.scale = (float)(settings->clip_norm / (*norm + 1e-6));
    update.correction1 = (float)(1 - pow(settings->beta1, t));
    update.correction2 = (float)(1 - pow(settings->beta2, t));
    if (settings->kind == OPTIMIZER_ADAMW) TRY(miss(optimizer, 1.0f - update.rate * (float)settings->weight_decay));
    parallel_for(optimizer->chunk_count, 1, move, &update);
    optimizer->step++;
out:
    return status;
}
