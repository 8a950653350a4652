/* What a user's words mean in a results database (contract: lookup.h). */
#include "verbs/lookup.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/option.h"
#include "store/query.h"

/* The stored word nearest to `name` among the first column of `sql`, into text ("" when none is near). */
static int nearest(struct store *store, const char *sql, const char *name, char *text, size_t size) {
    int status = 0;
    struct query q = {0};
    bool row;
    text[0] = 0;
    TRY(query_open(&q, store, sql));
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        char best[128];
        const char *const words[] = {query_get_text(&q, 0), text[0] ? text : NULL, NULL};
        const char *near = word_nearest(words, name);
        snprintf(best, sizeof best, "%s", near ? near : "");
        snprintf(text, size, "%s", best);
    }
out:
    query_close(&q);
    return status;
}

static int find_number(struct store *store, const char *sql, const char *text, int64_t number, int64_t *found) {
    int status = 0;
    struct query q = {0};
    bool row;
    *found = 0;
    TRY(query_open(&q, store, sql));
    if (text) query_text(&q, text);
    if (number) query_integer(&q, number);
    TRY(query_row(&q, &row));
    if (row) *found = query_get_integer(&q, 0);
out:
    query_close(&q);
    return status;
}

int lookup_experiment(struct store *store, const char *name) {
    int status = 0;
    int64_t found;
    char near[128];
    TRY(find_number(store, "SELECT session_id FROM newest_session WHERE experiment = ?", name, 0, &found));
    if (found) goto out;
    TRY(nearest(store, "SELECT experiment FROM newest_session ORDER BY session_id DESC", name, near, sizeof near));
    if (near[0])
        FAIL(E_NOT_FOUND, "%s: no results of experiment \"%s\"; did you mean \"%s\"?", store->path, name, near);
    FAIL(E_NOT_FOUND, "%s: no results of experiment \"%s\"; `runexp list` shows what there is", store->path, name);
out:
    return status;
}

/* Split "words@N": the length of the words, and N or 0. */
static size_t words_split(const char *words, int64_t *session) {
    const char *at = strrchr(words, '@');
    char *end = NULL;
    *session = at ? strtoll(at + 1, &end, 10) : 0;
    if (!at || end == at + 1 || *end || *session <= 0) {
        *session = 0;
        return strlen(words);
    }
    return (size_t)(at - words);
}

int lookup_session(struct store *store, const char *words, int64_t *session) {
    int status = 0;
    char *name = NULL;
    int64_t wanted;
    *session = 0;
    TRY(memory_string_n(&name, words, words_split(words, &wanted)));
    char *end;
    int64_t number = strtoll(words, &end, 10);
    if (end != words && !*end && number > 0) {
        TRY(find_number(store, "SELECT id FROM session WHERE id = ?", NULL, number, session));
        if (*session) goto out;
    }
    if (wanted)
        TRY(find_number(store,
                        "SELECT s.id FROM session s JOIN experiment e ON e.id = s.experiment_id WHERE e.name = ? AND"
                        " s.id = ?",
                        name, wanted, session));
    else TRY(find_number(store, "SELECT session_id FROM newest_session WHERE experiment = ?", name, 0, session));
out:
    memory_release(name);
    return status;
}

int lookup_cell(struct store *store, const char *words, struct cell_place *place) {
    int status = 0;
    struct query q = {0};
    char *name = NULL, near[128], places[256] = "";
    int64_t session;
    size_t found = 0, used = 0;
    bool row;
    TRY(memory_string_n(&name, words, words_split(words, &session)));
    TRY(query_open(&q, store,
                   "SELECT DISTINCT c.id, r.session_id, e.name || '/' || c.label || '@' || r.session_id FROM run r"
                   " JOIN cell c ON c.id = r.cell_id JOIN experiment e ON e.id = c.experiment_id"
                   " WHERE CASE WHEN ?2 = 0 THEN r.session_id IN (SELECT session_id FROM newest_session)"
                   " ELSE r.session_id = ?2 END AND (c.label = ?1 OR e.name || '/' || c.label = ?1 OR"
                   " (length(?1) >= 6 AND substr(c.key, 1, length(?1)) = ?1)) ORDER BY r.session_id, c.ordinal"));
    query_text(&q, name);
    query_integer(&q, session);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        *place = (struct cell_place){.cell = query_get_integer(&q, 0), .session = query_get_integer(&q, 1)};
        if (used < sizeof places)
            used += (size_t)snprintf(places + used, sizeof places - used, "%s\"%s\"", found ? ", " : "",
                                     query_get_text(&q, 2));
        found++;
    }
    if (found == 1) goto out;
    if (found > 1) FAIL(E_ARGUMENT, "\"%s\" fits %zu cells: %s; say which", words, found, places);
    TRY(nearest(store, "SELECT DISTINCT label FROM cell ORDER BY id DESC", name, near, sizeof near));
    if (near[0]) FAIL(E_NOT_FOUND, "%s: no results of cell \"%s\"; did you mean \"%s\"?", store->path, words, near);
    FAIL(E_NOT_FOUND, "%s: no results of cell \"%s\"; `runexp list cells` shows what there is", store->path, words);
out:
    query_close(&q);
    memory_release(name);
    return status;
}

int lookup_seeds(struct store *store, const char *words, struct seed_places *places) {
    int status = 0;
    struct query q = {0};
    char *name = NULL;
    int64_t session;
    bool row;
    places->count = 0;
    TRY(memory_string_n(&name, words, words_split(words, &session)));
    TRY(query_open(&q, store,
                   "SELECT DISTINCT c.id, r.session_id, c.seed FROM run r JOIN cell c ON c.id = r.cell_id"
                   " JOIN experiment e ON e.id = c.experiment_id WHERE CASE WHEN ?2 = 0"
                   " THEN r.session_id IN (SELECT session_id FROM newest_session) ELSE r.session_id = ?2 END"
                   " AND replace(?1, '" SEED_ANY "', 'seed=' || c.seed) IN (c.label, e.name || '/' || c.label)"
                   " ORDER BY c.seed, r.session_id"));
    query_text(&q, name);
    query_integer(&q, session);
    for (;;) {
        TRY(query_row(&q, &row));
        if (!row) break;
        uint64_t seed = (uint64_t)query_get_integer(&q, 2);
        if (places->count && places->cells[places->count - 1].seed == seed)
            FAIL(E_ARGUMENT, "\"%s\" fits several cells of seed %llu; say which experiment", words,
                 (unsigned long long)seed);
        if (places->count == SEEDS_MOST) FAIL(E_LIMIT, "\"%s\" has more than %d seeds", words, SEEDS_MOST);
        places->cells[places->count++] = (struct seed_place){
            .place = {.cell = query_get_integer(&q, 0), .session = query_get_integer(&q, 1)}, .seed = seed};
    }
    if (places->count == 0)
        FAIL(E_NOT_FOUND, "%s: no results of cells \"%s\"; `runexp list cells` shows what there is", store->path,
             words);
out:
    query_close(&q);
    memory_release(name);
    return status;
}
