/* doctor, meters, techniques and schema: what they print, and the machine's records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu_mask.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "config/experiment.h"
#include "io/json.h"
#include "kernels/kernels.h"
#include "machine.h"
#include "machine_peaks.h"
#include "meters/meter.h"
#include "verbs/verbs.h"

static char printed[1 << 20];

/* Run a verb with up to three words; its standard output lies in `printed`. */
static int run(int (*verb)(int, char **), const char *name, const char *one, const char *two, const char *three) {
    char words[4][128], *argv[5] = {0};
    const char *given[] = {name, one, two, three};
    int argc = 0;
    for (int i = 0; i < 4 && given[i]; i++) {
        snprintf(words[i], sizeof words[i], "%s", given[i]);
        argv[argc++] = words[i];
    }
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    int status = verb(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    printed[fread(printed, 1, sizeof printed - 1, file)] = 0;
    fclose(file);
    return status;
}

/* The state of the doctor's row `what`, or "" when there is none; fills value and remedy. */
static const char *row_of(const char *what, char *value, char *remedy) {
    static char state[16];
    state[0] = value[0] = remedy[0] = 0;
    for (char *line = printed; *line;) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        struct json_document document = {0};
        assert_int_equal(json_open(&document, line, (size_t)(end - line)), 0);
        const struct json *root = json_root(&document), *fix = json_member(root, "remedy");
        assert_non_null(json_member(root, "state"));
        assert_non_null(json_member(root, "found"));
        if (strcmp(json_member(root, "what")->text, what) == 0) {
            snprintf(state, sizeof state, "%s", json_member(root, "state")->text);
            snprintf(value, 1536, "%s", json_member(root, "found")->text);
            snprintf(remedy, 256, "%s", fix->type == JSON_STRING ? fix->text : "");
        }
        json_close(&document);
        line = end + 1;
    }
    return state;
}

static void doctor_sees_a_wrong_core_type(void **state) {
    (void)state;
    char value[1536], remedy[256];
    setenv("OPENBLAS_CORETYPE", "Prescott", 1);
    setenv("OPENBLAS_L2_SIZE", "1048576", 1);
    assert_int_equal(run(verb_doctor, "doctor", "--quick", "--format=jsonl", NULL), 0);
    assert_string_equal(row_of("OPENBLAS_CORETYPE", value, remedy), "warn");
    assert_non_null(strstr(value, "Prescott"));
    assert_non_null(strstr(value, "halves f32 GEMM"));
    assert_string_equal(remedy, "unset OPENBLAS_CORETYPE");
    assert_string_equal(row_of("OPENBLAS_L2_SIZE", value, remedy), "warn");
    unsetenv("OPENBLAS_CORETYPE");
    unsetenv("OPENBLAS_L2_SIZE");
    assert_int_equal(run(verb_doctor, "doctor", "--quick", "--format=jsonl", NULL), 0);
    assert_string_equal(row_of("OPENBLAS_CORETYPE", value, remedy), "");
}

static void doctor_gives_every_warning_a_remedy(void **state) {
    (void)state;
    char value[1536], remedy[256];
    struct findings findings = {.count = 0};
    setenv("DNNL_VERBOSE", "1", 1);
    machine_check(&findings);
    unsetenv("DNNL_VERBOSE");
    size_t warnings = 0;
    for (size_t i = 0; i < findings.count; i++) {
        if (findings.items[i].state != FINDING_WARN) continue;
        warnings++;
        assert_true(findings.items[i].remedy[0]);
    }
    assert_true(warnings >= 1);
    assert_int_equal(run(verb_doctor, "doctor", "--quick", "--format=jsonl", NULL), 0);
    static const char *const expected[] = {"cpu",           "cpu flags",      "kernels",
                                           "cores",         "caches",         "memory",
                                           "governor",      "turbo",          "smt",
                                           "load",          "clock",          "blas",
                                           "onednn",        "meter time",     "perf_event_paranoid",
                                           "papi",          "build",          "disk for results",
                                           "energy (RAPL)", "OpenMP settings"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!row_of(expected[i], value, remedy)[0]) fail_msg("doctor says nothing about \"%s\"", expected[i]);
    row_of("kernels", value, remedy);
#define VARIANT_IS_NAMED(name, contract) assert_non_null(strstr(value, kernels_variant(#name, kernels.flags)));
    KERNELS(VARIANT_IS_NAMED)
#undef VARIANT_IS_NAMED
    row_of("meter time", value, remedy);
    assert_string_equal(value, "window_ns");
    assert_int_equal(run(verb_doctor, "doctor", "--quick", "--format=jsonl", "--cpumask=0"), 0);
    row_of("kernels", value, remedy);
    assert_non_null(strstr(value, "matmul_s8_c"));
    kernels_open(test_cpu_mask());
}

static void machine_fills_its_records(void **state) {
    (void)state;
    struct machine machine, again;
    setenv("OPENBLAS_CORETYPE", "Prescott", 1);
    assert_int_equal(machine_open(&machine), 0);
    unsetenv("OPENBLAS_CORETYPE");
    assert_non_null(strstr(machine.warnings, "OPENBLAS_CORETYPE: "));
    assert_true(machine.host.cpu[0] && machine.host.cpu_flags[0] && machine.host.kernel[0]);
    assert_true(machine.host.cores >= 1 && machine.host.memory_bytes > 1 << 20);
    assert_true(machine.load_average >= 0);
    assert_true(machine.build.version[0] && machine.build.commit[0] && machine.build.blas[0]);
    assert_int_equal(machine_open(&again), 0);
    assert_null(strstr(again.warnings, "OPENBLAS_CORETYPE: "));
    /* Nothing that jitters: the same host again is the same row. */
    assert_string_equal(machine.host.cpu, again.host.cpu);
    assert_string_equal(machine.host.caches, again.host.caches);
    assert_string_equal(machine.host.kernel, again.host.kernel);
    machine_close(&machine);
    machine_close(&again);
}

static void peaks_are_measured(void **state) {
    (void)state;
    double rate = 0;
    assert_int_equal(peak_read((size_t)8 << 20, 0, &rate), 0);
    assert_true(rate > 1e6);
    assert_int_equal(peak_matmul("no such format", GEMM_BUILTIN, 128, 0, &rate), E_NOT_FOUND);
    assert_int_equal(peak_matmul("int8", GEMM_BUILTIN, 128, 0, &rate), 0);
    assert_true(rate > 1e6);
}

static void verbs_refuse_what_they_do_not_know(void **state) {
    (void)state;
    assert_int_equal(run(verb_doctor, "doctor", "extra", NULL, NULL), E_ARGUMENT);
    assert_int_equal(run(verb_doctor, "doctor", "--format=xml", NULL, NULL), E_ARGUMENT);
    assert_int_equal(run(verb_meters, "meters", "rusge", NULL, NULL), E_NOT_FOUND);
    assert_non_null(strstr(error_text(), "did you mean \"rusage\"?"));
    assert_int_equal(run(verb_techniques, "techniques", "nul", NULL, NULL), E_NOT_FOUND);
    assert_non_null(strstr(error_text(), "did you mean \"null\"?"));
    assert_int_equal(run(verb_techniques, "techniques", "null,bits", NULL, NULL), E_NOT_FOUND);
    assert_int_equal(run(verb_techniques, "techniques", "a", "b", NULL), E_ARGUMENT);
    assert_int_equal(run(verb_schema, "schema", "extra", NULL, NULL), E_ARGUMENT);
    assert_string_equal(printed, "");
}

static void meters_are_listed_and_shown(void **state) {
    (void)state;
    assert_int_equal(run(verb_meters, "meters", NULL, NULL, NULL), 0);
    for (size_t i = 0; meters[i]; i++) assert_non_null(strstr(printed, meters[i]->name));
    assert_int_equal(run(verb_meters, "meters", "papi", "--format=csv", NULL), 0);
    assert_non_null(strstr(printed, "multiply_adds,count,0,"));
}

static void techniques_show_their_whole_table(void **state) {
    (void)state;
    size_t count = 0;
    const struct technique *const *list = technique_list(&count);
    assert_true(count > 0);
    assert_int_equal(run(verb_techniques, "techniques", NULL, NULL, NULL), 0);
    for (size_t i = 0; i < count; i++) assert_non_null(strstr(printed, list[i]->summary));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(run(verb_techniques, "techniques", list[i]->name, "--format=md", NULL), 0);
        assert_int_equal(strncmp(printed, "# ", 2), 0);
        assert_non_null(strstr(printed, list[i]->summary));
        for (const struct option *option = list[i]->options; option && option->name; option++) {
            assert_non_null(strstr(printed, option->name));
            assert_non_null(strstr(printed, option->help));
        }
        if (!list[i]->options || !list[i]->options->name) continue;
        char words[128];
        snprintf(words, sizeof words, "%s,%s", list[i]->name, list[i]->options->name);
        assert_int_equal(run(verb_techniques, "techniques", words, NULL, NULL), 0);
        assert_non_null(strstr(printed, list[i]->options->help));
    }
}

/* What a page shows as the stage with its defaults can be pasted into a pipeline. */
static void examples_are_read(void **state) {
    (void)state;
    size_t count = 0;
    const struct technique *const *list = technique_list(&count);
    for (size_t i = 0; i < count; i++) {
        char path[] = "/tmp/test_doctor_XXXXXX";
        assert_int_equal(run(verb_techniques, "techniques", list[i]->name, "--format=md", NULL), 0);
        char *example = strstr(printed, "```yaml\n"), *end = example ? strstr(example + 8, "```") : NULL;
        assert_non_null(end);
        *end = 0;
        int fd = mkstemp(path);
        assert_true(fd >= 0);
        dprintf(fd, "experiment: example\nmodel: {width: 64}\ntask: wordnet\nmatrix:\n  pipeline:\n  -\n  %s",
                example + 8);
        close(fd);
        struct experiment experiment;
        int status = experiment_read(&experiment, path, NULL, 0);
        unlink(path);
        if (status < 0) fail_msg("%s: %s", list[i]->name, error_text());
        experiment_close(&experiment);
    }
}

/* docs/techniques/NAME.md is what the verb prints. */
static void pages_are_up_to_date(void **state) {
    (void)state;
    size_t count = 0;
    const struct technique *const *list = technique_list(&count);
    if (access("docs/techniques", F_OK) != 0) {
        print_message("skipped: not in the source tree\n");
        skip();
    }
    for (size_t i = 0; i < count; i++) {
        char path[256], *page = NULL;
        size_t bytes = 0;
        snprintf(path, sizeof path, "docs/techniques/%s.md", list[i]->name);
        assert_int_equal(run(verb_techniques, "techniques", list[i]->name, "--format=md", NULL), 0);
        if (file_read(path, sizeof printed, &page, &bytes) < 0 || strcmp(page, printed) != 0)
            fail_msg("%s is out of date: runexp techniques %s --format md > %s", path, list[i]->name, path);
        memory_release(page);
    }
}

static void schema_is_json(void **state) {
    (void)state;
    struct json_document document = {0};
    assert_int_equal(run(verb_schema, "schema", NULL, NULL, NULL), 0);
    assert_int_equal(json_open(&document, printed, strlen(printed)), 0);
    assert_non_null(json_member(json_root(&document), "properties"));
    json_close(&document);
}

int main(void) {
    kernels_open(test_cpu_mask());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doctor_sees_a_wrong_core_type),
        cmocka_unit_test(doctor_gives_every_warning_a_remedy),
        cmocka_unit_test(machine_fills_its_records),
        cmocka_unit_test(peaks_are_measured),
        cmocka_unit_test(verbs_refuse_what_they_do_not_know),
        cmocka_unit_test(meters_are_listed_and_shown),
        cmocka_unit_test(techniques_show_their_whole_table),
        cmocka_unit_test(examples_are_read),
        cmocka_unit_test(pages_are_up_to_date),
        cmocka_unit_test(schema_is_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
