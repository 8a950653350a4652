/* See lock.h. */
#include "run/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

#define TIMING_LOCK "/tmp/shrinklab-timing.lock"

int lock_database(const char *db_path, int *fd) {
    int status = 0;
    char path[4200];
    snprintf(path, sizeof path, "%s.lock", db_path);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0)
        FAIL(E_IO, "%s: cannot open the lock file: %s; choose another --db or mend the folder's permissions", path,
             strerror(errno));
    if (flock(*fd, LOCK_EX | LOCK_NB) < 0)
        FAIL(E_STATE, "%s is locked by another runexp; wait for it to end or choose another --db", db_path);
out:
    if (status < 0) lock_release(fd);
    return status;
}

int lock_timing(int *fd, void (*waiting)(void *context), void *context) {
    int status = 0;
    /* Another user's file in a sticky folder cannot be opened with O_CREAT; try without first. */
    *fd = open(TIMING_LOCK, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0) *fd = open(TIMING_LOCK, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0) {
        *fd = open(TIMING_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (*fd >= 0) fchmod(*fd, 0666);
    }
    if (*fd < 0) FAIL(E_IO, TIMING_LOCK ": cannot open: %s", strerror(errno));
    if (flock(*fd, LOCK_EX | LOCK_NB) < 0) {
        if (waiting) waiting(context);
        while (flock(*fd, LOCK_EX) < 0)
            if (errno == EINTR) FAIL(E_INTERRUPTED, "interrupted while waiting for another timing run on this machine");
            else FAIL(E_IO, TIMING_LOCK ": %s", strerror(errno));
    }
out:
    if (status < 0) lock_release(fd);
    return status;
}

void lock_release(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}
