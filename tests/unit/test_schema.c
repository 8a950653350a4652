/* The JSON Schema parses, covers every section, technique and option, and says what the tables say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/memory.h"
#include "config/experiment.h"
#include "config/override.h"

static json_t *at(json_t *node, const char *a, const char *b, const char *c) {
    node = json_object_get(node, a);
    if (b != NULL) node = json_object_get(node, b);
    if (c != NULL) node = json_object_get(node, c);
    return node;
}

/* The options map of a technique inside $defs.stage. */
static json_t *stage_options(json_t *schema, const char *name) {
    json_t *any = at(schema, "$defs", "stage", "anyOf");
    for (size_t i = 0; i < json_array_size(any); i++) {
        json_t *entry = json_array_get(any, i), *pair = json_object_get(entry, "anyOf");
        if (pair != NULL) entry = json_array_get(pair, 1);
        json_t *options = at(entry, "properties", name, "anyOf");
        if (options != NULL) return json_array_get(options, 0);
    }
    return NULL;
}

static void test_schema(void **state) {
    (void)state;
    char *text;
    size_t count;
    assert_int_equal(schema_print(&text), 0);
    json_t *schema = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(schema);
    assert_string_equal(json_string_value(json_object_get(schema, "$schema")),
                        "https://json-schema.org/draft/2020-12/schema");
    for (size_t i = 0; experiment_keys[i] != NULL; i++)
        assert_non_null(at(schema, "properties", experiment_keys[i], NULL));
    assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
    const struct technique *const *list = technique_list(&count);
    for (size_t i = 0; i < count; i++) {
        json_t *options = stage_options(schema, list[i]->name);
        if (options == NULL) fail_msg("technique %s is not in the schema", list[i]->name);
        for (const struct option *option = list[i]->options; option != NULL && option->name != NULL; option++)
            if (at(options, "properties", option->name, "description") == NULL)
                fail_msg("option %s of %s is not in the schema", option->name, list[i]->name);
    }
    json_t *rounds = at(at(schema, "properties", "measure", "properties"), "rounds", NULL, NULL);
    assert_int_equal(json_integer_value(json_object_get(rounds, "maximum")), 1000);
    assert_int_equal(json_integer_value(json_object_get(rounds, "default")), 10);
    json_decref(schema);
    memory_release(text);
}

/* A technique's scalar option takes a value, a list or, for numbers, a range; a list of names does not nest. */
static void test_axes(void **state) {
    (void)state;
    char *text;
    assert_int_equal(schema_print(&text), 0);
    json_t *schema = json_loads(text, 0, NULL);
    json_t *properties = json_object_get(stage_options(schema, "rtn"), "properties");
    json_t *bits = at(properties, "bits", "anyOf", NULL);
    assert_int_equal(json_array_size(bits), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(bits, 0), "type")), "integer");
    assert_int_equal(json_array_size(json_object_get(json_array_get(bits, 0), "enum")), 2);
    assert_non_null(json_object_get(json_array_get(bits, 1), "pattern"));
    assert_string_equal(json_string_value(json_object_get(json_array_get(bits, 2), "type")), "array");
    assert_int_equal(json_array_size(at(properties, "symmetric", "anyOf", NULL)), 2);
    json_decref(schema);
    memory_release(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schema), cmocka_unit_test(test_axes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
