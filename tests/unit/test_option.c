/* Options as tables: parsing, messages, nearest names, canonical text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/option.h"

struct sample {
    int64_t bits, epochs, seed;
    double sparsity, rate;
    bool symmetric;
    const char *scope, *path;
    struct option_names layers, files;
};

static const struct option table[] = {
    {"bits", OPTION_INTEGER, "8", 0, 0, "2|3|4|8", "bits", "Bits of a weight.", offsetof(struct sample, bits)},
    {"epochs", OPTION_INTEGER, "3", 1, 100, NULL, "epochs", "Passes.", offsetof(struct sample, epochs)},
    {"seed", OPTION_INTEGER, NULL, 0, 0, NULL, NULL, "Seed.", offsetof(struct sample, seed)},
    {"sparsity", OPTION_REAL, "0.5", 0, 1, NULL, NULL, "Zeros.", offsetof(struct sample, sparsity)},
    {"rate", OPTION_REAL, "1e-3", 0, INFINITY, NULL, NULL, "Step.", offsetof(struct sample, rate)},
    {"symmetric", OPTION_BOOLEAN, "true", 0, 0, NULL, NULL, "No zero point.", offsetof(struct sample, symmetric)},
    {"scope", OPTION_CHOICE, "layer", 0, 0, "layer|global", NULL, "Ranking.", offsetof(struct sample, scope)},
    {"path", OPTION_TEXT, "", 0, 0, NULL, NULL, "File.", offsetof(struct sample, path)},
    {"layers", OPTION_NAMES, "[]", 0, 0, NULL, NULL, "Layers.", offsetof(struct sample, layers)},
    {"files", OPTION_PATHS, "[]", 0, 0, NULL, NULL, "Files.", offsetof(struct sample, files)},
    OPTION_END,
};

static void defaults_come_from_the_table(void **state) {
    (void)state;
    struct sample sample = {.seed = 0};
    struct option_store store = {0};
    assert_int_equal(option_defaults(table, &sample, &store), 0);
    assert_int_equal(sample.bits, 8);
    assert_int_equal(sample.epochs, 3);
    assert_true(sample.sparsity == 0.5 && sample.rate == 1e-3);
    assert_true(sample.symmetric);
    assert_string_equal(sample.scope, "layer");
    assert_string_equal(sample.path, "");
    assert_int_equal(sample.layers.count, 0);
    option_store_close(&store);
}

static void a_bad_default_names_its_row(void **state) {
    (void)state;
    static const struct option bad[] = {{.name = "bits", .type = OPTION_INTEGER, .preset = "x"}, OPTION_END};
    int64_t target = 0;
    struct option_store store = {0};
    assert_int_equal(option_defaults(bad, &target, &store), E_ARGUMENT);
    assert_string_equal(error_text(), "default of 'bits': bits must be a whole number (got x)");
    option_store_close(&store);
}

static void values_and_messages(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *result; /* canonical text, or the message */
        int status;
    } row[] = {
        {"bits", "4", "4", 0},
        {"bits", "+04", "4", 0},
        {"bits", "5", "bits must be one of 2, 3, 4, 8 (got 5)", E_ARGUMENT},
        {"bits", "four", "bits must be one of 2, 3, 4, 8 (got four)", E_ARGUMENT},
        {"bits", "", "bits must be one of 2, 3, 4, 8 (got )", E_ARGUMENT},
        {"epochs", "2.5", "epochs must be a whole number (got 2.5)", E_ARGUMENT},
        {"epochs", "0", "epochs must be a whole number in 1..100 (got 0)", E_ARGUMENT},
        {"epochs", "101", "epochs must be a whole number in 1..100 (got 101)", E_ARGUMENT},
        {"epochs", "ten", "epochs must be a whole number in 1..100 (got ten)", E_ARGUMENT},
        {"epochs", "1e1", "epochs must be a whole number in 1..100 (got 1e1)", E_ARGUMENT},
        {"epochs", "0x10", "epochs must be a whole number in 1..100 (got 0x10)", E_ARGUMENT},
        {"epochs", " 3", "epochs must be a whole number in 1..100 (got  3)", E_ARGUMENT},
        {"epochs", "100", "100", 0},
        {"seed", "-9223372036854775808", "-9223372036854775808", 0},
        {"seed", "9223372036854775807", "9223372036854775807", 0},
        {"seed", "9223372036854775808", "seed must be a whole number (got 9223372036854775808)", E_ARGUMENT},
        {"sparsity", "1.5", "sparsity must be a number in 0..1 (got 1.5)", E_ARGUMENT},
        {"sparsity", "half", "sparsity must be a number in 0..1 (got half)", E_ARGUMENT},
        {"sparsity", "nan", "sparsity must be a number in 0..1 (got nan)", E_ARGUMENT},
        {"sparsity", "0.1.2", "sparsity must be a number in 0..1 (got 0.1.2)", E_ARGUMENT},
        {"sparsity", "1e", "sparsity must be a number in 0..1 (got 1e)", E_ARGUMENT},
        {"sparsity", ".", "sparsity must be a number in 0..1 (got .)", E_ARGUMENT},
        {"sparsity", "0.10", "0.1", 0},
        {"sparsity", "-0", "0", 0},
        {"sparsity", "1", "1", 0},
        {"rate", "-1", "rate must be a number of at least 0 (got -1)", E_ARGUMENT},
        {"rate", "inf", "rate must be a number of at least 0 (got inf)", E_ARGUMENT},
        {"rate", "1e999", "rate must be a number of at least 0 (got 1e999)", E_ARGUMENT},
        {"rate", "5e-05", "5e-05", 0},
        {"rate", ".25E+1", "2.5", 0},
        {"rate", "100", "100", 0},
        {"rate", "0.30000000000000004", "0.30000000000000004", 0},
        {"symmetric", "false", "false", 0},
        {"symmetric", "yes", "symmetric must be true or false (got yes)", E_ARGUMENT},
        {"scope", "global", "global", 0},
        {"scope", "lay", "scope must be one of layer, global (got lay)", E_ARGUMENT},
        {"scope", "layer|global", "scope must be one of layer, global (got layer|global)", E_ARGUMENT},
        {"path", "a b", "a b", 0},
        {"layers", "[]", "[]", 0},
        {"layers", "[ q ,k, \"a, b\" ]", "[q, k, \"a, b\"]", 0},
        {"layers", "ffn", "[ffn]", 0},
        {"files", "[a/b.safetensors, c d]", "[a/b.safetensors, \"c d\"]", 0},
        {"files", "[a,]", "files ends in a comma (got [a,])", E_ARGUMENT},
        {"layers", "[a", "layers must be a list such as [a, b] (got [a)", E_ARGUMENT},
        {"layers", "[a,]", "layers ends in a comma (got [a,])", E_ARGUMENT},
        {"layers", "[a,,b]", "layers must not hold an empty name", E_ARGUMENT},
        {"layers", "[\"a]", "layers has a quote that is not closed (got [\"a])", E_ARGUMENT},
        {"layers", "", "layers must not hold an empty name", E_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct sample sample = {.seed = 0};
        struct option_store store = {0};
        char text[64];
        const struct option *option = option_find(table, row[i].name);
        assert_non_null(option);
        int status = option_set(option, &sample, row[i].text, &store);
        if (status != row[i].status) fail_msg("%s '%s' gave %d", row[i].name, row[i].text, status);
        if (status == 0) option_print(option, &sample, text, sizeof text);
        assert_string_equal(status ? error_text() : text, row[i].result);
        if (!status) { /* canonical text reads back as itself */
            char again[64];
            assert_int_equal(option_set(option, &sample, text, &store), 0);
            assert_int_equal(option_print(option, &sample, again, sizeof again), strlen(text));
            assert_string_equal(text, again);
        }
        option_store_close(&store);
    }
}

static void lists_are_copied(void **state) {
    (void)state;
    struct sample sample = {.seed = 0};
    struct option_store store = {0};
    char item[] = "ffn";
    const char *const items[] = {item, "attention"};
    const struct option *layers = option_find(table, "layers");
    assert_int_equal(option_set_names(layers, &sample, items, 2, &store), 0);
    item[0] = 'x';
    assert_string_equal(sample.layers.items[0], "ffn");
    char small[8];
    assert_int_equal(option_print(layers, &sample, small, sizeof small), strlen("[ffn, attention]"));
    assert_string_equal(small, "[ffn, a");
    assert_int_equal(option_print(layers, &sample, NULL, 0), strlen("[ffn, attention]"));
    assert_int_equal(option_set_names(option_find(table, "bits"), &sample, items, 2, &store), E_ARGUMENT);
    option_store_close(&store);
}

static void doubles_round_trip_in_few_digits(void **state) {
    (void)state;
    static const double values[] = {0.1, 1.0 / 3, 1e300, DBL_MIN, DBL_TRUE_MIN, 123456789, 0.7, 2e-5};
    const struct option real = {.name = "r", .type = OPTION_REAL};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char text[64];
        double value = values[i], back = 0;
        option_print(&real, &value, text, sizeof text);
        assert_int_equal(option_set(&real, &back, text, NULL), 0);
        assert_true(back == value);
    }
    double tenth = 0.1;
    char text[8];
    option_print(&real, &tenth, text, sizeof text);
    assert_string_equal(text, "0.1");
}

static void nearest_names(void **state) {
    (void)state;
    static const char *const words[] = {"quantize", "prune", "distill", "rtn", "gptq", NULL};
    static const struct {
        const char *word, *nearest;
    } row[] = {
        {"quantise", "quantize"}, {"qauntize", "quantize"}, {"prnue", "prune"}, {"distil", "distill"}, {"gtpq", "gptq"},
        {"rnt", "rtn"},           {"punee", "prune"},       {"zzz", NULL},      {"banana", NULL},      {"", NULL},
        {"qantzz", NULL},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        const char *nearest = word_nearest(words, row[i].word);
        if (!row[i].nearest) assert_null(nearest);
        else assert_string_equal(nearest, row[i].nearest);
    }
    assert_string_equal(option_nearest(table, "sparsty"), "sparsity");
    assert_null(option_nearest(table, "temperature"));
    assert_null(option_find(table, "bit"));
    char long_word[200];
    memset(long_word, 'a', sizeof long_word);
    long_word[199] = 0;
    assert_null(word_nearest(words, long_word));
}

static void failed_allocations_leave_no_trace(void **state) {
    (void)state;
    const struct option *layers = option_find(table, "layers");
    for (long n = 1;; n++) {
        struct sample sample = {.seed = 0};
        struct option_store store = {0};
        memory_fail_after(n);
        int status = option_defaults(table, &sample, &store);
        if (!status) status = option_set(layers, &sample, "[a, b, c, d, e, f, g, h]", &store);
        long asked = memory_count();
        memory_fail_after(0);
        option_store_close(&store);
        if (!status) {
            assert_true(asked < n);
            break;
        }
        assert_int_equal(status, E_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_come_from_the_table),
        cmocka_unit_test(a_bad_default_names_its_row),
        cmocka_unit_test(values_and_messages),
        cmocka_unit_test(lists_are_copied),
        cmocka_unit_test(doubles_round_trip_in_few_digits),
        cmocka_unit_test(nearest_names),
        cmocka_unit_test(failed_allocations_leave_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
