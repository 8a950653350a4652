/* How a folder of sentence-transformers compares embeddings, and what it puts in front of a text:
 * config_sentence_transformers.json. How it pools is part of the model's config (model/model_pooling.c). max_seq_length
 * and do_lower_case of sentence_bert_config.json are not looked at: the experiment says where texts are cut, the
 * tokenizer whether they are lower-cased. */
#include "task/sentence_folder.h"

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

/* NULL where there is no such file. */
static int read_json(char file[PATH_MAX], const char *folder, const char *name, json_t **out) {
    int status = 0;
    json_error_t error;
    *out = NULL;
    int length = snprintf(file, PATH_MAX, "%s/%s", folder, name);
    if (length < 0 || length >= PATH_MAX) FAIL(E_LIMIT, "the path of %.100s is too long", name);
    if (access(file, F_OK) != 0) goto out;
    *out = json_load_file(file, JSON_REJECT_DUPLICATES, &error);
    if (!*out) FAIL(E_FORMAT, "%s:%d: %s", file, error.line, error.text);
out:
    return status;
}

/* Does a module scale embeddings to unit length? What the others are is looked at where the model is opened. */
static int find_unit(const char *folder, bool *listed, bool *unit) {
    int status = 0;
    char file[PATH_MAX];
    size_t i;
    json_t *modules, *module;
    TRY(read_json(file, folder, "modules.json", &modules));
    *listed = modules != NULL;
    *unit = false;
    json_array_foreach(modules, i, module) {
        const char *type = json_string_value(json_object_get(module, "type"));
        const char *dot = type ? strrchr(type, '.') : NULL;
        if (dot && strcmp(dot, ".Normalize") == 0) *unit = true;
    }
out:
    json_decref(modules);
    return status;
}

static int check_comparison(const char *folder, bool unit) {
    int status = 0;
    char file[PATH_MAX];
    json_t *config;
    TRY(read_json(file, folder, "config_sentence_transformers.json", &config));
    const char *similarity = json_string_value(json_object_get(config, "similarity_fn_name")),
               *prompt = json_string_value(json_object_get(config, "default_prompt_name")),
               *text = prompt ? json_string_value(json_object_get(json_object_get(config, "prompts"), prompt)) : NULL;
    if (similarity && strcmp(similarity, "cosine") != 0 && !(unit && strcmp(similarity, "dot") == 0))
        FAIL(E_UNSUPPORTED, "%s: similarity_fn_name %.40s is not supported (only cosine)", file, similarity);
    if (text && *text)
        FAIL(E_UNSUPPORTED, "%s: default_prompt_name %.40s is not supported (only null, or an empty prompt)", file,
             prompt);
out:
    json_decref(config);
    return status;
}

int sentence_folder_check(const char *path) {
    int status = 0;
    bool listed = false, unit = false;
    TRY(find_unit(path, &listed, &unit));
    if (listed) TRY(check_comparison(path, unit));
out:
    return status;
}
