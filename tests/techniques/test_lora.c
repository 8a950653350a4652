/* lora and qlora through their contract: what starts as nothing, what stays frozen, learning on three families, bytes
 * that depend on neither threads nor interruptions, what is evaluated, both ways to end over a packed base, refusals;
 * and what every technique that trains makes of the mark of pruned layers.
 */
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
#include "base/threads.h"
#include "kernels/kernels.h"
#include "training_stage.h"

extern const struct technique technique_finetune, technique_lora, technique_qat, technique_qlora, technique_rtn;

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

static const struct {
    const char *family;
    enum train_objective objective;
} families[] = {{"bert", TRAIN_CLASSIFICATION}, {"gpt2", TRAIN_CAUSAL_LM}, {"llama", TRAIN_CAUSAL_LM}};
#define FAMILIES (sizeof families / sizeof *families)

/* A model, a copy of it as it was, a task, and held-out examples of it. */
struct bench {
    struct model model, before;
    struct small_task task, held_out;
    struct training_stage stage;
};

static void bench_open(struct bench *bench, size_t family, const struct technique *technique) {
    enum train_objective objective = families[family].objective;
    small_task_model(&bench->model, families[family].family, objective, 1);
    small_task_open(&bench->task, objective, 400, 2);
    small_task_open(&bench->held_out, objective, 200, 3);
    must(model_copy(&bench->before, &bench->model, NULL));
    bench->stage = (struct training_stage){.technique = technique, .model = &bench->model, .task = &bench->task};
}

static void bench_close(struct bench *bench) {
    model_close(&bench->model);
    model_close(&bench->before);
    small_task_close(&bench->task);
    small_task_close(&bench->held_out);
}

static bool same_values(const struct parameter *a, const struct parameter *b) {
    return memcmp(a->value, b->value, a->rows * a->columns * sizeof(float)) == 0;
}

/* ---- lora -------------------------------------------------------------------------------------------------- */

/* Without a step of any size B stays 0, and merging it changes no bit of the model. */
static void test_nothing_learned(void **state) {
    static const char *const settings[] = {"rate=0", "steps=2", "weight_decay=0.1", NULL};
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        struct bench bench;
        char before[65], after[65];
        bench_open(&bench, f, &technique_lora);
        small_model_hash(&bench.before, before);
        must(training_stage_run(&bench.stage, settings));
        small_model_hash(&bench.model, after);
        assert_string_equal(before, after);
        bench_close(&bench);
    }
}

/* Query and value move, the task's head too; everything else keeps its bits. Fewer nats on examples never seen. */
static void test_learns(void **state) {
    static const char *const settings[] = {"rate=0.01", "epochs=3", "rank=4", "lora_dropout=0.05", NULL};
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        struct bench bench;
        size_t moved = 0;
        bench_open(&bench, f, &technique_lora);
        must(training_stage_run(&bench.stage, settings));
        double before = training_stage_loss(&bench.before, &bench.held_out.examples),
               after = training_stage_loss(&bench.model, &bench.held_out.examples);
        if (!(after < 0.95 * before)) fail_msg("%s: %g nats, before %g", families[f].family, after, before);
        assert_int_equal(bench.model.parameter_count, bench.before.parameter_count);
        for (size_t i = 0; i < bench.model.parameter_count; i++) {
            const struct parameter *a = &bench.model.parameters[i], *b = &bench.before.parameters[i];
            bool learns = false;
            for (size_t l = 0; l < bench.model.linear_count; l++) {
                const struct linear *linear = &bench.model.linears[l];
                bool head = linear->role == ROLE_POOLER || linear->role == ROLE_CLASSIFIER;
                if (linear->parameter == a) learns = head || linear->role == ROLE_QUERY || linear->role == ROLE_VALUE;
                if (linear->bias_parameter == a) learns = head;
            }
            if (same_values(a, b) == learns)
                fail_msg("%s: %s %s", families[f].family, a->name, learns ? "stays" : "moved");
            moved += learns;
        }
        assert_true(moved >= 4);
        bench_close(&bench);
    }
}

static void test_head_stays(void **state) {
    static const char *const settings[] = {"rate=0.01", "steps=5", "train_head=false", "layers=[up]", NULL};
    struct bench bench;
    (void)state;
    bench_open(&bench, 0, &technique_lora);
    must(training_stage_run(&bench.stage, settings));
    for (size_t l = 0; l < bench.model.linear_count; l++)
        assert_int_equal(same_values(bench.model.linears[l].parameter, bench.before.linears[l].parameter),
                         bench.model.linears[l].role != ROLE_UP);
    /* Two layers of (48,32), rank 8. */
    assert_true(training_stage_metric(&bench.stage, "trained_values") == 2 * 8 * (48 + 32));
    assert_true(training_stage_metric(&bench.stage, "trained_frac") < 0.1);
    bench_close(&bench);
}

static void hash_after(const struct technique *technique, size_t family, const char *const *settings, int threads,
                       char hash[65]) {
    struct bench bench;
    int before = threads_get();
    threads_set(threads);
    bench_open(&bench, family, technique);
    must(training_stage_run(&bench.stage, settings));
    small_model_hash(&bench.model, hash);
    bench_close(&bench);
    threads_set(before);
}

static void test_same_bytes(void **state) {
    static const char *const settings[] = {"rate=0.01", "steps=6", "rank=4", "lora_dropout=0.1", NULL},
                             *const other[] = {"rate=0.01", "steps=6", "rank=4", "lora_dropout=0.1", "alpha=8", NULL};
    char one[65], again[65], two[65], scaled[65];
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        hash_after(&technique_lora, f, settings, 1, one);
        hash_after(&technique_lora, f, settings, 1, again);
        hash_after(&technique_lora, f, settings, 2, two);
        hash_after(&technique_lora, f, other, 1, scaled);
        assert_string_equal(one, again);
        assert_string_equal(one, two);
        assert_string_not_equal(one, scaled);
        hash_after(&technique_qlora, f, settings, 1, one);
        hash_after(&technique_qlora, f, settings, 2, two);
        assert_string_equal(one, two);
    }
}

/* A run that was stopped goes on, updates and all, to the bytes of one that was not. */
static void test_goes_on(void **state) {
    static const char *const settings[] = {"rate=0.01", "steps=9", "lora_dropout=0.1", NULL};
    char folder[] = "/tmp/test_lora_XXXXXX", path[64], whole[65], again[65];
    struct bench bench;
    (void)state;
    assert_non_null(mkdtemp(folder));
    hash_after(&technique_lora, 0, settings, 1, whole);
    bench_open(&bench, 0, &technique_lora);
    bench.stage.checkpoint_dir = folder;
    bench.stage.stop_at = 4;
    assert_int_equal(training_stage_run(&bench.stage, settings), E_INTERRUPTED);
    bench_close(&bench);
    bench_open(&bench, 0, &technique_lora);
    bench.stage.checkpoint_dir = folder;
    must(training_stage_run(&bench.stage, settings));
    small_model_hash(&bench.model, again);
    bench_close(&bench);
    assert_string_equal(whole, again);
    snprintf(path, sizeof path, "%s/training.checkpoint", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* What is evaluated in the middle is the model with its updates: the best score is that of the model it ends with. */
static void test_evaluates_merged(void **state) {
    static const char *const settings[] = {"rate=0.01", "steps=20", "evaluate_steps=10", NULL};
    (void)state;
    for (int packed = 0; packed < 2; packed++) {
        struct bench bench;
        bench_open(&bench, 0, packed ? &technique_qlora : &technique_lora);
        bench.stage.validation = &bench.held_out.examples;
        must(training_stage_run(&bench.stage, settings));
        assert_int_equal(bench.stage.scored, packed ? 5 : 2); /* and before training, merged, repacked */
        double best = training_stage_metric(&bench.stage, "best_score");
        assert_true(best < 0.95 * training_stage_loss(&bench.before, &bench.held_out.examples));
        double end = packed ? training_stage_metric(&bench.stage, "score_merged")
                            : training_stage_loss(&bench.model, &bench.held_out.examples);
        assert_true(best == end);
        bench_close(&bench);
    }
}

/* ---- qlora ------------------------------------------------------------------------------------------------- */

static void check_formats(const struct model *model, const char *format, size_t group) {
    for (size_t l = 0; l < model->linear_count; l++) {
        const struct weight *weight = &model->linears[l].weight;
        assert_string_equal(weight->format->name, model->linears[l].block >= 0 ? format : "f32");
        if (model->linears[l].block >= 0) assert_int_equal(weight->shape.group, group);
    }
}

/* Both ways to end, from the same training. The scores told are those of the models; in f32 nothing learned is lost. */
static void test_ends(void **state) {
    static const char *const repack[] = {"rate=0.01", "epochs=2", "group=32", NULL}, *const f32[] = {
                                                                                         "rate=0.01", "epochs=2",
                                                                                         "group=32", "merge=f32", NULL};
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        double merged[2], repacked[2], base[2];
        for (int whole = 0; whole < 2; whole++) {
            struct bench bench;
            bench_open(&bench, f, &technique_qlora);
            bench.stage.validation = &bench.held_out.examples;
            must(training_stage_run(&bench.stage, whole ? f32 : repack));
            check_formats(&bench.model, whole ? "f32" : "int4", whole ? 0 : 32);
            base[whole] = training_stage_metric(&bench.stage, "score_base");
            merged[whole] = training_stage_metric(&bench.stage, "score_merged");
            repacked[whole] = training_stage_metric(&bench.stage, "score_repacked");
            double now = training_stage_loss(&bench.model, &bench.held_out.examples);
            assert_true(now == (whole ? merged[1] : repacked[0]));
            assert_true(training_stage_metric(&bench.stage, "update_relative_frac") > 0.01);
            double error = training_stage_metric(&bench.stage, "repack_relative_error_frac");
            assert_true(error > 0.01 && error < 0.2);
            bench_close(&bench);
        }
        assert_true(base[0] == base[1] && merged[0] == merged[1] && repacked[0] == repacked[1]);
        if (!(merged[0] < 0.95 * base[0])) fail_msg("%s: %g of %g", families[f].family, merged[0], base[0]);
    }
}

/* A base that an earlier stage packed is the base as it is, in its own format; untouched layers keep their bytes. */
static void test_packed_before(void **state) {
    static const char *const settings[] = {"rate=0.01", "steps=8", "layers=[query, value]", "bits=4", NULL};
    struct bench bench;
    struct option_store store = {0};
    (void)state;
    bench_open(&bench, 0, &technique_qlora);
    void *options = calloc(1, technique_rtn.options_bytes), *rtn = calloc(1, technique_rtn.state_bytes);
    must(option_defaults(technique_rtn.options, options, &store));
    struct technique_context context = {.model = &bench.model};
    must(technique_rtn.apply(&context, rtn, options));
    model_close(&bench.before);
    must(model_copy(&bench.before, &bench.model, NULL));
    must(training_stage_run(&bench.stage, settings));
    for (size_t l = 0; l < bench.model.linear_count; l++) {
        const struct linear *linear = &bench.model.linears[l];
        const struct weight *now = &linear->weight, *before = &bench.before.linears[l].weight;
        bool updated = linear->role == ROLE_QUERY || linear->role == ROLE_VALUE;
        assert_string_equal(now->format->name, linear->block >= 0 ? "int8" : "f32");
        if (linear->block < 0) continue;
        assert_int_equal(now->packed_bytes, before->packed_bytes);
        assert_int_equal(memcmp(now->packed, before->packed, now->packed_bytes) != 0, updated);
    }
    option_store_close(&store);
    free(options), free(rtn);
    bench_close(&bench);
}

/* Layers whose inputs an earlier stage quantizes by ranges of its own, or without outliers, keep that; a scale that
 * was chosen from data is not chosen anew. */
static void test_keeps_activations(void **state) {
    static const char *const settings[] = {"rate=0.01", "steps=2", NULL};
    static const struct activation_quantizer quantizers[] = {
        {.range = ACTIVATION_STATIC, .asymmetric = true, .scale = 0.0625f, .zero = -3},
        {.range = ACTIVATION_PER_TENSOR, .asymmetric = true, .reduced = true},
        {.outlier = 6},
    };
    (void)state;
    for (size_t q = 0; q < sizeof quantizers / sizeof *quantizers; q++) {
        struct bench bench;
        struct option_store store = {0};
        bench_open(&bench, 0, &technique_qlora);
        void *options = calloc(1, technique_rtn.options_bytes), *rtn = calloc(1, technique_rtn.state_bytes);
        must(option_defaults(technique_rtn.options, options, &store));
        struct technique_context context = {.model = &bench.model};
        must(technique_rtn.apply(&context, rtn, options));
        for (size_t l = 0; l < bench.model.linear_count; l++)
            if (bench.model.linears[l].block >= 0)
                must(linear_set_activation(&bench.model, &bench.model.linears[l], &quantizers[q]));
        bench.stage.validation = &bench.held_out.examples;
        must(training_stage_run(&bench.stage, settings));
        for (size_t l = 0; l < bench.model.linear_count; l++)
            if (bench.model.linears[l].block >= 0)
                assert_true(activation_same(&bench.model.linears[l].weight.activation, &quantizers[q]));
        assert_true(training_stage_metric(&bench.stage, "score_repacked") ==
                    training_stage_loss(&bench.model, &bench.held_out.examples));
        option_store_close(&store);
        free(options), free(rtn);
        bench_close(&bench);
    }
}

/* No step of any size: rounding what is on the grid already gives the same layers, and every score is the base's. */
static void test_repacks_the_same(void **state) {
    static const char *const settings[] = {"rate=0", "steps=1", "group=32", NULL}, *const free_zero[] = {
                                                                                       "rate=0", "steps=1", "group=32",
                                                                                       "symmetric=false", NULL};
    (void)state;
    for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
        struct bench bench;
        bench_open(&bench, 0, &technique_qlora);
        bench.stage.validation = &bench.held_out.examples;
        must(training_stage_run(&bench.stage, asymmetric ? free_zero : settings));
        assert_true(training_stage_metric(&bench.stage, "update_relative_frac") == 0);
        /* An asymmetric group whose rounded values do not reach both ends of its grid gets a slightly finer one. */
        assert_true(training_stage_metric(&bench.stage, "repack_relative_error_frac") <= (asymmetric ? 1e-2 : 0));
        assert_true(fabs(training_stage_metric(&bench.stage, "score_repacked") -
                         training_stage_metric(&bench.stage, "score_base")) < 1e-3);
        bench_close(&bench);
    }
}

/* ---- pruned layers ----------------------------------------------------------------------------------------- */

/* Zeros that training fills in are no saving that a sparse format would bring: the layer loses its mark. Where nothing
 * moved, or nothing was trained, it stays. */
static void test_marks(void **state) {
    static const char *const moves[] = {"rate=0.01", "steps=4", NULL}, *const stays[] = {"rate=0", "steps=1", NULL},
                             *const query[] = {"rate=0.01", "steps=4", "layers=[query]", NULL},
                             *const merged[] = {"rate=0.01", "steps=4", "layers=[query]", "merge=f32", NULL};
    const struct {
        const struct technique *technique;
        const char *const *settings;
        enum linear_role role; /* that loses its mark; ROLE_HEAD: every one */
    } cases[] = {{&technique_finetune, moves, ROLE_HEAD},
                 {&technique_qat, moves, ROLE_HEAD},
                 {&technique_lora, query, ROLE_QUERY},
                 {&technique_qlora, merged, ROLE_QUERY}};
    (void)state;
    for (size_t c = 0; c < 2 * sizeof cases / sizeof *cases; c++) {
        struct bench bench;
        bool still = c % 2;
        bench_open(&bench, 0, cases[c / 2].technique);
        for (size_t l = 0; l < bench.model.linear_count; l++) {
            struct linear *linear = &bench.model.linears[l];
            if (linear->block < 0) continue;
            for (size_t i = 0; i < linear->rows * linear->columns; i += 2) linear->value[i] = 0;
            linear->simulated = true;
        }
        must(training_stage_run(&bench.stage, still ? stays : cases[c / 2].settings));
        for (size_t l = 0; l < bench.model.linear_count; l++) {
            const struct linear *linear = &bench.model.linears[l];
            bool lost = !still && (cases[c / 2].role == ROLE_HEAD || cases[c / 2].role == linear->role);
            if (linear->block >= 0 && linear->simulated == lost)
                fail_msg("%s: %s %s its mark", cases[c / 2].technique->name, linear->name, lost ? "keeps" : "lost");
        }
        bench_close(&bench);
    }
}

/* ---- refusals ---------------------------------------------------------------------------------------------- */

static void refused(const struct technique *technique, const char *const *settings, const char *words) {
    struct bench bench;
    bench_open(&bench, 0, technique);
    assert_int_equal(training_stage_run(&bench.stage, settings), E_UNSUPPORTED);
    if (strstr(error_text(), words) == NULL) fail_msg("expected \"%s\" in \"%s\"", words, error_text());
    bench_close(&bench);
}

static void test_refusals(void **state) {
    static const char *const rank[] = {"rank=33", NULL}, *const pooler[] = {"layers=[pooler]", NULL},
                             *const nobody[] = {"layers=[nobody]", NULL}, *const group[] = {"bits=8", "group=64", NULL},
                             *const odd[] = {"bits=8", "symmetric=false", NULL},
                             *const text[] = {"objective=causal_lm", NULL};
    static const char *const brief[] = {"steps=1", NULL};
    struct bench bench;
    (void)state;
    refused(&technique_lora, rank, "rank 33 is above the smaller side");
    refused(&technique_lora, pooler, "outside the blocks");
    refused(&technique_lora, nobody, "'nobody'");
    refused(&technique_lora, text, "causal-LM");
    refused(&technique_qlora, rank, "rank 33 is above the smaller side");
    refused(&technique_qlora, pooler, "outside the blocks");
    refused(&technique_qlora, group, "group must be 0");
    refused(&technique_qlora, odd, "symmetric only");
    bench_open(&bench, 0, &technique_qlora);
    must(training_stage_run(&bench.stage, brief));
    bench.stage.technique = &technique_lora;
    assert_int_equal(training_stage_run(&bench.stage, NULL), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "qlora updates packed layers"));
    bench_close(&bench);
}

int main(void) {
    kernels_open(test_cpu_mask());
    threads_set(1); /* so little work is done sooner by one */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_learned),
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_head_stays),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_evaluates_merged),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_packed_before),
        cmocka_unit_test(test_keeps_activations),
        cmocka_unit_test(test_repacks_the_same),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
