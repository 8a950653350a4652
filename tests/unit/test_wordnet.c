/* The WordNet task: splits, definitions, hostile files, and counts on the real data.
 * `test_wordnet --write DIR [PER_CLASS]` writes the small WordNet for test scripts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "small_wordnet.h"
#include "task/task.h"

static char folder[64];

static int folder_open(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_wordnet.XXXXXX");
    return mkdtemp(folder) && small_wordnet_write(folder, 40, 30) == 0 ? 0 : -1;
}

static int folder_close(void **state) {
    (void)state;
    static const char *const names[] = {"data.noun", "data.verb", "data.adj", "data.adv"};
    for (size_t i = 0; i < 4; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static int open_at(struct task *task, const char *data, const char *max_train) {
    const struct task_kind *kind = task_kind_find("wordnet");
    struct option_store store = {0};
    uint64_t options[8] = {0};
    assert_non_null(kind);
    assert_true(kind->options_bytes <= sizeof options);
    assert_int_equal(option_defaults(kind->options, options, &store), 0);
    assert_int_equal(option_set(option_find(kind->options, "data"), options, data, &store), 0);
    assert_int_equal(option_set(option_find(kind->options, "max_train"), options, max_train, &store), 0);
    int status = kind->open(task, options);
    option_store_close(&store);
    return status;
}

static void noun_write(const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/data.noun", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static const char *found(const struct task_text *texts, const char *text, int *label) {
    for (size_t i = 0; i < texts->count; i++)
        if (strcmp(texts->text[i], text) == 0) {
            if (label) *label = texts->label[i];
            return texts->text[i];
        }
    return NULL;
}

static void splits_cover_every_item_once(void **state) {
    (void)state;
    struct task task;
    assert_int_equal(open_at(&task, folder, "0"), 0);
    assert_int_equal(task.classes, 8);
    assert_string_equal(task.class_names[3], "communication");
    size_t labelled = 0;
    for (int s = SPLIT_TRAIN; s <= SPLIT_TEST; s++) {
        labelled += task.split[s].count;
        for (size_t i = 0; i < task.split[s].count; i++) {
            assert_in_range(task.split[s].label[i], 0, 7);
            assert_null(strchr(task.split[s].text[i], '"'));
            if (s != SPLIT_TRAIN) {
                assert_null(found(&task.split[SPLIT_UNLABELLED], task.split[s].text[i], NULL));
                assert_null(found(&task.split[SPLIT_TRAIN], task.split[s].text[i], NULL));
            }
        }
    }
    assert_int_equal(labelled, 8 * 40);
    assert_int_equal(task.split[SPLIT_UNLABELLED].count, 4 * 30 + task.split[SPLIT_TRAIN].count);
    assert_null(task.split[SPLIT_UNLABELLED].label);
    task.kind->close(&task);
    assert_null(task.owned);
}

/* The ids among n00000001 to n00000039 whose hash, by sha256sum, gives 8 or 9. */
static void split_follows_the_hash_of_the_id(void **state) {
    (void)state;
    char text[2048] = "";
    for (unsigned id = 1; id <= 39; id++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%08u 20 n 01 w 0 000 | plant %u  \n", id, id);
    noun_write(text);
    struct task task;
    assert_int_equal(open_at(&task, folder, "0"), 0);
    static const int validation[] = {29, 38}, test[] = {15, 19, 21, 37};
    assert_int_equal(task.split[SPLIT_VALIDATION].count, sizeof validation / sizeof *validation);
    assert_int_equal(task.split[SPLIT_TEST].count, sizeof test / sizeof *test);
    for (size_t i = 0; i < sizeof validation / sizeof *validation; i++) {
        char expected[32];
        snprintf(expected, sizeof expected, "plant %d", validation[i]);
        assert_string_equal(task.split[SPLIT_VALIDATION].text[i], expected);
    }
    for (size_t i = 0; i < sizeof test / sizeof *test; i++) {
        char expected[32];
        snprintf(expected, sizeof expected, "plant %d", test[i]);
        assert_string_equal(task.split[SPLIT_TEST].text[i], expected);
    }
    task.kind->close(&task);
    small_wordnet_write(folder, 40, 30);
}

static void definition_leaves_examples_out(void **state) {
    (void)state;
    char text[4096] = "00000001 04 n 01 w 0 000 | the \"inner\" act;again; \"an example; cut\"; and more ;\"x\" - Y  \n"
                      "00000002 26 n 01 w 0 000 | \"only an example\"  \n"
                      "00000003 03 n 01 w 0 000 | unclassified  \n";
    for (unsigned id = 10; id < 40; id++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%08u 20 n 01 w 0 000 | plant %u  \n", id, id);
    noun_write(text);
    struct task task;
    int label = -1;
    assert_int_equal(open_at(&task, folder, "0"), 0);
    assert_non_null(found(&task.split[SPLIT_TRAIN], "the \"inner\" act; again; and more", &label));
    assert_int_equal(label, 0);
    assert_null(found(&task.split[SPLIT_TRAIN], "unclassified", NULL));
    assert_non_null(found(&task.split[SPLIT_UNLABELLED], "unclassified", NULL));
    assert_null(found(&task.split[SPLIT_UNLABELLED], "", NULL));
    task.kind->close(&task);
    small_wordnet_write(folder, 40, 30);
}

static void shared_texts_are_never_scored(void **state) {
    (void)state;
    char text[4096] = "";
    for (unsigned id = 1; id < 40; id++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%08u 20 n 01 w 0 000 | plant %u  \n", id, id % 30);
    /* An unclassified synset with the text of a test item. */
    snprintf(text + strlen(text), sizeof text - strlen(text), "%08u 03 n 01 w 0 000 | plant %d  \n", 90u, 15);
    noun_write(text);
    struct task task;
    assert_int_equal(open_at(&task, folder, "0"), 0);
    char shared[32];
    snprintf(shared, sizeof shared, "plant %d", 15);
    assert_non_null(found(&task.split[SPLIT_TEST], shared, NULL));
    for (int s = SPLIT_VALIDATION; s <= SPLIT_TEST; s++)
        for (size_t i = 0; i < task.split[s].count; i++) {
            assert_null(found(&task.split[SPLIT_TRAIN], task.split[s].text[i], NULL));
            assert_null(found(&task.split[SPLIT_UNLABELLED], task.split[s].text[i], NULL));
        }
    task.kind->close(&task);
    small_wordnet_write(folder, 40, 30);
}

static void max_train_takes_a_fixed_subset(void **state) {
    (void)state;
    struct task all, some, again;
    assert_int_equal(open_at(&all, folder, "0"), 0);
    assert_int_equal(open_at(&some, folder, "50"), 0);
    assert_int_equal(open_at(&again, folder, "50"), 0);
    assert_int_equal(some.split[SPLIT_TRAIN].count, 50);
    assert_int_equal(some.split[SPLIT_TEST].count, all.split[SPLIT_TEST].count);
    assert_string_equal(some.data_hash, again.data_hash);
    assert_string_not_equal(some.data_hash, all.data_hash);
    for (size_t i = 0; i < 50; i++) {
        assert_string_equal(some.split[SPLIT_TRAIN].text[i], again.split[SPLIT_TRAIN].text[i]);
        assert_non_null(found(&all.split[SPLIT_TRAIN], some.split[SPLIT_TRAIN].text[i], NULL));
    }
    all.kind->close(&all);
    some.kind->close(&some);
    again.kind->close(&again);
}

static void hostile_files_are_refused_with_their_line(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected;
    } rows[] = {
        {"", "no synset in it"},
        {"  1 licence only  \n", "no synset in it"},
        {"  1 licence\n0000174 03 n 01 w 0 000 | a  \n", "data.noun:2: expected a synset offset"},
        {"00001740 3 n 01 w 0 000 | a  \n", "data.noun:1: expected a lexicographer file number"},
        {"00001740 03 v 01 w 0 000 | a  \n", "data.noun:1: expected a synset type"},
        {"00001740 03 \n", "data.noun:1: expected a synset type"},
        {"00001740 03 n 01 w 0 000 a  \n", "data.noun:1: no '|'"},
        {"00001740 03 n 01 w 0 000 | a  \n00001741 03 n 01 w", "data.noun:2: the last line has no end"},
        {"00001740 03 n 01 w 0 000 | a \001 b\n", "data.noun:1: control character 0x01"},
        {"00001740 20 n 01 w 0 000 | one plant  \n", "no validation item"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct task task;
        noun_write(rows[i].text);
        assert_int_equal(open_at(&task, folder, "0"), E_FORMAT);
        if (!strstr(error_text(), rows[i].expected)) fail_msg("expected \"%s\" in: %s", rows[i].expected, error_text());
        assert_null(task.owned);
    }
    small_wordnet_write(folder, 40, 30);
}

static void missing_data_names_the_package(void **state) {
    (void)state;
    struct task task;
    assert_int_equal(open_at(&task, "/nonexistent", "0"), E_IO);
    assert_non_null(strstr(error_text(), "/nonexistent/data.noun: "));
    assert_non_null(strstr(error_text(), "apt-get install wordnet-base"));
    assert_int_equal(open_at(&task, "/dev", "0"), E_IO);
}

static void every_failed_allocation_is_survived(void **state) {
    (void)state;
    struct task task;
    memory_fail_after(0);
    assert_int_equal(open_at(&task, folder, "20"), 0);
    long allocations = memory_count();
    task.kind->close(&task);
    const struct task_kind *kind = task_kind_find("wordnet");
    struct option_store store = {0};
    uint64_t options[8] = {0};
    assert_int_equal(option_defaults(kind->options, options, &store), 0);
    assert_int_equal(option_set(option_find(kind->options, "data"), options, folder, &store), 0);
    int refused = 0;
    for (long n = 1; n <= allocations; n++) {
        memory_fail_after(n);
        int status = kind->open(&task, options);
        memory_fail_after(0);
        if (status == 0) kind->close(&task);
        else {
            assert_int_equal(status, E_MEMORY);
            refused++;
        }
    }
    assert_true(refused > 10);
    option_store_close(&store);
}

static void real_data_has_its_known_counts(void **state) {
    (void)state;
    struct task task;
    if (access("/usr/share/wordnet/data.noun", R_OK) != 0) {
        printf("skipped: wordnet-base is not installed\n");
        skip();
    }
    assert_int_equal(open_at(&task, "/usr/share/wordnet", "0"), 0);
    assert_int_equal(task.split[SPLIT_TRAIN].count, 45712);
    assert_int_equal(task.split[SPLIT_VALIDATION].count, 5726);
    assert_int_equal(task.split[SPLIT_TEST].count, 5625);
    assert_int_equal(task.split[SPLIT_UNLABELLED].count, 106148);
    task.kind->close(&task);
}

int main(int argc, char **argv) {
    if (argc >= 3 && strcmp(argv[1], "--write") == 0)
        return small_wordnet_write(argv[2], argc > 3 ? (size_t)atoi(argv[3]) : 60, 60) ? 1 : 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_cover_every_item_once),   cmocka_unit_test(split_follows_the_hash_of_the_id),
        cmocka_unit_test(definition_leaves_examples_out), cmocka_unit_test(shared_texts_are_never_scored),
        cmocka_unit_test(max_train_takes_a_fixed_subset), cmocka_unit_test(hostile_files_are_refused_with_their_line),
        cmocka_unit_test(missing_data_names_the_package), cmocka_unit_test(every_failed_allocation_is_survived),
        cmocka_unit_test(real_data_has_its_known_counts),
    };
    return cmocka_run_group_tests(tests, folder_open, folder_close);
}
