/* Metrics of tasks against SQuAD's script, sacrebleu, rouge_score, scikit-learn and SciPy. */
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

#include "base/memory.h"
#include "golden_files.h"
#include "kernels/kernels.h"
#include "measure/statistics.h"
#include "task/metrics.h"

#define TEXT_TOLERANCE 1e-6
#define ARRAY_TOLERANCE 1e-9

static bool present(const char *name) {
    char path[512];
    return golden_path(path, sizeof path, name);
}

static void near(const char *what, double got, double expected, double tolerance) {
    if (fabs(got - expected) <= tolerance) return;
    fail_msg("%s: %.12g, expected %.12g", what, got, expected);
}

static const char *text_of(const struct json *object, const char *key) {
    const struct json *member = json_member(object, key);
    assert_non_null(member);
    return member->text;
}

static void test_answers(void **state) {
    (void)state;
    struct json_document document;
    char *text, *normalized;
    double exact_sum = 0, f1_sum = 0, count = 0;
    if (!present("tasks/qa.json")) skip();
    golden_json(&document, &text, "tasks/qa.json");
    const struct json *root = json_root(&document), *cases = json_member(root, "cases");
    for (const struct json *c = cases->child; c; c = c->next) {
        const char *references[64], *prediction = text_of(c, "prediction");
        size_t references_count = 0;
        double exact, f1;
        for (const struct json *r = json_member(c, "references")->child; r && references_count < 64; r = r->next)
            references[references_count++] = r->text;
        assert_int_equal(metric_answer(prediction, references, references_count, &exact, &f1), 0);
        near(prediction, exact, golden_number(c, "exact_match"), TEXT_TOLERANCE);
        near(prediction, f1, golden_number(c, "f1"), TEXT_TOLERANCE);
        assert_int_equal(metric_answer_normalize(prediction, &normalized), 0);
        assert_string_equal(normalized, text_of(c, "normalized_prediction"));
        memory_release(normalized);
        exact_sum += exact;
        f1_sum += f1;
        count++;
    }
    assert_true(count > 0);
    near("exact match in all", 100 * exact_sum / count, golden_number(root, "exact_match"), TEXT_TOLERANCE);
    near("F1 in all", 100 * f1_sum / count, golden_number(root, "f1"), TEXT_TOLERANCE);
    json_close(&document);
    memory_release(text);
}

static void check_corpus(const struct json *root, const char *name, size_t reference_count, bool lower) {
    const struct json *expected = json_member(json_member(root, "bleu"), name);
    struct bleu_counts sum = {0}, counts;
    double precisions[BLEU_ORDER], brevity;
    assert_non_null(expected);
    for (const struct json *t = json_member(root, "texts")->child; t; t = t->next) {
        const char *references[2] = {text_of(t, "reference"), text_of(t, "reference2")};
        assert_int_equal(metric_bleu_count(text_of(t, "hypothesis"), references, reference_count, lower, &counts), 0);
        metric_bleu_add(&sum, &counts);
    }
    near(name, metric_bleu(&sum, false, precisions, &brevity), golden_number(expected, "score"), TEXT_TOLERANCE);
    near("brevity", brevity, golden_number(expected, "brevity_penalty"), TEXT_TOLERANCE);
    near("hypothesis tokens", (double)sum.hypothesis_tokens, golden_number(expected, "sys_len"), 0);
    near("reference tokens", (double)sum.reference_tokens, golden_number(expected, "ref_len"), 0);
    for (size_t n = 0; n < BLEU_ORDER; n++) {
        near("matches", (double)sum.matched[n], atof(json_item(json_member(expected, "counts"), n)->text), 0);
        near("totals", (double)sum.total[n], atof(json_item(json_member(expected, "totals"), n)->text), 0);
        near("precision", precisions[n], atof(json_item(json_member(expected, "precisions"), n)->text), TEXT_TOLERANCE);
    }
}

static void test_bleu(void **state) {
    (void)state;
    struct json_document document;
    char *text, *tokens;
    if (!present("tasks/text.json")) skip();
    golden_json(&document, &text, "tasks/text.json");
    const struct json *root = json_root(&document);
    check_corpus(root, "one_reference", 1, false);
    check_corpus(root, "two_references", 2, false);
    check_corpus(root, "one_reference_lowercase", 1, true);
    for (const struct json *t = json_member(root, "texts")->child; t; t = t->next) {
        const char *hypothesis = text_of(t, "hypothesis"), *reference = text_of(t, "reference");
        struct bleu_counts counts;
        assert_int_equal(metric_bleu_tokens(hypothesis, false, &tokens), 0);
        assert_string_equal(tokens, text_of(t, "tokens_13a"));
        memory_release(tokens);
        assert_int_equal(metric_bleu_count(hypothesis, &reference, 1, false, &counts), 0);
        near(hypothesis, metric_bleu(&counts, true, NULL, NULL), golden_number(t, "sentence_bleu"), TEXT_TOLERANCE);
    }
    json_close(&document);
    memory_release(text);
}

static const char *const rouge_names[ROUGE_KINDS] = {"rouge1", "rouge2", "rougeL", "rougeLsum"};

static void check_rouge(const struct json *root, const char *name, bool stem) {
    const struct json *expected = json_member(json_member(root, "rouge"), name);
    struct rouge_score sum[ROUGE_KINDS] = {0}, scores[ROUGE_KINDS];
    double count = 0;
    assert_non_null(expected);
    for (const struct json *t = json_member(root, "texts")->child; t; t = t->next, count++) {
        const char *reference = text_of(t, "reference");
        assert_int_equal(metric_rouge(text_of(t, "hypothesis"), &reference, 1, stem, scores), 0);
        for (size_t k = 0; k < ROUGE_KINDS; k++) {
            sum[k].precision += scores[k].precision;
            sum[k].recall += scores[k].recall;
            sum[k].f1 += scores[k].f1;
            if (!stem)
                near(rouge_names[k], scores[k].f1, golden_number(json_member(t, "rouge_plain_f"), rouge_names[k]),
                     TEXT_TOLERANCE);
        }
    }
    for (size_t k = 0; k < ROUGE_KINDS; k++) {
        const struct json *mean = json_member(expected, rouge_names[k]);
        near(rouge_names[k], sum[k].precision / count, golden_number(mean, "precision"), TEXT_TOLERANCE);
        near(rouge_names[k], sum[k].recall / count, golden_number(mean, "recall"), TEXT_TOLERANCE);
        near(rouge_names[k], sum[k].f1 / count, golden_number(mean, "fmeasure"), TEXT_TOLERANCE);
    }
}

static void test_rouge(void **state) {
    (void)state;
    struct json_document document;
    char *text;
    if (!present("tasks/text.json")) skip();
    golden_json(&document, &text, "tasks/text.json");
    check_rouge(json_root(&document), "plain", false);
    check_rouge(json_root(&document), "stemmed", true);
    json_close(&document);
    memory_release(text);
}

/* Scores of the stored classes; `positive_only`: class 1 against all others. */
static struct class_scores table_scores(const struct safetensors *arrays, size_t classes, bool positive_only,
                                        uint64_t *table) {
    const struct tensor *gold = golden_tensor(arrays, "class.gold"), *given = golden_tensor(arrays, "class.predicted");
    struct class_scores scores;
    const int32_t *labels = gold->data, *predictions = given->data;
    memset(table, 0, classes * classes * sizeof *table);
    for (size_t i = 0; i < gold->shape[0]; i++) {
        size_t label = positive_only ? labels[i] == 1 : (size_t)labels[i];
        size_t predicted = positive_only ? predictions[i] == 1 : (size_t)predictions[i];
        assert_true(label < classes && predicted < classes);
        table[label * classes + predicted]++;
    }
    metric_classes(table, classes, &scores);
    return scores;
}

static void test_classes(void **state) {
    (void)state;
    struct safetensors arrays;
    struct json_document document;
    char *text;
    uint64_t table[64 * 64];
    if (!present("tasks/arrays.safetensors")) skip();
    golden_open(&arrays, "tasks/arrays.safetensors");
    golden_json(&document, &text, "tasks/metrics.json");
    const struct json *many = json_member(json_root(&document), "three_classes");
    const struct json *two = json_member(json_root(&document), "binary_class_is_1");
    size_t classes = json_member(many, "confusion")->count;
    assert_in_range(classes, 2, 64);
    struct class_scores scores = table_scores(&arrays, classes, false, table);
    near("accuracy", scores.accuracy_frac, golden_number(many, "accuracy"), ARRAY_TOLERANCE);
    near("macro F1", scores.f1_macro, golden_number(many, "f1_macro"), ARRAY_TOLERANCE);
    near("micro F1", scores.f1_micro, golden_number(many, "f1_micro"), ARRAY_TOLERANCE);
    near("weighted F1", scores.f1_weighted, golden_number(many, "f1_weighted"), ARRAY_TOLERANCE);
    near("Matthews", scores.matthews, golden_number(many, "matthews"), ARRAY_TOLERANCE);
    for (size_t i = 0; i < classes * classes; i++) {
        const struct json *row = json_item(json_member(many, "confusion"), i / classes);
        near("confusion", (double)table[i], atof(json_item(row, i % classes)->text), 0);
    }
    scores = table_scores(&arrays, 2, true, table);
    near("accuracy", scores.accuracy_frac, golden_number(two, "accuracy"), ARRAY_TOLERANCE);
    near("F1", scores.f1_positive, golden_number(two, "f1"), ARRAY_TOLERANCE);
    near("precision", scores.precision_positive, golden_number(two, "precision"), ARRAY_TOLERANCE);
    near("recall", scores.recall_positive, golden_number(two, "recall"), ARRAY_TOLERANCE);
    near("Matthews", scores.matthews, golden_number(two, "matthews"), ARRAY_TOLERANCE);
    for (const struct json *m = json_member(json_root(&document), "mcnemar_exact")->child; m; m = m->next)
        near("McNemar",
             statistics_mcnemar((size_t)golden_number(m, "only_a_right"), (size_t)golden_number(m, "only_b_right")),
             golden_number(m, "p"), ARRAY_TOLERANCE);
    json_close(&document);
    memory_release(text);
    safetensors_close(&arrays);
}

static void test_correlations(void **state) {
    (void)state;
    struct safetensors arrays;
    struct json_document document;
    char *text;
    double value;
    if (!present("tasks/arrays.safetensors")) skip();
    golden_open(&arrays, "tasks/arrays.safetensors");
    golden_json(&document, &text, "tasks/metrics.json");
    const struct json *expected = json_member(json_root(&document), "regression");
    const struct tensor *gold = golden_tensor(&arrays, "regression.gold");
    const float *x32 = gold->data, *y32 = golden_tensor(&arrays, "regression.predicted")->data;
    size_t count = gold->shape[0];
    double *x = calloc(count, sizeof *x), *y = calloc(count, sizeof *y);
    for (size_t i = 0; i < count; i++) {
        x[i] = (double)x32[i];
        y[i] = (double)y32[i];
    }
    near("Pearson", metric_pearson(x, y, count), golden_number(expected, "pearson"), ARRAY_TOLERANCE);
    assert_int_equal(metric_spearman(x, y, count, &value), 0);
    near("Spearman", value, golden_number(expected, "spearman"), ARRAY_TOLERANCE);
    assert_int_equal(metric_kendall(x, y, count, &value), 0);
    near("Kendall", value, golden_number(expected, "kendall_tau_b"), ARRAY_TOLERANCE);
    free(x);
    free(y);
    json_close(&document);
    memory_release(text);
    safetensors_close(&arrays);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers), cmocka_unit_test(test_bleu),         cmocka_unit_test(test_rouge),
        cmocka_unit_test(test_classes), cmocka_unit_test(test_correlations),
    };
    kernels_open(test_cpu_mask());
    return cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
}
