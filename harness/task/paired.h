/* Differences of a metric between two models that were scored on the same items, with intervals.
 *
 * A metric is recomputed from what is stored per item, so the same items can be drawn again and again for both models
 * (paired bootstrap; Efron and Tibshirani 1993, section 13.3; Koehn 2004 for BLEU). Which columns an estimator reads
 * is part of its contract with the tasks:
 *
 *   accuracy     correct                  0 or 1; compared exactly (McNemar), see measure/statistics.h
 *   mean         value                    such as F1 of an answer
 *   perplexity   nll, tokens              exp(sum of nll / sum of tokens)
 *   pearson, spearman   value, target
 *   bleu         matched1..4, total1..4, hypothesis_tokens, reference_tokens
 */
#ifndef PAIRED_H
#define PAIRED_H

#include "measure/statistics.h"

#define PAIRED_COLUMNS_MAX 10

struct paired_estimator {
    const char *name;
    const char *columns[PAIRED_COLUMNS_MAX];
    size_t column_count;
    /* The metric of the items item[0..count) (repeats allowed) of columns [column_count][items]. NaN: undefined. */
    double (*value)(const double *const *columns, const uint32_t *item, size_t count);
};
extern const struct paired_estimator *const paired_estimators[]; /* NULL-terminated */
const struct paired_estimator *paired_estimator_find(const char *name);

/* The columns of one pair of models, [column_count][items] each; with several seeds there are as many pairs. */
struct paired_columns {
    const double *const *own, *const *other;
};

/* Metric of own minus that of other, over the pairs its mean: percentile interval, two-sided p of no difference. An
 * item that is drawn brings what all pairs made of it, so answers to one item by several seeds do not count as
 * independent. lo and hi are NaN below 3 items or where the metric is undefined. E_MEMORY. */
int paired_difference(const struct paired_estimator *estimator, const struct paired_columns *pairs, size_t pair_count,
                      size_t items, double confidence, uint64_t seed, struct interval *interval, double *p_value);

#endif
