/* See process.h. */
#include "run/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"

#define WORKER_FD 3
#define PROCESSES_MAX 64

extern char **environ;

uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void process_child_limits(const struct process_limits *limits) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == 1) _exit(1);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    const bool shadowed = true; /* sanitizers reserve terabytes: no limit would leave them room */
#else
    const bool shadowed = false;
#endif
    if (limits->memory_mb > 0 && !shadowed) {
        rlim_t bytes = (rlim_t)limits->memory_mb << 20;
        setrlimit(RLIMIT_DATA, &(struct rlimit){bytes, bytes});
    }
}

/* An unlinked temporary file for a worker's standard error. */
static int open_log(int *fd) {
    int status = 0;
    char path[] = "/tmp/runexp-log-XXXXXX";
    *fd = mkostemp(path, O_CLOEXEC);
    if (*fd < 0) FAIL(E_IO, "cannot create a log file in /tmp: %s", strerror(errno));
    unlink(path);
out:
    return status;
}

static void began(struct process *process, const struct process_limits *limits, pid_t pid, int fd) {
    process->pid = pid;
    process->fd = fd;
    process->pidfd = pidfd_open(pid, 0);
    process->deadline_ns = limits->wall_s > 0 ? process->started_ns + (uint64_t)(limits->wall_s * 1e9) : 0;
    process->killed_late = process->killed_interrupt = false;
}

int process_fork(struct process *process, const struct process_limits *limits, int (*body)(void *context, int fd),
                 void *context) {
    int status = 0;
    int pipes[2] = {-1, -1};
    process->log_fd = -1;
    TRY(open_log(&process->log_fd));
    if (pipe2(pipes, O_CLOEXEC) < 0) FAIL(E_IO, "cannot create a pipe: %s", strerror(errno));
    fflush(NULL);
    process->started_ns = clock_ns();
    pid_t pid = fork();
    if (pid < 0) FAIL(E_IO, "cannot start a worker process: %s", strerror(errno));
    if (pid == 0) {
        setpgid(0, 0);
        process_child_limits(limits);
        dup2(process->log_fd, STDERR_FILENO);
        dup2(process->log_fd, STDOUT_FILENO);
        /* The database, its lock and the other workers' pipes are none of a plug-in's business. */
        int fd = dup2(pipes[1], WORKER_FD);
        close_range(WORKER_FD + 1, ~0U, 0);
        int result = body(context, fd);
        if (result < 0) {
            struct wire_writer writer = {0};
            wire_put_u64(&writer, (uint64_t)-result);
            wire_put_text(&writer, error_text());
            wire_send(fd, MESSAGE_ERROR, &writer);
            wire_writer_close(&writer);
        }
        fflush(NULL);
        _exit(result < 0);
    }
    close(pipes[1]);
    pipes[1] = -1;
    began(process, limits, pid, pipes[0]);
    pipes[0] = -1;
out:
    if (pipes[0] >= 0) close(pipes[0]);
    if (pipes[1] >= 0) close(pipes[1]);
    if (status < 0 && process->log_fd >= 0) close(process->log_fd);
    return status;
}

int process_exec(struct process *process, const struct process_limits *limits, const char *verb,
                 struct wire_writer *job) {
    int status = 0;
    int in[2] = {-1, -1}, out_pipe[2] = {-1, -1};
    posix_spawn_file_actions_t actions;
    bool have_actions = false;
    process->log_fd = -1;
    TRY(open_log(&process->log_fd));
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out_pipe, O_CLOEXEC) < 0)
        FAIL(E_IO, "cannot create a pipe: %s", strerror(errno));
    if (posix_spawn_file_actions_init(&actions)) FAIL(E_MEMORY, "out of memory");
    have_actions = true;
    /* The targets 0..3 cannot collide with the sources: descriptors 0, 1, 2 are open in the parent, and the
     * log, opened first, takes the lowest free one. */
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, process->log_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, process->log_fd, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out_pipe[1], WORKER_FD);
    char name[] = "runexp";
    char argument[32];
    snprintf(argument, sizeof argument, "%s", verb);
    char *const argv[] = {name, argument, NULL};
    pid_t pid;
    process->started_ns = clock_ns();
    int error = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ);
    if (error) FAIL(E_IO, "cannot start a worker process: %s", strerror(error));
    close(out_pipe[1]);
    out_pipe[1] = -1;
    began(process, limits, pid, out_pipe[0]);
    out_pipe[0] = -1;
    close(in[0]);
    in[0] = -1;
    /* One that ended before it had read its job is met by process_wait like any other end. */
    if (wire_send(in[1], 1, job) < 0) error_clear();
out:
    if (have_actions) posix_spawn_file_actions_destroy(&actions);
    if (in[0] >= 0) close(in[0]);
    if (in[1] >= 0) close(in[1]);
    if (out_pipe[0] >= 0) close(out_pipe[0]);
    if (out_pipe[1] >= 0) close(out_pipe[1]);
    if (status < 0 && process->pid > 0) process_close(process);
    else if (status < 0 && process->log_fd >= 0) close(process->log_fd);
    return status;
}

/* End a process and what it started. */
static void end_all(pid_t pid) {
    kill(-pid, SIGKILL); /* no such group: it was not forked, or has not got so far */
    kill(pid, SIGKILL);
}

/* Reap, and note how it ended. */
static void reap(struct process *process) {
    int wait_status = 0;
    kill(-process->pid, SIGKILL); /* what it left behind; the number is taken until the next line */
    while (waitpid(process->pid, &wait_status, 0) < 0 && errno == EINTR) {
    }
    process->ended_ns = clock_ns();
    process->pid = 0;
    if (process->fd >= 0) close(process->fd);
    if (process->pidfd >= 0) close(process->pidfd);
    process->fd = process->pidfd = -1;
    process->exit_code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
    process->signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
    process->end = process->killed_late        ? PROCESS_TIMEOUT
                   : process->killed_interrupt ? PROCESS_INTERRUPTED
                   : process->signal           ? PROCESS_SIGNALLED
                                               : PROCESS_EXITED;
}

typedef void message_handler(void *context, struct process *process, uint32_t kind, struct wire_reader *reader);

/* Read once and deliver what is whole; at the end of file, or where nothing can be believed any more, fd becomes -1. */
static void hear(struct process *p, message_handler *message, void *context) {
    int got = wire_inbox_fill(&p->inbox, p->fd);
    for (;;) {
        uint32_t kind;
        struct wire_reader reader;
        int next = got < 0 ? got : wire_inbox_next(&p->inbox, &kind, &reader);
        if (next < 0) { /* a malformed stream: nothing more from this worker can be believed */
            end_all(p->pid);
            got = 0;
            break;
        }
        if (next == 0) break;
        message(context, p, kind, &reader);
    }
    if (got > 0) return;
    close(p->fd);
    p->fd = -1;
}

/* Deliver what a process wrote before it ended. Somebody who still holds its pipe cannot keep us: a pipe that nobody
 * fills is empty after some reads. */
static void hear_rest(struct process *p, message_handler *message, void *context) {
    for (int reads = 0; reads < 64 && p->fd >= 0; reads++) {
        struct pollfd left = {.fd = p->fd, .events = POLLIN};
        if (poll(&left, 1, 0) <= 0) break;
        hear(p, message, context);
    }
}

int process_wait(struct process *const *processes, size_t count, const volatile int *interrupted,
                 message_handler *message, void *context, struct process **ended) {
    int status = 0;
    struct pollfd polls[2 * PROCESSES_MAX]; /* messages and end of each */
    *ended = NULL;
    CHECK(count > 0 && count <= PROCESSES_MAX, "%zu processes", count);
    for (;;) {
        uint64_t now = clock_ns();
        int wait_ms = -1;
        for (size_t i = 0; i < count; i++) {
            struct process *p = processes[i];
            polls[2 * i] = (struct pollfd){.fd = p->fd, .events = POLLIN};
            polls[2 * i + 1] = (struct pollfd){.fd = p->pidfd, .events = POLLIN};
            if (*interrupted && !p->killed_interrupt && !p->killed_late) {
                p->killed_interrupt = true;
                end_all(p->pid);
            }
            if (!p->deadline_ns || p->killed_late) continue;
            if (now >= p->deadline_ns) {
                p->killed_late = true;
                end_all(p->pid);
                continue;
            }
            uint64_t left_ms = (p->deadline_ns - now) / 1000000u + 1;
            int left = left_ms > 3600000u ? 3600000 : (int)left_ms;
            if (wait_ms < 0 || left < wait_ms) wait_ms = left;
        }
        int ready = poll(polls, 2 * count, wait_ms);
        if (ready < 0 && errno != EINTR) FAIL(E_IO, "poll: %s", strerror(errno));
        if (ready <= 0) continue;
        for (size_t i = 0; i < count; i++) {
            struct process *p = processes[i];
            bool gone = polls[2 * i + 1].revents != 0;
            if (gone) hear_rest(p, message, context);
            else if (polls[2 * i].revents) hear(p, message, context);
            if (gone || (p->fd < 0 && p->pidfd < 0)) {
                reap(p);
                *ended = p;
                goto out;
            }
        }
        break;
    }
out:
    return status;
}

void process_log(const struct process *process, char *text, size_t size) {
    text[0] = 0;
    if (process->log_fd < 0) return;
    off_t end = lseek(process->log_fd, 0, SEEK_END);
    off_t from = end > (off_t)size - 1 ? end - ((off_t)size - 1) : 0;
    ssize_t got = pread(process->log_fd, text, size - 1, from);
    text[got > 0 ? got : 0] = 0;
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 32 && *c != '\n' && *c != '\t') *c = '?';
}

void process_close(struct process *process) {
    if (process->pid > 0) {
        end_all(process->pid);
        reap(process);
    }
    if (process->log_fd > 0) close(process->log_fd);
    wire_inbox_close(&process->inbox);
    process->log_fd = -1;
}
