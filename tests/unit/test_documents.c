/* Several experiments in one file: one per YAML document, each checked where it stands, with the overrides that
 * concern it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "config/experiment.h"
#include "scratch_file.h"

#define FIRST                                                                                                          \
    "# two of them\nexperiment: one\nmodel: {family: bert, layers: 1, width: 32, heads: 4}\ntask: {wordnet: {}}\n"     \
    "prepare: [finetune: {epochs: 2}]\n"
#define SECOND                                                                                                         \
    "experiment: two\nmodel: {path: some/where}\ntask: {perplexity: {data: here, window: 64}}\n"                       \
    "matrix: {pipeline: [[], [rtn: {bits: 8}]]}\n"

static struct experiment *list;
static size_t count;
static char path[128];

static int read_text(const char *text, const char *const *sets, size_t set_count) {
    scratch_file(path, ".yaml", text);
    const char *paths[] = {path};
    int status = experiments_read(&list, &count, paths, 1, sets, set_count);
    scratch_remove(path);
    return status;
}

static void expect_error(const char *text, const char *set, const char *place, const char *words) {
    char expected[256];
    assert_int_equal(read_text(text, &set, set != NULL), E_ARGUMENT);
    assert_null(list);
    snprintf(expected, sizeof expected, "%s%s", set != NULL && !*place ? "--set " : path, place);
    if (strncmp(error_text(), expected, strlen(expected)) != 0 || strstr(error_text(), words) == NULL)
        fail_msg("expected \"%s … %s\" in: %s", expected, words, error_text());
}

static void one_experiment_per_document(void **state) {
    (void)state;
    if (read_text(FIRST "---\n" SECOND "---\nexperiment: three\nmodel: {family: bert}\ntask: wordnet\n", NULL, 0) < 0)
        fail_msg("%s", error_text());
    assert_int_equal(count, 3);
    assert_string_equal(list[0].name, "one");
    assert_string_equal(list[1].name, "two");
    assert_string_equal(list[2].name, "three");
    assert_int_equal(list[0].cell_count, 1);
    assert_int_equal(list[1].cell_count, 2);
    /* Each keeps its own part of the file. */
    assert_string_equal(list[0].text, FIRST);
    assert_string_equal(list[1].text, "---\n" SECOND);
    assert_string_equal(list[2].text, "---\nexperiment: three\nmodel: {family: bert}\ntask: wordnet\n");
    experiments_close(list, count);
}

static void errors_name_the_line_in_the_file(void **state) {
    (void)state;
    expect_error(FIRST "---\nexperiment: two\nmodle: {}\n", NULL, ":8:1", "did you mean 'model'");
    expect_error(FIRST "---\nmodel: {family: bert}\ntask: wordnet\n", NULL, ":6:1", "experiment is required");
    expect_error(FIRST "---\n", NULL, ":6:1", "the document is empty");
    expect_error(FIRST "---\nexperiment: [two\n", NULL, ":", "not valid YAML");
    expect_error(FIRST "---\n" FIRST, NULL, ":8:13: the experiment 'one' is also at ", ":2:13; rename one");
    /* An anchor is of its document. */
    expect_error("experiment: one\n.a: &a 3\nmodel: {family: bert}\ntask: wordnet\n---\nexperiment: two\nmodel: *a\n",
                 NULL, ":7:8", "no anchor &a");
}

static const char *task_text(const struct experiment *experiment, const char *name) {
    const char *text = NULL;
    for (const struct option *option = experiment->task->options; option->name; option++)
        if (strcmp(option->name, name) == 0)
            memcpy(&text, (const char *)experiment->task_options + option->offset, sizeof text);
    return text;
}

static void overrides_concern_who_knows_them(void **state) {
    (void)state;
    static const char *const sets[] = {"window=32", "prepare.finetune.epochs=5", "rounds=3", "measure.samples=4",
                                       "matrix.pipeline.1.rtn.bits=4"};
    if (read_text(FIRST "---\n" SECOND, sets, 5) < 0) fail_msg("%s", error_text());
    assert_int_equal(list[0].measure.rounds, 3);
    assert_int_equal(list[1].measure.rounds, 3);
    assert_int_equal(list[0].measure.samples, 4);
    assert_int_equal(list[1].measure.samples, 4);
    assert_int_equal(list[0].cells[0].prepare_count, 1);
    assert_int_equal(list[1].cells[0].prepare_count, 0);
    assert_non_null(strstr(list[1].cells[1].label, "bits=4"));
    experiments_close(list, count);
    static const char *const task_path[] = {"task.perplexity.window=16"};
    if (read_text(FIRST "---\n" SECOND, task_path, 1) < 0) fail_msg("%s", error_text());
    assert_string_equal(list[0].task->name, "wordnet");
    experiments_close(list, count);
    /* Both tasks have a folder of data, one states it. */
    static const char *const data[] = {"data=there"};
    if (read_text(FIRST "---\n" SECOND, data, 1) < 0) fail_msg("%s", error_text());
    assert_string_equal(task_text(&list[0], "data"), "/usr/share/wordnet");
    assert_string_equal(task_text(&list[1], "data"), "there");
    experiments_close(list, count);
    if (read_text(FIRST, data, 1) < 0) fail_msg("%s", error_text());
    assert_string_equal(task_text(&list[0], "data"), "there");
    experiments_close(list, count);
    expect_error(FIRST "---\n" SECOND, "windwo=3", "", "did you mean 'window'");
    expect_error(FIRST "---\n" SECOND, "window=-1", "", "window");
    expect_error(FIRST "---\n" SECOND, "task.similarity.data=x", "",
                 "--set task.similarity.data: the task is perplexity, not 'similarity'");
}

static void no_memory_is_survived(void **state) {
    (void)state;
    static const char *const sets[] = {"rounds=3"};
    const char *paths[] = {path};
    long n = 1;
    size_t techniques;
    technique_list(&techniques); /* lives as long as the process */
    scratch_file(path, ".yaml", FIRST "---\n" SECOND);
    for (;; n++) {
        memory_fail_after(n);
        int status = experiments_read(&list, &count, paths, 1, sets, 1);
        memory_fail_after(0);
        if (status == 0) break;
        if (status != E_MEMORY) fail_msg("allocation %ld: %d %s", n, status, error_text());
        assert_null(list);
    }
    assert_true(n > 20);
    experiments_close(list, count);
    scratch_remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_experiment_per_document),
        cmocka_unit_test(errors_name_the_line_in_the_file),
        cmocka_unit_test(overrides_concern_who_knows_them),
        cmocka_unit_test(no_memory_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
