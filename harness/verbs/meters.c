/* `runexp meters [NAME]`: the meters, or what one of them reads on this machine. */
#include "meters/meter.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/option.h"
#include "verbs/arguments.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

static int meters_list(struct table *table) {
    int status = 0;
    static const char *const columns[] = {"meter", "state", "summary", NULL};
    TRY(table_open(table, columns));
    for (size_t i = 0; meters[i]; i++) {
        char reason[256] = "";
        bool works = !meters[i]->probe || meters[i]->probe(reason, sizeof reason) == 0;
        table_add_text(table, meters[i]->name);
        if (works) table_add_text(table, "ok");
        else table_add_format(table, "missing: %s", reason);
        table_add_text(table, meters[i]->summary);
    }
out:
    return status;
}

static const struct meter *meter_find(const char *name) {
    for (size_t i = 0; meters[i]; i++)
        if (strcmp(meters[i]->name, name) == 0) return meters[i];
    return NULL;
}

static int meter_fail(const char *name) {
    int status = 0;
    const char *names[33] = {NULL};
    for (size_t i = 0; i < 32 && meters[i]; i++) names[i] = meters[i]->name;
    const char *near = word_nearest(names, name);
    if (near) FAIL(E_NOT_FOUND, "no meter named \"%s\"; did you mean \"%s\"?", name, near);
    FAIL(E_NOT_FOUND, "no meter named \"%s\"; `runexp meters` lists them", name);
out:
    return status;
}

/* The readings of an empty window. */
static int meter_show(struct table *table, const struct meter *meter) {
    int status = 0;
    static const char *const columns[] = {"reading", "unit", "empty window", "reason", NULL};
    void *state = NULL;
    bool open = false;
    struct meter_value values[64];
    TRY(table_open(table, columns));
    TRY(memory_take(&state, 1, meter->state_bytes));
    if (meter->open) TRY(meter->open(state));
    open = true;
    TRY(meter->start(state));
    TRY(meter->stop(state));
    size_t count = meter->read(state, values, sizeof values / sizeof *values);
    for (size_t i = 0; i < count; i++) {
        table_add_text(table, values[i].name);
        table_add_text(table, values[i].unit);
        table_add_real(table, values[i].value);
        table_add_text(table, values[i].reason[0] ? values[i].reason : NULL);
    }
out:
    if (open && meter->close) meter->close(state);
    memory_release(state);
    return status;
}

int verb_meters(int argc, char **argv) {
    int status = 0;
    const char *format = "table";
    struct table table = {0};
    const struct flag flags[] = {FLAG_FORMAT(&format), FLAG_END};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = 0;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 0, 1, "at most one meter name"));
    if (argc == 1) {
        TRY(meters_list(&table));
    } else {
        const struct meter *meter = meter_find(argv[1]);
        if (!meter) TRY(meter_fail(argv[1]));
        TRY(meter_show(&table, meter));
    }
    TRY(table_print(&table, table_format_of(format), stdout));
out:
    table_close(&table);
    return status;
}
