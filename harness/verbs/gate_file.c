/* Accepted results as a file in git: results/baselines/<experiment>.json (contract: gate.h).
 *
 * One cell per line, so that a change of one cell shows as one line of a diff. Right answers are hexadecimal
 * digits, four items each, the first in the highest bit. What is read back is checked like any input.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "io/json.h"
#include "verbs/gate.h"

enum { FORMAT_VERSION = 1, MAX_FILE_BYTES = 256 << 20, MAX_ITEMS = 1 << 28 };

int gate_path(const char *folder, const char *experiment, char *path, size_t size) {
    int status = 0;
    size_t plain = 0;
    while (isalnum((unsigned char)experiment[plain]) || experiment[plain] == '-' || experiment[plain] == '_') plain++;
    if (plain == 0 || experiment[plain])
        FAIL(E_ARGUMENT, "experiment names are letters, digits, - and _ (got \"%s\")", experiment);
    if ((size_t)snprintf(path, size, "%s/%s.json", folder, experiment) >= size)
        FAIL(E_LIMIT, "the path of the baseline of %s is too long", experiment);
out:
    return status;
}

static void write_real(struct json_writer *w, const char *key, double value) {
    if (isfinite(value)) json_format(w, "\"%s\": %.10g", key, value);
    else json_format(w, "\"%s\": null", key);
}

static void write_text(struct json_writer *w, const char *key, const char *value) {
    json_format(w, "\"%s\": ", key);
    json_quoted(w, value);
}

static void write_interval(struct json_writer *w, const char *key, const struct interval *interval) {
    json_format(w, "\"%s\": {", key);
    write_real(w, "estimate", interval->estimate);
    json_raw(w, ", ");
    write_real(w, "lo", interval->lo);
    json_raw(w, ", ");
    write_real(w, "hi", interval->hi);
    json_format(w, ", \"n\": %zu}", interval->n);
}

static int write_correct(struct json_writer *w, const struct gate_cell *cell) {
    int status = 0;
    void *block = NULL;
    size_t digits = (cell->items + 3) / 4;
    TRY(memory_take(&block, digits + 1, 1));
    char *text = block;
    for (size_t d = 0; d < digits; d++) {
        unsigned bits = 0;
        for (size_t i = 4 * d; i < 4 * d + 4; i++) bits = 2 * bits + (i < cell->items && cell->correct[i]);
        text[d] = "0123456789abcdef"[bits];
    }
    json_format(w, "\"items\": %zu, \"correct\": \"", cell->items);
    json_raw(w, text);
    json_raw(w, "\"");
out:
    memory_release(block);
    return status;
}

static int write_cell(struct json_writer *w, const struct gate_cell *cell) {
    int status = 0;
    json_raw(w, "  {");
    write_text(w, "label", cell->label);
    json_raw(w, ", ");
    write_text(w, "status", cell->status);
    json_raw(w, ", ");
    write_text(w, "reason", cell->reason);
    json_raw(w, ", ");
    write_text(w, "artifact", cell->artifact);
    json_raw(w, ", ");
    write_text(w, "executes", cell->executes);
    json_format(w, ", \"is_baseline\": %s, \"threads\": %lld, \"size_bytes\": %lld, ",
                cell->is_baseline ? "true" : "false", (long long)cell->threads, (long long)cell->size_bytes);
    write_real(w, "metric", cell->metric);
    json_raw(w, ", \"timings\": [");
    for (size_t i = 0; i < cell->timing_count; i++) {
        json_format(w, "%s{\"batch\": %lld, ", i ? ", " : "", (long long)cell->timings[i].batch);
        write_interval(w, "latency_ms", &cell->timings[i].latency_ms);
        json_raw(w, ", ");
        write_interval(w, "ratio", &cell->timings[i].ratio);
        json_raw(w, "}");
    }
    json_raw(w, "], ");
    TRY(write_correct(w, cell));
    json_raw(w, "}");
out:
    return status;
}

int gate_write(const char *path, const struct gate_results *results) {
    int status = 0;
    struct json_writer w = {0};
    struct file_replace file = {.file = -1};
    const struct {
        const char *key, *value;
    } texts[] = {{"experiment", results->experiment},
                 {"experiment_hash", results->hash},
                 {"data_hash", results->data_hash},
                 {"metric", results->metric},
                 {"host", results->host},
                 {"cpu", results->cpu},
                 {"commit", results->commit},
                 {"started_at", results->started_at},
                 {"timing_note", results->timing_note}};
    json_format(&w, "{\"format\": %d,\n", FORMAT_VERSION);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_text(&w, texts[i].key, texts[i].value);
        json_raw(&w, ",\n");
    }
    json_format(&w, "\"dirty\": %s,\n\"timing_valid\": %s,\n\"cells\": [\n", results->dirty ? "true" : "false",
                results->timing_valid ? "true" : "false");
    for (size_t i = 0; i < results->cell_count; i++) {
        TRY(write_cell(&w, &results->cells[i]));
        json_raw(&w, i + 1 < results->cell_count ? ",\n" : "\n");
    }
    json_raw(&w, "]}\n");
    TRY(w.status);
    TRY(file_folders(path, "make it or give --baselines DIR"));
    TRY(file_replace_open(&file, path));
    status = file_replace_write(&file, w.text, w.bytes);
    if (status == 0) status = file_replace_commit(&file);
    file_replace_close(&file);
out:
    json_writer_close(&w);
    return status;
}

static int read_text(const struct json *object, const char *key, char **text) {
    int status = 0;
    const char *value;
    TRY(json_text(json_member(object, key), key, &value));
    TRY(memory_string(text, value));
out:
    return status;
}

static int read_boolean(const struct json *object, const char *key, bool *value) {
    int status = 0;
    const struct json *node = json_member(object, key);
    if (!node || (node->type != JSON_TRUE && node->type != JSON_FALSE)) FAIL(E_FORMAT, "%s must be true or false", key);
    *value = node->type == JSON_TRUE;
out:
    return status;
}

/* null is NaN. */
static int read_real(const struct json *object, const char *key, double *value) {
    const struct json *node = json_member(object, key);
    if (node && node->type == JSON_NULL) {
        *value = NAN;
        return 0;
    }
    return json_number(node, key, value);
}

static int read_integer(const struct json *object, const char *key, int64_t *value) {
    int status = 0;
    uint64_t number;
    TRY(json_u64(json_member(object, key), key, &number));
    *value = (int64_t)number;
out:
    return status;
}

static int read_interval(const struct json *object, const char *key, struct interval *interval) {
    int status = 0;
    const struct json *node = json_member(object, key);
    uint64_t n;
    TRY(read_real(node, "estimate", &interval->estimate));
    TRY(read_real(node, "lo", &interval->lo));
    TRY(read_real(node, "hi", &interval->hi));
    TRY(json_u64(json_member(node, "n"), "n", &n));
    interval->n = (size_t)n;
out:
    return status;
}

static int read_correct(const struct json *object, struct gate_cell *cell) {
    int status = 0;
    int64_t items;
    const char *text;
    void *block = NULL;
    TRY(read_integer(object, "items", &items));
    TRY(json_text(json_member(object, "correct"), "correct", &text));
    if (items > MAX_ITEMS || strlen(text) != (size_t)(items + 3) / 4 ||
        strspn(text, "0123456789abcdef") != strlen(text))
        FAIL(E_FORMAT, "correct must be %lld hexadecimal digits", (long long)((items + 3) / 4));
    if (items == 0) goto out;
    TRY(memory_take(&block, (size_t)items, 1));
    cell->correct = block;
    cell->items = (size_t)items;
    for (size_t i = 0; i < cell->items; i++) {
        char digit = text[i / 4];
        unsigned bits = (unsigned)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
        cell->correct[i] = (bits >> (3 - i % 4)) & 1;
    }
out:
    return status;
}

static int read_cell(const struct json *node, struct gate_cell *cell) {
    int status = 0;
    void *block = NULL;
    TRY(read_text(node, "label", &cell->label));
    TRY(read_text(node, "status", &cell->status));
    TRY(read_text(node, "reason", &cell->reason));
    TRY(read_text(node, "artifact", &cell->artifact));
    TRY(read_text(node, "executes", &cell->executes));
    TRY(read_boolean(node, "is_baseline", &cell->is_baseline));
    TRY(read_integer(node, "threads", &cell->threads));
    TRY(read_integer(node, "size_bytes", &cell->size_bytes));
    TRY(read_real(node, "metric", &cell->metric));
    TRY(read_correct(node, cell));
    const struct json *timings = json_member(node, "timings");
    if (!timings || timings->type != JSON_ARRAY) FAIL(E_FORMAT, "timings must be a list");
    TRY(memory_take(&block, timings->count, sizeof *cell->timings));
    cell->timings = block;
    for (const struct json *t = timings->child; t; t = t->next) {
        struct gate_timing *timing = &cell->timings[cell->timing_count++];
        TRY(read_integer(t, "batch", &timing->batch));
        TRY(read_interval(t, "latency_ms", &timing->latency_ms));
        TRY(read_interval(t, "ratio", &timing->ratio));
    }
out:
    return status;
}

static int read_results(const struct json *root, struct gate_results *results) {
    int status = 0;
    int64_t format;
    void *block = NULL;
    TRY(read_integer(root, "format", &format));
    if (format != FORMAT_VERSION)
        FAIL(E_FORMAT, "format %lld, this runexp knows %d; accept anew", (long long)format, FORMAT_VERSION);
    TRY(read_text(root, "experiment", &results->experiment));
    TRY(read_text(root, "experiment_hash", &results->hash));
    TRY(read_text(root, "data_hash", &results->data_hash));
    TRY(read_text(root, "metric", &results->metric));
    TRY(read_text(root, "host", &results->host));
    TRY(read_text(root, "cpu", &results->cpu));
    TRY(read_text(root, "commit", &results->commit));
    TRY(read_text(root, "started_at", &results->started_at));
    TRY(read_text(root, "timing_note", &results->timing_note));
    TRY(read_boolean(root, "dirty", &results->dirty));
    TRY(read_boolean(root, "timing_valid", &results->timing_valid));
    results->finished = true;
    const struct json *cells = json_member(root, "cells");
    if (!cells || cells->type != JSON_ARRAY || cells->count == 0) FAIL(E_FORMAT, "cells must be a list with cells");
    TRY(memory_take(&block, cells->count, sizeof *results->cells));
    results->cells = block;
    for (const struct json *cell = cells->child; cell; cell = cell->next)
        TRY(read_cell(cell, &results->cells[results->cell_count++]));
out:
    return status;
}

int gate_read(const char *path, struct gate_results *results) {
    int status = 0;
    char *text = NULL;
    size_t bytes;
    struct stat info;
    struct json_document document = {0};
    *results = (struct gate_results){0};
    if (stat(path, &info) != 0 && errno == ENOENT)
        FAIL(E_NOT_FOUND, "%s: nothing was accepted; look at the results, then `runexp regress accept`", path);
    TRY(file_read(path, MAX_FILE_BYTES, &text, &bytes));
    status = json_open(&document, text, bytes);
    if (status == 0) status = read_results(json_root(&document), results);
    if (status < 0) error_prefix(status, "%s", path);
out:
    json_close(&document);
    memory_release(text);
    if (status < 0) gate_results_close(results);
    return status;
}
