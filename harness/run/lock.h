/* Advisory locks: one runexp per database, one timed window per machine. Held until the process ends or
 * lock_release; a crash releases them. */
#ifndef LOCK_H
#define LOCK_H

/* Take the writer's lock of a database (PATH.lock). E_STATE when another runexp holds it. *fd to release. */
int lock_database(const char *db_path, int *fd);
/* Take the machine-wide timing lock, waiting for it; waiting() is called once when it is held elsewhere. E_IO. */
int lock_timing(int *fd, void (*waiting)(void *context), void *context);
void lock_release(int *fd);

#endif
