/* Running over calibration examples, and factors moved between layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "calibrate/calibrate.h"
#include "calibrate/fold.h"
#include "small_task.h"

static void must(int status) {
    if (status < 0) fail_msg("%s", error_text());
}

/* ---- the run ------------------------------------------------------------------------------------------ */

struct seen {
    const struct model *model;
    size_t inputs[64], rows[64], batches, tokens, sequences;
    double sum[64];
    float most[64]; /* of layer 0 */
    int answer;
    double fraction;
    int32_t ids[4096];
};

static int see(void *context, size_t linear, const float *x, size_t T) {
    struct seen *seen = context;
    size_t N = seen->model->linears[linear].columns;
    seen->inputs[linear]++;
    seen->rows[linear] += T;
    for (size_t i = 0; i < T * N; i++) seen->sum[linear] += fabs((double)x[i]);
    if (linear == 0) channel_absmax(T, N, x, seen->most);
    return seen->answer;
}

static int see_batch(void *context, const struct model *view, const struct batch *batch, struct workspace *workspace,
                     const struct model_output *output, double fraction) {
    struct seen *seen = context;
    assert_true(view != seen->model && view->prepared && workspace && output->hidden);
    memcpy(seen->ids + seen->tokens, batch->ids, batch->tokens * sizeof *batch->ids);
    seen->batches++;
    seen->tokens += batch->tokens;
    seen->sequences += batch->sequences;
    assert_true(fraction > seen->fraction && fraction <= 1);
    seen->fraction = fraction;
    return 0;
}

static int run(const struct model *model, const struct examples *examples, const struct calibration_plan *plan,
               struct seen *seen) {
    struct calibration_visitor visitor = {.input = see, .batch = see_batch, .context = seen};
    int answer = seen->answer;
    *seen = (struct seen){.model = model, .answer = answer};
    return calibration_run(model, examples, plan, &visitor);
}

static void test_run(void **state) {
    struct model model;
    struct small_task task;
    static struct seen seen, again;
    struct calibration_plan plan = {.examples = 21, .batch = 5, .seed = 3};
    (void)state;
    small_task_model(&model, "llama", TRAIN_CAUSAL_LM, 1);
    small_task_open(&task, TRAIN_CAUSAL_LM, 40, 2);
    must(run(&model, &task.examples, &plan, &seen));
    assert_true(!model.prepared); /* the model itself was not touched */
    assert_int_equal(seen.batches, 5);
    assert_int_equal(seen.sequences, 21);
    assert_true(seen.fraction == 1);
    for (size_t i = 0; i < model.linear_count; i++) {
        enum linear_role role = model.linears[i].role;
        bool follows = role == ROLE_KEY || role == ROLE_VALUE || role == ROLE_UP;
        bool shown = !follows && model.linears[i].block >= 0; /* the language-model head is not run */
        assert_int_equal(seen.inputs[i], shown ? 5 : 0);
        assert_int_equal(seen.rows[i], shown ? seen.tokens : 0);
        assert_int_equal(model.linears[calibration_leader(&model, i)].role, role == ROLE_UP ? ROLE_GATE
                                                                            : follows       ? ROLE_QUERY
                                                                                            : role);
        assert_int_equal(model.linears[calibration_leader(&model, i)].block, model.linears[i].block);
    }
    int before = threads_get();
    threads_set(before == 3 ? 2 : 3);
    must(run(&model, &task.examples, &plan, &again));
    threads_set(before);
    assert_memory_equal(seen.sum, again.sum, sizeof seen.sum);
    assert_memory_equal(seen.most, again.most, sizeof seen.most);
    assert_memory_equal(seen.ids, again.ids, seen.tokens * sizeof *seen.ids);
    plan.seed = 4; /* other examples */
    must(run(&model, &task.examples, &plan, &again));
    assert_true(seen.sum[0] != again.sum[0]);
    plan = (struct calibration_plan){.max_tokens = 3};
    must(run(&model, &task.examples, &plan, &again));
    assert_int_equal(again.sequences, 40);
    assert_int_equal(again.tokens, 120);
    assert_int_equal(again.batches, 3);
    again.answer = E_LIMIT; /* what a visitor says ends it */
    assert_int_equal(run(&model, &task.examples, &plan, &again), E_LIMIT);
    assert_int_equal(again.inputs[0], 1);
    assert_int_equal(again.batches, 0);
    again.answer = 0;
    struct examples none = {0};
    assert_int_equal(run(&model, &none, &plan, &again), E_ARGUMENT);
    task.base.ids[task.base.offset[7]] = 97;
    assert_int_equal(run(&model, &task.examples, &plan, &again), E_SHAPE);
    small_task_close(&task);
    model_close(&model);
}

static void test_channels(void **state) {
    enum { T = 37, N = 133 };
    static float x[T * N], most[N];
    static double sum[N];
    (void)state;
    for (size_t i = 0; i < T * N; i++) x[i] = (float)(random_uniform_at(9, 9, i) - 0.7);
    most[5] = 3;
    sum[6] = 100;
    channel_absmax(T, N, x, most);
    channel_add(T, N, x, sum);
    for (size_t n = 0; n < N; n++) {
        double largest = n == 5 ? 3 : 0, total = n == 6 ? 100 : 0;
        for (size_t t = 0; t < T; t++) {
            largest = fmax(largest, fabs((double)x[t * N + n]));
            total += (double)x[t * N + n];
        }
        assert_true((double)most[n] == largest && sum[n] == total);
    }
}

/* ---- factors ------------------------------------------------------------------------------------------ */

/* Hidden states of every token, and logits where there are classes. */
static float *outputs(const struct model *model, size_t *count) {
    struct small_batch batch;
    struct workspace workspace = {0};
    struct model_output output;
    struct model view;
    struct model_config config = model->config;
    static const size_t lengths[] = {7, 1, 12, 5};
    if (!config.token_types) config.token_types = 1;
    if (!config.classes) config.classes = 1;
    small_batch_new(&batch, &config, lengths, 4, 11);
    must(model_view(&view, model, model->config.model_heads));
    must(model_prepare(&view, GEMM_BUILTIN));
    must(model_forward(&view, &batch.batch, NULL, &workspace, &output));
    size_t hidden = batch.batch.tokens * config.width, logits = output.logits ? 4 * config.classes : 0;
    float *values = malloc((hidden + logits) * sizeof *values);
    assert_non_null(values);
    memcpy(values, output.hidden, hidden * sizeof *values);
    if (logits) memcpy(values + hidden, output.logits, logits * sizeof *values);
    *count = hidden + logits;
    workspace_close(&workspace);
    model_close(&view);
    small_batch_free(&batch);
    return values;
}

static double relative_change(const float *before, const float *after, size_t count) {
    double largest = 0, scale = 0;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)before[i] - (double)after[i]));
        scale = fmax(scale, fabs((double)before[i]));
    }
    return largest / scale;
}

static void random_factors(float *factor, size_t count, uint64_t seed) {
    for (size_t i = 0; i < count; i++) factor[i] = (float)exp(4 * random_uniform_at(seed, 5, i) - 2);
}

/* Gains and biases that are not those of a new model. */
static void shake(struct model *model) {
    for (size_t i = 0; i < model->parameter_count; i++) {
        struct parameter *parameter = &model->parameters[i];
        for (size_t k = 0; parameter->kind == PARAMETER_VECTOR && k < parameter->columns; k++)
            parameter->value[k] += (float)(0.4 * random_uniform_at(i, 6, k) - 0.2);
    }
}

/* A model of a family with two query heads per key head where it may have them; `sites` exact sites of a block. */
static void check_family(const char *family, bool grouped, bool post_norm, const char *expected) {
    struct model_config config = {0};
    struct model model;
    struct fold_site sites[2 * FOLD_KINDS];
    char found[FOLD_KINDS + 1] = "";
    size_t count;
    must(model_config_family(&config, family));
    config.layers = 2;
    config.width = 64;
    config.heads = config.key_value_heads = 4;
    if (grouped) config.key_value_heads = 2;
    config.head_width = 16;
    config.feed_forward = 48;
    config.vocabulary = 97;
    config.positions = 24;
    if (post_norm) config.norm_first = config.final_norm = false;
    config.classes = strcmp(family, "bert") == 0 || strcmp(family, "distilbert") == 0 ? 3 : 0;
    config.model_heads = config.classes ? HEAD_CLASSIFICATION : HEAD_CAUSAL_LM;
    must(model_create(&model, &config, 5, 0.15));
    shake(&model);
    fold_sites(&model, sites);
    float *before = outputs(&model, &count);
    for (size_t i = 0; i < 2 * FOLD_KINDS; i++) {
        float factor[64];
        assert_int_equal(sites[i].block, i / FOLD_KINDS);
        assert_true(sites[i].channels <= 64);
        if (i < FOLD_KINDS) found[i] = sites[i].reason ? '-' : '+';
        if (sites[i].reason) continue;
        must(fold_check(&model, &sites[i]));
        random_factors(factor, sites[i].channels, i);
        fold_apply(&model, &sites[i], factor);
        size_t same;
        float *after = outputs(&model, &same);
        double change = relative_change(before, after, count);
        if (!(change < 1e-5))
            fail_msg("%s, %s of block %zu: outputs changed by %g", family, fold_kind_name(sites[i].kind),
                     sites[i].block, change);
        assert_true(change > 0); /* something was done */
        free(after);
    }
    assert_string_equal(found, expected);
    free(before);
    model_close(&model);
}

static void test_families(void **state) {
    (void)state;
    /* in order: first norm, value, second norm, up */
    check_family("bert", false, false, "-+--");
    check_family("distilbert", false, false, "-+--");
    check_family("gpt2", false, false, "+++-");
    check_family("opt", false, false, "++++");
    check_family("opt", false, true, "-+-+");
    check_family("llama", false, false, "++++");
    check_family("llama", true, false, "++++");
    check_family("qwen2", true, false, "++++");
    check_family("mistral", true, false, "++++");
}

/* What is measured of weights and activations goes with the channel whose factor changes it. */
static void test_absmax(void **state) {
    struct model_config config = {0};
    struct model model;
    struct fold_site sites[FOLD_KINDS];
    (void)state;
    must(model_config_family(&config, "llama"));
    config.layers = 1;
    config.width = 64;
    config.heads = 4;
    config.key_value_heads = 2;
    config.head_width = 16;
    config.feed_forward = 48;
    config.vocabulary = 97;
    config.positions = 24;
    config.model_heads = HEAD_CAUSAL_LM;
    must(model_create(&model, &config, 5, 0.15));
    fold_sites(&model, sites);
    for (size_t i = 0; i < FOLD_KINDS; i++) {
        float factor[64], before[64], after[64], columns[64], most[64];
        random_factors(factor, sites[i].channels, i);
        fold_consumer_absmax(&model, &sites[i], before);
        fold_apply(&model, &sites[i], factor);
        fold_consumer_absmax(&model, &sites[i], after);
        for (size_t c = 0; c < sites[i].channels; c++)
            assert_true(fabsf(after[c] - before[c] * factor[c]) <= 1e-6f * after[c]);
        for (size_t n = 0; n < sites[i].columns; n++) columns[n] = (float)(n + 1);
        fold_channel_absmax(&model, &sites[i], columns, most);
        for (size_t c = 0; c < sites[i].channels; c++) /* of a head pair, the later one's */
            assert_true(most[c] == (float)(sites[i].kind == FOLD_VALUE ? c / 16 * 32 + 16 + c % 16 + 1 : c + 1));
        if (sites[i].kind != FOLD_VALUE && sites[i].kind != FOLD_UP) continue;
        fold_source_absmax(&model, &sites[i], before);
        fold_apply(&model, &sites[i], factor);
        fold_source_absmax(&model, &sites[i], after);
        for (size_t c = 0; c < sites[i].channels; c++)
            assert_true(fabsf(after[c] * factor[c] - before[c]) <= 1e-6f * before[c]);
    }
    model_close(&model);
}

static void test_packed(void **state) {
    struct model model;
    struct fold_site sites[2 * FOLD_KINDS];
    float scale[64] = {0};
    struct weight_grid grid = {.scale = scale, .groups = 1};
    (void)state;
    small_task_model(&model, "opt", TRAIN_CAUSAL_LM, 1);
    fold_sites(&model, sites);
    struct linear *down = &model.linears[sites[FOLD_UP].consumer[0]];
    must(weight_grid_minmax(weight_format_find("int8"), &down->weight.shape, down->value, &grid));
    must(linear_pack(&model, down, weight_format_find("int8"), 0, true, &grid));
    assert_int_equal(fold_check(&model, &sites[FOLD_UP]), E_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "fc2 is packed as int8"));
    must(fold_check(&model, &sites[FOLD_VALUE]));
    model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),    cmocka_unit_test(test_channels), cmocka_unit_test(test_families),
        cmocka_unit_test(test_absmax), cmocka_unit_test(test_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
