/* What this machine is and what spoils measurements on it; see machine.h. Paths: Documentation/ABI of Linux
 * (sysfs-devices-system-cpu, sysfs-class-powercap) and proc(5). */
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "build_info_text.h"
#include "formats/onednn.h"
#include "kernels/gemm.h"

#define CPU_FOLDER "/sys/devices/system/cpu/"

const char *finding_state_name(enum finding_state state) {
    static const char *const names[] = {"ok", "warn", "missing"};
    return names[state];
}

void finding_add(struct findings *findings, enum finding_state state, const char *name, const char *remedy,
                 const char *format, ...) {
    if (findings->count == sizeof findings->items / sizeof *findings->items) return;
    struct finding *finding = &findings->items[findings->count++];
    finding->state = state;
    snprintf(finding->name, sizeof finding->name, "%s", name);
    snprintf(finding->remedy, sizeof finding->remedy, "%s", remedy ? remedy : "");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->value, sizeof finding->value, format, arguments);
    va_end(arguments);
}

/* The first line of a small file, without its end. */
static bool line_of(const char *path, char *line, size_t size) {
    FILE *file = fopen(path, "r");
    bool read = file && fgets(line, (int)size, file);
    if (file) fclose(file);
    if (read) line[strcspn(line, "\n")] = 0;
    return read;
}

static void caches_text(char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < 8; i++) {
        static const char *const parts[] = {"level", "type", "size"};
        char value[3][32], path[128];
        for (int k = 0; k < 3; k++) {
            snprintf(path, sizeof path, CPU_FOLDER "cpu0/cache/index%d/%s", i, parts[k]);
            if (!line_of(path, value[k], sizeof value[k])) return;
        }
        const char *kind = strcmp(value[1], "Data") == 0 ? "d" : strcmp(value[1], "Instruction") == 0 ? "i" : "";
        int length = snprintf(text + used, size - used, "%sL%s%s %s", used ? ", " : "", value[0], kind, value[2]);
        if (length < 0 || (size_t)length >= size - used) return;
        used += (size_t)length;
    }
}

#if defined(__x86_64__)
#include <cpuid.h>

/* The signature that a hypervisor leaves in CPUID leaf 0x40000000; "" on bare metal. */
static void hypervisor_text(char *text, size_t size) {
    unsigned a, b, c, d;
    char signature[13] = "";
    text[0] = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 31)) return;
    __cpuid(0x40000000, a, b, c, d);
    memcpy(signature, &b, 4);
    memcpy(signature + 4, &c, 4);
    memcpy(signature + 8, &d, 4);
    snprintf(text, size, "%s", signature[0] ? signature : "unnamed hypervisor");
}
#else
static void hypervisor_text(char *text, size_t size) {
    if (!line_of("/sys/hypervisor/type", text, size)) text[0] = 0;
}
#endif

static void check_clocking(struct findings *findings) {
    char line[128];
    if (!line_of(CPU_FOLDER "cpu0/cpufreq/scaling_governor", line, sizeof line))
        finding_add(findings, FINDING_MISSING, "governor", NULL, "not shown by this machine");
    else if (strcmp(line, "performance") == 0) finding_add(findings, FINDING_OK, "governor", NULL, "%s", line);
    else
        finding_add(findings, FINDING_WARN, "governor", "as root: cpupower frequency-set -g performance",
                    "%s: the clock follows the load", line);
    static const struct {
        const char *path, *on, *remedy;
    } turbo[] = {
        {CPU_FOLDER "intel_pstate/no_turbo", "0", "as root: echo 1 > " CPU_FOLDER "intel_pstate/no_turbo"},
        {CPU_FOLDER "cpufreq/boost", "1", "as root: echo 0 > " CPU_FOLDER "cpufreq/boost"},
    };
    size_t shown = 0;
    for (size_t i = 0; i < 2 && !shown; i++) {
        if (!line_of(turbo[i].path, line, sizeof line)) continue;
        shown = 1;
        if (strcmp(line, turbo[i].on) == 0)
            finding_add(findings, FINDING_WARN, "turbo", turbo[i].remedy, "on: the clock follows the heat");
        else finding_add(findings, FINDING_OK, "turbo", NULL, "off");
    }
    if (!shown) finding_add(findings, FINDING_MISSING, "turbo", NULL, "not shown by this machine");
    if (!line_of(CPU_FOLDER "smt/active", line, sizeof line))
        finding_add(findings, FINDING_MISSING, "smt", NULL, "not shown by this machine");
    else if (strcmp(line, "1") == 0)
        finding_add(findings, FINDING_WARN, "smt",
                    "run on one thread per core (taskset), or as root: echo off > " CPU_FOLDER "smt/control",
                    "on: two threads share a core");
    else finding_add(findings, FINDING_OK, "smt", NULL, "off");
}

static void check_load(struct findings *findings) {
    double load = -1;
    char line[256];
    if (getloadavg(&load, 1) == 1)
        finding_add(findings, load > 0.5 ? FINDING_WARN : FINDING_OK, "load",
                    load > 0.5 ? "stop other programs, or wait a minute" : NULL, "%.2f over one minute", load);
    if (line_of("/sys/fs/cgroup/cpu.max", line, sizeof line) && strncmp(line, "max", 3) != 0)
        finding_add(findings, FINDING_WARN, "cpu quota", "run outside the limited container or slice",
                    "cpu.max is %s: the kernel stops the program when it is used up", line);
    hypervisor_text(line, sizeof line);
    if (line[0])
        finding_add(findings, FINDING_WARN, "hypervisor",
                    "trust paired ratios, not single times; repeat at another hour",
                    "%s: neighbours on the same host may slow this one", line);
    else finding_add(findings, FINDING_OK, "hypervisor", NULL, "none");
    unsigned long long ticks[8] = {0}, total = 0; /* user nice system idle iowait irq softirq steal */
    if (line_of("/proc/stat", line, sizeof line) &&
        sscanf(line, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &ticks[0], &ticks[1], &ticks[2], &ticks[3],
               &ticks[4], &ticks[5], &ticks[6], &ticks[7]) == 8) {
        for (int i = 0; i < 8; i++) total += ticks[i];
        double steal = total ? (double)ticks[7] / (double)total : 0;
        finding_add(findings, steal > 0.01 ? FINDING_WARN : FINDING_OK, "steal",
                    steal > 0.01 ? "use a machine of your own" : NULL, "%.2f %% of processor time since boot",
                    100 * steal);
    }
}

static void check_clock(struct findings *findings) {
    char source[64] = "unknown";
    struct timespec step = {0}, a, b;
    double least_ns = 1e9;
    line_of("/sys/devices/system/clocksource/clocksource0/current_clocksource", source, sizeof source);
    clock_getres(CLOCK_MONOTONIC, &step);
    for (int i = 0; i < 1000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
        if (ns < least_ns) least_ns = ns;
    }
    bool slow = least_ns > 1000; /* a window is at least some microseconds */
    finding_add(findings, slow ? FINDING_WARN : FINDING_OK, "clock",
                slow ? "choose the kernel's tsc or kvm-clock as clocksource" : NULL,
                "%s, resolution %ld ns, two readings %.0f ns apart", source, step.tv_nsec, least_ns);
}

/* Settings of libraries that change what is measured. */
static void check_environment(struct findings *findings) {
    static const struct {
        const char *name, *harm, *remedy;
    } rows[] = {
        {"OPENBLAS_CORETYPE", "overrides the detected core and halves f32 GEMM where they differ",
         "unset OPENBLAS_CORETYPE"},
        {"OPENBLAS_L2_SIZE", "changes OpenBLAS's blocking and can halve f32 GEMM", "unset OPENBLAS_L2_SIZE"},
        {"OPENBLAS_NUM_THREADS", "overrides the number of threads of f32 GEMM", "unset OPENBLAS_NUM_THREADS"},
        {"DNNL_MAX_CPU_ISA", "keeps oneDNN from the CPU's instructions", "unset DNNL_MAX_CPU_ISA"},
        {"ONEDNN_MAX_CPU_ISA", "keeps oneDNN from the CPU's instructions", "unset ONEDNN_MAX_CPU_ISA"},
        {"DNNL_VERBOSE", "makes oneDNN print inside timed windows", "unset DNNL_VERBOSE"},
        {"ONEDNN_VERBOSE", "makes oneDNN print inside timed windows", "unset ONEDNN_VERBOSE"},
        {"OMP_DYNAMIC", "lets OpenMP change the number of threads", "unset OMP_DYNAMIC"},
        {"OMP_THREAD_LIMIT", "limits the number of threads", "unset OMP_THREAD_LIMIT"},
        {"LD_PRELOAD", "puts foreign code into the program", "unset LD_PRELOAD"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *value = getenv(rows[i].name);
        if (value)
            finding_add(findings, FINDING_WARN, rows[i].name, rows[i].remedy, "\"%.100s\": %s", value, rows[i].harm);
    }
    static const char *const shown[] = {"OMP_NUM_THREADS", "OMP_PROC_BIND",     "OMP_PLACES",
                                        "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT"};
    char text[400] = "";
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        const char *value = getenv(shown[i]);
        size_t used = strlen(text);
        if (value) snprintf(text + used, sizeof text - used, "%s%s=%.60s", used ? " " : "", shown[i], value);
    }
    finding_add(findings, FINDING_OK, "OpenMP settings", NULL, "%s", text[0] ? text : "none");
}

void machine_check(struct findings *findings) {
    check_clocking(findings);
    check_load(findings);
    check_clock(findings);
    check_environment(findings);
}

int machine_open(struct machine *machine) {
    struct findings findings = {.count = 0};
    struct utsname system;
    memset(machine, 0, sizeof *machine);
    cpu_flags_text(cpu_detect(), machine->cpu_flags, sizeof machine->cpu_flags);
    caches_text(machine->caches, sizeof machine->caches);
    if (uname(&system) == 0) snprintf(machine->kernel, sizeof machine->kernel, "%s %s", system.sysname, system.release);
    bool governed = line_of(CPU_FOLDER "cpu0/cpufreq/scaling_governor", machine->governor, sizeof machine->governor);
    hypervisor_text(machine->virtual, sizeof machine->virtual);
    machine->host = (struct host_record){
        .cpu = cpu_model(),
        .cpu_flags = machine->cpu_flags,
        .caches = machine->caches,
        .kernel = machine->kernel,
        .governor = governed ? machine->governor : NULL,
        .virtual = machine->virtual[0] ? machine->virtual : NULL,
        .cores = (int)sysconf(_SC_NPROCESSORS_ONLN),
        .memory_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE),
    };
    machine->build = (struct build_record){
        .version = RUNEXP_VERSION,
        .commit = build_commit,
        .mode = build_mode,
        .compiler = build_compiler,
        .flags = build_flags,
        .blas = gemm_library(),
        .onednn = onednn_library(),
        .dirty = build_dirty != 0,
    };
    if (getloadavg(&machine->load_average, 1) != 1) machine->load_average = 0;
    machine_check(&findings);
    for (size_t i = 0; i < findings.count; i++) {
        const struct finding *finding = &findings.items[i];
        size_t used = strlen(machine->warnings);
        if (finding->state == FINDING_WARN)
            snprintf(machine->warnings + used, sizeof machine->warnings - used, "%s%s: %s", used ? "; " : "",
                     finding->name, finding->value);
    }
    return 0;
}

void machine_close(struct machine *machine) { memset(machine, 0, sizeof *machine); }
