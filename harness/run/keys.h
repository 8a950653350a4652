/* Keys of cells and of shared prefixes with everything in them that can change a result: the resolved config,
 * the data's bytes, and the code of core, scoring and every stage. */
#ifndef KEYS_H
#define KEYS_H

#include "config/experiment.h"

int keys_cell(const struct experiment *experiment, const struct cell *cell, const char *data_hash, char key[HASH_HEX]);
int keys_prefix(const struct experiment *experiment, const struct cell *cell, size_t stages, const char *data_hash,
                char key[HASH_HEX]);

/* What stands for data and model in keys: the hash of the task's data, and with a pretrained model of that hash and of
 * the bytes of the model's and the tokenizer's files. E_IO names what is missing. */
int keys_data(const struct experiment *experiment, const char *data_hash, char hex[HASH_HEX]);

#endif
