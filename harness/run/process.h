/* Worker processes: start, limit, listen, reap.
 *
 * A run is a process of its own so that a crash, a hang or an exhausted memory costs that run alone. The
 * parent sleeps in poll() on the workers' pipes until one speaks, ends or reaches its deadline. A worker dies
 * with its parent (PR_SET_PDEATHSIG), ignores the terminal's interrupt (the parent decides), writes its
 * standard error to a file of its own whose end is kept with the run, and leaves no core file. A forked one
 * leads a process group of its own: what a plug-in starts and leaves behind ends with it. That it ended is
 * learnt from the kernel (pidfd), since such a process may hold the pipe open.
 */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "run/wire.h"

enum process_message { MESSAGE_PROGRESS = 1, MESSAGE_RESULT, MESSAGE_ERROR, MESSAGE_SKIPPED };

struct process_limits {
    double wall_s;     /* 0: none */
    int64_t memory_mb; /* of private writable memory (RLIMIT_DATA); 0: none */
};

enum process_end { PROCESS_EXITED, PROCESS_SIGNALLED, PROCESS_TIMEOUT, PROCESS_INTERRUPTED };

struct process {
    pid_t pid; /* 0: not running */
    int fd;    /* its messages; -1: it closed them */
    int pidfd; /* readable once it ended; -1: the kernel has none */
    int log_fd;
    struct wire_inbox inbox;
    uint64_t started_ns, deadline_ns; /* monotonic; deadline 0: none */
    bool killed_late, killed_interrupt;
    void *owner;
    /* after it ended */
    enum process_end end;
    int exit_code, signal;
    uint64_t ended_ns;
};

uint64_t clock_ns(void); /* CLOCK_MONOTONIC */

/* Run body(context, fd) in a forked child that then exits with 0 (or 1 when the body fails, after sending
 * its error text). The parent must have no threads. */
int process_fork(struct process *process, const struct process_limits *limits, int (*body)(void *context, int fd),
                 void *context);
/* Start this program anew as `runexp VERB`, its job message on standard input, its messages read from its
 * descriptor 3. The child calls process_child_limits with the limits it finds in its job. */
int process_exec(struct process *process, const struct process_limits *limits, const char *verb,
                 struct wire_writer *job);
/* What a child does first: die with the parent, ignore interrupts, limits, no core file. */
void process_child_limits(const struct process_limits *limits);

/* Wait until a message arrives from, or the end comes of, one of the processes. message() is called for each
 * whole message. *ended is set to a process that ended (its messages all delivered), or NULL when only
 * messages came. Kills what passes its deadline, and all of them once `*interrupted` is set. */
int process_wait(struct process *const *processes, size_t count, const volatile int *interrupted,
                 void (*message)(void *context, struct process *process, uint32_t kind, struct wire_reader *reader),
                 void *context, struct process **ended);

/* The last `size`-1 bytes of what the process wrote to standard error. */
void process_log(const struct process *process, char *text, size_t size);
void process_close(struct process *process); /* kills and reaps when still running */

#endif
