/* One classifier, kept open, that takes a training step when told to and answers how long it took: our side of the
 * training rows of `make bench-peers`, as tests/bench/bench_model.c is of the others.
 *
 *   bench_training MODEL [STORAGE [THREADS]]      MODEL gets a head of two classes; STORAGE: f32, or bf16:
 *                                                 products in it, sums and weights in f32
 *
 * Commands, one a line; each answers one line "ns multiply_adds weight_bytes value", or "error TEXT":
 * - train B T P: one step on B new random sequences of T tokens, their labels random as well, with P percent dropout:
 *   forward, loss, backward, clipping, AdamW at the linear schedule's rate (value: the loss, nats)
 * - gradients B T: "= loss" and "= gradient norm" of the first such batch, whatever was drawn before, then an answer;
 *   not timed, at rate 0
 * - memory: a line "= peak before": the process's largest resident memory so far, and before it opened the model, in
 *   bytes; then an answer
 *
 * tests/peers/peer.py draws the same ids and labels and sets the same head. Every step has other ids, so that rows of
 * the token table that no step has met yet become as rare as in training.
 */
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "train/head.h"
#include "train/optimizer.h"
#include "train/pass.h"
#include "train/schedule.h"
#include "train/trainable.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What the rates are does not change the work. */
static const struct schedule schedule = {.kind = SCHEDULE_LINEAR, .steps = 1000, .warmup = 60, .peak = 3e-5};
/* As tests/peers/torch_training.py has it. */
static const struct optimizer_settings settings = {
    .kind = OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01, .clip_norm = 1};

struct bench {
    struct model model;
    struct pass pass;
    struct trainables trainables;
    struct optimizer optimizer;
    bool bf16;
    size_t drawn; /* tokens so far */
    int32_t *ids, *labels;
    uint32_t *offset;
    size_t tokens, sequences; /* room */
    uint64_t before_bytes;
};

struct answer {
    uint64_t ns;
    double value;
    uint64_t multiply_adds;
};

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Not getrusage's figure: that one survives exec, and would be the parent's. */
static uint64_t peak_bytes(void) {
    char line[256];
    uint64_t kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) (void)sscanf(line, "VmHWM: %" SCNu64 " kB", &kib);
    if (file) fclose(file);
    return kib * 1024;
}

/* Token number `index` of the endless text, in other bits also its sequence's label: Fibonacci hashing. */
static uint64_t drawn_at(size_t index) {
    uint64_t x = ((uint64_t)index + 1) * UINT64_C(0x9E3779B97F4A7C15);
    return x ^ x >> 32;
}

/* The next B·T tokens. Id 0 is the padding, which has no gradient in the peer. */
static int draw(struct bench *bench, size_t B, size_t T, struct batch *batch) {
    int status = 0;
    if (B * T > bench->tokens || B > bench->sequences) {
        memory_release(bench->ids), memory_release(bench->labels), memory_release(bench->offset);
        bench->ids = bench->labels = NULL, bench->offset = NULL, bench->tokens = bench->sequences = 0;
        TRY(memory_take((void **)&bench->ids, B * T, sizeof *bench->ids));
        TRY(memory_take((void **)&bench->labels, B, sizeof *bench->labels));
        TRY(memory_take((void **)&bench->offset, B + 1, sizeof *bench->offset));
        bench->tokens = B * T, bench->sequences = B;
    }
    for (size_t i = 0; i < B * T; i++)
        bench->ids[i] = (int32_t)(1 + drawn_at(bench->drawn + i) % (bench->model.config.vocabulary - 1));
    for (size_t i = 0; i < B; i++) bench->labels[i] = (int32_t)(drawn_at(bench->drawn + i * T) >> 40 & 1);
    for (size_t i = 0; i <= B; i++) bench->offset[i] = (uint32_t)(i * T);
    bench->drawn += B * T;
    *batch = (struct batch){.sequences = B, .tokens = B * T, .ids = bench->ids, .offset = bench->offset};
out:
    return status;
}

/* One step at `rate` on the next batch: its loss, and the gradients' norm. */
static int step(struct bench *bench, const struct batch *batch, double dropout, double rate, double *loss,
                double *norm) {
    int status = 0;
    struct logit_loss labels = {.labels = bench->labels};
    struct pass_options options = {
        .dropout = dropout, .seed = 1, .step = bench->optimizer.step, .scale = 1, .first = true, .bf16 = bench->bf16};
    optimizer_touch(&bench->optimizer, bench->trainables.tokens, batch->ids, batch->tokens);
    TRY(pass_forward(&bench->pass, batch, &options));
    TRY(head_classify(&bench->pass, &labels, loss));
    TRY(pass_backward(&bench->pass));
    TRY(optimizer_step(&bench->optimizer, rate, norm));
out:
    return status;
}

static int run_train(struct bench *bench, size_t B, size_t T, size_t percent, struct answer *answer) {
    int status = 0;
    struct batch batch;
    double norm;
    TRY(draw(bench, B, T, &batch));
    uint64_t start = now_ns();
    double rate = schedule_rate(&schedule, bench->optimizer.step);
    TRY(step(bench, &batch, (double)percent / 100, rate, &answer->value, &norm));
    answer->ns = now_ns() - start;
    /* Each product of the forward pass has two in the backward pass: gradients at its input and of its matrix. Of the
     * last block, first tokens are read. */
    batch.read = READ_FIRST;
    answer->multiply_adds = 3 * model_multiply_adds(&bench->model, &batch);
out:
    return status;
}

static int run_gradients(struct bench *bench, size_t B, size_t T) {
    int status = 0;
    struct batch batch;
    double loss, norm;
    bench->drawn = 0;
    TRY(draw(bench, B, T, &batch));
    TRY(step(bench, &batch, 0, 0, &loss, &norm));
    printf("= %.9g\n= %.9g\n", loss, norm);
out:
    return status;
}

static int run_line(struct bench *bench, const char *line, struct answer *answer) {
    int status = 0;
    size_t a = 0, b = 0, c = 0;
    if (sscanf(line, "train %zu %zu %zu", &a, &b, &c) == 3 && a && b) TRY(run_train(bench, a, b, c, answer));
    else if (sscanf(line, "gradients %zu %zu", &a, &b) == 2 && a && b) TRY(run_gradients(bench, a, b));
    else if (strcmp(line, "memory") == 0) printf("= %" PRIu64 " %" PRIu64 "\n", peak_bytes(), bench->before_bytes);
    else FAIL(E_ARGUMENT, "unknown command: %s", line);
out:
    return status;
}

/* The encoder of `path` under a new head, whose values are a function of their places. */
static int open_classifier(struct model *model, const char *path) {
    int status = 0;
    struct model encoder = {0};
    TRY(model_open(&encoder, path, false));
    struct model_config config = encoder.config;
    config.classes = 2;
    config.model_heads = HEAD_CLASSIFICATION;
    TRY(model_create(model, &config, 1, 0.02));
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *own = &model->parameters[i];
        const struct parameter *other = model_parameter(&encoder, own->name);
        if (other) parameter_rows(other, 0, own->rows, own->value);
    }
    const struct linear *head = model_linear_find(model, "classifier");
    if (!head) FAIL(E_UNSUPPORTED, "%s: no classifier can be put on a %s model", path, config.family);
    for (size_t i = 0; i < head->rows * head->columns; i++) head->value[i] = (float)(0.02 * cos((double)i));
out:
    model_close(&encoder);
    return status;
}

int main(int count, char **arguments) {
    int status = 0;
    struct bench bench = {0};
    char line[256];
    if (count < 2) FAIL(E_ARGUMENT, "bench_training MODEL [f32|bf16 [THREADS]]");
    bench.bf16 = count > 2 && strcmp(arguments[2], "bf16") == 0;
    if (count > 2 && !bench.bf16 && strcmp(arguments[2], "f32") != 0)
        FAIL(E_UNSUPPORTED, "training in %s", arguments[2]);
    if (count > 3) threads_set(atoi(arguments[3]));
    kernels_open(UINT32_MAX);
    bench.before_bytes = peak_bytes();
    TRY(open_classifier(&bench.model, arguments[1]));
    TRY(model_gradients_open(&bench.model, HEAD_CLASSIFICATION));
    TRY(pass_open(&bench.pass, &bench.model, NULL));
    TRY(trainables_open(&bench.trainables, &bench.model, true, NULL, 0));
    TRY(optimizer_open(&bench.optimizer, &settings, &bench.trainables));
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        struct answer answer = {0};
        line[strcspn(line, "\n")] = 0;
        if (run_line(&bench, line, &answer) == 0)
            printf("%" PRIu64 " %" PRIu64 " 0 %.9g\n", answer.ns, answer.multiply_adds, answer.value);
        else printf("error %s\n", error_text());
        fflush(stdout);
    }
out:
    if (status) fprintf(stderr, "bench_training: %s\n", error_text());
    optimizer_close(&bench.optimizer);
    trainables_close(&bench.trainables);
    pass_close(&bench.pass);
    model_close(&bench.model);
    memory_release(bench.ids), memory_release(bench.labels), memory_release(bench.offset);
    return status != 0;
}
