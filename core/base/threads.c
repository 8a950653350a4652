/* parallel_for over OpenMP, or over a POSIX pool in builds for ThreadSanitizer (libgomp's barriers are
 * invisible to it and every data race report would be a false one).
 *
 * Every worker begins with an equal range of the chunks and goes through it upwards, so that what follows in memory is
 * most likely its own next chunk; one that is done takes chunks from the end of another's range. While a body runs, a
 * library that asks OpenMP how many threads it may use is told one: inside a team by omp_in_parallel, and where a
 * single chunk is run by the caller itself by setting the caller's OpenMP thread count to one for that time.
 */
#include "base/threads.h"

#include "base/error.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define THREADS_MAX 1024

/* Present when OpenBLAS is linked. */
extern void openblas_set_num_threads(int threads) __attribute__((weak));

static atomic_int thread_count;              /* 0 until first asked for */
static _Thread_local int inside_worker = -1; /* the worker this thread is, while in a body */

/* Chunks that a worker still has: the first one in the high half, the one after the last in the low half. */
struct range {
    _Alignas(64) _Atomic uint64_t span; /* a cache line each */
};

/* What a loop's threads share. */
struct loop {
    size_t count, grain, chunks;
    parallel_body *body;
    parallel_end *end; /* NULL: none */
    void *context;
    size_t together; /* chunks that are taken at once: 1 unless there are billions */
    int workers;
    struct range *ranges; /* [workers] */
};

static void run_chunk(const struct loop *loop, size_t chunk, int worker) {
    size_t begin = chunk * loop->grain;
    size_t left = loop->count - begin;
    loop->body(loop->context, begin, begin + (left < loop->grain ? left : loop->grain), worker);
}

static void run_serial(const struct loop *loop, int worker) {
    int outer = inside_worker;
    inside_worker = worker;
    for (size_t chunk = 0; chunk < loop->chunks; chunk++) run_chunk(loop, chunk, worker);
    if (loop->end) loop->end(loop->context);
    inside_worker = outer;
}

/* Take the first or the last of a range's places; false when it is empty. */
static bool range_take(struct range *range, bool last, size_t *place) {
    uint64_t span = atomic_load_explicit(&range->span, memory_order_relaxed), fewer;
    do {
        uint64_t first = span >> 32, end = span & UINT32_MAX;
        if (first >= end) return false;
        *place = last ? end - 1 : first;
        fewer = last ? span - 1 : span + (UINT64_C(1) << 32);
    } while (!atomic_compare_exchange_weak(&range->span, &span, fewer));
    return true;
}

static void run_place(const struct loop *loop, size_t place, int worker) {
    size_t end = (place + 1) * loop->together;
    if (end > loop->chunks) end = loop->chunks;
    for (size_t chunk = place * loop->together; chunk < end; chunk++) run_chunk(loop, chunk, worker);
}

static void run_share(const struct loop *loop, int worker) {
    size_t place;
    inside_worker = worker;
    while (range_take(&loop->ranges[worker], false, &place)) run_place(loop, place, worker);
    for (int other = 1; other < loop->workers; other++)
        while (range_take(&loop->ranges[(worker + other) % loop->workers], true, &place))
            run_place(loop, place, worker);
    if (loop->end) loop->end(loop->context);
    inside_worker = -1;
}

int threads_available(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    if (text) {
        long asked = strtol(text, NULL, 10);
        if (asked >= 1 && asked <= THREADS_MAX) return (int)asked;
    }
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        int cpus = CPU_COUNT(&set);
        if (cpus >= 1) return cpus < THREADS_MAX ? cpus : THREADS_MAX;
    }
    return 1;
}

int threads_get(void) {
    int threads = atomic_load(&thread_count);
    if (threads) return threads;
    int expected = 0;
    threads = threads_available();
    return atomic_compare_exchange_strong(&thread_count, &expected, threads) ? threads : expected;
}

#ifndef THREADS_POSIX
/* Declared here because clang without its own OpenMP runtime has no omp.h; the names are the standard's. */
extern int omp_get_thread_num(void);
extern int omp_get_max_threads(void);
extern void omp_set_num_threads(int threads);

void threads_set(int threads) {
    CHECK(threads >= 1 && threads <= THREADS_MAX, "%d threads", threads);
    atomic_store(&thread_count, threads);
    omp_set_num_threads(threads);
    if (openblas_set_num_threads) openblas_set_num_threads(threads);
}

/* The end of the region is barrier enough. */
static void run_workers(struct loop *loop) {
#pragma omp parallel num_threads(loop->workers)
    run_share(loop, omp_get_thread_num());
}

static void run_alone(const struct loop *loop) {
    int threads = omp_get_max_threads();
    if (threads > 1) omp_set_num_threads(1);
    run_serial(loop, 0);
    if (threads > 1) omp_set_num_threads(threads);
}

#else
#include <pthread.h>

/* One loop at a time: `entry` is held by its caller, who works as worker 0. A helper sleeps until `turn`
 * changes, works while its number is below `wanted`, and reports by `finished`. */
static struct {
    pthread_mutex_t entry, lock;
    pthread_cond_t start, done;
    struct loop *loop;
    unsigned long turn;
    int helpers, wanted, finished;
} pool = {.entry = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .start = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

void threads_set(int threads) {
    CHECK(threads >= 1 && threads <= THREADS_MAX, "%d threads", threads);
    atomic_store(&thread_count, threads);
    /* Without OpenMP a library cannot be told from inside a loop, so it never gets more than one. */
    if (openblas_set_num_threads) openblas_set_num_threads(1);
}

static void *helper_main(void *argument) {
    int worker = (int)(size_t)argument;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.turn == seen || worker >= pool.wanted) {
            seen = pool.turn;
            pthread_cond_wait(&pool.start, &pool.lock);
        }
        seen = pool.turn;
        struct loop *loop = pool.loop;
        pthread_mutex_unlock(&pool.lock);
        run_share(loop, worker);
        pthread_mutex_lock(&pool.lock);
        pool.finished++;
        pthread_cond_signal(&pool.done);
    }
    return NULL;
}

static void run_workers(struct loop *loop) {
    int threads = loop->workers;
    pthread_mutex_lock(&pool.entry);
    pthread_mutex_lock(&pool.lock);
    while (pool.helpers < threads - 1) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, helper_main, (void *)(size_t)(pool.helpers + 1)) != 0) break;
        pthread_detach(thread);
        pool.helpers++;
    }
    int helpers = pool.helpers < threads - 1 ? pool.helpers : threads - 1;
    pool.loop = loop;
    pool.wanted = helpers + 1;
    pool.finished = 0;
    pool.turn++;
    pthread_cond_broadcast(&pool.start);
    pthread_mutex_unlock(&pool.lock);
    run_share(loop, 0);
    pthread_mutex_lock(&pool.lock);
    while (pool.finished < helpers) pthread_cond_wait(&pool.done, &pool.lock);
    pool.wanted = 0;
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.entry);
}

static void run_alone(const struct loop *loop) { run_serial(loop, 0); }
#endif

/* As many threads as there are ranges, or fewer: what a missing one would have done, the others take. */
static void run_parallel(struct loop *loop, int workers) {
    struct range ranges[THREADS_MAX];
    size_t places;
    loop->together = loop->chunks / INT32_MAX + 1;
    loop->workers = workers;
    loop->ranges = ranges;
    places = loop->chunks / loop->together + (loop->chunks % loop->together != 0);
    for (size_t w = 0, each = (size_t)workers; w < each; w++) {
        uint64_t first = places * w / each, end = places * (w + 1) / each;
        atomic_init(&ranges[w].span, first << 32 | end);
    }
    run_workers(loop);
}

void parallel_for(size_t count, size_t grain, parallel_body *body, void *context) {
    parallel_for_then(count, grain, body, NULL, context);
}

void parallel_for_then(size_t count, size_t grain, parallel_body *body, parallel_end *end, void *context) {
    if (!count) return;
    if (!grain) grain = 1;
    struct loop loop = {.count = count,
                        .grain = grain,
                        .chunks = count / grain + (count % grain != 0),
                        .body = body,
                        .end = end,
                        .context = context};
    int threads = threads_get();
    if (inside_worker >= 0) run_serial(&loop, inside_worker);
    else if (threads == 1 || loop.chunks == 1) run_alone(&loop);
    else run_parallel(&loop, (size_t)threads < loop.chunks ? threads : (int)loop.chunks);
}
