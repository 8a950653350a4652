/* Results as a table: aligned text, CSV, JSON lines or Markdown, from typed cells.
 *
 * Cells are added row by row; the first trouble is remembered and reported by table_print. Text and Markdown show
 * numbers to five digits for reading; CSV and JSON lines carry them in the shortest form that reads back exactly.
 * CSV is quoted as in RFC 4180, with lines ending in a plain newline. What is absent prints as "-", an empty field,
 * null.
 */
#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "store/query.h"

enum table_format { TABLE_TEXT, TABLE_CSV, TABLE_JSONL, TABLE_MD };
enum table_format table_format_of(const char *word); /* of a word that FLAG_FORMAT accepted */

struct table_cell {
    enum { TABLE_CELL_NONE, TABLE_CELL_TEXT, TABLE_CELL_INTEGER, TABLE_CELL_REAL } kind;
    char *text;
    int64_t integer;
    double real;
};
struct table {
    char **columns;
    struct table_cell *cells;
    size_t column_count, cell_count, cell_capacity;
    int status;
};

/* columns: NULL-terminated, copied. */
int table_open(struct table *table, const char *const *columns);
void table_close(struct table *table); /* accepts a zeroed table */

void table_add_text(struct table *table, const char *text); /* NULL: absent */
void table_add_format(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_add_integer(struct table *table, int64_t number);
void table_add_real(struct table *table, double number); /* not finite: absent */
void table_add_none(struct table *table);

/* A table of all rows of a bound query, its columns named as in the statement. */
int table_open_query(struct table *table, struct query *query);

size_t table_rows(const struct table *table);
/* E_IO when the stream cannot be written, or the first trouble while cells were added. */
int table_print(const struct table *table, enum table_format format, FILE *stream);

#endif
