/* See data_json.h and data_table.h: JSON lines and SQuAD. */
#include "task/data_json.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/json.h"

enum { FIELDS_BYTES = 400 };

/* Append a JSON value to the table's text as the value of a cell. what: the field, for messages. */
static int value_add(struct data_table *table, const struct json *value, size_t line, const char *what,
                     struct data_cell *cell) {
    int status = 0;
    const char *word = value->type == JSON_TRUE ? "true" : value->type == JSON_FALSE ? "false" : value->text;
    bool list = value->type == JSON_ARRAY;
    size_t at;
    if (value->type == JSON_NULL || value->type == JSON_OBJECT)
        FAIL(E_FORMAT, "%s:%zu: field '%s' must be a text, a number, or a list of texts", table->path, line, what);
    *cell = (struct data_cell){.text = table->text_bytes, .count = list ? 0 : 1};
    if (!list) {
        if (value->type == JSON_STRING && strlen(word) != value->text_bytes)
            FAIL(E_FORMAT, "%s:%zu: field '%s' holds a zero character", table->path, line, what);
        TRY(data_text_add(table, word, strlen(word), &cell->text));
    }
    for (const struct json *item = list ? value->child : NULL; item; item = item->next, cell->count++) {
        if (item->type != JSON_STRING || strlen(item->text) != item->text_bytes)
            FAIL(E_FORMAT, "%s:%zu: field '%s' must be a list of texts", table->path, line, what);
        TRY(data_text_add(table, item->text, item->text_bytes, &at));
    }
    if (cell->count == 0) TRY(data_text_add(table, "", 0, &at)); /* an empty list still has a text to show */
out:
    return status;
}

/* Which fields a line has, where it lacks one. */
static int field_missing(const struct data_table *table, const struct json *object, size_t line, const char *wanted) {
    int status = 0;
    char known[FIELDS_BYTES] = "";
    size_t used = 0;
    if (object->type == JSON_ARRAY)
        FAIL(E_FORMAT, "%s:%zu: a JSON array; expected are JSON lines, an object a line", table->path, line);
    if (object->type != JSON_OBJECT) FAIL(E_FORMAT, "%s:%zu: a line must be a JSON object", table->path, line);
    for (const struct json *field = object->child; field && used < sizeof known; field = field->next)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", field->key);
    FAIL(E_FORMAT, "%s:%zu: there is no field '%s'; the fields are: %s%s", table->path, line, wanted, known,
         used < sizeof known ? "" : "...");
out:
    return status;
}

int data_json_lines(struct data_table *table, const struct data_request *request, const char *text, size_t bytes) {
    int status = 0;
    struct json_document document = {0};
    const char *at = text, *end = text + bytes;
    for (size_t line = 1; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        size_t blank = strspn(at, " \t\r"); /* the file ends with a zero */
        if (at + blank < stop) {
            struct data_cell *cells;
            status = json_open(&document, at, (size_t)(stop - at));
            if (status < 0) {
                /* A first line that is none may be a file of one object over many lines. */
                error_prefix(status, "%s:%zu%s", table->path, line,
                             table->rows ? "" : ": expected are JSON lines, an object a line");
                goto out;
            }
            TRY(data_row_add(table, line, &cells));
            for (size_t c = 0; c < request->column_count; c++) {
                const struct json *value = json_member(json_root(&document), request->columns[c]);
                if (!value) TRY(field_missing(table, json_root(&document), line, request->columns[c]));
                TRY(value_add(table, value, line, request->columns[c], &cells[c]));
            }
            json_close(&document);
            document = (struct json_document){0};
        }
        at = stop + 1;
    }
    if (!table->rows) FAIL(E_FORMAT, "%s: no lines in it", table->path);
out:
    json_close(&document);
    return status;
}

/* ---- SQuAD -------------------------------------------------------------------------------------------- */

/* A member that must be of a type; `where` counts questions. */
static int member_find(const struct data_table *table, const struct json *object, const char *key, enum json_type type,
                       size_t where, const struct json **member) {
    int status = 0;
    *member = json_member(object, key);
    if (!*member || (*member)->type != type)
        FAIL(E_FORMAT, "%s: question %zu: '%s' is missing or of the wrong kind", table->path, where, key);
    if (type == JSON_STRING && strlen((*member)->text) != (*member)->text_bytes)
        FAIL(E_FORMAT, "%s: question %zu: '%s' holds a zero character", table->path, where, key);
out:
    return status;
}

static int answers_add(struct data_table *table, const struct json *answers, size_t where, struct data_cell *cell,
                       struct data_cell *starts) {
    int status = 0;
    size_t at;
    *cell = (struct data_cell){.text = table->text_bytes, .count = 0};
    for (const struct json *item = answers->child; item; item = item->next, cell->count++) {
        const struct json *text;
        TRY(member_find(table, item, "text", JSON_STRING, where, &text));
        TRY(data_text_add(table, text->text, text->text_bytes, &at));
    }
    *starts = (struct data_cell){.text = table->text_bytes, .count = cell->count};
    for (const struct json *item = answers->child; item; item = item->next) {
        const struct json *start = json_member(item, "answer_start");
        const char *number = start && start->type == JSON_NUMBER ? start->text : "";
        TRY(data_text_add(table, number, strlen(number), &at));
    }
out:
    return status;
}

static int question_add(struct data_table *table, const struct json *qa, size_t context, size_t where) {
    int status = 0;
    const struct json *question, *answers, *id, *impossible = json_member(qa, "is_impossible");
    struct data_cell *cells;
    TRY(member_find(table, qa, "question", JSON_STRING, where, &question));
    TRY(member_find(table, qa, "answers", JSON_ARRAY, where, &answers));
    TRY(member_find(table, qa, "id", JSON_STRING, where, &id));
    if ((impossible && impossible->type == JSON_TRUE) || !answers->count) goto out;
    TRY(data_row_add(table, where, &cells));
    cells[SQUAD_CONTEXT] = (struct data_cell){context, 1};
    cells[SQUAD_QUESTION].count = cells[SQUAD_ID].count = 1;
    TRY(data_text_add(table, question->text, question->text_bytes, &cells[SQUAD_QUESTION].text));
    TRY(data_text_add(table, id->text, id->text_bytes, &cells[SQUAD_ID].text));
    TRY(answers_add(table, answers, where, &cells[SQUAD_ANSWERS], &cells[SQUAD_STARTS]));
out:
    return status;
}

int data_squad_read(struct data_table *table, const char *path, struct hash *hash) {
    int status = 0;
    struct json_document document = {0};
    char *text = NULL;
    size_t bytes, where = 1, context_at;
    const struct json *data, *paragraphs, *context, *questions;
    *table = (struct data_table){.columns = SQUAD_COLUMNS};
    TRY(memory_string(&table->path, path));
    TRY(data_text_file(path, &text, &bytes, hash));
    status = json_open(&document, text, bytes);
    if (status < 0) {
        error_prefix(status, "%s: expected is SQuAD's JSON, one object", path);
        goto out;
    }
    data = json_member(json_root(&document), "data");
    if (!data || data->type != JSON_ARRAY)
        FAIL(E_FORMAT, "%s: expected is SQuAD's JSON, an object with an array 'data'", path);
    for (const struct json *article = data->child; article; article = article->next) {
        TRY(member_find(table, article, "paragraphs", JSON_ARRAY, where, &paragraphs));
        for (const struct json *paragraph = paragraphs->child; paragraph; paragraph = paragraph->next) {
            TRY(member_find(table, paragraph, "context", JSON_STRING, where, &context));
            TRY(member_find(table, paragraph, "qas", JSON_ARRAY, where, &questions));
            TRY(data_text_add(table, context->text, context->text_bytes, &context_at));
            for (const struct json *qa = questions->child; qa; qa = qa->next, where++)
                TRY(question_add(table, qa, context_at, where));
        }
    }
    if (!table->rows) FAIL(E_FORMAT, "%s: no question with an answer in it", path);
out:
    json_close(&document);
    memory_release(text);
    if (status < 0) data_table_close(table);
    return status;
}
