/* `runexp schema`: the JSON Schema of experiment files, for editors. */
#include <stdio.h>

#include "base/error.h"
#include "base/memory.h"
#include "config/experiment.h"
#include "verbs/arguments.h"
#include "verbs/verbs.h"

int verb_schema(int argc, char **argv) {
    int status = 0;
    char *json = NULL;
    const struct flag flags[] = {FLAG_END};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = 0;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 0, 0, "no words"));
    TRY(schema_print(&json));
    if (puts(json) < 0 || fflush(stdout) != 0) FAIL(E_IO, "standard output: cannot be written");
out:
    memory_release(json);
    return status;
}
