/* A model's tensors in one safetensors file or in several with an index (Hugging Face's model.safetensors.index.json).
 *
 * The index's "weight_map" says which file holds which tensor. File names are names inside the index's folder: no
 * separators, no "..". Every file is mapped once; the map and the files must name the same tensors.
 */
#ifndef SHARDS_H
#define SHARDS_H

#include <stddef.h>

#include "io/safetensors.h"

struct shards {
    struct safetensors *files;
    size_t file_count;
    struct tensor *tensors; /* of all files, sorted by name */
    size_t count;
};

/* FOLDER/model.safetensors, or where that is absent FOLDER/model.safetensors.index.json with its files. E_IO, E_FORMAT,
 * E_LIMIT, E_MEMORY. */
int shards_open(struct shards *shards, const char *folder);
/* The index read from text (fuzzed); files are looked for in `folder`. */
int shards_open_index(struct shards *shards, const char *folder, const char *json, size_t bytes);
void shards_close(struct shards *shards); /* accepts a zeroed struct */

#endif
