/* See paired.h. */
#include "task/paired.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "task/metrics.h"

/* An interval's ends move by a few percent of its width from one seed to another; rank correlations cost a sort each.
 */
enum { RESAMPLES = 2000, RESAMPLES_RANKED = 1000 };

static double column_sum(const double *column, const uint32_t *item, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += column[item[i]];
    return sum;
}

static double value_mean(const double *const *columns, const uint32_t *item, size_t count) {
    return count ? column_sum(columns[0], item, count) / (double)count : NAN;
}

static double value_perplexity(const double *const *columns, const uint32_t *item, size_t count) {
    double tokens = column_sum(columns[1], item, count);
    return tokens > 0 ? exp(column_sum(columns[0], item, count) / tokens) : NAN;
}

/* The drawn items of two columns, laid out one after another, and their correlation. */
static double drawn_correlation(const double *const *columns, const uint32_t *item, size_t count, bool ranks) {
    void *block = NULL;
    double rho = NAN;
    if (memory_take(&block, 2 * count, sizeof(double)) < 0) return NAN;
    double *x = block, *y = x + count;
    for (size_t i = 0; i < count; i++) {
        x[i] = columns[0][item[i]];
        y[i] = columns[1][item[i]];
    }
    if (!ranks) rho = metric_pearson(x, y, count);
    else if (metric_spearman(x, y, count, &rho) < 0) rho = NAN;
    memory_release(block);
    return rho;
}
static double value_pearson(const double *const *columns, const uint32_t *item, size_t count) {
    return drawn_correlation(columns, item, count, false);
}
static double value_spearman(const double *const *columns, const uint32_t *item, size_t count) {
    return drawn_correlation(columns, item, count, true);
}

static double value_bleu(const double *const *columns, const uint32_t *item, size_t count) {
    struct bleu_counts counts;
    for (size_t n = 0; n < BLEU_ORDER; n++) {
        counts.matched[n] = (uint64_t)column_sum(columns[n], item, count);
        counts.total[n] = (uint64_t)column_sum(columns[BLEU_ORDER + n], item, count);
    }
    counts.hypothesis_tokens = (uint64_t)column_sum(columns[2 * BLEU_ORDER], item, count);
    counts.reference_tokens = (uint64_t)column_sum(columns[2 * BLEU_ORDER + 1], item, count);
    return metric_bleu(&counts, false, NULL, NULL);
}

static const struct paired_estimator estimator_accuracy = {"accuracy", {"correct"}, 1, value_mean};
static const struct paired_estimator estimator_mean = {"mean", {"value"}, 1, value_mean};
static const struct paired_estimator estimator_perplexity = {"perplexity", {"nll", "tokens"}, 2, value_perplexity};
static const struct paired_estimator estimator_pearson = {"pearson", {"value", "target"}, 2, value_pearson};
static const struct paired_estimator estimator_spearman = {"spearman", {"value", "target"}, 2, value_spearman};
static const struct paired_estimator estimator_bleu = {"bleu",
                                                       {"matched1", "matched2", "matched3", "matched4", "total1",
                                                        "total2", "total3", "total4", "hypothesis_tokens",
                                                        "reference_tokens"},
                                                       2 * BLEU_ORDER + 2,
                                                       value_bleu};
const struct paired_estimator *const paired_estimators[] = {&estimator_accuracy,
                                                            &estimator_mean,
                                                            &estimator_perplexity,
                                                            &estimator_pearson,
                                                            &estimator_spearman,
                                                            &estimator_bleu,
                                                            NULL};

const struct paired_estimator *paired_estimator_find(const char *name) {
    for (size_t i = 0; paired_estimators[i]; i++)
        if (strcmp(paired_estimators[i]->name, name) == 0) return paired_estimators[i];
    return NULL;
}

static int double_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double mean_difference(const struct paired_estimator *estimator, const struct paired_columns *pairs,
                              size_t pair_count, const uint32_t *item, size_t items) {
    double sum = 0;
    for (size_t i = 0; i < pair_count; i++)
        sum += estimator->value(pairs[i].own, item, items) - estimator->value(pairs[i].other, item, items);
    return sum / (double)pair_count;
}

int paired_difference(const struct paired_estimator *estimator, const struct paired_columns *pairs, size_t pair_count,
                      size_t items, double confidence, uint64_t seed, struct interval *interval, double *p_value) {
    int status = 0;
    void *drawn = NULL, *block = NULL;
    bool ranked = estimator->value == value_spearman;
    size_t resamples = ranked ? RESAMPLES_RANKED : RESAMPLES, kept = 0, below = 0, above = 0;
    struct random random;
    *interval = (struct interval){.estimate = NAN, .lo = NAN, .hi = NAN, .n = items};
    *p_value = NAN;
    TRY(memory_take(&drawn, items, sizeof(uint32_t)));
    TRY(memory_take(&block, resamples, sizeof(double)));
    uint32_t *item = drawn;
    double *differences = block;
    for (size_t i = 0; i < items; i++) item[i] = (uint32_t)i;
    interval->estimate = mean_difference(estimator, pairs, pair_count, item, items);
    if (items < 3 || !isfinite(interval->estimate)) goto out;
    random_open(&random, seed, random_stream("paired bootstrap", items, 0));
    for (size_t r = 0; r < resamples; r++) {
        for (size_t i = 0; i < items; i++) item[i] = (uint32_t)(((uint64_t)random_u32(&random) * items) >> 32);
        double difference = mean_difference(estimator, pairs, pair_count, item, items);
        if (!isfinite(difference)) continue; /* a draw of one repeated item has no correlation */
        differences[kept++] = difference;
        below += difference <= 0;
        above += difference >= 0;
    }
    if (kept < resamples / 2) goto out;
    qsort(differences, kept, sizeof *differences, double_compare);
    double tail = (1 - confidence) / 2;
    interval->lo = statistics_quantile(differences, kept, tail);
    interval->hi = statistics_quantile(differences, kept, 1 - tail);
    size_t fewer = below < above ? below : above;
    *p_value = fmin(1, 2 * (double)(fewer + 1) / (double)(kept + 1)); /* never 0: so many draws cannot show less */
out:
    memory_release(drawn);
    memory_release(block);
    return status;
}
