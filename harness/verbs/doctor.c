/* `runexp doctor`: what this machine can measure and what spoils it, one line per finding with its remedy.
 *
 * Always exits 0: findings are for reading. The peaks at the end take about two seconds; --quick leaves them out.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "build_info_text.h"
#include "kernels/kernels.h"
#include "machine.h"
#include "machine_peaks.h"
#include "meters/meter.h"
#include "meters/papi_probe.h"
#include "verbs/arguments.h"
#include "verbs/table.h"
#include "verbs/verbs.h"

#define PEAK_SECONDS 0.3
#define PEAK_SIDE 1024
#define READ_BYTES ((size_t)256 << 20)

/* Append a word after a space; what has no room is cut. */
static void word_append(char *text, size_t size, const char *word) {
    size_t used = strlen(text), length = strlen(word);
    if (used && used + 1 < size) text[used++] = ' ';
    if (length > size - used - 1) length = size - used - 1;
    memcpy(text + used, word, length);
    text[used + length] = 0;
}

static void find_host(struct findings *findings, const struct machine *machine) {
    const struct host_record *host = &machine->host;
    char used[256];
    finding_add(findings, FINDING_OK, "cpu", NULL, "%s", host->cpu);
    cpu_flags_text(kernels.flags, used, sizeof used);
    bool masked = kernels.flags != cpu_detect();
    finding_add(findings, masked ? FINDING_WARN : FINDING_OK, "cpu flags",
                masked ? "leave --cpumask out for the CPU's full speed" : NULL, "%s; in use: %s", host->cpu_flags,
                used);
    char variants[sizeof findings->items->value] = "";
#define VARIANT_APPEND(name, contract) word_append(variants, sizeof variants, kernels_variant(#name, kernels.flags));
    KERNELS(VARIANT_APPEND)
#undef VARIANT_APPEND
    finding_add(findings, FINDING_OK, "kernels", NULL, "%s", variants);
    finding_add(findings, FINDING_OK, "cores", NULL, "%d online, %d threads used by default", host->cores,
                threads_get());
    finding_add(findings, FINDING_OK, "caches", NULL, "%s", host->caches[0] ? host->caches : "not shown");
    finding_add(findings, FINDING_OK, "memory", NULL, "%.1f GiB", (double)host->memory_bytes / (1 << 30));
    finding_add(findings, FINDING_OK, "kernel", NULL, "%s", host->kernel);
}

static void find_build(struct findings *findings, const struct machine *machine) {
    const struct build_record *build = &machine->build;
    bool timed = strcmp(build->mode, "release") == 0 && !build->dirty;
    finding_add(findings, timed ? FINDING_OK : FINDING_WARN, "build",
                timed ? NULL : "make MODE=release from a clean checkout", "runexp %s, commit %s%s, %s, %s",
                build->version, build->commit, build->dirty ? " (dirty)" : "", build->mode, build->compiler);
    finding_add(findings, FINDING_OK, "blas", NULL, "%s", build->blas);
    if (build->onednn && build->onednn[0]) finding_add(findings, FINDING_OK, "onednn", NULL, "%s", build->onednn);
    else finding_add(findings, FINDING_MISSING, "onednn", "make deps, then build again", "not built in");
}

static void find_energy(struct findings *findings) {
    static const char path[] = "/sys/class/powercap/intel-rapl:0/energy_uj";
    if (access(path, F_OK) != 0)
        finding_add(findings, FINDING_MISSING, "energy (RAPL)", NULL, "this machine shows no energy counter");
    else if (access(path, R_OK) != 0)
        finding_add(findings, FINDING_MISSING, "energy (RAPL)",
                    "as root: chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj", "readable by root only");
    else finding_add(findings, FINDING_OK, "energy (RAPL)", NULL, "readable");
}

/* One line per meter for what it reads, and one per reason why something has no value. */
static int find_meter(struct findings *findings, const struct meter *meter) {
    int status = 0;
    void *state = NULL;
    struct meter_value values[64];
    char present[512] = "";
    bool open = false;
    TRY(memory_take(&state, 1, meter->state_bytes));
    if (meter->open) TRY(meter->open(state));
    open = true;
    TRY(meter->start(state));
    TRY(meter->stop(state));
    size_t count = meter->read(state, values, sizeof values / sizeof *values);
    for (size_t i = 0; i < count; i++) {
        if (!isnan(values[i].value)) word_append(present, sizeof present, values[i].name);
    }
    char name[32];
    snprintf(name, sizeof name, "meter %s", meter->name);
    if (present[0]) finding_add(findings, FINDING_OK, name, NULL, "%s", present);
    for (size_t i = 0; i < count; i++) {
        if (!isnan(values[i].value)) continue;
        char names[300] = "";
        bool seen = false;
        for (size_t k = 0; k < count; k++) {
            if (!isnan(values[k].value) || strcmp(values[k].reason, values[i].reason) != 0) continue;
            seen = seen || k < i;
            word_append(names, sizeof names, values[k].name);
        }
        if (!seen) finding_add(findings, FINDING_MISSING, name, NULL, "%s: %s", names, values[i].reason);
    }
out:
    if (open && meter->close) meter->close(state);
    if (status < 0) finding_add(findings, FINDING_MISSING, meter->name, NULL, "%s", error_text());
    memory_release(state);
    return 0;
}

static void find_counters(struct findings *findings) {
    char text[256] = "";
    FILE *file = fopen("/proc/sys/kernel/perf_event_paranoid", "r");
    int level = 0;
    if (!file || fscanf(file, "%d", &level) != 1)
        finding_add(findings, FINDING_MISSING, "perf_event_paranoid", NULL, "the kernel was built without perf_event");
    else if (level > 2 && geteuid() != 0)
        finding_add(findings, FINDING_WARN, "perf_event_paranoid", "as root: sysctl kernel.perf_event_paranoid=2",
                    "%d: no counters for users", level);
    else finding_add(findings, FINDING_OK, "perf_event_paranoid", NULL, "%d", level);
    if (file) fclose(file);
    papi_version_text(text, sizeof text);
    char reason[256] = "";
    if (papi_ready(reason, sizeof reason) != 0) {
        finding_add(findings, FINDING_MISSING, "papi", "make deps", "%s", reason);
    } else {
        finding_add(findings, FINDING_OK, "papi", NULL, "%s", text);
        static const char *const components[] = {"perf_event", "sde"};
        for (size_t i = 0; i < 2; i++) {
            char name[32];
            snprintf(name, sizeof name, "papi %s", components[i]);
            if (papi_component_reason(components[i], reason, sizeof reason) == 0)
                finding_add(findings, FINDING_OK, name, NULL, "enabled");
            else finding_add(findings, FINDING_MISSING, name, NULL, "%s", reason);
        }
    }
    for (size_t i = 0; meters[i]; i++) find_meter(findings, meters[i]);
}

static void find_disk(struct findings *findings) {
    struct statvfs disk;
    const char *folder = access("results", F_OK) == 0 ? "results" : ".";
    if (statvfs(folder, &disk) != 0) return;
    double free_gib = (double)disk.f_bavail * (double)disk.f_frsize / (1 << 30);
    finding_add(findings, free_gib < 1 ? FINDING_WARN : FINDING_OK, "disk for results",
                free_gib < 1 ? "free some space: artifacts and results need it" : NULL, "%.1f GiB free in %s", free_gib,
                folder);
}

static void find_peaks(struct findings *findings) {
    static const struct {
        const char *name, *format;
        enum gemm_backend backend;
    } rows[] = {{"peak f32 builtin", "f32", GEMM_BUILTIN},
                {"peak f32 openblas", "f32", GEMM_OPENBLAS},
                {"peak f32 onednn", "f32", GEMM_ONEDNN},
                {"peak int8", "int8", GEMM_BUILTIN}};
    double rate = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (peak_matmul(rows[i].format, rows[i].backend, PEAK_SIDE, PEAK_SECONDS, &rate) == 0)
            finding_add(findings, FINDING_OK, rows[i].name, NULL, "%.0f G operations/s (%d³, %d threads)", rate * 1e-9,
                        PEAK_SIDE, threads_get());
        else finding_add(findings, FINDING_MISSING, rows[i].name, NULL, "%s", error_text());
    }
    if (peak_read(READ_BYTES, PEAK_SECONDS, &rate) == 0)
        finding_add(findings, FINDING_OK, "peak memory read", NULL, "%.1f GB/s (256 MiB, %d threads)", rate * 1e-9,
                    threads_get());
    else finding_add(findings, FINDING_MISSING, "peak memory read", NULL, "%s", error_text());
}

/* For reading: one line each, the remedy below. */
static int findings_print(const struct findings *findings) {
    int status = 0;
    for (size_t i = 0; i < findings->count; i++) {
        const struct finding *finding = &findings->items[i];
        printf("%-8s %-20s %s\n", finding_state_name(finding->state), finding->name, finding->value);
        if (finding->remedy[0]) printf("%-8s %-20s -> %s\n", "", "", finding->remedy);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) FAIL(E_IO, "standard output: cannot be written");
out:
    return status;
}

static int findings_table(const struct findings *findings, struct table *table, enum table_format format) {
    int status = 0;
    static const char *const columns[] = {"state", "what", "found", "remedy", NULL};
    TRY(table_open(table, columns));
    for (size_t i = 0; i < findings->count; i++) {
        const struct finding *finding = &findings->items[i];
        table_add_text(table, finding_state_name(finding->state));
        table_add_text(table, finding->name);
        table_add_text(table, finding->value);
        table_add_text(table, finding->remedy[0] ? finding->remedy : NULL);
    }
    TRY(table_print(table, format, stdout));
out:
    return status;
}

int verb_doctor(int argc, char **argv) {
    int status = 0;
    bool quick = false;
    int64_t cpumask = UINT32_MAX;
    const char *format = "table";
    struct table table = {0};
    struct findings findings = {.count = 0};
    struct machine machine = {0};
    const struct flag flags[] = {
        FLAG_FORMAT(&format),
        {.name = "cpumask",
         .type = FLAG_INTEGER,
         .value = "MASK",
         .help = "CPU flags that kernels may use, as in run",
         .target = &cpumask,
         .low = 0,
         .high = UINT32_MAX},
        {.name = "quick", .type = FLAG_SWITCH, .help = "leave the measured peaks out", .target = &quick},
        FLAG_END};
    TRY(arguments_parse(flags, &argc, argv));
    if (status == ARGUMENTS_HELP) {
        status = 0;
        goto out;
    }
    TRY(arguments_expect(argc, argv, 0, 0, "no words"));
    kernels_open((uint32_t)cpumask);
    TRY(machine_open(&machine));
    find_host(&findings, &machine);
    find_build(&findings, &machine);
    machine_check(&findings);
    find_counters(&findings);
    find_energy(&findings);
    find_disk(&findings);
    if (!quick) find_peaks(&findings);
    if (table_format_of(format) == TABLE_TEXT) TRY(findings_print(&findings));
    else TRY(findings_table(&findings, &table, table_format_of(format)));
out:
    table_close(&table);
    machine_close(&machine);
    return status;
}
