/* `runexp report`: figures and page of one, several or all experiments. Prints the path of the page to open, alone on
 * the last line of standard output, so that a script can take it. */
#include <stdio.h>

#include "base/error.h"
#include "base/file.h"
#include "report/report.h"
#include "store/store.h"
#include "verbs/arguments.h"
#include "verbs/lookup.h"
#include "verbs/verbs.h"

int verb_report(int argc, char **argv) {
    int status = 0;
    const char *db = DEFAULT_DB, *out = NULL;
    char path[4096], beside[4096];
    struct store store = {0};
    const struct flag flags[] = {FLAG_DB(&db),
                                 {.name = "out",
                                  .type = FLAG_TEXT,
                                  .value = "DIR",
                                  .help = "folder of the reports (default: report, beside the database)",
                                  .target = &out},
                                 FLAG_END};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = EXIT_OK;
        goto out;
    }
    path_beside(db, "report", beside, sizeof beside);
    if (!out) out = beside;
    TRY(store_open(&store, db, STORE_READ));
    for (int i = 1; i < argc; i++) TRY(lookup_experiment(&store, argv[i]));
    store_close(&store);
    TRY(report_write_some(db, (const char *const *)(argv + 1), (size_t)(argc - 1), out, path, sizeof path));
    puts(path);
    status = EXIT_OK;
out:
    store_close(&store);
    return status;
}
