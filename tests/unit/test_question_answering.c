/* Question answering on a file and a model of this test's own: windows, the best span against every span tried one by
 * one, the text between offsets, metrics, agreement, refusals.
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

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "scratch_file.h"
#include "small_model.h"
#include "task/answer_windows.h"
#include "task/metrics.h"
#include "task/task.h"

/* Ids 0..4 are special, words begin at 5. */
static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwho\nwhat\nmake\n##s\nbee\nhoney\nthe\n,\n.\ncafe\n"
    "is\nold\nsweet\n##er\nand\nwhere\n?\n";

enum { ITEMS = 5, MAX_TOKENS = 14, STRIDE = 4, MAX_ANSWER = 3, TOKENS = 64 };
static const char *const questions[ITEMS] = {"Who makes honey?", "what is OLD?", "where", "who", "what is sweeter"};
static const char *const contexts[ITEMS] = {
    "The bees make honey, and the honey is sweet. The caf\xC3\xA9 is old , the cafes is older.",
    "The bees make honey, and the honey is sweet. The caf\xC3\xA9 is old , the cafes is older.", "honey", "   ",
    "Bees  make sweet honey ."}; /* 24 tokens; the fourth has none */
static const char *const answers[ITEMS] = {"bees", "the caf\xC3\xA9", "Honey!", "nothing", "bees make"};

static struct tokenizer *tokenizer;
static char data_path[128], folder[128], file[128];

static int fixture_open(void **state) {
    (void)state;
    char text[4096] = "{\"data\":[{\"paragraphs\":[";
    for (size_t i = 0; i < ITEMS; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text),
                 "%s{\"context\":\"%s\",\"qas\":[{\"id\":\"%zu\",\"question\":\"%s\",\"answers\":[{\"text\":\"wrong "
                 "words\"},"
                 "{\"text\":\"%s\"}]}]}",
                 i ? "," : "", contexts[i], i, questions[i], answers[i]);
    strcat(text, "]}]}");
    scratch_file(data_path, ".json", text);
    char *slash = strrchr(data_path, '/');
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - data_path), data_path);
    snprintf(file, sizeof file, "%s", slash + 1);
    return tokenizer_parse_vocab(&tokenizer, vocabulary, sizeof vocabulary - 1, true);
}

static int fixture_close(void **state) {
    (void)state;
    scratch_remove(data_path);
    tokenizer_free(tokenizer);
    return 0;
}

static void span_model(struct model *model, uint64_t seed) {
    struct model_config config = small_config(HEAD_SPAN);
    config.vocabulary = tokenizer_vocabulary(tokenizer);
    if (model_create(model, &config, seed, 0.4) < 0 || model_prepare(model, GEMM_BUILTIN) < 0)
        fail_msg("%s", error_text());
}

/* Open the task with "name value" settings after those of the file. */
static int task_with(struct task *task, const char *const (*settings)[2], size_t count) {
    const struct task_kind *kind = task_kind_find("question_answering");
    struct option_store store = {0};
    const char *const usual[][2] = {
        {"data", folder}, {"test", file}, {"max_tokens", "14"}, {"stride", "4"}, {"max_answer_tokens", "3"}};
    uint64_t options[16] = {0};
    assert_non_null(kind);
    assert_true(kind->options_bytes <= sizeof options);
    assert_int_equal(option_defaults(kind->options, options, &store), 0);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        assert_int_equal(option_set(option_find(kind->options, usual[i][0]), options, usual[i][1], &store), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(option_set(option_find(kind->options, settings[i][0]), options, settings[i][1], &store), 0);
    int status = kind->open(task, options);
    option_store_close(&store);
    return status;
}

static int score(const struct task *task, const struct model *model, const struct model *baseline, size_t batch,
                 struct task_result *result) {
    struct task_scoring scoring = {.task = task,
                                   .split = SPLIT_TEST,
                                   .model = model,
                                   .baseline = baseline,
                                   .tokenizer = tokenizer,
                                   .max_tokens = MAX_TOKENS,
                                   .batch = batch};
    *result = (struct task_result){0};
    return task->kind->score(&scoring, result);
}

static const void *items(const struct task_result *result, const char *name) {
    for (size_t i = 0; i < result->item_count; i++)
        if (strcmp(result->items[i].name, name) == 0) return result->items[i].values;
    fail_msg("no items %s", name);
    return NULL;
}

static double metric(const struct task_result *result, const char *name) {
    for (size_t i = 0; i < result->metric_count; i++)
        if (strcmp(result->metrics[i].name, name) == 0) return result->metrics[i].value;
    fail_msg("no metric %s", name);
    return NAN;
}

static void windows_cover_the_context(void **state) {
    (void)state;
    struct answer_windows windows;
    assert_int_equal(answer_windows_open(&windows, tokenizer, questions, contexts, ITEMS, MAX_TOKENS, STRIDE), 0);
    static const size_t around[ITEMS] = {4 + 4 + 0, 3 + 4, 3 + 1, 3 + 1, 3 + 4};
    static const size_t context_tokens[ITEMS] = {24, 24, 1, 0, 6};
    for (uint32_t pair = 0; pair < ITEMS; pair++) {
        size_t reached = 0, seen = 0, room = MAX_TOKENS - around[pair];
        assert_int_equal(windows.pairs[pair].after - windows.pairs[pair].context, context_tokens[pair]);
        for (size_t from = 0; reached < context_tokens[pair]; from += STRIDE, seen++) {
            size_t to = from + room < context_tokens[pair] ? from + room : context_tokens[pair], found = 0;
            assert_true(from <= reached); /* no token is passed over */
            for (size_t i = 0; i < windows.window_count; i++) {
                const struct answer_window *w = &windows.windows[i];
                found += w->pair == pair && w->from == windows.pairs[pair].context + from &&
                         w->to == windows.pairs[pair].context + to && w->length == around[pair] + to - from;
            }
            assert_int_equal(found, 1);
            reached = to;
        }
        size_t in_all = 0;
        for (size_t i = 0; i < windows.window_count; i++) in_all += windows.windows[i].pair == pair;
        assert_int_equal(in_all, seen);
    }
    assert_int_equal(windows.longest, MAX_TOKENS);
    answer_windows_close(&windows);
    /* A stride that would skip tokens is a window's own length. */
    assert_int_equal(answer_windows_open(&windows, tokenizer, questions, contexts, 1, MAX_TOKENS, 1000), 0);
    assert_int_equal(windows.window_count, 4); /* 24 tokens by 6 */
    answer_windows_close(&windows);
    assert_int_equal(answer_windows_open(&windows, tokenizer, questions, contexts, ITEMS, 8, STRIDE), E_LIMIT);
    assert_non_null(strstr(error_text(), "' and what stands around it take 8 tokens: a window of 8 has no room"));
    assert_null(windows.pairs);
}

/* The same by hand: each window alone through the model, every span of it tried. */
static void best_by_hand(const struct model *model, size_t item, uint32_t *begin, uint32_t *end) {
    struct encoding question = {0}, context = {.with_offsets = true};
    struct workspace workspace = {0};
    float best = -INFINITY;
    *begin = *end = 0;
    assert_int_equal(tokenizer_append(tokenizer, questions[item], strlen(questions[item]), false, true, &question), 0);
    assert_int_equal(tokenizer_append(tokenizer, contexts[item], strlen(contexts[item]), false, true, &context), 0);
    size_t room = MAX_TOKENS - 3 - question.count;
    for (size_t from = 0; from < context.count; from += STRIDE) {
        int32_t ids[TOKENS] = {2}, types[TOKENS] = {0};
        size_t used = 1, count = context.count - from < room ? context.count - from : room;
        for (size_t i = 0; i < question.count; i++) ids[used++] = question.ids[i];
        ids[used++] = 3;
        size_t first = used;
        for (size_t i = 0; i < count; i++) ids[used++] = context.ids[from + i];
        ids[used++] = 3;
        for (size_t i = first; i < used; i++) types[i] = 1;
        uint32_t offset[2] = {0, (uint32_t)used};
        struct batch batch = {.sequences = 1, .tokens = used, .ids = ids, .offset = offset, .token_types = types};
        struct model_output output = {0};
        assert_int_equal(model_forward(model, &batch, NULL, &workspace, &output), 0);
        for (size_t s = 0; s < count; s++)
            for (size_t e = s; e < count && e < s + MAX_ANSWER; e++) {
                float sum = output.span[2 * (first + s)] + output.span[2 * (first + e) + 1];
                if (!(sum > best)) continue;
                best = sum;
                *begin = context.begin[from + s];
                *end = context.end[from + e];
            }
        if (from + count == context.count) break;
    }
    workspace_close(&workspace);
    encoding_close(&question);
    encoding_close(&context);
}

static void best_span_is_the_best_of_all(void **state) {
    (void)state;
    size_t lengths[40] = {0}, different = 0;
    struct task task;
    assert_int_equal(task_with(&task, NULL, 0), 0);
    assert_int_equal(task.split[SPLIT_TEST].count, ITEMS);
    assert_string_equal(task.split[SPLIT_TEST].text[2], "where honey");
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct model model = {0};
        struct task_result result, again;
        double exact_sum = 0, f1_sum = 0;
        span_model(&model, seed);
        assert_int_equal(score(&task, &model, NULL, 3, &result), 0);
        const int32_t *begin = items(&result, "answer_begin"), *end = items(&result, "answer_end");
        const float *value = items(&result, "value");
        const uint8_t *match = items(&result, "exact_match");
        assert_int_equal(result.count, ITEMS);
        for (size_t i = 0; i < ITEMS; i++) {
            uint32_t expected_begin, expected_end;
            char text[128];
            const char *references[] = {"wrong words", answers[i]};
            double exact, f1;
            best_by_hand(&model, i, &expected_begin, &expected_end);
            if (begin[i] != (int32_t)expected_begin || end[i] != (int32_t)expected_end)
                fail_msg("seed %d item %zu: %d..%d, expected %u..%u", (int)seed, i, begin[i], end[i], expected_begin,
                         expected_end);
            snprintf(text, sizeof text, "%.*s", (int)(end[i] - begin[i]), contexts[i] + begin[i]);
            assert_int_equal(metric_answer(text, references, 2, &exact, &f1), 0);
            assert_true(match[i] == (exact > 0) && value[i] == (float)f1);
            exact_sum += exact;
            f1_sum += f1;
            lengths[end[i] - begin[i]]++;
        }
        assert_true(fabs(metric(&result, "f1") - f1_sum / ITEMS) < 1e-12);
        assert_true(fabs(metric(&result, "exact_match") - exact_sum / ITEMS) < 1e-12);
        assert_true(value[2] == 1);                /* one word, and it is the answer */
        assert_true(value[3] == 0 && end[3] == 0); /* no word, no answer */
        assert_int_equal(score(&task, &model, NULL, 100, &again), 0);
        assert_memory_equal(items(&again, "answer_begin"), begin, ITEMS * sizeof *begin);
        assert_memory_equal(items(&again, "answer_end"), end, ITEMS * sizeof *end);
        task_result_close(&again);
        task_result_close(&result);
        model_close(&model);
    }
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) different += lengths[i] > 0;
    assert_true(different > 4); /* else the models say too much of the same */
    task.kind->close(&task);
}

/* Accents and doubled blanks are the file's own. */
static void answers_are_the_texts_own_bytes(void **state) {
    (void)state;
    struct answer_windows windows;
    assert_int_equal(answer_windows_open(&windows, tokenizer, questions, contexts, ITEMS, 40, 40), 0);
    const struct answer_pair *pair = &windows.pairs[0];
    char text[64];
    snprintf(text, sizeof text, "%.*s",
             (int)(pair->encoding.end[pair->context + 13] - pair->encoding.begin[pair->context + 12]),
             contexts[0] + pair->encoding.begin[pair->context + 12]);
    assert_string_equal(text, "The caf\xC3\xA9");
    answer_windows_close(&windows);
}

static void agreement_counts_equal_answers(void **state) {
    (void)state;
    struct model model = {0};
    struct task task;
    struct task_result result, theirs;
    size_t as_long = 0;
    assert_int_equal(task_with(&task, NULL, 0), 0);
    span_model(&model, 1);
    assert_int_equal(score(&task, &model, &model, 4, &result), 0);
    assert_true(metric(&result, "same_answer_as_baseline") == 1);
    task_result_close(&result);
    for (uint64_t seed = 2; seed <= 12; seed++) {
        struct model other = {0};
        double sum = 0;
        span_model(&other, seed);
        assert_int_equal(score(&task, &other, NULL, 4, &theirs), 0);
        assert_int_equal(score(&task, &model, &other, 4, &result), 0);
        const int32_t *begin = items(&result, "answer_begin"), *end = items(&result, "answer_end"),
                      *their_begin = items(&theirs, "answer_begin"), *their_end = items(&theirs, "answer_end");
        const uint8_t *same = items(&result, "same_answer");
        for (size_t i = 0; i < ITEMS; i++) {
            char own[128], their[128];
            snprintf(own, sizeof own, "%.*s", (int)(end[i] - begin[i]), contexts[i] + begin[i]);
            snprintf(their, sizeof their, "%.*s", (int)(their_end[i] - their_begin[i]), contexts[i] + their_begin[i]);
            assert_int_equal(same[i], strcmp(own, their) == 0);
            as_long += !same[i] && strlen(own) == strlen(their);
            sum += same[i];
        }
        assert_true(sum >= 2 && sum < ITEMS); /* the third and fourth have but one answer */
        assert_true(fabs(metric(&result, "same_answer_as_baseline") - sum / ITEMS) < 1e-12);
        task_result_close(&theirs);
        task_result_close(&result);
        model_close(&other);
    }
    assert_true(as_long > 0);
    model_close(&model);
    task.kind->close(&task);
}

static void threads_change_nothing(void **state) {
    (void)state;
    struct model model = {0};
    struct task task;
    struct task_result one, two;
    int threads = threads_get();
    assert_int_equal(task_with(&task, NULL, 0), 0);
    span_model(&model, 3);
    threads_set(1);
    assert_int_equal(score(&task, &model, NULL, 4, &one), 0);
    threads_set(2);
    assert_int_equal(score(&task, &model, NULL, 4, &two), 0);
    threads_set(threads);
    assert_memory_equal(items(&one, "answer_begin"), items(&two, "answer_begin"), ITEMS * sizeof(int32_t));
    assert_memory_equal(items(&one, "answer_end"), items(&two, "answer_end"), ITEMS * sizeof(int32_t));
    task_result_close(&one);
    task_result_close(&two);
    model_close(&model);
    task.kind->close(&task);
}

static void what_cannot_be_done_is_refused(void **state) {
    (void)state;
    struct model model = {0}, headless = {0};
    struct task task;
    struct task_result result;
    static const char *const tight[][2] = {{"max_tokens", "8"}};
    char expected[256];
    static const char *const none[][2] = {{"test", ""}}, *const missing[][2] = {{"test", "nowhere.json"}},
                             *const few[][2] = {{"max_items", "2"}}, *const wide[][2] = {{"max_tokens", "384"}};
    assert_int_equal(task_with(&task, none, 1), E_ARGUMENT);
    assert_null(task.owned);
    assert_int_equal(task_with(&task, missing, 1), E_IO);
    assert_int_equal(task_with(&task, few, 1), 0);
    assert_int_equal(task.split[SPLIT_TEST].count, 2);
    small_model(&headless, HEAD_CLASSIFICATION, 1);
    assert_int_equal(model_prepare(&headless, GEMM_BUILTIN), 0);
    assert_int_equal(score(&task, &headless, NULL, 4, &result), E_UNSUPPORTED);
    task_result_close(&result);
    task.kind->close(&task);
    span_model(&model, 1);
    assert_int_equal(task_with(&task, wide, 1), 0); /* more than the model's positions: those */
    assert_int_equal(score(&task, &model, NULL, 4, &result), 0);
    task_result_close(&result);
    task.kind->close(&task);
    assert_int_equal(task_with(&task, tight, 1), 0);
    assert_int_equal(score(&task, &model, NULL, 4, &result), E_LIMIT);
    snprintf(expected, sizeof expected, "%s: the question '%.60s' and what", data_path, questions[0]);
    assert_non_null(strstr(error_text(), expected));
    task_result_close(&result);
    task.kind->close(&task);
    assert_int_equal(task_with(&task, wide, 1), 0);
    model_unprepare(&model);
    float *bias = model.linears[model.linear_count - 1].bias;
    assert_non_null(bias);
    bias[1] = NAN;
    assert_int_equal(model_prepare(&model, GEMM_BUILTIN), 0);
    assert_int_equal(score(&task, &model, NULL, 4, &result), E_NUMERIC);
    task_result_close(&result);
    task.kind->close(&task);
    model_close(&headless);
    model_close(&model);
}

static void failed_allocations_are_survived(void **state) {
    (void)state;
    struct model model = {0};
    struct task task;
    struct task_result result;
    int threads = threads_get();
    threads_set(1);
    span_model(&model, 1);
    assert_int_equal(task_with(&task, NULL, 0), 0);
    memory_fail_after(0);
    assert_int_equal(score(&task, &model, &model, 4, &result), 0);
    long allocations = memory_count();
    task_result_close(&result);
    assert_true(allocations > 20);
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        int status = score(&task, &model, &model, 4, &result);
        memory_fail_after(0);
        if (status != E_MEMORY) fail_msg("allocation %ld: %d %s", n, status, error_text());
        task_result_close(&result);
    }
    threads_set(threads);
    task.kind->close(&task);
    model_close(&model);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_cover_the_context),       cmocka_unit_test(best_span_is_the_best_of_all),
        cmocka_unit_test(answers_are_the_texts_own_bytes), cmocka_unit_test(agreement_counts_equal_answers),
        cmocka_unit_test(threads_change_nothing),          cmocka_unit_test(what_cannot_be_done_is_refused),
        cmocka_unit_test(failed_allocations_are_survived),
    };
    return cmocka_run_group_tests_name("question_answering", tests, fixture_open, fixture_close);
}
