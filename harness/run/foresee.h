/* What techniques can tell of a plan before anything runs: which cells cannot be.
 *
 * The stages of a cell are gone through with a model of the right sizes and formats and no values: each is asked
 * (settle, probe), and does to it what it will do to the model (foresee), so that the next one can be asked. This ends
 * at the first stage of which nothing can be told; what is found out only later is a skip when it comes to it, as ever.
 */
#ifndef FORESEE_H
#define FORESEE_H

#include "config/experiment.h"
#include "task/task.h"

/* Give a skip_reason to every cell of which a technique says that it cannot run. tokenizer NULL: it is not made yet,
 * and the vocabulary taken to be as large as was asked for. A model that cannot be opened, or that is larger than
 * memory, is left to the builds. Warns of cells whose scores come from numbers that nothing trained. E_MEMORY. */
int foresee_cells(struct experiment *experiment, const struct task *task, const struct tokenizer *tokenizer);

/* "training data, which this task does not have": of what a stage needs (enum technique_needs bits), what is not there;
 * NULL: nothing. */
const char *stage_missing(uint32_t needs, const struct model *model, bool training, bool unlabelled);

/* Ids below this are the tokenizer's own: special tokens, and in BERT's vocabulary the unused ones before them. */
int32_t stage_special_ids(const struct tokenizer_special *special);

#endif
