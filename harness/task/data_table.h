/* Tables read from files: tab- or comma-separated, JSON lines, SQuAD's JSON.
 *
 * A table holds the columns that were asked for, in that order, of all rows. A cell is a text, or in JSON a list of
 * texts. Everything lies in one block of memory; whatever is wrong with a file is told as "file:line: …" (E_FORMAT).
 */
#ifndef DATA_TABLE_H
#define DATA_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"

#define DATA_FILE_BYTES_MAX ((size_t)4 << 30)

struct data_cell {
    size_t text;    /* byte position in the table's text */
    uint32_t count; /* texts end to end, each zero-terminated; 1 for a plain cell */
};

struct data_table {
    char *path;
    char *text;
    size_t text_bytes, text_capacity;
    struct data_cell *cells; /* [rows][columns] */
    uint32_t *line;          /* [rows] where each row begins, from 1 */
    size_t rows, columns, capacity;
};

/* Where a task's file is: in the folder `data`, or as it is said where it begins with "/" or "./" (from where runexp
 * was started). path [size]. E_ARGUMENT: too long. */
int data_file_path(char *path, size_t size, const char *data, const char *file);
/* The same of a file that must be there: E_IO says whether the folder or the file in it is missing, and what the folder
 * has. option: which names the file, "test"; any other may be empty. */
int data_file_find(char *path, size_t size, const char *data, const char *option, const char *file);

enum data_format { DATA_AUTO, DATA_TSV, DATA_CSV, DATA_JSON_LINES };

struct data_request {
    const char *path;
    enum data_format format;    /* DATA_AUTO: by the file's ending, .csv, .jsonl or .json, else tab-separated */
    const char *const *columns; /* names, or numbers from 1 */
    size_t column_count;
    /* Names of all columns of a file that does not begin with them (or does: then that line is left out). NULL: the
     * first line holds the names, unless `columns` are all numbers. */
    const char *const *header;
    size_t header_count;
};

/* TSV takes fields as they are, without quoting (GLUE's files); CSV knows quotes (RFC 4180). Blank lines are passed
 * over. hash (or NULL) is updated with the bytes read. E_IO, E_FORMAT, E_ARGUMENT (no such column), E_LIMIT, E_MEMORY.
 */
int data_table_read(struct data_table *table, const struct data_request *request, struct hash *hash);

enum squad_column { SQUAD_CONTEXT, SQUAD_QUESTION, SQUAD_ANSWERS, SQUAD_STARTS, SQUAD_ID, SQUAD_COLUMNS };
/* SQuAD v1.1 or v2.0: one row a question that has an answer, columns as above; `answers` is a list, and so are
 * `starts`: where each answer begins in the context, in characters, as text ("" where the file does not say).
 * Impossible questions of v2.0 are left out. A row's line is its place in the file, counted in questions. */
int data_squad_read(struct data_table *table, const char *path, struct hash *hash);

/* The first text of a cell; data_cell_next gives the following ones of a list. */
static inline const char *data_text(const struct data_table *table, size_t row, size_t column) {
    return table->text + table->cells[row * table->columns + column].text;
}
static inline size_t data_count(const struct data_table *table, size_t row, size_t column) {
    return table->cells[row * table->columns + column].count;
}
const char *data_next(const char *text);

/* The number in a cell, finite. E_FORMAT "file:line: …, expected a number". */
int data_number(const struct data_table *table, size_t row, size_t column, const char *what, double *value);

/* The score in a cell, which must be in low..high. E_FORMAT "file:line: …". */
int data_score(const struct data_table *table, size_t row, size_t column, double low, double high, double *value);

void data_table_close(struct data_table *table); /* accepts a zeroed table */

/* Growing a table; for the readers. data_text_add copies `bytes` and a zero. */
int data_text_add(struct data_table *table, const char *text, size_t bytes, size_t *position);
int data_row_add(struct data_table *table, size_t line, struct data_cell **cells);

/* A whole text file, hashed, and ended by a zero, without a byte order mark in front; E_FORMAT names the line of a zero
 * byte. Release with memory_release. */
int data_text_file(const char *path, char **text, size_t *bytes, struct hash *hash);

#endif
