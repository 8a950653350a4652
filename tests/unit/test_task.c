/* Tokenized examples and scoring: order, cutting, independence of batch and threads, metrics, bad input. */
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

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "task/task.h"

#define TEXTS 700
#define CLASSES 3

static char texts[TEXTS][64];
static const char *views[TEXTS];
static int32_t labels[TEXTS];
static struct tokenizer *tokenizer;
static struct task task = {.classes = CLASSES};

static int fixture_open(void **state) {
    (void)state;
    static const char *const words[] = {"red", "apple", "running", "tree", "of", "the", "water", "a"};
    struct random random;
    random_open(&random, 3, 0);
    for (int i = 0; i < TEXTS; i++) {
        size_t count = 1 + random_below(&random, 7);
        for (size_t k = 0; k < count; k++) {
            size_t used = strlen(texts[i]);
            snprintf(texts[i] + used, sizeof texts[i] - used, "%s%s", k ? " " : "", words[random_below(&random, 8)]);
        }
        views[i] = texts[i];
        labels[i] = (int32_t)random_below(&random, CLASSES);
    }
    for (int s = 0; s < SPLITS; s++)
        task.split[s] =
            (struct task_text){.count = TEXTS, .text = views, .label = s == SPLIT_UNLABELLED ? NULL : labels};
    return tokenizer_train_bpe(&tokenizer, views, TEXTS, 300, true);
}

static int fixture_close(void **state) {
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

static void examples_are_the_texts(void **state) {
    (void)state;
    struct task_examples out;
    struct tokenizer_special special = tokenizer_special(tokenizer);
    const size_t max_tokens = 6;
    size_t cut = 0;
    assert_int_equal(task_examples_open(&out, &task, SPLIT_TEST, tokenizer, max_tokens), 0);
    assert_int_equal(out.examples.count, TEXTS);
    assert_int_equal(out.examples.classes, CLASSES);
    assert_memory_equal(out.examples.label, labels, sizeof labels);
    for (size_t i = 0; i < TEXTS; i++) {
        int32_t expected[64];
        size_t count = 0, length = out.examples.offset[i + 1] - out.examples.offset[i];
        const int32_t *ids = out.examples.ids + out.examples.offset[i];
        char spaced[256];
        snprintf(spaced, sizeof spaced, " %s", texts[i]); /* the first word is the token it is elsewhere */
        assert_int_equal(tokenizer_encode(tokenizer, spaced, strlen(spaced), expected, 64, &count), 0);
        cut += count + 2 > max_tokens;
        if (count + 2 > max_tokens) count = max_tokens - 2;
        assert_int_equal(length, count + 2);
        assert_int_equal(ids[0], special.cls);
        assert_int_equal(ids[length - 1], special.sep);
        assert_memory_equal(ids + 1, expected, count * sizeof *expected);
    }
    assert_true(cut > 0 && cut < TEXTS);
    task_examples_close(&out);
    assert_null(out.owned);
    assert_int_equal(task_examples_open(&out, &task, SPLIT_UNLABELLED, tokenizer, max_tokens), 0);
    assert_null(out.examples.label);
    assert_int_equal(out.examples.classes, 0);
    task_examples_close(&out);
    assert_int_equal(task_examples_open(&out, &task, SPLIT_TEST, tokenizer, 2), E_ARGUMENT);
}

static void examples_do_not_depend_on_threads(void **state) {
    (void)state;
    struct task_examples one, two;
    int threads = threads_get();
    threads_set(1);
    assert_int_equal(task_examples_open(&one, &task, SPLIT_TRAIN, tokenizer, 12), 0);
    threads_set(2);
    assert_int_equal(task_examples_open(&two, &task, SPLIT_TRAIN, tokenizer, 12), 0);
    threads_set(threads);
    assert_memory_equal(one.examples.offset, two.examples.offset, (TEXTS + 1) * sizeof(uint32_t));
    assert_memory_equal(one.examples.ids, two.examples.ids, one.examples.offset[TEXTS] * sizeof(int32_t));
    task_examples_close(&one);
    task_examples_close(&two);
}

static void examples_survive_failed_allocations(void **state) {
    (void)state;
    struct task_examples out;
    memory_fail_after(0);
    assert_int_equal(task_examples_open(&out, &task, SPLIT_TRAIN, tokenizer, 12), 0);
    long allocations = memory_count();
    task_examples_close(&out);
    for (long n = 1; n <= allocations && n <= 40; n++) {
        memory_fail_after(n);
        int status = task_examples_open(&out, &task, SPLIT_TRAIN, tokenizer, 12);
        memory_fail_after(0);
        assert_int_equal(status, E_MEMORY);
        assert_null(out.owned);
    }
}

static void tiny_model(struct model *model, size_t classes) {
    struct model_config config = {0};
    assert_int_equal(model_config_family(&config, "bert"), 0);
    config.layers = 1;
    config.width = 32;
    config.heads = config.key_value_heads = 2;
    config.head_width = 16;
    config.feed_forward = 64;
    config.vocabulary = tokenizer_vocabulary(tokenizer);
    config.positions = 16;
    config.token_types = 2;
    config.classes = classes;
    config.model_heads = HEAD_CLASSIFICATION;
    assert_int_equal(model_create(model, &config, 2, 0.4), 0);
    assert_int_equal(model_prepare(model, GEMM_BUILTIN), 0);
}

/* Logits of each item alone give the same outcome as any batch. */
static void scores_do_not_depend_on_the_batch(void **state) {
    (void)state;
    struct model model = {0};
    struct task_examples out;
    struct task_scores whole, some;
    struct workspace workspace = {0};
    tiny_model(&model, CLASSES);
    assert_int_equal(task_examples_open(&out, &task, SPLIT_TEST, tokenizer, 16), 0);
    assert_int_equal(task_score(&model, &out.examples, TEXTS + 10, &whole), 0);
    assert_int_equal(task_score(&model, &out.examples, 7, &some), 0);
    assert_memory_equal(whole.predicted, some.predicted, TEXTS * sizeof(int32_t));
    assert_memory_equal(whole.nll, some.nll, TEXTS * sizeof(float));
    size_t right = 0, classes_seen[CLASSES] = {0};
    double sum = 0;
    for (size_t i = 0; i < TEXTS; i++) {
        uint32_t begin = out.examples.offset[i], length = out.examples.offset[i + 1] - begin, offset[2] = {0, length};
        struct batch batch = {.sequences = 1, .tokens = length, .ids = out.examples.ids + begin, .offset = offset};
        struct model_output output;
        assert_int_equal(model_forward(&model, &batch, NULL, &workspace, &output), 0);
        double total = 0;
        size_t best = 0;
        for (size_t k = 0; k < CLASSES; k++) {
            total += exp((double)output.logits[k]);
            if (output.logits[k] > output.logits[best]) best = k;
        }
        double nll = log(total) - (double)output.logits[labels[i]];
        assert_int_equal(whole.predicted[i], best);
        assert_int_equal(whole.correct[i], (int32_t)best == labels[i]);
        assert_true(fabs((double)whole.nll[i] - nll) <= 1e-5 * fmax(1, fabs(nll)));
        right += whole.correct[i];
        sum += nll;
        classes_seen[best]++;
    }
    for (size_t k = 0; k < CLASSES; k++) assert_true(classes_seen[k] > 0); /* else the test says little */
    assert_true(fabs(whole.accuracy_frac - (double)right / TEXTS) < 1e-12);
    assert_true(fabs(whole.mean_nll - sum / TEXTS) < 1e-5);
    workspace_close(&workspace);
    task_scores_close(&some);
    task_scores_close(&whole);
    task_examples_close(&out);
    model_close(&model);
}

/* Macro F1 from its definition by precision and recall; Matthews as the correlation of one-hot vectors. */
static void metrics_follow_their_definitions(void **state) {
    (void)state;
    struct model model = {0};
    struct task_examples out;
    struct task_scores scores;
    tiny_model(&model, CLASSES);
    assert_int_equal(task_examples_open(&out, &task, SPLIT_TEST, tokenizer, 16), 0);
    assert_int_equal(task_score(&model, &out.examples, 64, &scores), 0);
    double f1 = 0, cross = 0, own_label = 0, own_predicted = 0;
    for (int k = 0; k < CLASSES; k++) {
        double hits = 0, of_class = 0, said = 0;
        for (size_t i = 0; i < TEXTS; i++) {
            of_class += labels[i] == k;
            said += scores.predicted[i] == k;
            hits += labels[i] == k && scores.predicted[i] == k;
        }
        double precision = hits / said, recall = hits / of_class;
        f1 += 2 * precision * recall / (precision + recall) / CLASSES;
        for (size_t i = 0; i < TEXTS; i++) {
            double x = (labels[i] == k) - of_class / TEXTS, y = (scores.predicted[i] == k) - said / TEXTS;
            cross += x * y;
            own_label += x * x;
            own_predicted += y * y;
        }
    }
    assert_true(fabs(scores.macro_f1 - f1) < 1e-12);
    assert_true(fabs(scores.matthews - cross / sqrt(own_label * own_predicted)) < 1e-12);
    task_scores_close(&scores);
    task_examples_close(&out);
    model_close(&model);
}

static void scoring_refuses_what_it_cannot_score(void **state) {
    (void)state;
    struct model model = {0}, other = {0};
    struct task_examples out, unlabelled;
    struct task_scores scores;
    tiny_model(&model, CLASSES);
    tiny_model(&other, CLASSES + 1);
    assert_int_equal(task_examples_open(&out, &task, SPLIT_TEST, tokenizer, 16), 0);
    assert_int_equal(task_examples_open(&unlabelled, &task, SPLIT_UNLABELLED, tokenizer, 16), 0);
    assert_int_equal(task_score(&model, &unlabelled.examples, 8, &scores), E_ARGUMENT);
    assert_int_equal(task_score(&model, &out.examples, 0, &scores), E_ARGUMENT);
    assert_int_equal(task_score(&other, &out.examples, 8, &scores), E_SHAPE);
    int32_t wrong[TEXTS];
    memcpy(wrong, labels, sizeof wrong);
    wrong[5] = CLASSES;
    struct examples bad = out.examples;
    bad.label = wrong;
    assert_int_equal(task_score(&model, &bad, 8, &scores), E_FORMAT);
    float *gain = NULL;
    for (size_t i = 0; i < model.parameter_count; i++)
        if (strstr(model.parameters[i].name, "LayerNorm.weight")) gain = model.parameters[i].value;
    assert_non_null(gain);
    gain[0] = NAN;
    assert_int_equal(task_score(&model, &out.examples, 8, &scores), E_NUMERIC);
    assert_non_null(strstr(error_text(), "not finite"));
    assert_null(scores.correct);
    task_examples_close(&unlabelled);
    task_examples_close(&out);
    model_close(&other);
    model_close(&model);
}

static void kinds_are_found_by_name(void **state) {
    (void)state;
    assert_ptr_equal(task_kind_find("wordnet"), task_kinds[0]);
    assert_null(task_kind_find("wordne"));
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_are_the_texts),
        cmocka_unit_test(examples_do_not_depend_on_threads),
        cmocka_unit_test(examples_survive_failed_allocations),
        cmocka_unit_test(scores_do_not_depend_on_the_batch),
        cmocka_unit_test(metrics_follow_their_definitions),
        cmocka_unit_test(scoring_refuses_what_it_cannot_score),
        cmocka_unit_test(kinds_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
