/* Folders for the checkpoints of stages under way; see stage_cache.h. The worker that holds a folder's lock owns all
 * files in it; the lock goes with the process, however that ends. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "run/curve.h"
#include "run/stage_cache.h"

#define ENDING ".checkpoint"
#define LOCK "lock"

enum { SECONDS_A_DAY = 86400 };

/* Take the lock of a folder; -1 when somebody has it, or there is no such folder. */
static int folder_lock(const char *folder) {
    char path[CACHE_PATH + sizeof "/" LOCK];
    snprintf(path, sizeof path, "%s/" LOCK, folder);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0) return lock;
    if (lock >= 0) close(lock);
    return -1;
}

void checkpoint_folder_open(struct checkpoint_folder *folder, const char *cache_dir, const char *key) {
    *folder = (struct checkpoint_folder){.lock = -1};
    if (snprintf(folder->path, sizeof folder->path, "%s/%s" ENDING, cache_dir, key) >= (int)sizeof folder->path ||
        (mkdir(folder->path, 0777) < 0 && errno != EEXIST) || (folder->lock = folder_lock(folder->path)) < 0)
        folder->path[0] = 0;
}

/* Remove a folder with the files in it. */
static void folder_remove(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    rmdir(path);
}

void checkpoint_folder_close(struct checkpoint_folder *folder, bool done) {
    if (!*folder->path) return;
    if (done) folder_remove(folder->path);
    close(folder->lock);
    *folder = (struct checkpoint_folder){.lock = -1};
}

bool checkpoint_exists(const char *cache_dir, const char *key) {
    char path[CACHE_PATH];
    bool exists = false;
    snprintf(path, sizeof path, "%s/%s" ENDING, cache_dir, key);
    DIR *folder = opendir(path);
    if (!folder) return false;
    for (struct dirent *entry; (entry = readdir(folder));)
        exists |=
            entry->d_name[0] != '.' && strcmp(entry->d_name, LOCK) != 0 && strcmp(entry->d_name, CURVE_JOURNAL) != 0;
    closedir(folder);
    return exists;
}

/* When a file of the folder was last written; 0 when it cannot be told. */
static time_t last_touched(const char *path) {
    time_t newest = 0;
    struct stat about;
    DIR *folder = opendir(path);
    if (!folder) return 0;
    if (fstat(dirfd(folder), &about) == 0) newest = about.st_mtime;
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, LOCK) != 0 && entry->d_name[0] != '.' &&
            fstatat(dirfd(folder), entry->d_name, &about, 0) == 0 && about.st_mtime > newest)
            newest = about.st_mtime;
    closedir(folder);
    return newest;
}

void checkpoints_forget(const char *cache_dir) {
    DIR *folder = opendir(cache_dir);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char path[CACHE_PATH];
        size_t length = strlen(entry->d_name);
        if (length < sizeof ENDING || strcmp(entry->d_name + length + 1 - sizeof ENDING, ENDING) != 0) continue;
        if (snprintf(path, sizeof path, "%s/%s", cache_dir, entry->d_name) >= (int)sizeof path) continue;
        time_t touched = last_touched(path);
        if (touched == 0 || time(NULL) - touched < (time_t)CHECKPOINT_DAYS * SECONDS_A_DAY) continue;
        int lock = folder_lock(path);
        if (lock < 0) continue;
        folder_remove(path);
        close(lock);
    }
    closedir(folder);
}
