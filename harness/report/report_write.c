/* report_write: database → folder per experiment, each built aside and swapped in. The database is opened for reading
 * only; a read transaction keeps the page consistent while a run goes on writing. */
#include "report/report.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "report/figures.h"
#include "report/page.h"
#include "report/report_data.h"
#include "report/report_files.h"
#include "store/store.h"

/* Names become folder names: the same alphabet as in experiment files, and never hidden or a way upward. */
static int name_check(const char *name) {
    int status = 0;
    size_t length = strlen(name);
    if (length == 0 || length > 200 || name[0] == '.' ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != length)
        FAIL(E_FORMAT,
             "experiment name '%.60s' cannot be a folder name: letters, digits, '-', '_' and '.' are expected", name);
out:
    return status;
}

/* One experiment into out_dir/<name>/. */
static int experiment_write(sqlite3 *db, const char *name, const char *out_dir) {
    int status = 0;
    char target[REPORT_PATH], fresh[REPORT_PATH + 32] = "";
    struct report report = {0};
    struct figures *figures = NULL;
    void *block = NULL;
    struct text page = {0};
    TRY(name_check(name));
    TRY(path_join(target, out_dir, name));
    TRY(memory_take(&block, 1, sizeof *figures));
    figures = block;
    TRY(report_load(&report, db, name));
    TRY(folder_make(out_dir));
    folders_forget(out_dir, name);
    snprintf(fresh, sizeof fresh, "%s/.%s.%ld", out_dir, name, (long)getpid());
    folder_remove(fresh);
    TRY(folder_make(fresh));
    TRY(figures_write(figures, &report, fresh));
    TRY(page_write(&page, &report, figures, fresh));
    TRY(file_write(fresh, "index.html", &page));
    TRY(folder_replace(fresh, target));
out:
    if (status < 0 && *fresh) folder_remove(fresh);
    text_close(&page);
    if (figures) figures_close(figures);
    memory_release(block);
    report_close(&report);
    return status;
}

/* The names of all experiments with results, newest session first; E_NOT_FOUND with what to do when there is none. */
static int experiments_all(sqlite3 *db, const char *db_path, struct report *owner, const char ***names, size_t *count) {
    int status = 0;
    bool more = false;
    struct rows rows = {0};
    *names = NULL;
    *count = 0;
    owner->db = db;
    TRY(rows_open(&rows, owner, "SELECT experiment FROM newest_session ORDER BY session_id DESC", 0));
    for (;;) {
        TRY(rows_next(&rows, &more));
        if (!more) break;
        void *block = *names;
        TRY(memory_resize(&block, *count + 1, sizeof **names));
        *names = block;
        TRY(rows_text(&rows, 0, owner, &(*names)[*count]));
        if ((*names)[*count]) ++*count;
    }
    if (*count == 0)
        FAIL(E_NOT_FOUND, "%s holds no results yet; run an experiment first: runexp configs/quickstart.yaml", db_path);
out:
    rows_close(&rows);
    return status;
}

/* OUT_DIR/index.html: a line per experiment. */
static int index_write(sqlite3 *db, const char *const *names, size_t count, const char *out_dir) {
    int status = 0;
    struct text page = {0};
    struct report report = {0};
    page_begin(&page, "Shrinklab reports");
    text_raw(&page,
             "<h1>Shrinklab reports</h1>\n<div class=\"scroll\"><table><thead><tr><th scope=\"col\" "
             "class=\"text\">experiment</th>"
             "<th scope=\"col\" class=\"text\">description</th><th scope=\"col\">ok</th><th scope=\"col\">failed</th>"
             "<th scope=\"col\">skipped</th><th scope=\"col\" class=\"text\">started</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < count; i++) {
        TRY(report_load(&report, db, names[i]));
        text_print(&page, "<tr%s><th scope=\"row\"><a href=\"%s/index.html\">%s</a></th><td class=\"text wrap\">",
                   report.failed_count ? " class=\"bad\"" : "", names[i], names[i]); /* names passed name_check */
        text_escape(&page, report.description);
        text_print(&page, "</td><td>%zu</td><td>%zu</td><td>%zu</td><td class=\"text\">", report.ok_count,
                   report.failed_count, report.skipped_count);
        text_escape(&page, report.session.started_at);
        text_raw(&page, "</td></tr>\n");
        report_close(&report);
    }
    text_raw(&page, "</tbody></table></div>\n");
    page_end(&page);
    TRY(file_write(out_dir, "index.html", &page));
out:
    report_close(&report);
    text_close(&page);
    return status;
}

int report_write_some(const char *db_path, const char *const *experiments, size_t count, const char *out_dir,
                      char *index_path, size_t size) {
    int status = 0;
    struct store store = {0};
    struct report owner = {0};
    const char **all = NULL;
    TRY(store_open(&store, db_path, STORE_READ));
    if (sqlite3_exec(store.db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK)
        FAIL(E_IO, "%s: cannot be read: %s", db_path, sqlite3_errmsg(store.db));
    if (count == 0) {
        TRY(experiments_all(store.db, db_path, &owner, &all, &count));
        experiments = all;
    }
    for (size_t i = 0; i < count; i++) {
        status = experiment_write(store.db, experiments[i], out_dir);
        if (status == E_NOT_FOUND) status = error_prefix(status, "%s: ", db_path);
        if (status < 0) goto out;
    }
    if (count > 1) TRY(index_write(store.db, experiments, count, out_dir));
    int length = count > 1 ? snprintf(index_path, size, "%s/index.html", out_dir)
                           : snprintf(index_path, size, "%s/%s/index.html", out_dir, experiments[0]);
    if (length < 0 || (size_t)length >= size) FAIL(E_LIMIT, "%s: the path is too long", out_dir);
out:
    report_close(&owner);
    memory_release(all);
    store_close(&store);
    return status;
}

int report_write(const char *db_path, const char *experiment, const char *out_dir, char *index_path, size_t size) {
    return report_write_some(db_path, &experiment, experiment ? 1 : 0, out_dir, index_path, size);
}
