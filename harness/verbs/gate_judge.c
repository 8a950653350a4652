/* The rules of the gate (contract: gate.h; reasons and error rates: docs/MEASURING.md).
 *
 * A rule alarms only where an effect is both large enough to matter and too clear for chance, since a gate that
 * cries wolf is soon switched off. Where it could not have seen an effect of that size it says so instead of "ok":
 * absence, instability and failure are verdicts too.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verbs/gate.h"
#include "verbs/verbs.h"

const char *const gate_columns[] = {"verdict", "experiment", "cell",   "rule", "accepted",
                                    "newest",  "change",     "detail", NULL};

struct judge {
    const struct gate_results *accepted, *newest;
    const struct gate_rules *rules;
    struct table *table;
    struct gate_tally *tally;
    const char *cell;
};

struct gate_rules gate_rules_default(void) {
    return (struct gate_rules){.quality = true,
                               .bytes = true,
                               .latency = true,
                               .quality_floor_points = 0.5,
                               .quality_p = 0.01,
                               .bytes_tolerance_pct = 0.1,
                               .latency_tolerance_pct = 5};
}

void gate_line(struct table *table, struct gate_tally *tally, enum gate_verdict verdict, const char *experiment,
               const char *cell, const char *rule, double accepted, double newest, double change, const char *detail) {
    static const char *const words[GATE_VERDICTS] = {"ok", "note", "improvement", "impossible", "regression"};
    tally->count[verdict]++;
    table_add_text(table, words[verdict]);
    table_add_text(table, experiment);
    table_add_text(table, cell);
    table_add_text(table, rule);
    table_add_real(table, accepted);
    table_add_real(table, newest);
    table_add_real(table, change);
    table_add_text(table, detail);
}

static void __attribute__((format(printf, 7, 8)))
line(const struct judge *j, enum gate_verdict verdict, const char *rule, double accepted, double newest, double change,
     const char *format, ...) {
    char detail[512];
    va_list list;
    va_start(list, format);
    vsnprintf(detail, sizeof detail, format, list);
    va_end(list);
    gate_line(j->table, j->tally, verdict, j->accepted->experiment, j->cell, rule, accepted, newest, change, detail);
}

/* A difference of numbers as large as `scale`, to ten of their digits: what lies beyond is how they were rounded. */
static double difference(double value, double scale) {
    char text[352]; /* room for the largest double */
    int digits = scale > 0 && isfinite(scale) ? 9 - (int)floor(log10(scale)) : 9;
    snprintf(text, sizeof text, "%.*f", digits < 0 ? 0 : digits > 40 ? 40 : digits, value);
    return strtod(text, NULL) + 0.0; /* no negative zero */
}

static double accuracy(const struct gate_cell *cell) {
    size_t right = 0;
    for (size_t i = 0; i < cell->items; i++) right += cell->correct[i] != 0;
    return (double)right / (double)cell->items;
}

/* A metric that is no share of right answers (perplexity, a correlation): judged by its relative change alone. */
static void metric_judge(const struct judge *j, const struct gate_cell *a, const struct gate_cell *n) {
    double change = difference(n->metric - a->metric, fmax(fabs(a->metric), fabs(n->metric)));
    double percent = 100 * change / fabs(a->metric);
    double gain = j->newest->lower_is_better ? -percent : percent, floor = j->rules->quality_floor_points;
    enum gate_verdict verdict = gain < -floor ? GATE_REGRESSION : gain > floor ? GATE_IMPROVEMENT : GATE_OK;
    line(j, verdict, "quality", a->metric, n->metric, change, "%s %+.2f %% (alarm: worse by %g %%)", j->newest->metric,
         percent, floor);
}

static void quality_judge(const struct judge *j, const struct gate_cell *a, const struct gate_cell *n) {
    if (strcmp(j->accepted->data_hash, j->newest->data_hash) != 0 || a->items != n->items) {
        line(j, GATE_IMPOSSIBLE, "quality", a->metric, n->metric, NAN,
             "scored on other data (%zu and %zu items); accept anew", a->items, n->items);
        return;
    }
    if (a->items == 0 && isfinite(a->metric) && isfinite(n->metric) && a->metric != 0) {
        metric_judge(j, a, n);
        return;
    }
    if (a->items == 0) {
        line(j, GATE_IMPOSSIBLE, "quality", a->metric, n->metric, NAN, "no results per item were stored");
        return;
    }
    double before = accuracy(a), after = accuracy(n), change = difference(after - before, 1), points = 100 * change;
    double p = statistics_mcnemar_outcomes(a->correct, n->correct, a->items);
    bool clear = fabs(points) > j->rules->quality_floor_points && p < j->rules->quality_p;
    enum gate_verdict verdict = !clear ? GATE_OK : points < 0 ? GATE_REGRESSION : GATE_IMPROVEMENT;
    if (*a->artifact && strcmp(a->artifact, n->artifact) == 0)
        line(j, verdict, "quality", before, after, change, "%+.2f points; the artifact is the same, byte by byte",
             points);
    else
        line(j, verdict, "quality", before, after, change,
             "%+.2f points on %zu items, p %.2g (alarm: beyond %g points and p below %g)", points, a->items, p,
             j->rules->quality_floor_points, j->rules->quality_p);
}

static void bytes_judge(const struct judge *j, const struct gate_cell *a, const struct gate_cell *n) {
    double before = (double)a->size_bytes, after = (double)n->size_bytes, tolerance = j->rules->bytes_tolerance_pct;
    if (a->size_bytes <= 0 || n->size_bytes <= 0) {
        line(j, GATE_IMPOSSIBLE, "bytes", before, after, NAN, "no artifact was stored");
        return;
    }
    double change = difference(after / before - 1, 1), percent = 100 * change;
    enum gate_verdict verdict = percent > tolerance    ? GATE_REGRESSION
                                : percent < -tolerance ? GATE_IMPROVEMENT
                                                       : GATE_OK;
    line(j, verdict, "bytes", before, after, change, "%+.2f %% (tolerance %g %%)", percent, tolerance);
    if (strcmp(a->executes, n->executes) != 0)
        line(j, strcmp(n->executes, "simulated") == 0 ? GATE_REGRESSION : GATE_IMPROVEMENT, "executes", NAN, NAN, NAN,
             "was %s, is %s", a->executes, n->executes);
}

/* Half the width of an interval of a ratio, relative to it. */
static double half_width(const struct interval *interval) { return (interval->hi / interval->lo - 1) / 2; }

static void timing_judge(const struct judge *j, const struct gate_timing *a, const struct gate_timing *n) {
    char rule[40];
    double tolerance = j->rules->latency_tolerance_pct / 100;
    const struct interval *before = &a->ratio, *after = &n->ratio;
    snprintf(rule, sizeof rule, "latency b%lld", (long long)a->batch);
    if (!isfinite(before->lo) || !isfinite(after->lo) || before->lo <= 0 || after->lo <= 0) {
        line(j, GATE_IMPOSSIBLE, rule, before->estimate, after->estimate, NAN,
             "no interval of the ratio to the baseline: %zu and %zu paired rounds, three are needed", before->n,
             after->n);
        return;
    }
    double change = difference(after->estimate / before->estimate - 1, 1);
    double widest = fmax(half_width(before), half_width(after));
    /* Intervals that just miss each other are common among wide ones; from those the nearer ends must lie apart by the
     * tolerance as well. */
    double margin = widest > tolerance ? 1 + tolerance : 1;
    if (change > tolerance && after->lo > before->hi * margin) {
        line(j, GATE_REGRESSION, rule, before->estimate, after->estimate, change,
             "%+.1f %% against the baseline cell (tolerance %g %%); %.3f to %.3f was %.3f to %.3f", 100 * change,
             100 * tolerance, after->lo, after->hi, before->lo, before->hi);
    } else if (change < -tolerance && after->hi * margin < before->lo) {
        line(j, GATE_IMPROVEMENT, rule, before->estimate, after->estimate, change,
             "%+.1f %% against the baseline cell; %.3f to %.3f was %.3f to %.3f", 100 * change, after->lo, after->hi,
             before->lo, before->hi);
    } else if (widest > tolerance) {
        line(j, GATE_IMPOSSIBLE, rule, before->estimate, after->estimate, change,
             "unstable: the ratio is known to +-%.1f %% only, tolerance %g %%; run on a quieter machine or more rounds",
             100 * widest, 100 * tolerance);
    } else {
        line(j, GATE_OK, rule, before->estimate, after->estimate, change,
             "%+.1f %% (tolerance %g %%, known to +-%.1f %%)", 100 * change, 100 * tolerance, 100 * widest);
    }
}

static const struct gate_cell *cell_find(const struct gate_results *results, const char *label) {
    for (size_t i = 0; i < results->cell_count; i++)
        if (strcmp(results->cells[i].label, label) == 0) return &results->cells[i];
    return NULL;
}

static const struct gate_timing *timing_find(const struct gate_cell *cell, int64_t batch) {
    for (size_t i = 0; cell && i < cell->timing_count; i++)
        if (cell->timings[i].batch == batch) return &cell->timings[i];
    return NULL;
}

/* Did every other cell clearly gain on the baseline at this batch size? */
static bool all_gained(const struct judge *j, int64_t batch) {
    size_t cells = 0;
    for (size_t i = 0; i < j->accepted->cell_count; i++) {
        const struct gate_cell *a = &j->accepted->cells[i];
        const struct gate_timing *before = timing_find(a, batch);
        const struct gate_timing *after = timing_find(cell_find(j->newest, a->label), batch);
        if (a->is_baseline || !before || !after) continue;
        cells++;
        if (!(after->ratio.estimate < before->ratio.estimate * (1 - j->rules->latency_tolerance_pct / 100) &&
              after->ratio.hi < before->ratio.lo))
            return false;
    }
    return cells > 0;
}

/* The baseline's ratio is 1 by definition, and its milliseconds carry the machine's mood, so alone they only inform.
 * But when they grew while every other cell gained on it, it was the baseline that slowed down. */
static void baseline_judge(const struct judge *j, const struct gate_timing *a, const struct gate_timing *n,
                           bool same_machine) {
    char rule[40];
    double before = a->latency_ms.estimate, after = n->latency_ms.estimate;
    double change = difference(after / before - 1, 1);
    snprintf(rule, sizeof rule, "latency b%lld", (long long)a->batch);
    if (same_machine && 100 * change > j->rules->latency_tolerance_pct && n->latency_ms.lo > a->latency_ms.hi &&
        all_gained(j, a->batch))
        line(j, GATE_REGRESSION, rule, before, after, change,
             "%+.1f %% in milliseconds while every other cell gained on it: the baseline itself slowed down",
             100 * change);
    else
        line(j, GATE_NOTE, rule, before, after, change, "milliseconds of the baseline, %+.1f %%%s", 100 * change,
             same_machine ? "" : ", on another machine");
}

static void latency_judge(const struct judge *j, const struct gate_cell *a, const struct gate_cell *n,
                          bool same_machine) {
    if (a->timing_count == 0 && n->timing_count == 0) return;
    if (!j->accepted->timing_valid || !j->newest->timing_valid || (!same_machine && !a->is_baseline))
        return; /* said once for the experiment */
    if (a->threads != n->threads) {
        line(j, GATE_IMPOSSIBLE, "latency", NAN, NAN, NAN, "accepted with %lld threads, now %lld",
             (long long)a->threads, (long long)n->threads);
        return;
    }
    for (size_t i = 0; i < a->timing_count; i++) {
        const struct gate_timing *timing = &a->timings[i], *found = timing_find(n, timing->batch);
        char rule[40];
        snprintf(rule, sizeof rule, "latency b%lld", (long long)timing->batch);
        if (!found) {
            line(j, GATE_IMPOSSIBLE, rule, timing->ratio.estimate, NAN, NAN, "not timed at this batch size");
        } else if (a->is_baseline) {
            baseline_judge(j, timing, found, same_machine);
        } else {
            timing_judge(j, timing, found);
        }
    }
}

static void cell_judge(const struct judge *j, const struct gate_cell *a, bool same_machine) {
    const struct gate_cell *n = cell_find(j->newest, a->label);
    if (!n || strcmp(n->status, "missing") == 0) {
        if (strcmp(a->status, "skipped") == 0) line(j, GATE_NOTE, "status", NAN, NAN, NAN, "was skipped, is gone");
        else line(j, GATE_IMPOSSIBLE, "status", NAN, NAN, NAN, "missing from the newest results");
        return;
    }
    if (strcmp(n->status, "skipped") == 0) {
        bool as_before = strcmp(a->status, "skipped") == 0;
        line(j, as_before ? GATE_OK : GATE_IMPOSSIBLE, "status", NAN, NAN, NAN, "%s: %s",
             as_before ? "skipped as before" : "skipped now", n->reason);
        return;
    }
    if (strcmp(n->status, "ok") != 0) {
        line(j, GATE_IMPOSSIBLE, "status", NAN, NAN, NAN, "%s%s%s", n->status, *n->reason ? ": " : "", n->reason);
        return;
    }
    if (strcmp(a->status, "ok") != 0) {
        line(j, GATE_NOTE, "status", NAN, NAN, NAN, "was %s, is ok; accept anew to guard it", a->status);
        return;
    }
    if (j->rules->quality) quality_judge(j, a, n);
    if (j->rules->bytes) bytes_judge(j, a, n);
    if (j->rules->latency) latency_judge(j, a, n, same_machine);
}

void gate_judge(const struct gate_results *accepted, const struct gate_results *newest, const struct gate_rules *rules,
                struct table *table, struct gate_tally *tally) {
    struct judge j = {.accepted = accepted, .newest = newest, .rules = rules, .table = table, .tally = tally};
    bool same_machine = strcmp(accepted->host, newest->host) == 0;
    if (!newest->finished)
        line(&j, GATE_IMPOSSIBLE, "session", NAN, NAN, NAN,
             "the newest run is under way, or was interrupted: run it again to complete it");
    if (strcmp(accepted->hash, newest->hash) != 0)
        line(&j, GATE_NOTE, "session", NAN, NAN, NAN, "the experiment file changed since it was accepted");
    if (rules->latency && (!accepted->timing_valid || !newest->timing_valid)) {
        const struct gate_results *of = newest->timing_valid ? accepted : newest;
        line(&j, GATE_IMPOSSIBLE, "latency", NAN, NAN, NAN, "%s timings are not valid: %s",
             of == newest ? "the newest" : "the accepted", *of->timing_note ? of->timing_note : "no reason stored");
    } else if (rules->latency && !same_machine) {
        line(&j, GATE_IMPOSSIBLE, "latency", NAN, NAN, NAN,
             "another machine: accepted on %s, now %s; accept there, or judge --rules quality,bytes", accepted->cpu,
             newest->cpu);
    }
    for (size_t i = 0; i < accepted->cell_count; i++) {
        j.cell = accepted->cells[i].label;
        cell_judge(&j, &accepted->cells[i], same_machine);
    }
    for (size_t i = 0; i < newest->cell_count; i++) {
        j.cell = newest->cells[i].label;
        if (cell_find(accepted, j.cell)) continue;
        bool well = strcmp(newest->cells[i].status, "ok") == 0 || strcmp(newest->cells[i].status, "skipped") == 0;
        line(&j, well ? GATE_NOTE : GATE_IMPOSSIBLE, "status", NAN, NAN, NAN, "%s, and not among the accepted cells",
             newest->cells[i].status);
    }
}

int gate_exit_code(const struct gate_tally *tally) {
    if (tally->count[GATE_REGRESSION]) return EXIT_REGRESSION;
    if (tally->count[GATE_IMPOSSIBLE]) return EXIT_NO_VERDICT;
    /* Nothing judged is no verdict either. */
    return tally->count[GATE_OK] + tally->count[GATE_IMPROVEMENT] ? EXIT_OK : EXIT_NO_VERDICT;
}
