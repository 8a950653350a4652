/* Models after expensive stages, kept by key so that cells that begin alike share them, and the folders in which a
 * stage that is under way keeps its checkpoints.
 *
 *   CACHE/KEY.safetensors   the model        CACHE/KEY.json   its stages: options, times, metrics, curves, layers
 *   CACHE/KEY.checkpoint/   of the stage that will make KEY, while it is not done
 *
 * Files are written beside their place and renamed; the JSON comes last and holds the hash of the model's file, so that
 * a model which a full disk, a crash or somebody's hand left damaged is found out before cells are made from it.
 */
#ifndef STAGE_CACHE_H
#define STAGE_CACHE_H

#include <stdbool.h>

#include "base/hash.h"
#include "model/model.h"
#include "run/record.h"

#define CACHE_PATH 4096

/* Is there a model under this key? */
bool stage_cache_has(const char *cache_dir, const char *key);
/* Read an entry of so many stages through: *whole is whether it can be used. One that is damaged is removed, so that
 * the stages are run again. E_MEMORY. */
int stage_cache_check(const char *cache_dir, const char *key, size_t stages, bool *whole);
/* Keep a model with the stages that `record` lists, their metrics, curves and layers; `heads` as in model_save. E_IO.
 */
int stage_cache_write(const char *cache_dir, const char *key, const struct record *record, const struct model *model,
                      unsigned heads);
/* Read both back: the model editable, its `stages` stages into the record, marked as cached. E_FORMAT names the file.
 */
int stage_cache_read(const char *cache_dir, const char *key, size_t stages, struct record *record, struct model *model);

/* The checkpoint folder of a key, made where absent and held by an advisory lock, for one worker alone. `path` is ""
 * when it cannot be had (another program holds it, the disk is full): the stage then runs without. */
struct checkpoint_folder {
    char path[CACHE_PATH];
    int lock; /* file, or -1 */
};
void checkpoint_folder_open(struct checkpoint_folder *folder, const char *cache_dir, const char *key);
/* done: the stage is over, nothing of the folder is needed any more. Accepts one whose path is "". */
void checkpoint_folder_close(struct checkpoint_folder *folder, bool done);
/* Has the stage of this key left a checkpoint? */
bool checkpoint_exists(const char *cache_dir, const char *key);
/* Remove checkpoint folders that nobody has touched for CHECKPOINT_DAYS: of options that were changed since. */
#define CHECKPOINT_DAYS 14
void checkpoints_forget(const char *cache_dir);

#endif
