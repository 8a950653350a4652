/* The layers of a training step at MiniLM's shapes, one thread: products with all that they cost beyond the
 * multiplication kernel, attention both ways, and what goes value by value.
 *
 * All candidates take turns, round by round, so that the machine's drift hits all alike; a figure is the best round,
 * what the code can do when nothing disturbs it. The roof is the multiplication kernel with everything in the first
 * caches. Shards of 112 tokens walk through a batch of 2016, as in a step, so their inputs come from a far cache.
 *
 *   bench_training_layers [THREADS [ROUNDS]]      default 20 rounds; only one thread is timed
 */
#include "base/memory.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "model/layers.h"
#include "train/products.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WINDOW_NS 1e6 /* of one candidate in one round */
#define TOKENS 2016
#define SHARD 112
#define WIDTH 384
#define WIDE 1536
#define HEADS 12
#define HEAD 32
#define JOB_ROWS 128 /* rows of a weight gradient in one job */
#define PARAMETERS (WIDTH * WIDE)

struct data {
    float *x, *dy, *y, *more, *w, *panels, *back, *gain, *bias, *mean, *rstd, *scratch; /* x … more: (TOKENS,WIDE) */
    uint16_t *panels16, *back16;
    uint8_t *keep;
};

/* One line of the table: `run` does T tokens from `at` on. */
struct line {
    const char *what;
    void (*run)(const struct data *d, const struct line *line, size_t at);
    size_t T, R, N;
    double operations; /* per call: of products; 0: elements are counted */
    size_t elements;
    enum model_activation activation;
    double best_ns;
    size_t repeats, turn;
};

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* ---- what is timed ---- */

static void roof(const struct data *d, const struct line *l, size_t at) {
    (void)at, kernels.matmul_f32(l->T, l->N, d->x, l->N, d->panels, NULL, d->y, l->R, l->R);
}
static void roof16(const struct data *d, const struct line *l, size_t at) {
    (void)at, kernels.matmul_bf16(l->T, l->N, (const uint16_t *)(const void *)d->x, l->N, d->panels16, NULL, d->y, l->R,
                                  l->R);
}
static void turn_forward(const struct data *d, const struct line *l, size_t at) {
    (void)at, panels_forward(l->R, l->N, d->w, 0, l->R, d->panels);
}
static void turn_backward(const struct data *d, const struct line *l, size_t at) {
    (void)at, panels_backward(l->R, l->N, d->w, 0, l->N, d->back);
}
static void turn_forward16(const struct data *d, const struct line *l, size_t at) {
    (void)at, panels_forward_bf16(l->R, l->N, d->w, 0, l->R, d->panels16);
}
static void turn_backward16(const struct data *d, const struct line *l, size_t at) {
    (void)at, panels_backward_bf16(l->R, l->N, d->w, 0, l->N, d->back16);
}
static void forward(const struct data *d, const struct line *l, size_t at) {
    product_forward(l->T, l->N, l->R, d->x + at * l->N, d->panels, d->bias, d->y + at * l->R);
}
static void backward(const struct data *d, const struct line *l, size_t at) {
    product_backward_input(l->T, l->N, l->R, d->dy + at * l->R, d->back, false, d->y + at * l->N);
}
static void backward_add(const struct data *d, const struct line *l, size_t at) {
    product_backward_input(l->T, l->N, l->R, d->dy + at * l->R, d->back, true, d->y + at * l->N);
}
static void weight(const struct data *d, const struct line *l, size_t at) {
    for (size_t r = 0; r < l->R; r += JOB_ROWS)
        product_backward_weight(l->T, l->N, l->R, d->x + at * l->N, d->dy + at * l->R, r, r + JOB_ROWS, false, d->y,
                                d->bias, d->scratch);
}
static void forward16(const struct data *d, const struct line *l, size_t at) {
    product_forward_bf16(l->T, l->N, l->R, d->x + at * l->N, d->panels16, d->bias, d->y + at * l->R, d->scratch);
}
static void backward16(const struct data *d, const struct line *l, size_t at) {
    product_backward_input_bf16(l->T, l->N, l->R, d->dy + at * l->R, d->back16, false, d->y + at * l->N, d->scratch);
}
static void weight16(const struct data *d, const struct line *l, size_t at) {
    for (size_t r = 0; r < l->R; r += JOB_ROWS)
        product_backward_weight_bf16(l->T, l->N, l->R, d->x + at * l->N, d->dy + at * l->R, r, r + JOB_ROWS, false,
                                     d->y, d->bias, d->scratch);
}
static struct attention_train heads(const struct line *l) {
    return (struct attention_train){.t = l->T, .group = 1, .D = HEAD, .q_stride = WIDTH, .k_stride = WIDTH};
}
static void attend(const struct data *d, const struct line *l, size_t at) {
    struct attention_train a = heads(l);
    for (size_t h = at * WIDTH; h < at * WIDTH + HEADS * HEAD; h += HEAD)
        attention_train_forward(&a, d->x + h, d->dy + h, d->more + h, d->y + h, d->scratch);
}
static void attend_back(const struct data *d, const struct line *l, size_t at) {
    struct attention_train a = heads(l);
    float *dk = d->y + TOKENS * WIDTH, *dv = dk + TOKENS * WIDTH;
    for (size_t h = at * WIDTH; h < at * WIDTH + HEADS * HEAD; h += HEAD)
        attention_train_backward(&a, d->x + h, d->dy + h, d->more + h, d->more + h, d->dy + h, d->y + h, dk + h, dv + h,
                                 NULL, d->scratch);
}
static void norm_back(const struct data *d, const struct line *l, size_t at) {
    norm_backward(l->T, WIDTH, d->x + at * WIDTH, d->mean, d->rstd, d->gain, d->dy + at * WIDTH, d->y + at * WIDTH,
                  d->bias, d->bias + WIDTH);
}
static void rms_back(const struct data *d, const struct line *l, size_t at) {
    rms_norm_backward(l->T, WIDTH, d->x + at * WIDTH, d->rstd, d->gain, d->dy + at * WIDTH, d->y + at * WIDTH, d->bias);
}
static void activate(const struct data *d, const struct line *l, size_t at) {
    activation_forward(l->activation, l->elements, d->x + at * WIDE, d->more + at * WIDE, d->y + at * WIDE);
}
static void activate_back(const struct data *d, const struct line *l, size_t at) {
    activation_backward(l->activation, l->elements, d->x + at * WIDE, d->more + at * WIDE, d->dy + at * WIDE,
                        d->y + at * WIDE, d->y + (TOKENS - SHARD) * WIDE);
}
static void drop(const struct data *d, const struct line *l, size_t at) {
    dropout_forward(1, 2, at * WIDTH, l->elements, 0.1, d->y + at * WIDTH, d->keep + at * WIDTH);
}
static void drop_back(const struct data *d, const struct line *l, size_t at) {
    dropout_backward(l->elements, 0.1, d->keep + at * WIDTH, d->dy + at * WIDTH, d->y + at * WIDTH);
}
static void update(const struct data *d, const struct line *l, size_t at) {
    (void)at, kernels.adamw(l->elements, d->w, d->x, 1, d->scratch, d->scratch + PARAMETERS, 1e-9f, 0.9, 0.999, 1e-8f,
                            0.01f, 0.1f, 0.001f);
}

/* ---- the table ---- */

#define PRODUCT(name, body, tokens, rows, columns)                                                                     \
    {                                                                                                                  \
        .what = (name), .run = (body), .T = (tokens), .R = (rows), .N = (columns),                                     \
        .operations = 2.0 * (tokens) * (rows) * (columns)                                                              \
    }
#define PRODUCTS(rows, columns)                                                                                        \
    PRODUCT("forward", forward, SHARD, rows, columns), PRODUCT("dx", backward, SHARD, rows, columns),                  \
        PRODUCT("dx, added", backward_add, SHARD, rows, columns), PRODUCT("dw", weight, TOKENS, rows, columns),        \
        PRODUCT("dw", weight, SHARD, rows, columns), PRODUCT("forward bf16", forward16, SHARD, rows, columns),         \
        PRODUCT("dx bf16", backward16, SHARD, rows, columns), PRODUCT("dw bf16", weight16, TOKENS, rows, columns)
#define ELEMENTS(name, body, tokens, count, kind)                                                                      \
    { .what = (name), .run = (body), .T = (tokens), .elements = (count), .activation = (kind) }
#define PANELS(name, body)                                                                                             \
    { .what = (name), .run = (body), .R = WIDE, .N = WIDTH, .elements = WIDE * WIDTH }

static struct line lines[] = {
    PRODUCT("roof", roof, 24, 64, 128),
    PRODUCT("roof bf16", roof16, 24, 64, 256),
    PRODUCTS(WIDTH, WIDTH),
    PRODUCTS(WIDE, WIDTH),
    PRODUCTS(WIDTH, WIDE),
    {.what = "attention, 12 heads", .run = attend, .T = 128, .operations = 4.0 * 128 * 128 * HEAD * HEADS},
    {.what = "attention backward", .run = attend_back, .T = 128, .operations = 10.0 * 128 * 128 * HEAD * HEADS},
    {.what = "attention, 12 heads", .run = attend, .T = 32, .operations = 4.0 * 32 * 32 * HEAD * HEADS},
    {.what = "attention backward", .run = attend_back, .T = 32, .operations = 10.0 * 32 * 32 * HEAD * HEADS},
    PANELS("panels forward", turn_forward),
    PANELS("panels backward", turn_backward),
    PANELS("panels forward bf16", turn_forward16),
    PANELS("panels backward bf16", turn_backward16),
    ELEMENTS("layer norm backward", norm_back, SHARD, SHARD *WIDTH, ACTIVATION_RELU),
    ELEMENTS("rms norm backward", rms_back, SHARD, SHARD *WIDTH, ACTIVATION_RELU),
    ELEMENTS("gelu", activate, SHARD, SHARD *WIDE, ACTIVATION_GELU_ERF),
    ELEMENTS("gelu backward", activate_back, SHARD, SHARD *WIDE, ACTIVATION_GELU_ERF),
    ELEMENTS("gelu tanh backward", activate_back, SHARD, SHARD *WIDE, ACTIVATION_GELU_TANH),
    ELEMENTS("silu gate backward", activate_back, SHARD, SHARD *WIDE, ACTIVATION_SILU_GATED),
    ELEMENTS("relu backward", activate_back, SHARD, SHARD *WIDE, ACTIVATION_RELU),
    ELEMENTS("dropout", drop, SHARD, SHARD *WIDTH, ACTIVATION_RELU),
    ELEMENTS("dropout backward", drop_back, SHARD, SHARD *WIDTH, ACTIVATION_RELU),
    ELEMENTS("adamw", update, TOKENS, PARAMETERS, ACTIVATION_RELU),
};
enum { COUNT = sizeof lines / sizeof *lines };

static float *normal(size_t count, uint64_t stream) {
    struct random random;
    void *values;
    if (memory_take_raw(&values, count, sizeof(float)) < 0) exit(1);
    random_open(&random, 1, stream);
    for (size_t i = 0; i < count; i++) ((float *)values)[i] = (float)random_normal(&random);
    return values;
}

static void data_open(struct data *d) {
    struct attention_train longest = heads(&(struct line){.T = 128});
    size_t floats = 2 * PARAMETERS, more = attention_train_scratch(&longest),
           most = product_weight_bf16_scratch(TOKENS, JOB_ROWS, WIDE) + product_weight_scratch(TOKENS, JOB_ROWS, WIDE);
    if (more > floats) floats = more;
    if (most > floats) floats = most;
    d->x = normal(TOKENS * WIDE, 1), d->dy = normal(TOKENS * WIDE, 2), d->y = normal(TOKENS * WIDE, 3);
    d->more = normal(TOKENS * WIDE, 4), d->w = normal(PARAMETERS, 5), d->bias = normal(WIDE, 6);
    d->gain = normal(WIDTH, 7), d->mean = normal(TOKENS, 8), d->rstd = normal(TOKENS, 9);
    d->panels = normal(panels_forward_floats(WIDE, WIDTH), 10),
    d->back = normal(panels_backward_floats(WIDE, WIDTH), 11);
    d->scratch = normal(floats, 12);
    for (size_t i = 0; i < floats; i++) d->scratch[i] *= d->scratch[i]; /* AdamW's second moments are squares */
    d->panels16 = calloc(panels_forward_bf16_count(WIDE, WIDTH), 2);
    d->back16 = calloc(panels_backward_bf16_count(WIDE, WIDTH), 2);
    d->keep = calloc(TOKENS, WIDTH);
    if (!d->panels16 || !d->back16 || !d->keep) exit(1);
}

static void data_close(struct data *d) {
    float **floats[] = {&d->x,    &d->dy,   &d->y,    &d->more, &d->w,    &d->panels,
                        &d->back, &d->gain, &d->bias, &d->mean, &d->rstd, &d->scratch};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) memory_release(*floats[i]);
    free(d->panels16), free(d->back16), free(d->keep);
}

static void call(const struct data *d, struct line *line) {
    size_t shards = line->T && line->T < TOKENS ? TOKENS / line->T : 1;
    line->run(d, line, line->turn++ % shards * line->T);
}

static double time_calls(const struct data *d, struct line *line, size_t calls) {
    double begin = now_ns();
    for (size_t i = 0; i < calls; i++) call(d, line);
    return (now_ns() - begin) / (double)calls;
}

static void print(const struct line *line) {
    const struct line *limit = strstr(line->what, "bf16") ? &lines[1] : &lines[0];
    double rate = line->operations / line->best_ns, most = limit->operations / limit->best_ns;
    printf("%-20s %5zu %5zu %5zu %10.1f", line->what, line->T, line->R, line->N, line->best_ns / 1e3);
    if (line->operations > 0) printf(" %9.1f %7.0f %%\n", rate, 100 * rate / most);
    else printf(" %9s %9s %9.3f\n", "", "", line->best_ns / (double)line->elements);
}

int main(int argc, char **argv) {
    struct data data;
    int threads = argc > 1 ? atoi(argv[1]) : 1, rounds = argc > 2 ? atoi(argv[2]) : 20;
    if (threads < 1 || rounds < 1) {
        fprintf(stderr, "usage: bench_training_layers [THREADS [ROUNDS]]\n");
        return 2;
    }
    if (threads > 1) {
        printf("skipped: one tile after the other, one thread\n");
        return 0;
    }
    kernels_open(UINT32_MAX);
    data_open(&data);
    for (size_t i = 0; i < COUNT; i++) {
        time_calls(&data, &lines[i], 1);
        lines[i].repeats = (size_t)(WINDOW_NS / time_calls(&data, &lines[i], 2)) + 1;
    }
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < COUNT; i++) {
            double ns = time_calls(&data, &lines[i], lines[i].repeats);
            if (round == 0 || ns < lines[i].best_ns) lines[i].best_ns = ns;
        }
    printf("layers of a training step, one thread, %s and %s, best of %d rounds\n",
           kernels_variant("matmul_f32", kernels.flags), kernels_variant("matmul_bf16", kernels.flags), rounds);
    printf("%-20s %5s %5s %5s %10s %9s %9s %9s\n", "", "T", "R", "N", "µs", "GF/s", "of roof", "ns/value");
    for (size_t i = 0; i < COUNT; i++) print(&lines[i]);
    data_close(&data);
    return 0;
}
