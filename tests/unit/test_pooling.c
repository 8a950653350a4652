/* Embeddings of sequences: the tokens whose mean they are, and the folders and files that say which. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "model/model.h"

static char folder[] = "/tmp/test_pooling_XXXXXX";

static const char *const files[] = {"modules.json", "config.json", "model.safetensors", "artifact",
                                    "1_Pooling/config.json"};

static void path_of(char path[96], const char *name) { snprintf(path, 96, "%s/%s", folder, name); }

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    char path[96];
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) path_of(path, files[i]), unlink(path);
    path_of(path, "1_Pooling"), rmdir(path);
    return rmdir(folder);
}

static void write_text(const char *name, const char *text) {
    char path[96];
    path_of(path, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void make(struct model *model, enum model_pooling pooling) {
    struct model_config config;
    assert_int_equal(model_config_family(&config, "bert"), 0);
    config.layers = 1, config.width = 32, config.heads = config.key_value_heads = 4, config.head_width = 8;
    config.feed_forward = 64, config.vocabulary = 40, config.positions = 16;
    config.pooling = pooling;
    if (model_create(model, &config, 5, 0.2) < 0) fail_msg("%s", error_text());
}

static void tokens_are_those_of_the_mode(void **state) {
    (void)state;
    static const uint32_t offset[] = {0, 3, 4, 9};
    static const enum model_pooling poolings[] = {POOLING_MEAN, POOLING_FIRST, POOLING_LAST};
    float hidden[9 * 32], out[3 * 32], unit[3 * 32];
    struct batch batch = {.sequences = 3, .tokens = 9, .offset = offset};
    for (size_t i = 0; i < 9 * 32; i++) hidden[i] = (float)((i * 37 + i / 32 * 11) % 64) - 20;
    for (size_t p = 0; p < 3; p++) {
        struct model model;
        make(&model, poolings[p]);
        model_pool(&model, &batch, hidden, false, out);
        model_pool(&model, &batch, hidden, true, unit);
        for (size_t s = 0; s < 3; s++) {
            double squares = 0;
            for (size_t c = 0; c < 32; c++) {
                double sum = 0, t = offset[s + 1] - offset[s], expected;
                for (size_t i = offset[s]; i < offset[s + 1]; i++) sum += (double)hidden[i * 32 + c];
                expected = p == 0   ? sum / t
                           : p == 1 ? (double)hidden[offset[s] * 32 + c]
                                    : (double)hidden[(offset[s + 1] - 1) * 32 + c];
                assert_float_equal(out[s * 32 + c], expected, 1e-5);
                squares += expected * expected;
            }
            for (size_t c = 0; c < 32; c++)
                assert_float_equal(unit[s * 32 + c], out[s * 32 + c] / (float)sqrt(squares), 1e-6);
        }
        model_close(&model);
    }
}

#define TRANSFORMER                                                                                                    \
    "{\"idx\": 0, \"name\": \"0\", \"path\": \"\", \"type\": \"sentence_transformers.models.Transformer\"}"
#define POOLING                                                                                                        \
    "{\"idx\": 1, \"name\": \"1\", \"path\": \"1_Pooling\", \"type\": \"sentence_transformers.models.Pooling\"}"
#define NORMALIZE                                                                                                      \
    "{\"idx\": 2, \"name\": \"2\", \"path\": \"2_Normalize\", \"type\": \"sentence_transformers.models.Normalize\"}"
#define DENSE "{\"idx\": 2, \"name\": \"2\", \"path\": \"2_Dense\", \"type\": \"sentence_transformers.models.Dense\"}"
#define ALL "[" TRANSFORMER ", " POOLING ", " NORMALIZE "]"

static void folders_say_it(void **state) {
    (void)state;
    static const struct {
        const char *modules, *pooling; /* NULL: no such file */
        enum model_pooling expected;
        const char *message; /* NULL: it opens */
    } cases[] = {
        {NULL, NULL, POOLING_MEAN, NULL},
        {"[" TRANSFORMER "]", NULL, POOLING_MEAN, NULL},
        {ALL, "{\"word_embedding_dimension\": 32, \"pooling_mode_mean_tokens\": true}", POOLING_MEAN, NULL},
        {ALL, "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": false}", POOLING_FIRST, NULL},
        {ALL, "{\"pooling_mode_mean_tokens\": false, \"pooling_mode_lasttoken\": true}", POOLING_LAST, NULL},
        {ALL, "{\"pooling_mode_mean_sqrt_len_tokens\": true, \"include_prompt\": true}", POOLING_MEAN, NULL},
        {ALL, "{}", POOLING_MEAN, NULL},
        {ALL, "{\"embedding_dimension\": 32, \"pooling_mode\": \"cls\"}", POOLING_FIRST, NULL},
        {ALL, "{\"pooling_mode\": [\"lasttoken\"]}", POOLING_LAST, NULL},
        {ALL, "{\"pooling_mode\": \"mean\", \"pooling_mode_cls_token\": true}", POOLING_MEAN, NULL},
        {ALL, "{\"pooling_mode_max_tokens\": true}", 0,
         "1_Pooling/config.json: pooling_mode_max_tokens is not supported (mean, cls and lasttoken are)"},
        {ALL, "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": true}", 0,
         "1_Pooling/config.json: several modes of pooling are not supported"},
        {ALL, "{\"pooling_mode\": \"weightedmean\"}", 0,
         "1_Pooling/config.json: pooling_mode \"weightedmean\" is not supported"},
        {ALL, "{\"pooling_mode\": [\"cls\", \"mean\"]}", 0, "pooling_mode: several modes are not supported"},
        {ALL, "{\"pooling_mode\": 3}", 0, "1_Pooling/config.json: "},
        {ALL, "[", 0, "1_Pooling/config.json: byte 1"},
        {ALL, "[true]", 0, "1_Pooling/config.json: expected an object"},
        {ALL, "7", 0, "1_Pooling/config.json: expected an object"},
        {ALL, NULL, 0, "1_Pooling/config.json: cannot open"},
        {"[" TRANSFORMER ", " POOLING ", " DENSE "]", "{}", 0,
         "modules.json: module \"sentence_transformers.models.Dense\" is not supported; take modules.json away"},
        {"{}", NULL, 0, "modules.json: expected a list of modules"},
        {"[{\"path\": \"\"}]", NULL, 0, "modules.json: a module needs a type and a path"},
    };
    struct model model, opened;
    char path[96];
    make(&model, POOLING_MEAN);
    assert_int_equal(model_save_huggingface(&model, folder, false), 0);
    path_of(path, "modules.json");
    assert_int_not_equal(access(path, F_OK), 0);
    path_of(path, "1_Pooling");
    assert_int_equal(mkdir(path, 0700), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        path_of(path, files[0]), unlink(path);
        path_of(path, files[4]), unlink(path);
        if (cases[i].modules) write_text(files[0], cases[i].modules);
        if (cases[i].pooling) write_text(files[4], cases[i].pooling);
        int status = model_open(&opened, folder, false);
        if (cases[i].message) {
            assert_true(status < 0);
            if (!strstr(error_text(), cases[i].message)) fail_msg("%s lacks '%s'", error_text(), cases[i].message);
            assert_non_null(strstr(error_text(), folder));
            continue;
        }
        if (status < 0) fail_msg("case %zu: %s", i, error_text());
        assert_int_equal(opened.config.pooling, cases[i].expected);
        model_close(&opened);
    }
    model_close(&model);
}

/* Into a folder that another model's modules lie in, too. */
static void it_is_kept(void **state) {
    (void)state;
    static const enum model_pooling poolings[] = {POOLING_FIRST, POOLING_LAST, POOLING_MEAN};
    char path[96];
    path_of(path, "artifact");
    for (size_t i = 0; i < 3; i++) {
        struct model model, opened, copy;
        make(&model, poolings[i]);
        assert_int_equal(model_save(&model, path, ~0u), 0);
        assert_int_equal(model_open(&opened, path, true), 0);
        assert_int_equal(opened.config.pooling, poolings[i]);
        assert_int_equal(model_copy(&copy, &opened, NULL), 0);
        assert_int_equal(copy.config.pooling, poolings[i]);
        model_close(&copy);
        model_close(&opened);
        if (model_save_huggingface(&model, folder, false) < 0) fail_msg("%s", error_text());
        if (model_open(&opened, folder, false) < 0) fail_msg("%s", error_text());
        assert_int_equal(opened.config.pooling, poolings[i]);
        model_close(&opened);
        model_close(&model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_are_those_of_the_mode), cmocka_unit_test(folders_say_it),
                                       cmocka_unit_test(it_is_kept)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
