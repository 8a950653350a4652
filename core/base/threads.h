/* The one way to run work on several threads.
 *
 * parallel_for cuts [0,count) into chunks of `grain` items at fixed boundaries (chunk i is
 * [i*grain, min((i+1)*grain, count))), whatever the number of threads, so a body that computes each
 * chunk from its bounds alone gives bit-identical results at any thread count. Each thread begins with
 * an equal range of the chunks, goes through it upwards, and takes from the others' ends when it is done. Built over
 * OpenMP, the same runtime that OpenBLAS and oneDNN use, so inside a body those libraries run single-threaded and
 * nothing oversubscribes; MODE=tsan builds it over POSIX threads instead, which ThreadSanitizer can see through. Nested
 * calls run serially, as the outer worker. A process that will fork() workers must not have run parallel_for with
 * several threads before: the runtime's threads do not exist in the child.
 */
#ifndef THREADS_H
#define THREADS_H

#include <stddef.h>

/* worker: 0..threads_get()-1, for per-thread scratch. */
typedef void parallel_body(void *context, size_t begin, size_t end, int worker);

void threads_set(int threads); /* >= 1; also sets the libraries' own thread counts where linked */
int threads_get(void);         /* default: threads_available() */
int threads_available(void);   /* OMP_NUM_THREADS where set, else the CPUs this process may run on */
void parallel_for(size_t count, size_t grain, parallel_body *body, void *context);

/* The same, and `end` once on every thread that took part when no chunk is left to begin, though others may still be at
 * their last: for work that the last chunks bring, which threads may share while they would wait. */
typedef void parallel_end(void *context);
void parallel_for_then(size_t count, size_t grain, parallel_body *body, parallel_end *end, void *context);

/* What a thread does while it waits for microseconds. */
static inline void threads_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
