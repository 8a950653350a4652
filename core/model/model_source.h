/* What a model is opened from: the mapped files, their tensors as one list, and where in them a parameter's values
 * lie. The kinds are told apart by content. Private to core/model.
 */
#ifndef MODEL_SOURCE_H
#define MODEL_SOURCE_H

#include "io/gguf.h"
#include "io/llama2c.h"
#include "io/shards.h"
#include "model/family.h"

enum source_kind {
    SOURCE_ARTIFACT,    /* our own safetensors file: config in its metadata, every layer by itself */
    SOURCE_HUGGINGFACE, /* a folder: config.json and safetensors, whole or in shards */
    SOURCE_GGUF,
    SOURCE_LLAMA2C
};

struct model_source {
    enum source_kind kind;
    struct safetensors artifact;
    struct shards shards;
    struct gguf gguf;
    struct llama2c llama2c;
    struct tensor_list list;
    const struct family *family;
    const struct model_config *config; /* the model's */
    size_t interleaved;                /* head width of queries and keys whose rows are in interleaved pairs, or 0 */
    bool *used;                        /* [list.count]: asked for by the model */
};

/* Map what `path` names and read its config, which must outlive the source. E_IO, E_FORMAT, E_UNSUPPORTED, E_SHAPE,
 * E_MEMORY, with the path in front. */
int model_source_open(struct model_source *source, const char *path, struct model_config *config);
void model_source_close(struct model_source *source); /* accepts a zeroed struct */

/* A tensor by its exact name, marked as used; NULL when absent. */
const struct tensor *source_tensor(const struct model_source *source, const char *name);
/* For struct value_source. */
int source_place(void *source, const struct layout_entry *entry, struct value_place *place);
/* Every tensor must have been asked for, or be one that files of the family have for nothing. E_SHAPE. */
int source_check_used(const struct model_source *source);

#define GGUF_ROTARY_FACTORS "rope_freqs.weight" /* a tensor that is no parameter */
/* GGUF metadata as a config (open_gguf.c); keys of the architecture that are not understood are refused by name.
 * interleaved: the width of heads whose rows are, or 0. */
int gguf_config(const struct gguf *file, struct model_config *config, size_t *interleaved);
/* GGUF's name for an entry; first and total of `place` change where GGUF stores several together. E_UNSUPPORTED. */
int gguf_place(const struct layout_entry *entry, const struct model_config *config, char name[MODEL_NAME_BYTES],
               struct value_place *place);

int llama2c_config(const struct llama2c *file, struct model_config *config); /* open_llama2c.c */

#endif
