/* A llama2.c file as a Llama configuration: what its seven numbers do not say is fixed in llama2.c's code (run.c). */
#include <string.h>

#include "base/error.h"
#include "model/model_source.h"

int llama2c_config(const struct llama2c *file, struct model_config *config) {
    int status = 0;
    TRY(model_config_family(config, "llama"));
    config->layers = file->layers;
    config->width = file->width;
    config->heads = file->heads;
    config->key_value_heads = file->key_value_heads;
    config->head_width = file->width / file->heads;
    config->feed_forward = file->feed_forward;
    config->vocabulary = file->vocabulary;
    config->positions = file->positions;
    config->norm_epsilon = 1e-5f;
    config->rotary_base = 10000;
    config->tied = file->tied;
    config->model_heads = HEAD_CAUSAL_LM;
    TRY(model_config_check(config));
out:
    return status;
}
