/* --set PATH=VALUE on the tree of an experiment file, before anything is checked.
 *
 * PATH is keys joined by dots; in a list, a number (from 0) or the name of a stage: prepare.finetune.epochs,
 * matrix.pipeline.1.rtn.bits. What does not exist is created, and then checked as if it stood in the file.
 * VALUE is YAML: 3, true, [1, 2], {bits: 8}. A PATH of one word that is no top-level key names the one setting
 * of that name in the task, model, tokenizer, measure, limits or matrix: data=DIR.
 */
#ifndef OVERRIDE_H
#define OVERRIDE_H

#include <stdbool.h>

#include "config/yaml_tree.h"

/* The sections of an experiment file, in order; NULL-terminated. */
extern const char *const experiment_keys[];

/* Apply one text. `label`, "--set PATH", is what positions show, and lives as long as they do. */
int override_apply(struct document *document, const char *text, const char *label);

/* Does `text` concern this document? A lone word does where a setting has that name, one of the task where the task
 * states it (a folder of data is nothing to tasks that have their own); a path where all above its last
 * key is there, or is a section that every experiment may have. Where not, override_apply would say what is wrong:
 * for one of several documents that is no error. */
bool override_concerns(struct document *document, const char *text, const char *label);

/* Length of PATH in "PATH=VALUE". E_ARGUMENT when there is no "=" or no path. */
int override_split(const char *text, size_t *path_bytes);

#endif
