/* The JSON Schema (draft 2020-12) of experiment files, made from the same option tables that check them.
 *
 * Editors use it for completion and early errors; runexp itself never reads it. It allows what the tables
 * allow, and says less in three places: values of anchors (keys that begin with a dot) are free, ranges are
 * known by their pattern alone, and conditions between options are left to runexp.
 */
#include <string.h>

#include <jansson.h>

#include "base/memory.h"
#include "config/experiment.h"
#include "config/override.h"
#include "meters/meter.h"

#define RANGE_PATTERN "^[-0-9.eE]+\\.\\.[-0-9.eE+]+([+*][0-9.eE]+)?$"

static json_t *text_type(const char *type) { return json_pack("{s:s}", "type", type); }

/* Split "a|b|c" into a JSON array of texts, or of integers. */
static json_t *choices_array(const char *choices, bool integers) {
    json_t *array = json_array();
    while (*choices != '\0') {
        size_t length = strcspn(choices, "|");
        char word[64];
        if (length < sizeof word) {
            memcpy(word, choices, length);
            word[length] = '\0';
            json_array_append_new(array, integers ? json_integer(strtoll(word, NULL, 10)) : json_string(word));
        }
        choices += length + (choices[length] == '|');
    }
    return array;
}

/* What one value of the option may be. */
static json_t *value_schema(const struct option *option) {
    json_t *schema = NULL;
    bool limited = option->low != 0 || option->high != 0;
    switch (option->type) {
    case OPTION_INTEGER:
        schema = text_type("integer");
        if (option->choices != NULL) json_object_set_new(schema, "enum", choices_array(option->choices, true));
        if (limited) {
            json_object_set_new(schema, "minimum", json_integer((json_int_t)option->low));
            json_object_set_new(schema, "maximum", json_integer((json_int_t)option->high));
        }
        break;
    case OPTION_REAL:
        schema = text_type("number");
        if (limited) {
            json_object_set_new(schema, "minimum", json_real(option->low));
            json_object_set_new(schema, "maximum", json_real(option->high));
        }
        break;
    case OPTION_BOOLEAN: schema = text_type("boolean"); break;
    case OPTION_CHOICE: schema = json_pack("{s:o}", "enum", choices_array(option->choices, false)); break;
    case OPTION_TEXT: schema = json_pack("{s:[s,s,s]}", "type", "string", "number", "boolean"); break;
    case OPTION_PATH: schema = text_type("string"); break;
    case OPTION_PATHS:
    case OPTION_NAMES: {
        json_t *item = option->choices != NULL ? json_pack("{s:o}", "enum", choices_array(option->choices, false))
                                               : json_pack("{s:[s,s]}", "type", "string", "number");
        schema = json_pack("{s:[O,{s:s,s:O}]}", "anyOf", item, "type", "array", "items", item);
        json_decref(item);
        break;
    }
    }
    return schema;
}

/* One option: a value, or where axes are allowed a list or a range as well. */
static json_t *option_schema(const struct option *option, bool axes) {
    json_t *schema = value_schema(option);
    bool number = option->type == OPTION_INTEGER || option->type == OPTION_REAL;
    if (axes && !option_is_list(option)) {
        json_t *any = json_array(), *one = json_array();
        json_array_append(one, schema);
        if (number) json_array_append_new(one, json_pack("{s:s,s:s}", "type", "string", "pattern", RANGE_PATTERN));
        json_array_extend(any, one);
        json_array_append_new(any,
                              json_pack("{s:s,s:i,s:{s:O}}", "type", "array", "minItems", 1, "items", "anyOf", one));
        json_decref(one);
        json_decref(schema);
        schema = json_pack("{s:o}", "anyOf", any);
    }
    char text[512];
    snprintf(text, sizeof text, "%s%s%s%s", option->help, option->unit != NULL ? " (" : "",
             option->unit != NULL ? option->unit : "", option->unit != NULL ? ")" : "");
    json_object_set_new(schema, "description", json_string(text));
    if (option->preset != NULL) {
        json_t *preset = json_loads(option->preset, JSON_DECODE_ANY, NULL);
        json_object_set_new(schema, "default", preset != NULL ? preset : json_string(option->preset));
    }
    return schema;
}

/* A closed map; keys that begin with a dot are free. */
static json_t *map_schema(json_t *properties, json_t *required) {
    json_t *map = json_pack("{s:s,s:o,s:{s:b},s:b}", "type", "object", "properties", properties, "patternProperties",
                            "^\\.", 1, "additionalProperties", 0);
    if (required != NULL && json_array_size(required) > 0) json_object_set(map, "required", required);
    json_decref(required);
    return map;
}

static json_t *table_schema(const struct option *table, bool axes) {
    json_t *properties = json_object(), *required = json_array();
    for (; table != NULL && table->name != NULL; table++) {
        json_object_set_new(properties, table->name, option_schema(table, axes));
        if (table->preset == NULL) json_array_append_new(required, json_string(table->name));
    }
    return map_schema(properties, required);
}

/* NAME, or {NAME: {options}}. */
static json_t *named_schema(const char *name, const char *summary, const struct option *table, bool axes) {
    json_t *properties = json_object(), *options = table_schema(table, axes);
    bool bare = true;
    for (const struct option *option = table; option != NULL && option->name != NULL; option++)
        bare = bare && option->preset != NULL;
    json_object_set_new(properties, name, json_pack("{s:[o,{s:s}]}", "anyOf", options, "type", "null"));
    json_t *map = json_pack("{s:s,s:o,s:b,s:i,s:s}", "type", "object", "properties", properties, "additionalProperties",
                            0, "minProperties", 1, "description", summary);
    if (!bare) return map;
    return json_pack("{s:[{s:s},o]}", "anyOf", "const", name, map);
}

static json_t *stage_schema(bool axes) {
    size_t count;
    const struct technique *const *list = technique_list(&count);
    json_t *any = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(any, named_schema(list[i]->name, list[i]->summary, list[i]->options, axes));
    return json_pack("{s:o}", "anyOf", any);
}

static json_t *task_schema(void) {
    json_t *any = json_array();
    for (size_t i = 0; task_kinds[i] != NULL; i++)
        json_array_append_new(any,
                              named_schema(task_kinds[i]->name, task_kinds[i]->summary, task_kinds[i]->options, false));
    return json_pack("{s:o}", "anyOf", any);
}

static json_t *reference(const char *name) {
    char text[64];
    snprintf(text, sizeof text, "#/$defs/%s", name);
    return json_pack("{s:s}", "$ref", text);
}

/* The axes and a `pipeline` of the given definition. */
static json_t *point_properties(const char *pipeline) {
    json_t *properties = json_object();
    for (const struct option *option = axis_options; option->name != NULL; option++)
        json_object_set_new(properties, option->name, option_schema(option, true));
    json_object_set_new(properties, "pipeline", reference(pipeline));
    return properties;
}

static json_t *matrix_schema(void) {
    json_t *properties = point_properties("pipelines");
    json_object_set_new(properties, "zip", map_schema(point_properties("pipelines"), NULL));
    json_object_set_new(properties, "include",
                        json_pack("{s:s,s:o}", "type", "array", "items",
                                  map_schema(point_properties("pipeline"), json_pack("[s]", "pipeline"))));
    json_object_set_new(
        properties, "exclude",
        json_pack("{s:s,s:o}", "type", "array", "items", map_schema(point_properties("pipeline"), NULL)));
    return map_schema(properties, NULL);
}

static json_t *measure_schema(void) {
    json_t *map = table_schema(measure_options, false), *properties = json_object_get(map, "properties");
    json_t *names = json_array();
    for (size_t i = 0; meters[i] != NULL; i++) json_array_append_new(names, json_string(meters[i]->name));
    json_t *item = json_pack("{s:o}", "enum", names);
    json_t *list = json_object_get(properties, "meters");
    json_object_set_new(list, "anyOf", json_pack("[O,{s:s,s:O}]", item, "type", "array", "items", item));
    json_decref(item);
    item = json_pack("{s:s,s:i,s:i}", "type", "integer", "minimum", 1, "maximum", 65536);
    list = json_object_get(properties, "batch");
    json_object_set_new(list, "anyOf",
                        json_pack("[O,{s:s,s:O,s:i}]", item, "type", "array", "items", item, "minItems", 1));
    json_decref(item);
    return map;
}

int schema_print(char **json) {
    int status = 0;
    char *text = NULL;
    *json = NULL;
    json_t *properties = json_object(), *definitions = json_object(), *root;
    json_object_set_new(definitions, "stage", stage_schema(true));
    json_object_set_new(definitions, "single_stage", stage_schema(false));
    json_object_set_new(definitions, "pipeline", json_pack("{s:s,s:o}", "type", "array", "items", reference("stage")));
    json_object_set_new(definitions, "pipelines",
                        json_pack("{s:s,s:i,s:o}", "type", "array", "minItems", 1, "items", reference("pipeline")));
    json_object_set_new(properties, "experiment",
                        json_pack("{s:s,s:s,s:i}", "type", "string", "pattern", "^[A-Za-z0-9_-]+$", "maxLength", 80));
    json_object_set_new(properties, "description", text_type("string"));
    json_object_set_new(properties, "model", table_schema(model_options, false));
    json_object_set_new(properties, "tokenizer", table_schema(tokenizer_options, false));
    json_object_set_new(properties, "task", task_schema());
    json_object_set_new(properties, "prepare",
                        json_pack("{s:s,s:o}", "type", "array", "items", reference("single_stage")));
    json_object_set_new(properties, "matrix", matrix_schema());
    json_object_set_new(properties, "measure", measure_schema());
    json_object_set_new(properties, "limits", table_schema(limits_options, false));
    json_object_set_new(properties, "plugins", json_pack("{s:s,s:{s:s}}", "type", "array", "items", "type", "string"));
    for (size_t i = 0; experiment_keys[i] != NULL; i++)
        CHECK(json_object_get(properties, experiment_keys[i]) != NULL, "%s has no schema", experiment_keys[i]);
    root = map_schema(properties, json_pack("[s,s,s]", "experiment", "model", "task"));
    json_object_set_new(root, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
    json_object_set_new(root, "title", json_string("Shrinklab experiment"));
    json_object_set_new(root, "$defs", definitions);
    text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(root);
    if (text == NULL) FAIL(E_MEMORY, "out of memory while writing the schema");
    TRY(memory_string(json, text));
out:
    free(text);
    return status;
}
