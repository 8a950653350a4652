/* The plan as text: what would run, in order, with every option resolved.
 *
 * One row per cell in four formats from the same fields. The table ends in a summary: cells, cached, skipped,
 * and the time that what remains will take, as far as the caller can estimate it.
 */
#include "plan/plan.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/memory.h"
#include "io/json.h"

struct row {
    const struct cell *cell;
    bool cached;
    double seconds;
};

enum layout { LAYOUT_TABLE, LAYOUT_CSV, LAYOUT_JSONL, LAYOUT_MD };

/* Append every option of a stage as "name=value", resolved. */
static void stage_text(struct json_writer *out, const struct stage_plan *stage) {
    json_raw(out, stage->technique->name);
    for (const struct option *option = stage->technique->options; option != NULL && option->name != NULL; option++) {
        char text[1024];
        option_print(option, stage->options, text, sizeof text);
        for (char *c = text; *c; c++)
            if ((unsigned char)*c < 32 || *c == 127) *c = ' ';
        json_raw(out, " ");
        json_raw(out, option->name);
        json_raw(out, "=");
        json_raw(out, text);
    }
}

static void stages_text(struct json_writer *out, const struct cell *cell) {
    for (size_t s = 0; s < cell->stage_count; s++) {
        if (s > 0) json_raw(out, " > ");
        stage_text(out, &cell->stages[s]);
    }
}

/* A number without quotes, a text with them. */
static void option_json(struct json_writer *out, const struct option *option, const void *options) {
    char text[1024];
    option_print(option, options, text, sizeof text);
    json_quoted(out, option->name);
    json_raw(out, ":");
    if (option->type == OPTION_INTEGER || option->type == OPTION_REAL || option->type == OPTION_BOOLEAN) {
        json_raw(out, text);
    } else if (option_is_list(option)) {
        const struct option_names *names = (const void *)((const char *)options + option->offset);
        json_raw(out, "[");
        for (size_t i = 0; i < names->count; i++) {
            if (i > 0) json_raw(out, ",");
            json_quoted(out, names->items[i]);
        }
        json_raw(out, "]");
    } else {
        json_quoted(out, *(const char *const *)(const void *)((const char *)options + option->offset));
    }
}

static void row_jsonl(struct json_writer *out, const struct experiment *experiment, const struct row *row, size_t i) {
    const struct cell *cell = row->cell;
    json_raw(out, "{\"experiment\":");
    json_quoted(out, experiment->name);
    json_format(out, ",\"cell\":%zu,\"label\":", i);
    json_quoted(out, cell->label);
    json_raw(out, ",\"pipeline\":");
    json_quoted(out, cell->pipeline);
    json_format(out, ",\"key\":\"%s\",\"threads\":%d,\"seed\":%llu,\"gemm\":\"%s\",\"baseline\":%zu,\"stages\":[",
                cell->key, cell->threads, (unsigned long long)cell->seed, gemm_backend_name(cell->gemm),
                cell->baseline);
    for (size_t s = 0; s < cell->stage_count; s++) {
        const struct stage_plan *stage = &cell->stages[s];
        json_format(out, "%s{\"technique\":\"%s\",\"version\":%u,\"options\":{", s > 0 ? "," : "",
                    stage->technique->name, stage->technique->version);
        for (const struct option *option = stage->technique->options; option != NULL && option->name != NULL;
             option++) {
            if (option != stage->technique->options) json_raw(out, ",");
            option_json(out, option, stage->options);
        }
        json_raw(out, "}}");
    }
    json_format(out, "],\"cached\":%s,\"skip\":", row->cached ? "true" : "false");
    if (cell->skip_reason != NULL) json_quoted(out, cell->skip_reason);
    else json_raw(out, "null");
    if (isfinite(row->seconds)) json_format(out, ",\"seconds\":%.3f}\n", row->seconds);
    else json_raw(out, ",\"seconds\":null}\n");
}

/* A field of the csv or md layouts, escaped for it. */
static void field_put(struct json_writer *out, enum layout layout, const char *text) {
    char one[2] = "";
    if (layout == LAYOUT_MD) {
        for (; *text != '\0'; text++) {
            if (*text == '|') json_raw(out, "\\");
            one[0] = *text;
            json_raw(out, one);
        }
        return;
    }
    if (strpbrk(text, ",\"\n\r") == NULL) {
        json_raw(out, text);
        return;
    }
    json_raw(out, "\"");
    for (; *text != '\0'; text++) {
        one[0] = *text;
        json_raw(out, *text == '"' ? "\"\"" : one);
    }
    json_raw(out, "\"");
}

static const char *row_state(const struct row *row) {
    return row->cell->skip_reason != NULL ? "skip" : row->cached ? "cached" : "run";
}

static void row_fields(struct json_writer *out, enum layout layout, const struct row *row, size_t i,
                       struct json_writer *scratch) {
    const struct cell *cell = row->cell;
    const char *between = layout == LAYOUT_MD ? " | " : ",";
    char seconds[40] = "";
    scratch->bytes = 0;
    json_raw(scratch, "");
    stages_text(scratch, cell);
    if (isfinite(row->seconds)) snprintf(seconds, sizeof seconds, "%.1f", row->seconds);
    json_format(out, "%s%zu%s", layout == LAYOUT_MD ? "| " : "", i, between);
    field_put(out, layout, cell->label);
    json_format(out, "%s%d%s%llu%s%s%s%s%s%s%s", between, cell->threads, between, (unsigned long long)cell->seed,
                between, gemm_backend_name(cell->gemm), between, row_state(row), between, seconds, between);
    field_put(out, layout, cell->stage_count > 0 && scratch->text != NULL ? scratch->text : "");
    json_raw(out, between);
    field_put(out, layout, cell->skip_reason != NULL ? cell->skip_reason : "");
    json_raw(out, layout == LAYOUT_MD ? " |\n" : "\n");
}

static void row_table(struct json_writer *out, const struct row *row, size_t i, int width) {
    const struct cell *cell = row->cell;
    json_format(out, "%5zu  %-*s  %s", i, width, cell->label, row_state(row));
    if (cell->skip_reason != NULL) json_format(out, ": %s", cell->skip_reason);
    else if (isfinite(row->seconds)) json_format(out, "  %.1f s", row->seconds);
    json_raw(out, "\n");
    for (size_t s = cell->is_baseline ? 0 : cell->prepare_count; s < cell->stage_count; s++) {
        json_raw(out, "         ");
        stage_text(out, &cell->stages[s]);
        json_raw(out, s < cell->prepare_count ? "  (prepare)\n" : "\n");
    }
}

/* What all cells share; what they do not share is in their labels. */
static void table_head(struct json_writer *out, const struct experiment *experiment) {
    const struct cell *first = &experiment->cells[0];
    bool threads = true, seed = true, gemm = true;
    for (size_t i = 1; i < experiment->cell_count; i++) {
        threads &= experiment->cells[i].threads == first->threads;
        seed &= experiment->cells[i].seed == first->seed;
        gemm &= experiment->cells[i].gemm == first->gemm;
    }
    json_format(out, "%s: %s\n", experiment->name, experiment->path);
    if (experiment->description[0] != '\0') json_format(out, "  %s\n", experiment->description);
    /* The family of a model by path is known only once it is open. */
    json_format(out, "  %s, task %s", experiment->model.path ? experiment->model.path : experiment->model.config.family,
                experiment->task->name);
    if (threads) json_format(out, ", threads %d", first->threads);
    if (seed) json_format(out, ", seed %llu", (unsigned long long)first->seed);
    if (gemm) json_format(out, ", gemm %s", gemm_backend_name(first->gemm));
    json_raw(out, "\n");
}

static void duration_text(double seconds, char *text, size_t size) {
    if (seconds < 90) snprintf(text, size, "%.0f s", seconds);
    else if (seconds < 5400) snprintf(text, size, "%.0f min", seconds / 60);
    else snprintf(text, size, "%.1f h", seconds / 3600);
}

static int layout_find(const char *format, enum layout *layout) {
    int status = 0;
    static const char *const names[] = {"table", "csv", "jsonl", "md"};
    for (size_t i = 0; i < 4; i++)
        if (strcmp(names[i], format) == 0) {
            *layout = (enum layout)i;
            return 0;
        }
    FAIL(E_ARGUMENT, "format must be one of table, csv, jsonl, md (got %s)", format);
out:
    return status;
}

int plan_print(FILE *stream, const struct experiment *experiment, const struct plan_view *view, const char *format) {
    int status = 0;
    enum layout layout = LAYOUT_TABLE;
    struct json_writer out = {0}, scratch = {0};
    size_t cached = 0, skipped = 0, unknown = 0;
    double total = 0;
    int width = 8;
    TRY(layout_find(format, &layout));
    for (size_t i = 0; i < experiment->cell_count; i++) {
        size_t length = strlen(experiment->cells[i].label);
        if (length > (size_t)width) width = length > 60 ? 60 : (int)length;
    }
    if (layout == LAYOUT_TABLE) {
        table_head(&out, experiment);
    } else if (layout == LAYOUT_CSV) {
        json_raw(&out, "cell,label,threads,seed,gemm,state,seconds,stages,skip_reason\n");
    } else if (layout == LAYOUT_MD) {
        json_raw(&out, "| cell | label | threads | seed | gemm | state | seconds | stages | skip reason |\n"
                       "|---|---|---|---|---|---|---|---|---|\n");
    }
    for (size_t i = 0; i < experiment->cell_count; i++) {
        struct row row = {.cell = &experiment->cells[i], .seconds = NAN};
        if (view != NULL && view->cached != NULL) row.cached = view->cached(view->host, experiment, row.cell);
        if (view != NULL && view->seconds != NULL) row.seconds = view->seconds(view->host, experiment, row.cell);
        if (row.cell->skip_reason != NULL) {
            skipped++;
            row.seconds = NAN;
        } else {
            cached += row.cached;
            if (isfinite(row.seconds)) total += row.seconds;
            else unknown++;
        }
        if (layout == LAYOUT_TABLE) row_table(&out, &row, i, width);
        else if (layout == LAYOUT_JSONL) row_jsonl(&out, experiment, &row, i);
        else row_fields(&out, layout, &row, i, &scratch);
    }
    if (layout == LAYOUT_TABLE) {
        char time[40];
        duration_text(total, time, sizeof time);
        json_format(&out, "%zu cell%s, %zu cached, %zu skipped; ", experiment->cell_count,
                    experiment->cell_count == 1 ? "" : "s", cached, skipped);
        if (unknown == 0) json_format(&out, "about %s\n", time);
        else if (total > 0) json_format(&out, "at least %s (%zu cells without an estimate)\n", time, unknown);
        else json_raw(&out, "no estimate of time yet\n");
    }
    TRY(out.status);
    TRY(scratch.status);
    if (fwrite(out.text, 1, out.bytes, stream) != out.bytes || fflush(stream) != 0)
        FAIL(E_IO, "the plan cannot be written to its output");
out:
    json_writer_close(&out);
    json_writer_close(&scratch);
    return status;
}
