/* Heads with a teacher: a vocabulary so large that rows go through in several tiles, with the teacher's logits held
 * whole, as its best tokens, or asked tile by tile; and a teacher that fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "small_model.h"
#include "train/head.h"

#define V 100000 /* of which 32 MiB hold 83 rows */
#define T 128

struct setting {
    struct model model;
    struct pass pass;
    struct small_batch batch;
    uint32_t rows[T];
    int32_t labels[T];
    float *teacher; /* (T,V) */
    uint32_t *ids;
};

static void setting_open(struct setting *setting) {
    struct model_config config;
    struct random random;
    const size_t length = T;
    memset(setting, 0, sizeof *setting);
    assert_int_equal(model_config_family(&config, "gpt2"), 0);
    config.layers = 1;
    config.width = config.feed_forward = 8;
    config.heads = config.key_value_heads = 1;
    config.head_width = 8;
    config.vocabulary = V;
    config.positions = T;
    config.model_heads = HEAD_CAUSAL_LM;
    assert_int_equal(model_create(&setting->model, &config, 1, 0.3), 0);
    config.token_types = config.classes = 1;
    small_batch_new(&setting->batch, &config, &length, 1, 2);
    setting->batch.batch.token_types = NULL;
    assert_int_equal(model_gradients_open(&setting->model, HEAD_CAUSAL_LM), 0);
    assert_int_equal(pass_open(&setting->pass, &setting->model, NULL), 0);
    setting->teacher = malloc((size_t)T * V * sizeof(float));
    setting->ids = malloc((size_t)T * V * sizeof(uint32_t));
    random_open(&random, 3, 4);
    for (size_t i = 0; i < (size_t)T * V; i++) {
        setting->teacher[i] = (float)(random_u32(&random) % 1000) * 0.005f;
        setting->ids[i] = (uint32_t)(i % V);
    }
    for (size_t i = 0; i < T; i++) {
        setting->rows[i] = (uint32_t)i;
        setting->labels[i] = i % 5 ? (int32_t)(i * 700) : LABEL_IGNORED;
    }
}

static void setting_close(struct setting *setting) {
    pass_close(&setting->pass);
    model_close(&setting->model);
    small_batch_free(&setting->batch);
    free(setting->teacher);
    free(setting->ids);
}

/* Loss, and every gradient one behind the other: released by the caller. */
static float *run(struct setting *setting, const struct logit_loss *aim, double *loss, size_t *count) {
    struct pass_options options = {.scale = 1};
    const struct model *model = &setting->model;
    if (pass_forward(&setting->pass, &setting->batch.batch, &options) < 0 ||
        head_tokens(&setting->pass, setting->rows, T, aim, loss) < 0 || pass_backward(&setting->pass) < 0)
        fail_msg("%s", error_text());
    *count = 0;
    for (size_t i = 0; i < model->parameter_count; i++)
        *count += model->parameters[i].rows * model->parameters[i].columns;
    float *all = malloc(*count * sizeof *all), *next = all;
    for (size_t i = 0; i < model->parameter_count; i++) {
        size_t n = model->parameters[i].rows * model->parameters[i].columns;
        memcpy(next, model->parameters[i].gradient, n * sizeof *next);
        next += n;
    }
    return all;
}

struct asked {
    const float *teacher;
    size_t next, calls;
    int fail;
};

static int give_rows(void *context, size_t first, size_t count, float *out) {
    struct asked *asked = context;
    assert_true(first == asked->next && first + count <= T);
    asked->next = first + count;
    asked->calls++;
    memcpy(out, asked->teacher + first * V, count * V * sizeof *out);
    return asked->fail;
}

static void test_tiles(void **state) {
    struct setting setting;
    struct asked asked = {0};
    double whole_loss, loss;
    size_t count;
    (void)state;
    setting_open(&setting);
    struct logit_loss aim = {
        .labels = setting.labels, .teacher = setting.teacher, .temperature = 2, .alpha = 0.25, .smoothing = 0.1};
    float *whole = run(&setting, &aim, &whole_loss, &count);
    assert_true(whole_loss > 0);

    asked.teacher = setting.teacher;
    aim.teacher = NULL;
    aim.teacher_rows = give_rows;
    aim.teacher_context = &asked;
    float *tiles = run(&setting, &aim, &loss, &count);
    assert_true(asked.calls > 1 && asked.next == T && loss == whole_loss);
    assert_memory_equal(tiles, whole, count * sizeof *whole);
    free(tiles);

    aim.teacher_rows = NULL;
    aim.teacher = setting.teacher;
    aim.teacher_top_id = setting.ids;
    aim.teacher_top = V;
    tiles = run(&setting, &aim, &loss, &count);
    assert_true(fabs(loss - whole_loss) <= 1e-6 * whole_loss);
    for (size_t i = 0; i < count; i++) assert_true(fabsf(tiles[i] - whole[i]) <= 1e-6f);
    free(tiles);
    free(whole);
    setting_close(&setting);
}

/* Alpha 0 changes no bit and asks nobody. */
static void test_no_share(void **state) {
    struct setting setting;
    struct asked asked = {.fail = E_NUMERIC};
    struct pass_options options = {.scale = 1};
    double plain_loss, loss;
    size_t count;
    (void)state;
    setting_open(&setting);
    struct logit_loss aim = {.labels = setting.labels};
    float *plain = run(&setting, &aim, &plain_loss, &count);
    aim.teacher = setting.teacher;
    aim.temperature = 2;
    float *taught = run(&setting, &aim, &loss, &count);
    assert_true(loss == plain_loss);
    assert_memory_equal(taught, plain, count * sizeof *plain);
    free(taught);

    asked.teacher = setting.teacher;
    aim.teacher = NULL;
    aim.teacher_rows = give_rows;
    aim.teacher_context = &asked;
    taught = run(&setting, &aim, &loss, &count);
    assert_true(asked.calls == 0);
    assert_memory_equal(taught, plain, count * sizeof *plain);
    aim.alpha = 0.5;
    assert_int_equal(pass_forward(&setting.pass, &setting.batch.batch, &options), 0);
    assert_int_equal(head_tokens(&setting.pass, setting.rows, T, &aim, &loss), E_NUMERIC);
    free(taught);
    free(plain);
    setting_close(&setting);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_no_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
