/* What makes two cells the same: files that a stage's options name count with their bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/settings.h"
#include "run/keys.h"
#include "scratch_file.h"

struct teaching {
    const char *teacher;
    struct option_names ensemble;
};
static const struct option teaching_options[] = {
    {"teacher", OPTION_PATH, "", 0, 0, NULL, NULL, "A model.", offsetof(struct teaching, teacher)},
    {"ensemble", OPTION_PATHS, "[]", 0, 0, NULL, NULL, "Models.", offsetof(struct teaching, ensemble)},
    OPTION_END};
/* The source hash is looked up by name: this one borrows that of `null`. */
static const struct technique teaching = {.abi = TECHNIQUE_ABI,
                                          .name = "null",
                                          .summary = "s",
                                          .options = teaching_options,
                                          .options_bytes = sizeof(struct teaching)};

static void keys_of(const struct experiment *experiment, const char *path, bool listed, char cell_key[HASH_HEX],
                    char before[HASH_HEX]) {
    struct teaching options = {listed ? "" : path, {&path, listed}};
    struct stage_plan stages[2] = {{.technique = &teaching, .options = &(struct teaching){"", {NULL, 0}}},
                                   {.technique = &teaching, .options = &options}};
    struct cell cell = {.stages = stages, .stage_count = 2, .threads = 1, .seed = 1};
    static const char data[HASH_HEX] = "data";
    char hex[HASH_HEX];
    assert_int_equal(keys_data(experiment, data, hex), 0); /* a new experiment: files are read again */
    assert_int_equal(keys_cell(experiment, &cell, "data", cell_key), 0);
    assert_int_equal(keys_prefix(experiment, &cell, 1, "data", before), 0);
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void bytes_are_in_the_key(bool listed) {
    struct experiment experiment;
    char yaml[128], path[128], none[HASH_HEX], one[HASH_HEX], same[HASH_HEX], other[HASH_HEX], prefix[3][HASH_HEX];
    scratch_file(yaml, ".yaml", "experiment: e\nmodel: {layers: 1, width: 32, heads: 4}\ntask: {wordnet: {}}\n");
    scratch_file(path, ".teacher", "weights");
    assert_int_equal(experiment_read(&experiment, yaml, NULL, 0), 0);
    keys_of(&experiment, "", false, none, prefix[0]);
    keys_of(&experiment, path, listed, one, prefix[1]);
    keys_of(&experiment, path, listed, same, prefix[1]);
    write_file(path, "Weights");
    keys_of(&experiment, path, listed, other, prefix[2]);
    assert_string_equal(one, same);
    assert_string_not_equal(one, none);
    assert_string_not_equal(one, other);
    /* Stages before the one that names the file are the same. */
    assert_string_equal(prefix[0], prefix[1]);
    assert_string_equal(prefix[1], prefix[2]);
    experiment_close(&experiment);
    scratch_remove(path);
    scratch_remove(yaml);
}

static void bytes_of_a_path_are_in_the_key(void **state) {
    (void)state;
    for (int listed = 0; listed < 2; listed++) bytes_are_in_the_key(listed);
}

static void missing_path_is_refused(void **state) {
    (void)state;
    struct teaching options = {NULL, {NULL, 0}};
    struct option_store store = {0};
    assert_int_equal(settings_assign(teaching_options, &options, "/nowhere/model", &store), E_ARGUMENT);
    assert_string_equal(error_text(), "teacher: /nowhere/model: No such file or directory");
    assert_int_equal(settings_assign(teaching_options, &options, "", &store), 0);
    assert_int_equal(settings_assign(teaching_options, &options, "/", &store), 0);
    assert_string_equal(options.teacher, "/");
    assert_int_equal(settings_assign(teaching_options + 1, &options, "[/, /nowhere/model]", &store), E_ARGUMENT);
    assert_string_equal(error_text(), "ensemble: /nowhere/model: No such file or directory");
    assert_int_equal(settings_assign(teaching_options + 1, &options, "[/, /]", &store), 0);
    option_store_close(&store);
}

/* … and those of a pretrained model's modules, in folders below its own. */
static void modules_of_a_folder_are_in_the_key(void **state) {
    (void)state;
    struct experiment experiment = {0};
    char folder[] = "/tmp/test_keys_XXXXXX", module[64], path[96], hex[3][HASH_HEX];
    assert_non_null(mkdtemp(folder));
    snprintf(module, sizeof module, "%s/1_Pooling", folder);
    assert_int_equal(mkdir(module, 0700), 0);
    experiment.model.path = folder;
    snprintf(path, sizeof path, "%s/config.json", module);
    assert_int_equal(keys_data(&experiment, "data", hex[0]), 0);
    write_file(path, "{}");
    assert_int_equal(keys_data(&experiment, "data", hex[1]), 0);
    write_file(path, "{\"pooling_mode\": \"cls\"}");
    assert_int_equal(keys_data(&experiment, "data", hex[2]), 0);
    assert_string_not_equal(hex[0], hex[1]);
    assert_string_not_equal(hex[1], hex[2]);
    unlink(path);
    rmdir(module);
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_of_a_path_are_in_the_key),
                                       cmocka_unit_test(missing_path_is_refused),
                                       cmocka_unit_test(modules_of_a_folder_are_in_the_key)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
