/* Command lines of verbs: long flags as data, help from the same rows, did-you-mean for the rest.
 *
 *   const char *db = DEFAULT_DB, *format = "table";
 *   const struct flag flags[] = {FLAG_DB(&db), FLAG_FORMAT(&format), FLAG_END};
 *   TRY(arguments_parse(flags, &argc, argv));
 *   if (status == ARGUMENTS_HELP) { status = 0; goto out; }
 *   … argv[1] to argv[argc - 1] are what is not a flag …
 */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEFAULT_DB "results/runexp.db"

enum flag_type {
    FLAG_SWITCH,  /* bool */
    FLAG_TEXT,    /* const char *, borrowed from argv */
    FLAG_CHOICE,  /* const char *, one of the words in `value` */
    FLAG_INTEGER, /* int64_t in low..high */
    FLAG_REAL,    /* double in low..high */
    FLAG_LIST,    /* struct flag_list: may be repeated */
};

/* Room is the caller's: `items` has `capacity` places (argc is always enough). */
struct flag_list {
    const char **items;
    size_t count, capacity;
};

struct flag {
    const char *name; /* without the dashes */
    char letter;      /* short form, or 0 */
    enum flag_type type;
    const char *value; /* placeholder in help ("PATH"); for FLAG_CHOICE the words "table|csv" */
    const char *help;
    void *target;
    double low, high;
};
#define FLAG_END                                                                                                       \
    { .name = NULL }
#define FLAG_DB(variable)                                                                                              \
    {                                                                                                                  \
        .name = "db", .type = FLAG_TEXT, .value = "PATH", .help = "results database (default " DEFAULT_DB ")",         \
        .target = (variable)                                                                                           \
    }
#define FLAG_FORMAT(variable)                                                                                          \
    {                                                                                                                  \
        .name = "format", .type = FLAG_CHOICE, .value = "table|csv|jsonl|md", .help = "how to print",                  \
        .target = (variable)                                                                                           \
    }

enum { ARGUMENTS_HELP = 1 };

/* Parse argv[1…] by `flags`; argv[0] is the verb, whose row gives the usage line. What is not a flag stays in argv,
 * in order, and *argc counts it. Accepts --name VALUE, --name=VALUE, -x VALUE, and -- before words that begin with a
 * dash. Returns 0, ARGUMENTS_HELP after --help was printed to standard output, or E_ARGUMENT. */
int arguments_parse(const struct flag *flags, int *argc, char **argv);

/* E_ARGUMENT unless low <= argc - 1 <= high; `what` names the expected words. */
int arguments_expect(int argc, char **argv, int low, int high, const char *what);

#endif
