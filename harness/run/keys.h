/* Keys of cells and of shared prefixes with everything in them that can change a result: the resolved config,
 * the data's bytes, and the code of core, scoring and every stage. */
#ifndef KEYS_H
#define KEYS_H

#include "config/experiment.h"

int keys_cell(const struct experiment *experiment, const struct cell *cell, const char *data_hash, char key[HASH_HEX]);
int keys_prefix(const struct experiment *experiment, const struct cell *cell, size_t stages, const char *data_hash,
                char key[HASH_HEX]);

#endif
