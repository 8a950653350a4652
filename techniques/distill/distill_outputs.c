/* What the teacher says of all training examples: class logits, start and end logits, cosines of pairs, the best next
 * tokens, or texts it writes itself. Computed in the examples' order, a few at a time, so the memory taken is that of
 * the result. What a token gets does not depend on its neighbours in a batch (model/forward.h), so neither does it
 * matter how the examples are cut here.
 */
#include "distill.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/threads.h"
#include "model/generate.h"

#define SLICE_TOKENS 4096              /* of one forward pass; more would not make it faster */
#define TILE_LOGITS (8u * 1024 * 1024) /* vocabulary logits held at a time: 32 MiB */

/* Some consecutive examples as a batch. */
struct slice {
    size_t first, count;
    struct batch batch;
    int32_t *ids, *types;
    uint32_t *offset;
};

size_t distill_example_length(const struct output_task *task, size_t example) {
    size_t length = task->examples->offset[example + 1] - task->examples->offset[example];
    return length < task->cut ? length : task->cut;
}

/* Rows of the result that an example has. */
static size_t rows_of(const struct output_task *task, size_t example) {
    switch (task->kind) {
    case OUTPUT_SPAN: return distill_example_length(task, example);
    case OUTPUT_TOP: return distill_example_length(task, example) - 1; /* the last token has no next one */
    case OUTPUT_COSINE: return example % 2;                            /* one of a pair */
    case OUTPUT_CLASSES:
    case OUTPUT_TEXT: break;
    }
    return 1;
}

static size_t row_bytes_of(const struct output_task *task, const struct model *teacher) {
    switch (task->kind) {
    case OUTPUT_CLASSES: return teacher->config.classes * sizeof(float);
    case OUTPUT_SPAN: return 2 * sizeof(float);
    case OUTPUT_COSINE: return sizeof(float);
    case OUTPUT_TOP: return task->top * (sizeof(uint32_t) + sizeof(float));
    case OUTPUT_TEXT: break;
    }
    return task->cut * sizeof(int32_t);
}

static int slice_open(struct slice *slice, const struct output_task *task) {
    int status = 0;
    size_t longest = 0;
    void *block;
    *slice = (struct slice){0};
    for (size_t i = 0; i < task->examples->count; i++)
        if (distill_example_length(task, i) > longest) longest = distill_example_length(task, i);
    TRY(memory_take(&block, SLICE_TOKENS + 2 * longest, 2 * sizeof(int32_t)));
    slice->ids = block;
    slice->types = slice->ids + SLICE_TOKENS + 2 * longest;
    TRY(memory_take(&block, SLICE_TOKENS + 3, sizeof(uint32_t)));
    slice->offset = block;
out:
    return status;
}

static void slice_close(struct slice *slice) {
    memory_release(slice->ids);
    memory_release(slice->offset);
}

/* Examples from slice->first on, pairs together, until SLICE_TOKENS are reached. */
static void slice_fill(struct slice *slice, const struct output_task *task) {
    const struct examples *examples = task->examples;
    size_t T = 0, step = examples->pair ? 2 : 1;
    slice->count = 0;
    while (slice->first + slice->count < examples->count && T < SLICE_TOKENS)
        for (size_t i = 0; i < step; i++) {
            size_t example = slice->first + slice->count++, length = distill_example_length(task, example);
            memcpy(slice->ids + T, examples->ids + examples->offset[example], length * sizeof *slice->ids);
            if (examples->types)
                memcpy(slice->types + T, examples->types + examples->offset[example], length * sizeof *slice->types);
            T += length;
            slice->offset[slice->count] = (uint32_t)T;
        }
    slice->batch = (struct batch){.sequences = slice->count,
                                  .tokens = T,
                                  .ids = slice->ids,
                                  .offset = slice->offset,
                                  .token_types = examples->types ? slice->types : NULL};
}

/* ---- the best of a row of logits -------------------------------------------------------------------------- */

struct best {
    const float *logits;
    uint8_t *rows;
    size_t V, top, row_bytes;
};

/* a is worse than b: lower, or as high with a larger id. */
static bool is_worse(const float *z, uint32_t a, uint32_t b) { return z[a] == z[b] ? a > b : z[a] < z[b]; }

/* Let id[at] sink in a heap whose worst is on top. */
static void sink(const float *z, uint32_t *id, size_t count, size_t at) {
    for (;;) {
        size_t child = 2 * at + 1, worst = at;
        for (size_t c = child; c < child + 2 && c < count; c++)
            if (is_worse(z, id[c], id[worst])) worst = c;
        if (worst == at) return;
        uint32_t moved = id[at];
        id[at] = id[worst];
        id[worst] = moved;
        at = worst;
    }
}

static void best_body(void *context, size_t begin, size_t end, int worker) {
    const struct best *best = context;
    (void)worker;
    for (size_t row = begin; row < end; row++) {
        const float *z = best->logits + row * best->V;
        uint32_t *id = (uint32_t *)(void *)(best->rows + row * best->row_bytes);
        float *value = (float *)(void *)(id + best->top);
        for (size_t i = 0; i < best->top; i++) id[i] = (uint32_t)i;
        for (size_t i = best->top / 2; i-- > 0;) sink(z, id, best->top, i);
        for (size_t i = best->top; i < best->V; i++) {
            if (!is_worse(z, id[0], (uint32_t)i)) continue;
            id[0] = (uint32_t)i;
            sink(z, id, best->top, 0);
        }
        for (size_t left = best->top; left > 1; left--) { /* heap sort: best first */
            uint32_t worst = id[0];
            id[0] = id[left - 1];
            id[left - 1] = worst;
            sink(z, id, left - 1, 0);
        }
        for (size_t i = 0; i < best->top; i++) value[i] = z[id[i]];
    }
}

/* The best next tokens of every token but the last of each sequence. */
static int write_top(struct teacher *teacher, const struct output_task *task, const struct slice *slice,
                     const struct model_output *output, uint8_t *rows) {
    int status = 0;
    size_t V = teacher->model->config.vocabulary, tile = TILE_LOGITS / V ? TILE_LOGITS / V : 1, count = 0;
    uint32_t *token = NULL;
    float *logits = NULL;
    void *block;

    TRY(memory_take(&block, slice->batch.tokens, sizeof *token));
    token = block;
    for (size_t s = 0; s < slice->count; s++)
        for (uint32_t t = slice->offset[s]; t + 1 < slice->offset[s + 1]; t++) token[count++] = t;
    if (tile > count) tile = count;
    TRY(memory_take_raw(&block, tile * V, sizeof *logits));
    logits = block;
    for (size_t i = 0; i < count; i += tile) {
        size_t n = count - i < tile ? count - i : tile, row_bytes = row_bytes_of(task, teacher->model);
        struct best best = {logits, rows + i * row_bytes, V, task->top, row_bytes};
        TRY(model_logits(teacher->model, output->hidden, token + i, n, &teacher->workspace, logits));
        parallel_for(n, 1, best_body, &best);
    }
out:
    memory_release(token);
    memory_release(logits);
    return status;
}

static int write_cosines(struct teacher *teacher, const struct slice *slice, const struct model_output *output,
                         float *rows) {
    int status = 0;
    size_t C = teacher->model->config.width;
    float *mean;
    void *block = NULL;
    TRY(memory_take(&block, slice->count * C, sizeof *mean));
    mean = block;
    model_pool(teacher->model, &slice->batch, output->hidden, true, mean);
    for (size_t pair = 0; pair < slice->count / 2; pair++) {
        const float *a = mean + 2 * pair * C, *b = a + C;
        double sum = 0;
        for (size_t i = 0; i < C; i++) sum += (double)a[i] * (double)b[i];
        rows[pair] = (float)sum;
    }
out:
    memory_release(block);
    return status;
}

/* The prompt of each example, continued to the length of the cut. */
static int write_texts(struct teacher *teacher, const struct output_task *task, const struct slice *slice,
                       int32_t *rows) {
    int status = 0;
    struct generate_options options;
    struct generated *texts = NULL;
    size_t beams = task->beams > 1 ? task->beams : 1, found = 0;
    void *block;

    generate_defaults(&options);
    options.beams = beams;
    TRY(memory_take(&block, beams, sizeof *texts));
    texts = block;
    for (size_t s = 0; s < slice->count; s++, rows += task->cut) {
        size_t length = slice->offset[s + 1] - slice->offset[s], prompt = length < task->prompt ? length : task->prompt;
        options.new_tokens = task->cut - prompt;
        memcpy(rows, slice->ids + slice->offset[s], prompt * sizeof *rows);
        TRY(generate(teacher->model, rows, prompt, &options, &teacher->workspace, texts, &found));
        memcpy(rows + prompt, texts[0].ids, options.new_tokens * sizeof *rows);
        generated_close(texts, beams);
    }
out:
    memory_release(texts);
    return status;
}

static int write_slice(struct teacher *teacher, const struct output_task *task, const struct slice *slice,
                       uint8_t *rows) {
    int status = 0;
    struct model_output output;
    struct batch batch = slice->batch;
    size_t bytes = row_bytes_of(task, teacher->model);

    if (teacher->model->config.token_types < 2) batch.token_types = NULL; /* it knows no segments */
    teacher->forwards += slice->count;
    if (task->kind == OUTPUT_TEXT) {
        TRY(write_texts(teacher, task, slice, (int32_t *)(void *)rows));
        goto out;
    }
    TRY(model_forward(teacher->model, &batch, NULL, &teacher->workspace, &output));
    switch (task->kind) {
    case OUTPUT_CLASSES: memcpy(rows, output.logits, slice->count * bytes); break;
    case OUTPUT_SPAN: memcpy(rows, output.span, slice->batch.tokens * bytes); break;
    case OUTPUT_COSINE: TRY(write_cosines(teacher, slice, &output, (float *)(void *)rows)); break;
    case OUTPUT_TOP: TRY(write_top(teacher, task, slice, &output, rows)); break;
    case OUTPUT_TEXT: break;
    }
out:
    return status;
}

/* Every row holds finite numbers: a teacher that gives none is told of here, not as a loss that is not a number. */
static int check_rows(const struct kept *kept, const struct output_task *task) {
    size_t floats = kept->row_bytes / sizeof(float), first = task->kind == OUTPUT_TOP ? task->top : 0;
    if (task->kind == OUTPUT_TEXT) return 0;
    for (size_t row = 0; row < kept->count; row++) {
        const float *value = (const float *)(const void *)(kept->rows + row * kept->row_bytes);
        for (size_t i = first; i < floats; i++)
            if (!isfinite(value[i]))
                return error_record(E_NUMERIC, __FILE__, __LINE__, "the teacher's output %zu is not finite", row);
    }
    return 0;
}

/* Who is told how far the teacher is. */
struct listener {
    int (*progress)(void *context, size_t done, size_t all);
    void *context;
    size_t all;
};

static int still_waiting(void *context) {
    const struct listener *listener = context;
    return listener->progress ? listener->progress(listener->context, 0, listener->all) : 0;
}

int distill_outputs_open(struct outputs *outputs, struct teacher *teacher, const struct output_task *task,
                         const char *folder, int (*progress)(void *context, size_t done, size_t all), void *context) {
    int status = 0;
    char key[HASH_HEX] = "";
    struct slice slice = {0};
    const struct examples *examples = task->examples;
    struct listener listener = {progress, context, examples->count};
    void *block;

    *outputs = (struct outputs){0};
    TRY(memory_take(&block, examples->count + 1, sizeof *outputs->first));
    outputs->first = block;
    for (size_t i = 0; i < examples->count; i++) outputs->first[i + 1] = outputs->first[i] + rows_of(task, i);
    if (folder) {
        char model[HASH_HEX];
        TRY(distill_model_key(teacher->model, model));
        distill_output_key(task, model, key);
    }
    TRY(distill_kept_open(&outputs->kept, folder, key, outputs->first[examples->count],
                          row_bytes_of(task, teacher->model), still_waiting, &listener));
    if (outputs->kept.found) goto out;
    TRY(slice_open(&slice, task));
    while (slice.first < examples->count) {
        slice_fill(&slice, task);
        TRY(write_slice(teacher, task, &slice,
                        outputs->kept.block + outputs->first[slice.first] * outputs->kept.row_bytes));
        slice.first += slice.count;
        if (progress && progress(context, slice.first, examples->count)) FAIL(E_INTERRUPTED, "stopped");
    }
    TRY(check_rows(&outputs->kept, task));
    distill_kept_finish(&outputs->kept);
out:
    slice_close(&slice);
    if (status < 0) distill_outputs_close(outputs);
    return status;
}

void distill_outputs_close(struct outputs *outputs) {
    distill_kept_close(&outputs->kept);
    memory_release(outputs->first);
    memory_release(outputs->mean);
    *outputs = (struct outputs){0};
}
