/* Files and folders of a report: written beside the old one, then put in its place in one step. */
#ifndef REPORT_FILES_H
#define REPORT_FILES_H

#include <stddef.h>

#include "report/report_text.h"

#define REPORT_PATH 4096

/* DIRECTORY/NAME into path[REPORT_PATH]; E_LIMIT when it does not fit. */
int path_join(char path[REPORT_PATH], const char *directory, const char *name);

/* Create a folder and the missing ones above it; E_IO names the folder. */
int folder_make(const char *path);

/* Remove a folder and everything in it, without following links; a missing one is fine. */
void folder_remove(const char *path);

/* Remove the folders DIRECTORY/.NAME.PID, finished or set aside, of writers that were killed: no such process lives. */
void folders_forget(const char *directory, const char *name);

/* Put folder `fresh` in the place of `target` in one step (exchange, where there is an old one), then remove the old.
 */
int folder_replace(const char *fresh, const char *target);

/* Write the text as DIRECTORY/NAME (over a temporary file, so never half); a text with an error returns that error. */
int file_write(const char *directory, const char *name, const struct text *text);

/* Append the bytes of a file, at most 64 MiB (E_LIMIT); E_IO. */
int file_append(struct text *text, const char *path);

#endif
