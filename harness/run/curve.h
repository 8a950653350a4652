/* The curve of one stage that trains, while it trains: its steps, and scores taken on the way.
 *
 * Long ones are thinned evenly as they grow: once more than CURVE_ROWS steps are kept, every second of them goes, so
 * that step 1, 1 + n, 1 + 2n, … remain, n a power of two that follows from the number of steps alone; the newest step
 * is always kept as well. A journal in the stage's checkpoint folder lets a worker that resumes go on with the rows of
 * the one before it. It is a convenience: where it cannot be written, rows from before the resumption are lost, no
 * more.
 */
#ifndef CURVE_H
#define CURVE_H

#include "run/record.h"
#include "train/objective.h"

#define CURVE_ROWS 2048

struct curve_score {
    size_t step;
    double value;
};

struct curve {
    struct train_progress *rows; /* by step */
    size_t count, capacity;
    size_t spacing; /* n above */
    struct train_progress newest;
    struct curve_score *scores; /* by step */
    size_t score_count, score_capacity;
    int journal; /* file, or -1 */
    int status;  /* first error of an add call (E_MEMORY); later adds do nothing */
};

/* folder: where the journal is, read back and continued; NULL: none. E_MEMORY. */
int curve_open(struct curve *curve, const char *folder);
void curve_close(struct curve *curve); /* accepts a zeroed one that was never open */
/* Steps and scores at and after this step are forgotten, then it is added. */
void curve_step(struct curve *curve, const struct train_progress *row);
/* A score after the newest step. */
void curve_score(struct curve *curve, double value);
/* Put all into a record as of its stage `stage`, scores under the name `metric`. Without any step there is no curve: a
 * stage that asked for scores of what it tried (one layer quantized) did not train. E_MEMORY. */
int curve_record(const struct curve *curve, struct record *record, int stage, const char *metric);

/* The name of the journal in a checkpoint folder. */
#define CURVE_JOURNAL "curve.journal"

#endif
