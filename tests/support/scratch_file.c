/* Files under TMPDIR or /tmp; a failure to write one ends the test program. */
#include "scratch_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

void scratch_file(char path[128], const char *suffix, const char *text) {
    const char *folder = getenv("TMPDIR");
    snprintf(path, 128, "%.60s/shrinklab_XXXXXX%.40s", folder != NULL ? folder : "/tmp", suffix);
    int fd = mkstemps(path, (int)strlen(suffix));
    CHECK(fd >= 0, "cannot make %s", path);
    size_t length = strlen(text);
    CHECK(write(fd, text, length) == (ssize_t)length, "cannot write %s", path);
    close(fd);
}

void scratch_remove(const char *path) { unlink(path); }
