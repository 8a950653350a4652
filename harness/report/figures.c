/* Drawing: finds the scripts, runs gnuplot once per figure (posix_spawn, no shell, default settings so that a
 * reader's own ~/.gnuplot changes nothing) and turns the SVG files into fragments of the page. gnuplot is a tool of
 * convenience here: whatever goes wrong with it is a line in the page, never a lost report. */
#include "report/figures.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "report/figure_data.h"
#include "report/report_files.h"

extern char **environ;

static bool plots_at(const char *path) {
    char script[REPORT_PATH];
    struct stat about;
    return path_join(script, path, "quality_bytes.gp") == 0 && stat(script, &about) == 0 && S_ISREG(about.st_mode);
}

int plots_directory(char *path, size_t size) {
    int status = 0;
    char executable[PATH_MAX] = "", candidate[REPORT_PATH];
    const char *chosen = getenv("PLOTS_DIR");
    if (chosen && *chosen) {
        if (!plots_at(chosen)) FAIL(E_NOT_FOUND, "PLOTS_DIR=%s holds no quality_bytes.gp", chosen);
        snprintf(path, size, "%s", chosen);
        goto out;
    }
    if (plots_at("plots")) {
        snprintf(path, size, "plots");
        goto out;
    }
    ssize_t length = readlink("/proc/self/exe", executable, sizeof executable - 1);
    if (length > 0) executable[length] = '\0';
    char *slash = strrchr(executable, '/');
    if (slash) *slash = '\0';
    /* installed: PREFIX/bin/runexp; in the source tree: build/MODE/runexp and build/MODE/tests/TIER/test_x */
    static const char *const beside[] = {"../share/shrinklab/plots", "../../plots", "../../../../plots"};
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
        if (path_join(candidate, executable, beside[i]) < 0 || !plots_at(candidate)) continue;
        snprintf(path, size, "%s", candidate);
        goto out;
    }
    FAIL(E_NOT_FOUND,
         "no figures: the gnuplot scripts are neither in ./plots nor in %s/../share/shrinklab/plots; set PLOTS_DIR",
         executable);
out:
    return status;
}

/* Run gnuplot on one figure and wait; its last line of complaint goes to figure->problem. E_NOT_FOUND: no gnuplot. */
static int gnuplot_run(struct figure *figure, const char *directory) {
    int status = 0, code = 0, ends[2] = {-1, -1};
    char script[REPORT_PATH], dat[REPORT_PATH], svg[REPORT_PATH], name[96];
    char complaint[2048];
    size_t length = 0;
    pid_t child = 0;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    snprintf(name, sizeof name, "%s.gp", figure->script);
    TRY(path_join(script, directory, name));
    snprintf(name, sizeof name, "%s.dat", figure->stem);
    TRY(path_join(dat, directory, name));
    snprintf(name, sizeof name, "%s.svg", figure->stem);
    TRY(path_join(svg, directory, name));
    char *arguments[5 + 2 + FIGURE_ARGUMENTS + 1] = {"gnuplot", "-d", "-c", script, dat, svg};
    size_t count = 6;
    for (size_t i = 0; i < FIGURE_ARGUMENTS; i++) {
        TRY(text_status(&figure->arguments[i]));
        arguments[count++] = figure->arguments[i].length ? figure->arguments[i].bytes : "";
    }
    if (pipe2(ends, O_CLOEXEC) != 0) FAIL(E_IO, "no pipe for gnuplot: %s", strerror(errno));
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
    code = posix_spawnp(&child, "gnuplot", &actions, NULL, arguments, environ);
    close(ends[1]);
    ends[1] = -1;
    if (code != 0)
        FAIL(E_NOT_FOUND,
             "no figures: gnuplot cannot be started (%s); install gnuplot-nox (`make deps`) and run `runexp report` "
             "again",
             strerror(code));
    for (;;) {
        char rest[512];
        ssize_t got = read(ends[0], rest, sizeof rest);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        size_t kept = sizeof complaint - 1 - length < (size_t)got ? sizeof complaint - 1 - length : (size_t)got;
        memcpy(complaint + length, rest, kept);
        length += kept;
    }
    complaint[length] = '\0';
    while (waitpid(child, &code, 0) < 0 && errno == EINTR) continue;
    struct stat about;
    figure->drawn = WIFEXITED(code) && WEXITSTATUS(code) == 0 && stat(svg, &about) == 0 && about.st_size > 0;
    if (figure->drawn) goto out;
    remove(svg);
    while (length > 0 && strchr(" \t\r\n", complaint[length - 1])) complaint[--length] = '\0';
    const char *line = strrchr(complaint, '\n'); /* warnings come first, the reason last */
    line = line ? line + 1 : complaint;
    snprintf(figure->problem, sizeof figure->problem, "gnuplot could not draw it: %.200s",
             *line ? line : "it ended without a message");
out:
    if (ends[0] >= 0) close(ends[0]);
    if (ends[1] >= 0) close(ends[1]);
    posix_spawn_file_actions_destroy(&actions);
    return status;
}

static int script_copy(const char *plots, const char *directory, const char *script) {
    int status = 0;
    char name[48], path[REPORT_PATH];
    struct text bytes = {0};
    snprintf(name, sizeof name, "%s.gp", script);
    TRY(path_join(path, plots, name));
    TRY(file_append(&bytes, path));
    TRY(file_write(directory, name, &bytes));
out:
    text_close(&bytes);
    return status;
}

int figures_write(struct figures *figures, const struct report *report, const char *directory) {
    int status = 0;
    char plots[REPORT_PATH];
    *figures = (struct figures){0};
    TRY(figure_quality_bytes(figures, report, directory));
    TRY(figure_quality_latency(figures, report, directory));
    TRY(figure_latency_distribution(figures, report, directory));
    TRY(figure_stage_waterfall(figures, report, directory));
    TRY(figure_loss_curve(figures, report, directory));
    TRY(figure_layer_ranges(figures, report, directory));
    TRY(figure_layer_sensitivity(figures, report, directory));
    for (size_t i = 0; i < figures->count && !*figures->note; i++) {
        int code = plots_directory(plots, sizeof plots);
        if (code == 0) code = script_copy(plots, directory, figures->items[i].script);
        if (code == 0) code = gnuplot_run(&figures->items[i], directory);
        if (code == E_MEMORY) status = code;
        if (code < 0) snprintf(figures->note, sizeof figures->note, "%s", error_text());
    }
out:
    return status;
}

void figures_close(struct figures *figures) {
    for (size_t i = 0; i < figures->count; i++)
        for (size_t k = 0; k < FIGURE_ARGUMENTS; k++) text_close(&figures->items[i].arguments[k]);
    *figures = (struct figures){0};
}

/* Where `text` begins with `word`, its length; else 0. */
static size_t begins(const char *text, const char *word) {
    size_t length = strlen(word);
    return strncmp(text, word, length) == 0 ? length : 0;
}

/* The bytes up to and including `end`, or 0 when it does not occur. */
static size_t through(const char *text, const char *end) {
    const char *found = strstr(text, end);
    return found ? (size_t)(found - text) + strlen(end) : 0;
}

int figure_inline(struct text *page, const char *directory, const struct figure *figure) {
    /* References get the figure's name in front, so that several figures share a page without clashing ids. */
    static const char *const references[] = {" id='", " id=\"", "href='#", "href=\"#", "url(#"};
    static const char *const greys[] = {"rgb(118, 118, 118)", "rgb(118,118,118)", "#767676", "rgb(  0,   0,   0)"};
    static const struct {
        const char *begin, *end;
    } dropped[] = {{" color=\"black\"", "k\""},
                   {" color=\"white\"", "e\""},
                   {"<title>", "</title>"},
                   {"<desc>", "</desc>"},
                   {"<filter", "</filter>"},
                   {"<?", "?>"},
                   {"<!", ">"}};
    int status = 0;
    char path[REPORT_PATH], name[80];
    struct text svg = {0};
    snprintf(name, sizeof name, "%s.svg", figure->stem);
    TRY(path_join(path, directory, name));
    TRY(file_append(&svg, path));
    const char *c = svg.length ? strstr(svg.bytes, "<svg") : NULL;
    if (!c) FAIL(E_FORMAT, "%s: gnuplot wrote no SVG", path);
    text_raw(page, "<svg role=\"img\" aria-label=\"");
    text_escape(page, figure->title);
    text_raw(page, "\"");
    c += strlen("<svg");
    while (*c) {
        size_t length = 0;
        for (size_t i = 0; i < sizeof dropped / sizeof *dropped && !length; i++)
            if (begins(c, dropped[i].begin)) length = through(c, dropped[i].end);
        for (size_t i = 0; i < sizeof greys / sizeof *greys && !length; i++)
            if ((length = begins(c, greys[i])) != 0) text_raw(page, "currentColor");
        for (size_t i = 0; i < sizeof references / sizeof *references && !length; i++)
            if ((length = begins(c, references[i])) != 0) text_print(page, "%s%s-", references[i], figure->stem);
        if (!length && *c == '\n') length = strspn(c, "\n\t "), text_raw(page, "\n");
        if (!length) text_raw_n(page, c, length = 1);
        c += length;
    }
    TRY(text_status(page));
out:
    text_close(&svg);
    return status;
}
