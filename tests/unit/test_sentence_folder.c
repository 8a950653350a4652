/* Folders of sentence-transformers: those whose embeddings are compared by their cosine, without a prompt in front,
 * pass, others are refused by file and field. */
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
#include "task/sentence_folder.h"
#include "task/task.h"

static char folder[] = "/tmp/test_sentence_folder_XXXXXX";

/* text NULL: no such file. */
static void put(const char *name, const char *text) {
    char path[96];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    if (!text) return;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

#define MODULE(PATH, TYPE) "{\"idx\": 0, \"path\": \"" PATH "\", \"type\": \"sentence_transformers.models." TYPE "\"}"
#define USUAL "[" MODULE("", "Transformer") "," MODULE("1_Pooling", "Pooling") "]"
#define UNIT "[" MODULE("", "Transformer") "," MODULE("1_Pooling", "Pooling") "," MODULE("2_Normalize", "Normalize") "]"

static void folders_compare_by_cosines_or_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *modules, *comparison, *error; /* error NULL: passes */
    } cases[] = {
        {NULL, NULL, NULL},
        {USUAL, NULL, NULL},
        {UNIT, "{\"similarity_fn_name\": \"cosine\", \"default_prompt_name\": null, \"prompts\": {}}", NULL},
        {UNIT, "{\"similarity_fn_name\": \"dot\", \"default_prompt_name\": \"d\", \"prompts\": {\"d\": \"\"}}", NULL},
        {"[", NULL, "modules.json:"},
        {USUAL, "{\"similarity_fn_name\": \"dot\"}", "similarity_fn_name dot is not supported (only cosine)"},
        {UNIT, "{\"similarity_fn_name\": \"euclidean\"}", "similarity_fn_name euclidean"},
        {USUAL, "{\"default_prompt_name\": \"query\", \"prompts\": {\"query\": \"query: \"}}",
         "config_sentence_transformers.json: default_prompt_name query is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("modules.json", cases[i].modules);
        put("config_sentence_transformers.json", cases[i].comparison);
        int status = sentence_folder_check(folder);
        if (!cases[i].error && status < 0) fail_msg("case %zu: %s", i, error_text());
        if (cases[i].error && (status >= 0 || !strstr(error_text(), cases[i].error)))
            fail_msg("case %zu: %s", i, status < 0 ? error_text() : "passes");
    }
    assert_int_equal(sentence_folder_check("/nowhere/model.gguf"), 0);
    assert_ptr_equal(task_kind_find("similarity")->check_folder, sentence_folder_check);
}

int main(void) {
    char command[64];
    const struct CMUnitTest tests[] = {cmocka_unit_test(folders_compare_by_cosines_or_are_refused)};
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command) || failed;
}
