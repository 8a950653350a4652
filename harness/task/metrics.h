/* Metrics of tasks, each in the form its field reports it.
 *
 *   metric_classes.c      accuracy, F1, Matthews                     (as scikit-learn)
 *   metric_correlation.c  Pearson, Spearman (mean ranks), Kendall    (as SciPy)
 *   metric_answers.c      SQuAD exact match and F1                   (as its v1.1 evaluation script)
 *   metric_bleu.c         corpus and sentence BLEU, 13a tokens       (as sacrebleu)
 *   metric_rouge.c        ROUGE-1, -2, -L, -Lsum                     (as rouge_score)
 *
 * All texts are zero-terminated UTF-8. Functions return 0, or E_MEMORY or E_LIMIT.
 */
#ifndef METRICS_H
#define METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Macro and weighted F1 run over the classes that occur as label or prediction. "positive" is class 1. */
struct class_scores {
    double accuracy_frac, f1_macro, f1_micro, f1_weighted, f1_positive, precision_positive, recall_positive;
    double matthews; /* R_K of Gorodkin (2004); two classes: the usual coefficient; 0 where it is undefined */
};
/* table [classes][classes]: how many items of class [label] were given class [predicted]. */
void metric_classes(const uint64_t *table, size_t classes, struct class_scores *scores);

/* NaN where either side is constant or count < 2. */
double metric_pearson(const double *x, const double *y, size_t count);
int metric_spearman(const double *x, const double *y, size_t count, double *rho);
int metric_kendall(const double *x, const double *y, size_t count, double *tau_b); /* O(n log n), Knight 1966 */
/* Ranks 1..count, ties sharing their mean rank. */
int metric_ranks(const double *x, size_t count, double *ranks);

/* A prediction against several accepted answers: the best exact match (0 or 1) and the best F1 of any. Both lowered,
 * without punctuation, articles and superfluous blanks; two empty texts match exactly but have F1 0 (v1.1). */
int metric_answer(const char *prediction, const char *const *references, size_t reference_count, double *exact,
                  double *f1);
/* The normalised text; release with memory_release. */
int metric_answer_normalize(const char *text, char **normalized);

enum { BLEU_ORDER = 4 };
/* What BLEU needs of one text, or summed over many. */
struct bleu_counts {
    uint64_t matched[BLEU_ORDER], total[BLEU_ORDER];
    uint64_t hypothesis_tokens, reference_tokens; /* of the reference nearest in length, the shorter on a tie */
};
int metric_bleu_count(const char *hypothesis, const char *const *references, size_t reference_count, bool lower,
                      struct bleu_counts *counts);
void metric_bleu_add(struct bleu_counts *sum, const struct bleu_counts *counts);
/* 0..100, exponential smoothing. effective_order: leave out orders for which the hypothesis is too short (sacrebleu's
 * sentence BLEU does, its corpus BLEU does not). precisions [BLEU_ORDER] in percent, brevity: NULL or out. */
double metric_bleu(const struct bleu_counts *counts, bool effective_order, double *precisions, double *brevity);
/* mteval-v13a's tokens, separated by single blanks; release with memory_release. */
int metric_bleu_tokens(const char *text, bool lower, char **tokens);

enum rouge_kind { ROUGE_1, ROUGE_2, ROUGE_L, ROUGE_LSUM, ROUGE_KINDS };
struct rouge_score {
    double precision, recall, f1; /* 0..1 */
};
/* scores [ROUGE_KINDS]. Several references: the score with the best F1 of each kind. */
int metric_rouge(const char *hypothesis, const char *const *references, size_t reference_count, bool stem,
                 struct rouge_score *scores);
/* Porter's stemmer (1980) with NLTK's changes, which rouge_score uses. word [length] lower-case ASCII letters and
 * digits, in place; returns the new length, never a larger one. */
size_t porter_stem(char *word, size_t length);

#endif
