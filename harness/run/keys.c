/* See keys.h. The config's part comes from plan/plan.h; this adds data and code. */
#include "run/keys.h"

#include "base/error.h"
#include "plan/plan.h"
#include "run/run.h"

static int identity(const struct cell *cell, size_t stages, const char *data_hash, char hex[HASH_HEX]) {
    int status = 0;
    struct hash hash;
    hash_open(&hash);
    hash_text(&hash, data_hash);
    hash_text(&hash, code_hash_core());
    for (size_t i = 0; i < stages; i++) {
        char code[HASH_HEX];
        TRY(code_hash_technique(cell->stages[i].technique, code));
        hash_text(&hash, code);
    }
out:
    hash_close(&hash, hex);
    return status;
}

int keys_cell(const struct experiment *experiment, const struct cell *cell, const char *data_hash, char key[HASH_HEX]) {
    int status = 0;
    char known[HASH_HEX];
    TRY(identity(cell, cell->stage_count, data_hash, known));
    TRY(plan_cell_key(experiment, cell, known, key));
out:
    return status;
}

int keys_prefix(const struct experiment *experiment, const struct cell *cell, size_t stages, const char *data_hash,
                char key[HASH_HEX]) {
    int status = 0;
    char known[HASH_HEX];
    TRY(identity(cell, stages, data_hash, known));
    TRY(plan_prefix_key(experiment, cell, stages, known, key));
out:
    return status;
}
