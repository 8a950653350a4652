/* Results as a table (contract: table.h). */
#include "verbs/table.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

enum table_format table_format_of(const char *word) {
    if (strcmp(word, "csv") == 0) return TABLE_CSV;
    if (strcmp(word, "jsonl") == 0) return TABLE_JSONL;
    if (strcmp(word, "md") == 0) return TABLE_MD;
    return TABLE_TEXT;
}

int table_open(struct table *table, const char *const *columns) {
    int status = 0;
    size_t count = 0;
    void *block = NULL;
    *table = (struct table){0};
    while (columns[count]) count++;
    CHECK(count > 0, "a table needs columns");
    TRY(memory_take(&block, count, sizeof(char *)));
    table->columns = block;
    for (size_t i = 0; i < count; i++) {
        TRY(memory_string(&table->columns[i], columns[i]));
        table->column_count = i + 1;
    }
out:
    return status;
}

void table_close(struct table *table) {
    for (size_t i = 0; i < table->column_count; i++) memory_release(table->columns[i]);
    for (size_t i = 0; i < table->cell_count; i++) memory_release(table->cells[i].text);
    memory_release(table->columns);
    memory_release(table->cells);
    *table = (struct table){0};
}

static void cell_add(struct table *table, struct table_cell cell) {
    int status = table->status;
    if (status < 0) goto out;
    if (table->cell_count == table->cell_capacity) {
        void *block = table->cells;
        size_t wanted = table->cell_capacity ? 2 * table->cell_capacity : 64;
        TRY(memory_resize(&block, wanted, sizeof *table->cells));
        table->cells = block;
        table->cell_capacity = wanted;
    }
    table->cells[table->cell_count++] = cell;
out:
    if (status < 0) memory_release(cell.text);
    table->status = status;
}

void table_add_none(struct table *table) { cell_add(table, (struct table_cell){.kind = TABLE_CELL_NONE}); }

void table_add_text(struct table *table, const char *text) {
    struct table_cell cell = {.kind = TABLE_CELL_TEXT};
    if (!text) {
        table_add_none(table);
        return;
    }
    int status = memory_string(&cell.text, text);
    if (status < 0 && table->status == 0) table->status = status;
    cell_add(table, cell);
}

void table_add_format(struct table *table, const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    table_add_text(table, text);
}

void table_add_integer(struct table *table, int64_t number) {
    cell_add(table, (struct table_cell){.kind = TABLE_CELL_INTEGER, .integer = number});
}

void table_add_real(struct table *table, double number) {
    if (isfinite(number)) cell_add(table, (struct table_cell){.kind = TABLE_CELL_REAL, .real = number});
    else table_add_none(table);
}

int table_open_query(struct table *table, struct query *query) {
    int status = 0;
    bool row;
    void *block = NULL;
    int count = sqlite3_column_count(query->statement);
    *table = (struct table){0};
    TRY(memory_take(&block, (size_t)count + 1, sizeof(char *)));
    const char **names = block;
    for (int i = 0; i < count; i++) names[i] = sqlite3_column_name(query->statement, i);
    TRY(table_open(table, names));
    for (;;) {
        TRY(query_row(query, &row));
        if (!row) break;
        for (int i = 0; i < count; i++) {
            switch (sqlite3_column_type(query->statement, i)) {
            case SQLITE_NULL: table_add_none(table); break;
            case SQLITE_INTEGER: table_add_integer(table, query_get_integer(query, i)); break;
            case SQLITE_FLOAT: table_add_real(table, query_get_real(query, i)); break;
            default: table_add_text(table, query_get_text(query, i));
            }
        }
    }
    status = table->status;
out:
    memory_release(block);
    return status;
}

size_t table_rows(const struct table *table) {
    return table->column_count ? table->cell_count / table->column_count : 0;
}

/* The shortest decimal that reads back as the same number. */
static void real_exact(double number, char text[40]) {
    if (number == floor(number) && fabs(number) < 1e15) {
        snprintf(text, 40, "%.0f", number);
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, 40, "%.*g", digits, number);
        if (strtod(text, NULL) == number) return;
    }
}

static void real_readable(double number, char text[40]) {
    if (fabs(number) >= 1e5 && fabs(number) < 1e15) snprintf(text, 40, "%.0f", number);
    else snprintf(text, 40, "%.5g", number);
}

/* A number cell as text; the text cell itself otherwise. */
static const char *cell_text(const struct table_cell *cell, bool exact, const char *absent, char room[40]) {
    switch (cell->kind) {
    case TABLE_CELL_TEXT: return cell->text;
    case TABLE_CELL_INTEGER: snprintf(room, 40, "%lld", (long long)cell->integer); return room;
    case TABLE_CELL_REAL:
        if (exact) real_exact(cell->real, room);
        else real_readable(cell->real, room);
        return room;
    default: return absent;
    }
}

/* Length of the UTF-8 sequence at p, or 0 where the bytes are none. */
static size_t utf8_length(const unsigned char *p) {
    size_t length = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : 0;
    if (p[0] >= 0xf0 && p[0] < 0xf5) length = 4;
    for (size_t i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return length;
}

/* One character of a text for reading: control characters and broken UTF-8 become one '?', so that a stored text can
 * neither move the cursor nor break a column. Returns the bytes consumed. */
static size_t character_print(const char *p, FILE *stream, bool markdown) {
    size_t length = utf8_length((const unsigned char *)p);
    if (length == 0 || (length == 1 && ((unsigned char)*p < 32 || *p == 127))) {
        putc(*p == '\n' || *p == '\t' ? ' ' : '?', stream);
        return 1;
    }
    if (markdown && (*p == '|' || *p == '\\')) putc('\\', stream);
    fwrite(p, 1, length, stream);
    return length;
}

static size_t text_width(const char *text) {
    size_t width = 0;
    for (const char *p = text; *p; width++) {
        size_t length = utf8_length((const unsigned char *)p);
        p += length ? length : 1;
    }
    return width;
}

static void field_print(const char *text, size_t width, bool right, bool markdown, FILE *stream) {
    size_t own = text_width(text);
    for (size_t i = own; right && i < width; i++) putc(' ', stream);
    for (const char *p = text; *p;) p += character_print(p, stream, markdown);
    for (size_t i = own; !right && i < width; i++) putc(' ', stream);
}

static bool column_is_number(const struct table *table, size_t column) {
    bool any = false;
    for (size_t i = column; i < table->cell_count; i += table->column_count) {
        if (table->cells[i].kind == TABLE_CELL_TEXT) return false;
        any |= table->cells[i].kind != TABLE_CELL_NONE;
    }
    return any;
}

struct layout {
    size_t width;
    bool right; /* numbers are aligned to the right */
};

static int aligned_print(const struct table *table, bool markdown, FILE *stream) {
    int status = 0;
    void *block = NULL;
    char room[40];
    size_t n = table->column_count, rows = table_rows(table);
    TRY(memory_take(&block, n, sizeof(struct layout)));
    struct layout *layout = block;
    for (size_t c = 0; c < n; c++)
        layout[c] = (struct layout){.width = text_width(table->columns[c]), .right = column_is_number(table, c)};
    for (size_t i = 0; i < rows * n; i++) {
        size_t own = text_width(cell_text(&table->cells[i], false, "-", room));
        if (own > layout[i % n].width) layout[i % n].width = own;
    }
    for (size_t line = 0; line <= rows; line++) {
        for (size_t c = 0; c < n; c++) {
            const char *text =
                line ? cell_text(&table->cells[(line - 1) * n + c], false, "-", room) : table->columns[c];
            bool right = layout[c].right, last = c + 1 == n;
            fputs(markdown ? (c ? " | " : "| ") : (c ? "  " : ""), stream);
            field_print(text, last && !right && !markdown ? 0 : layout[c].width, right, markdown, stream);
        }
        fputs(markdown ? " |\n" : "\n", stream);
        if (line || !markdown) continue;
        for (size_t c = 0; c < n; c++) fputs(layout[c].right ? "|---:" : "|---", stream);
        fputs("|\n", stream);
    }
out:
    memory_release(block);
    return status;
}

static void csv_field(const char *text, FILE *stream) {
    bool quote = text[strcspn(text, ",\"\r\n")] != 0;
    if (quote) putc('"', stream);
    for (const char *p = text; *p; p++) {
        if (*p == '"') putc('"', stream);
        putc(*p, stream);
    }
    if (quote) putc('"', stream);
}

static void csv_print(const struct table *table, FILE *stream) {
    char room[40];
    size_t n = table->column_count;
    for (size_t c = 0; c < n; c++) {
        if (c) putc(',', stream);
        csv_field(table->columns[c], stream);
    }
    putc('\n', stream);
    for (size_t i = 0; i < table_rows(table) * n; i++) {
        csv_field(cell_text(&table->cells[i], true, "", room), stream);
        putc(i % n == n - 1 ? '\n' : ',', stream);
    }
}

static void json_text(const char *text, FILE *stream) {
    putc('"', stream);
    for (const char *p = text; *p;) {
        size_t length = utf8_length((const unsigned char *)p);
        if (length == 0) fputs("\\ufffd", stream);
        else if (length > 1) fwrite(p, 1, length, stream);
        else if (*p == '"' || *p == '\\') fprintf(stream, "\\%c", *p);
        else if (*p == '\n') fputs("\\n", stream);
        else if ((unsigned char)*p < 32) fprintf(stream, "\\u%04x", (unsigned)*p);
        else putc(*p, stream);
        p += length ? length : 1;
    }
    putc('"', stream);
}

static void jsonl_print(const struct table *table, FILE *stream) {
    char room[40];
    size_t n = table->column_count;
    for (size_t i = 0; i < table_rows(table) * n; i++) {
        const struct table_cell *cell = &table->cells[i];
        fputs(i % n ? "," : "{", stream);
        json_text(table->columns[i % n], stream);
        putc(':', stream);
        if (cell->kind == TABLE_CELL_TEXT) json_text(cell->text, stream);
        else fputs(cell_text(cell, true, "null", room), stream);
        if (i % n == n - 1) fputs("}\n", stream);
    }
}

int table_print(const struct table *table, enum table_format format, FILE *stream) {
    int status = 0;
    TRY(table->status);
    CHECK(table->cell_count % table->column_count == 0, "the last row is not full");
    switch (format) {
    case TABLE_TEXT:
    case TABLE_MD: TRY(aligned_print(table, format == TABLE_MD, stream)); break;
    case TABLE_CSV: csv_print(table, stream); break;
    case TABLE_JSONL: jsonl_print(table, stream);
    }
    if (fflush(stream) != 0 || ferror(stream)) FAIL(E_IO, "the table cannot be written: %s", strerror(errno));
out:
    return status;
}
