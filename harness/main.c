/* runexp: dispatch to a verb, and print the one error line. `runexp CONFIG…` is `runexp run CONFIG…`. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "build_info_text.h"
#include "run/worker.h"
#include "verbs/verbs.h"

static void print_help(FILE *out) {
    fprintf(out, "runexp %s: what does a compression technique do to a transformer, on this machine?\n\n",
            RUNEXP_VERSION);
    fprintf(out, "usage: runexp [run] [options] CONFIG…\n       runexp VERB [options]\n       runexp --version\n\n");
    for (const struct verb *verb = verbs; verb->name; verb++) fprintf(out, "  %-11s %s\n", verb->name, verb->summary);
    fprintf(
        out,
        "\n`runexp VERB --help` explains each. Exit codes: 0 ok, 1 a cell failed, 2 usage or config error (nothing\n"
        "ran), 3 regression, 4 verdict impossible, 130 interrupted.\n");
}

static int finish(int status) {
    if (status < 0) {
        fflush(stdout);
        fprintf(stderr, "runexp: %s\n", error_text());
    }
    int code = verb_exit_code(status);
    if (fflush(stdout) != 0 && code == EXIT_OK) {
        fprintf(stderr, "runexp: standard output cannot be written\n");
        code = EXIT_CELL_FAILED;
    }
    return code;
}

int main(int argc, char **argv) {
    uint64_t main_ns = clock_ns();
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "worker-time") == 0) return worker_time(main_ns);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_help(stdout);
        return finish(0);
    }
    if (strcmp(word, "--version") == 0) {
        printf("runexp %s (%s%s, %s)\n", RUNEXP_VERSION, build_commit, build_dirty ? ", modified" : "", build_mode);
        return finish(0);
    }
    const struct verb *verb = verb_find(word);
    if (verb) return finish(verb->function(argc - 1, argv + 1));
    /* A word that is no verb: a config or a flag of run, unless it looks like a mistyped verb. */
    bool path_like = strchr(word, '/') || strchr(word, '.') || word[0] == '-';
    if (!path_like) {
        const char *nearest = verb_nearest(word);
        if (nearest)
            fprintf(stderr, "runexp: unknown verb '%s'; did you mean '%s'? (runexp --help lists the verbs)\n", word,
                    nearest);
        else fprintf(stderr, "runexp: '%s' is neither a verb nor a config file; runexp --help lists the verbs\n", word);
        return EXIT_USAGE;
    }
    char run[] = "run";
    argv[0] = run;
    return finish(verb_find("run")->function(argc, argv));
}
