/* qat through its contract: what is packed is what was trained, on three families; better than rounding afterwards;
 * bytes that depend on neither threads nor interruptions; what is evaluated; selection and refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "scratch_file.h"
#include "training_stage.h"

extern const struct technique technique_qat, technique_rtn, technique_finetune;

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static const struct {
    const char *family;
    enum train_objective objective;
} families[] = {{"bert", TRAIN_CLASSIFICATION}, {"gpt2", TRAIN_CAUSAL_LM}, {"llama", TRAIN_CAUSAL_LM}};
#define FAMILIES (sizeof families / sizeof *families)

struct bench {
    struct model model;
    struct small_task task, held_out;
    struct training_stage stage;
};

static void bench_open(struct bench *bench, size_t family) {
    enum train_objective objective = families[family].objective;
    small_task_model(&bench->model, families[family].family, objective, 1);
    small_task_open(&bench->task, objective, 400, 2);
    small_task_open(&bench->held_out, objective, 200, 3);
    bench->stage = (struct training_stage){.technique = &technique_qat, .model = &bench->model, .task = &bench->task};
}

static void bench_close(struct bench *bench) {
    model_close(&bench->model);
    small_task_close(&bench->task);
    small_task_close(&bench->held_out);
}

/* Of the artifact, packed bytes included. */
static void artifact_hash(const struct model *model, char hex[HASH_HEX]) {
    char path[128];
    scratch_file(path, ".safetensors", "");
    must(model_save(model, path, model->config.model_heads));
    must(hash_file(path, hex));
    scratch_remove(path);
}

/* The packed model computes what the model in training computed; sums in another order tip few roundings. Every way of
 * making scales, on every family. */
static void test_packed_is_trained(void **state) {
    static const char *const ways[][6] = {
        {"bits=8", "rate=0.003", "epochs=1", NULL},
        {"bits=8", "rate=0.003", "epochs=1", "weights=lsq", NULL},
        {"bits=4", "rate=0.003", "epochs=1", "group=32", NULL},
        {"bits=4", "rate=0.003", "epochs=1", "symmetric=false", NULL},
        {"bits=4", "rate=0.003", "epochs=1", "weights=lsq", NULL},
    };
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++)
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            struct bench bench;
            bench_open(&bench, f);
            must(training_stage_run(&bench.stage, ways[w]));
            double difference = training_stage_metric(&bench.stage, "packed_difference_frac");
            if (!(difference < 0.01)) fail_msg("%s, way %zu: %g", families[f].family, w, difference);
            for (size_t l = 0; l < bench.model.linear_count; l++) {
                const struct linear *linear = &bench.model.linears[l];
                assert_string_equal(linear->weight.format->name, linear->block < 0 ? "f32" : w < 2 ? "int8" : "int4");
                assert_false(linear->simulated);
            }
            assert_true(training_stage_metric(&bench.stage, "layers_packed") > 8);
            bench_close(&bench);
        }
}

/* Whether a row lies on the grid of a step. */
static bool on_grid(size_t count, const float *row, double step) {
    for (size_t n = 0; n < count; n++) {
        double code = (double)row[n] / step;
        if (fabs(code - rint(code)) > 0.01) return false;
    }
    return true;
}

/* Steps that are learned leave where they start, 2 mean|w| / √127; without a rate they stay there. */
static void test_steps_move(void **state) {
    static const char *const ways[][4] = {{"weights=lsq", "rate=0", "steps=20", NULL},
                                          {"weights=lsq", "rate=0.003", "steps=20", NULL}};
    (void)state;
    for (int moves = 0; moves < 2; moves++) {
        struct bench bench;
        struct model before;
        size_t rows = 0, stayed = 0;
        bench_open(&bench, 0);
        must(model_copy(&before, &bench.model, NULL));
        must(training_stage_run(&bench.stage, ways[moves]));
        for (size_t l = 0; l < before.linear_count; l++) {
            const struct linear *linear = &before.linears[l];
            const struct weight *weight = &bench.model.linears[l].weight;
            size_t N = linear->columns;
            if (linear->block < 0) continue;
            float *values = malloc(linear->rows * N * sizeof *values);
            assert_non_null(values);
            must(weight->format->unpack(&weight->shape, weight->packed, values));
            for (size_t r = 0; r < linear->rows; r++, rows++) {
                double mean = 0;
                for (size_t n = 0; n < N; n++) mean += fabs((double)linear->value[r * N + n]) / (double)N;
                stayed += on_grid(N, values + r * N, 2 * mean / sqrt(127));
            }
            free(values);
        }
        assert_true(rows > 0 && (moves ? 20 * stayed < rows : stayed == rows));
        model_close(&before);
        bench_close(&bench);
    }
}

/* With inputs that training did not round, or rounded by averages, the packed model differs by what that costs. */
static void test_other_inputs(void **state) {
    static const char *const ways[][5] = {
        {"activations=none", "rate=0.003", "epochs=1", NULL},
        {"activations=ema", "activation_decay=0.9", "rate=0.003", "epochs=1", NULL},
    };
    (void)state;
    for (size_t w = 0; w < 2; w++) {
        struct bench bench;
        bench_open(&bench, 0);
        must(training_stage_run(&bench.stage, ways[w]));
        double difference = training_stage_metric(&bench.stage, "packed_difference_frac");
        assert_true(difference > 1e-3 && difference < 0.1);
        bench_close(&bench);
    }
}

/* Train a copy of a model further. */
static void copy_after(const struct model *trained, const struct bench *bench, const struct technique *technique,
                       const char *const *settings, struct model *copy) {
    struct training_stage stage = {.technique = technique, .model = copy, .task = &bench->task};
    must(model_copy(copy, trained, NULL));
    must(training_stage_run(&stage, settings));
}

static double loss_after(const struct model *trained, const struct bench *bench, const char *const *settings) {
    struct model model;
    copy_after(trained, bench, &technique_qat, settings, &model);
    double loss = training_stage_loss(&model, &bench->held_out.examples);
    model_close(&model);
    return loss;
}

static void round_to_int4(struct model *model) {
    struct option_store store = {0};
    void *options = calloc(1, technique_rtn.options_bytes), *rtn = calloc(1, technique_rtn.state_bytes);
    must(option_defaults(technique_rtn.options, options, &store));
    must(option_set(option_find(technique_rtn.options, "bits"), options, "4", &store));
    must(option_set(option_find(technique_rtn.options, "group"), options, "32", &store));
    must(technique_rtn.apply(&(struct technique_context){.model = model}, rtn, options));
    option_store_close(&store);
    free(options), free(rtn);
}

/* A trained model goes on for one more epoch: in f32, rounded to int4 when that is done, or as int4 and int8 all along.
 * Learned steps are held against the steps that they started from: on groups this small that start is coarse, and a
 * short run need not bring them below rounding afterwards. */
static void test_better_than_rounding(void **state) {
    static const char *const finetune[] = {"rate=0.003", "epochs=3", NULL},
                             *const more[] = {"rate=0.001", "epochs=1", "dropout=0.1", NULL},
                             *const four[] = {"rate=0.001", "epochs=1", "dropout=0.1", "bits=4", "group=32", NULL},
                             *const learned[] = {"rate=0.001", "epochs=1",    "dropout=0.1", "bits=4",
                                                 "group=32",   "weights=lsq", NULL},
                             *const start[] = {"rate=0", "steps=1", "bits=4", "group=32", "weights=lsq", NULL},
                             *const eight[] = {"rate=0.001", "epochs=1", "dropout=0.1", NULL};
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        struct bench bench;
        struct model model;
        bench_open(&bench, f);
        bench.stage.technique = &technique_finetune;
        must(training_stage_run(&bench.stage, finetune));
        copy_after(&bench.model, &bench, &technique_finetune, more, &model);
        double whole = training_stage_loss(&model, &bench.held_out.examples);
        round_to_int4(&model);
        double after = training_stage_loss(&model, &bench.held_out.examples),
               within = loss_after(&bench.model, &bench, four), fine = loss_after(&bench.model, &bench, eight),
               lsq = loss_after(&bench.model, &bench, learned), lsq_start = loss_after(&bench.model, &bench, start);
        if (!(within <= after && fine <= 1.02 * whole && lsq < lsq_start))
            fail_msg("%s: f32 %g, rounded to int4 %g, trained in int4 %g, in int8 %g; by learned steps %g from %g",
                     families[f].family, whole, after, within, fine, lsq, lsq_start);
        model_close(&model);
        bench_close(&bench);
    }
}

static void hash_after(size_t family, const char *const *settings, int threads, char hash[HASH_HEX]) {
    struct bench bench;
    int before = threads_get();
    threads_set(threads);
    bench_open(&bench, family);
    must(training_stage_run(&bench.stage, settings));
    artifact_hash(&bench.model, hash);
    bench_close(&bench);
    threads_set(before);
}

static void test_same_bytes(void **state) {
    static const char *const ways[][5] = {
        {"rate=0.003", "steps=6", "dropout=0.1", NULL},
        {"rate=0.003", "steps=6", "bits=4", "weights=lsq", NULL},
        {"rate=0.003", "steps=6", "activations=ema", "micro_batch=8", NULL},
    };
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++)
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            char one[HASH_HEX], again[HASH_HEX], two[HASH_HEX];
            hash_after(f, ways[w], 1, one);
            hash_after(f, ways[w], 1, again);
            hash_after(f, ways[w], 2, two);
            assert_string_equal(one, again);
            assert_string_equal(one, two);
        }
}

/* Learned steps and averages are part of a checkpoint. */
static void test_goes_on(void **state) {
    static const char *const settings[] = {
        "rate=0.003", "steps=9", "weights=lsq", "bits=4", "activations=ema", "activation_decay=0.5", NULL};
    char folder[] = "/tmp/test_qat_XXXXXX", path[64], whole[HASH_HEX], again[HASH_HEX];
    struct bench bench;
    (void)state;
    assert_non_null(mkdtemp(folder));
    hash_after(0, settings, 1, whole);
    bench_open(&bench, 0);
    bench.stage.checkpoint_dir = folder;
    bench.stage.stop_at = 4;
    assert_int_equal(training_stage_run(&bench.stage, settings), E_INTERRUPTED);
    bench_close(&bench);
    bench_open(&bench, 0);
    bench.stage.checkpoint_dir = folder;
    must(training_stage_run(&bench.stage, settings));
    artifact_hash(&bench.model, again);
    bench_close(&bench);
    assert_string_equal(whole, again);
    snprintf(path, sizeof path, "%s/training.checkpoint", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void must_be_packed(void *context, const struct model *model) {
    size_t *seen = context;
    for (size_t l = 0; l < model->linear_count; l++)
        assert_int_equal(model->linears[l].value == NULL, model->linears[l].block >= 0);
    (*seen)++;
}

/* What is evaluated is the packed model, and the best of them is the one that it ends with. */
static void test_evaluates_packed(void **state) {
    static const char *const settings[] = {"rate=0.003", "steps=20", "evaluate_steps=5", "bits=4", "weights=lsq", NULL};
    struct bench bench;
    size_t seen = 0;
    (void)state;
    bench_open(&bench, 0);
    bench.stage.validation = &bench.held_out.examples;
    bench.stage.look = must_be_packed;
    bench.stage.context = &seen;
    must(training_stage_run(&bench.stage, settings));
    assert_int_equal(seen, 4);
    assert_true(training_stage_metric(&bench.stage, "best_score") ==
                training_stage_loss(&bench.model, &bench.held_out.examples));
    bench_close(&bench);
}

static void test_selection(void **state) {
    static const char *const settings[] = {"steps=2", "layers=[query, up]", "skip=[*layer.1*]", NULL};
    struct bench bench;
    (void)state;
    bench_open(&bench, 0);
    must(training_stage_run(&bench.stage, settings));
    for (size_t l = 0; l < bench.model.linear_count; l++) {
        const struct linear *linear = &bench.model.linears[l];
        bool wanted = linear->block == 0 && (linear->role == ROLE_QUERY || linear->role == ROLE_UP);
        assert_int_equal(linear->value == NULL, wanted);
    }
    assert_true(training_stage_metric(&bench.stage, "layers_packed") == 2);
    bench_close(&bench);
}

static void refused(const char *const *settings, const char *words) {
    struct bench bench;
    bench_open(&bench, 0);
    assert_int_equal(training_stage_run(&bench.stage, settings), E_UNSUPPORTED);
    if (strstr(error_text(), words) == NULL) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    bench_close(&bench);
}

static void test_refusals(void **state) {
    static const char *const group[] = {"group=64", NULL}, *const odd[] = {"symmetric=false", NULL},
                             *const learned[] = {"bits=4", "symmetric=false", "weights=lsq", NULL},
                             *const pooler[] = {"layers=[pooler]", NULL}, *const nobody[] = {"layers=[nobody]", NULL},
                             *const text[] = {"objective=masked_lm", NULL}, *const brief[] = {"steps=1", NULL};
    struct bench bench;
    (void)state;
    refused(group, "group must be 0");
    refused(odd, "symmetric only");
    refused(learned, "learned scales");
    refused(pooler, "outside the blocks");
    refused(nobody, "'nobody'");
    refused(text, "masked-LM");
    bench_open(&bench, 0);
    must(training_stage_run(&bench.stage, brief));
    assert_int_equal(training_stage_run(&bench.stage, brief), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "is packed as int8 already"));
    bench_close(&bench);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1); /* so little work is done sooner by one */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed_is_trained), cmocka_unit_test(test_steps_move),
        cmocka_unit_test(test_other_inputs),      cmocka_unit_test(test_better_than_rounding),
        cmocka_unit_test(test_same_bytes),        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_evaluates_packed),  cmocka_unit_test(test_selection),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
