/* The verbs of runexp, one function each, and the table that main dispatches from.
 *
 * A verb gets its own name as argv[0] and its arguments after it. It prints results to standard output and returns
 * an exit code, or a negative error code with its text recorded, which main prints and turns into an exit code
 * with verb_exit_code. To add a verb: write harness/verbs/<name>.c, declare its function here, add its row in
 * verbs.c.
 */
#ifndef VERBS_H
#define VERBS_H

struct verb {
    const char *name;
    const char *summary; /* one sentence for `runexp --help` */
    const char *usage;   /* what follows "runexp <name>": "[EXPERIMENT…] [options]" */
    int (*function)(int argc, char **argv);
};
extern const struct verb verbs[]; /* ends with a row whose name is NULL */

const struct verb *verb_find(const char *name); /* NULL when there is none */
const char *verb_nearest(const char *name);     /* for did-you-mean, or NULL */

/* The documented exit codes. */
enum exit_code {
    EXIT_OK = 0,
    EXIT_CELL_FAILED = 1, /* or one of several experiments could not be run */
    EXIT_USAGE = 2,       /* usage or config error, or zero cells: nothing ran */
    EXIT_REGRESSION = 3,
    EXIT_NO_VERDICT = 4,
    EXIT_INTERRUPTED = 130,
};
/* A non-negative status is an exit code already; E_INTERRUPTED is 130; every other error means that nothing ran: 2. */
int verb_exit_code(int status);

int verb_run(int argc, char **argv);
int verb_plan(int argc, char **argv);
int verb_list(int argc, char **argv);
int verb_show(int argc, char **argv);
int verb_compare(int argc, char **argv);
int verb_regress(int argc, char **argv);
int verb_export(int argc, char **argv);
int verb_convert(int argc, char **argv);
int verb_report(int argc, char **argv);
int verb_doctor(int argc, char **argv);
int verb_techniques(int argc, char **argv);
int verb_meters(int argc, char **argv);
int verb_schema(int argc, char **argv);

#endif
