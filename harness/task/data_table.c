/* See data_table.h: the table itself and separated values. */
#include "task/data_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/data_json.h"

enum { COLUMNS_MAX = 1024, HEADER_BYTES = 400 };

/* ---- the table ---------------------------------------------------------------------------------------- */

int data_text_add(struct data_table *table, const char *text, size_t bytes, size_t *position) {
    int status = 0;
    if (table->text_capacity - table->text_bytes <= bytes) {
        void *block = table->text;
        size_t capacity = 2 * table->text_capacity + bytes + 4096;
        TRY(memory_resize(&block, capacity, 1));
        table->text = block;
        table->text_capacity = capacity;
    }
    *position = table->text_bytes;
    if (bytes) memcpy(table->text + table->text_bytes, text, bytes);
    table->text[table->text_bytes + bytes] = 0;
    table->text_bytes += bytes + 1;
out:
    return status;
}

int data_row_add(struct data_table *table, size_t line, struct data_cell **cells) {
    int status = 0;
    if (table->rows == table->capacity) {
        size_t capacity = table->capacity ? 2 * table->capacity : 256;
        void *block = table->cells;
        TRY(memory_resize(&block, capacity * table->columns, sizeof *table->cells));
        table->cells = block;
        block = table->line;
        TRY(memory_resize(&block, capacity, sizeof *table->line));
        table->line = block;
        table->capacity = capacity;
    }
    if (table->rows >= UINT32_MAX - 1) FAIL(E_LIMIT, "%s: more than 2^32 rows", table->path);
    *cells = table->cells + table->rows * table->columns;
    table->line[table->rows++] = (uint32_t)line;
out:
    return status;
}

const char *data_next(const char *text) { return text + strlen(text) + 1; }

int data_number(const struct data_table *table, size_t row, size_t column, const char *what, double *value) {
    int status = 0;
    const char *text = data_text(table, row, column);
    char *end;
    *value = strtod(text, &end);
    while (*end == ' ') end++;
    if (end == text || *end || !isfinite(*value))
        FAIL(E_FORMAT, "%s:%u: %s is '%.40s', expected a number", table->path, table->line[row], what, text);
out:
    return status;
}

int data_score(const struct data_table *table, size_t row, size_t column, double low, double high, double *value) {
    int status = 0;
    TRY(data_number(table, row, column, "the score", value));
    if (*value < low || *value > high)
        FAIL(E_FORMAT, "%s:%u: the score %g is outside %g..%g (`low`, `high`)", table->path, table->line[row], *value,
             low, high);
out:
    return status;
}

void data_table_close(struct data_table *table) {
    memory_release(table->path);
    memory_release(table->text);
    memory_release(table->cells);
    memory_release(table->line);
    *table = (struct data_table){0};
}

/* ---- separated values --------------------------------------------------------------------------------- */

struct field {
    char *text; /* in the file's bytes, zero-terminated once the line is read */
};

struct separated {
    struct data_table *table;
    const struct data_request *request;
    char separator;
    char *at, *end;
    size_t line; /* of `at` */
    struct field fields[COLUMNS_MAX];
    size_t field_count;
    size_t wanted[COLUMNS_MAX]; /* field of each column of the table */
    size_t wanted_most;
};

/* A quoted field: unescaped in place; *cursor ends behind the closing quote. */
static int quoted_read(struct separated *in, char **cursor) {
    int status = 0;
    size_t began = in->line;
    char *out = in->fields[in->field_count].text = *cursor, *read = *cursor + 1;
    for (;; read++) {
        if (read >= in->end) FAIL(E_FORMAT, "%s:%zu: a quoted field has no end", in->table->path, began);
        if (*read == '"' && read[1] != '"') break;
        read += *read == '"';
        in->line += *read == '\n';
        *out++ = *read;
    }
    read++;
    bool line_end = read < in->end && (*read == '\n' || (*read == '\r' && read[1] == '\n'));
    if (read < in->end && *read != in->separator && !line_end)
        FAIL(E_FORMAT, "%s:%zu: text behind the closing quote of a field", in->table->path, in->line);
    *out = 0; /* at the latest on the closing quote */
    *cursor = read;
out:
    return status;
}

/* Cut the next line into fields; *found is false at the end of the file. */
static int line_split(struct separated *in, size_t *line, bool *found) {
    int status = 0;
    bool quotes = in->separator == ',';
    while (in->at < in->end && (*in->at == '\n' || (*in->at == '\r' && in->at[1] == '\n'))) {
        in->line += *in->at == '\n';
        in->at++;
    }
    *found = in->at < in->end;
    *line = in->line;
    in->field_count = 0;
    for (char *at = in->at; *found;) {
        if (in->field_count == COLUMNS_MAX)
            FAIL(E_FORMAT, "%s:%zu: more than %d fields", in->table->path, in->line, COLUMNS_MAX);
        if (quotes && *at == '"') {
            TRY(quoted_read(in, &at));
        } else {
            in->fields[in->field_count].text = at;
            while (at < in->end && *at != in->separator && *at != '\n') at++;
        }
        in->field_count++;
        char stop = at < in->end ? *at : '\n';
        if (stop == '\r' && quotes && at[1] == '\n') { /* behind a quoted field */
            *at++ = 0;
            stop = '\n';
        }
        if (stop == '\n' && at > in->at && at[-1] == '\r') at[-1] = 0;
        *at = 0;
        at++;
        in->at = at;
        if (stop == '\n') break; /* not of a separator at the very end: one more, empty field */
    }
    if (*found) in->line++;
out:
    return status;
}

static bool is_number(const char *text) { return *text >= '1' && *text <= '9' && !text[strspn(text, "0123456789")]; }

/* The names as one line for a message. */
static void names_print(char text[HEADER_BYTES], const char *const *names, size_t count) {
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < count && used < HEADER_BYTES; i++)
        used += (size_t)snprintf(text + used, HEADER_BYTES - used, "%s%s", i ? ", " : "", names[i]);
}

/* Which field each wanted column is. names: of the fields, count 0 when there are none. */
static int columns_find(struct separated *in, const char *const *names, size_t count) {
    int status = 0;
    const struct data_request *request = in->request;
    for (size_t c = 0; c < request->column_count; c++) {
        const char *wanted = request->columns[c];
        size_t i = 0;
        while (i < count && strcmp(names[i], wanted) != 0) i++;
        if (i == count && is_number(wanted)) i = (size_t)strtoull(wanted, NULL, 10) - 1;
        else if (i == count) {
            char known[HEADER_BYTES];
            names_print(known, names, count);
            if (request->header_count)
                FAIL(E_ARGUMENT,
                     "%s: `header` names no column '%s' but: %s; with header: [] the file's first line names them",
                     request->path, wanted, known);
            FAIL(E_ARGUMENT, "%s:1: there is no column '%s'; the columns are: %s", request->path, wanted, known);
        }
        for (size_t k = i + 1; k < count; k++)
            if (strcmp(names[k], wanted) == 0)
                FAIL(E_ARGUMENT, "%s: columns %zu and %zu are both named '%s'; name one by its number", request->path,
                     i + 1, k + 1, wanted);
        if (i >= COLUMNS_MAX) FAIL(E_ARGUMENT, "%s: there is no column %s", request->path, wanted);
        in->wanted[c] = i;
        if (i > in->wanted_most) in->wanted_most = i;
    }
out:
    return status;
}

/* Settle the columns; *skip: the first line is a header. */
static int header_read(struct separated *in, bool *skip) {
    int status = 0;
    const struct data_request *request = in->request;
    const char *names[COLUMNS_MAX];
    bool numbers = true;
    for (size_t c = 0; c < request->column_count; c++) numbers = numbers && is_number(request->columns[c]);
    for (size_t i = 0; i < in->field_count; i++) names[i] = in->fields[i].text;
    if (request->header) {
        *skip = in->field_count == request->header_count;
        for (size_t i = 0; i < in->field_count && *skip; i++) *skip = strcmp(names[i], request->header[i]) == 0;
        TRY(columns_find(in, request->header, request->header_count));
    } else {
        *skip = !numbers;
        TRY(columns_find(in, names, numbers ? 0 : in->field_count));
    }
out:
    return status;
}

static int separated_read(struct separated *in) {
    int status = 0;
    struct data_table *table = in->table;
    size_t line;
    bool found, skip = false;
    TRY(line_split(in, &line, &found));
    if (!found) FAIL(E_FORMAT, "%s: the file is empty", table->path);
    TRY(header_read(in, &skip));
    if (skip) TRY(line_split(in, &line, &found));
    while (found) {
        struct data_cell *cells;
        if (in->field_count <= in->wanted_most)
            FAIL(E_FORMAT, "%s:%zu: %zu field%s, expected at least %zu", table->path, line, in->field_count,
                 in->field_count == 1 ? "" : "s", in->wanted_most + 1);
        TRY(data_row_add(table, line, &cells));
        for (size_t c = 0; c < table->columns; c++)
            cells[c] = (struct data_cell){(size_t)(in->fields[in->wanted[c]].text - table->text), 1};
        TRY(line_split(in, &line, &found));
    }
    if (!table->rows) FAIL(E_FORMAT, "%s: a header and no rows", table->path);
out:
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static enum data_format format_of(const struct data_request *request) {
    const char *ending = strrchr(request->path, '.');
    if (request->format != DATA_AUTO) return request->format;
    if (ending && strcmp(ending, ".csv") == 0) return DATA_CSV;
    if (ending && (strcmp(ending, ".jsonl") == 0 || strcmp(ending, ".json") == 0)) return DATA_JSON_LINES;
    return DATA_TSV;
}

int data_table_read(struct data_table *table, const struct data_request *request, struct hash *hash) {
    int status = 0;
    char *text = NULL;
    size_t bytes = 0;
    struct separated *in = NULL;
    enum data_format format = format_of(request);
    *table = (struct data_table){.columns = request->column_count};
    if (!request->column_count || request->column_count > COLUMNS_MAX || request->header_count > COLUMNS_MAX)
        FAIL(E_ARGUMENT, "%s: %zu columns were asked for", request->path, request->column_count);
    TRY(memory_string(&table->path, request->path));
    TRY(data_text_file(request->path, &text, &bytes, hash));
    if (format == DATA_JSON_LINES) {
        TRY(data_json_lines(table, request, text, bytes));
        goto out;
    }
    table->text = text; /* fields stay where they are; the byte behind the file is a zero */
    table->text_bytes = table->text_capacity = bytes;
    text = NULL;
    TRY(memory_take((void **)&in, 1, sizeof *in));
    *in = (struct separated){.table = table,
                             .request = request,
                             .separator = format == DATA_CSV ? ',' : '\t',
                             .at = table->text,
                             .end = table->text + bytes,
                             .line = 1};
    TRY(separated_read(in));
out:
    memory_release(in);
    memory_release(text);
    if (status < 0) data_table_close(table);
    return status;
}
