/* gemm_f32 over OpenBLAS, or as a C loop in builds with -DBACKENDS_NONE.
 *
 * One thread whatever the caller's place: OpenBLAS's OpenMP build asks OpenMP how many threads it may use,
 * so the calling thread's count is set to one around the call when it is not inside a parallel loop. In
 * builds over POSIX threads (ThreadSanitizer) each thread is told so once, by OpenBLAS's own call. */
#include "kernels/gemm.h"

#if defined(BACKENDS_NONE)

/* Rows of c one by one, accumulated over k in the inner loop's order: four simple cases of one sum. */
void gemm_f32(bool transpose_a, bool transpose_b, size_t M, size_t N, size_t K, float alpha, const float *a, size_t lda,
              const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    for (size_t m = 0; m < M; m++) {
        float *row = c + m * ldc;
        for (size_t n = 0; n < N; n++) row[n] = beta == 0.0f ? 0.0f : beta * row[n];
        for (size_t k = 0; k < K; k++) {
            float value = alpha * (transpose_a ? a[k * lda + m] : a[m * lda + k]);
            if (transpose_b)
                for (size_t n = 0; n < N; n++) row[n] += value * b[n * ldb + k];
            else
                for (size_t n = 0; n < N; n++) row[n] += value * b[k * ldb + n];
        }
    }
}

const char *gemm_library(void) { return "C"; }

#else
#include "base/error.h"

#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#if defined(THREADS_POSIX)
static void one_thread_begin(int *saved) {
    static _Thread_local bool told;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    (void)saved;
    if (told) return;
    pthread_mutex_lock(&lock);
    openblas_set_num_threads(1);
    pthread_mutex_unlock(&lock);
    told = true;
}
static void one_thread_end(int saved) { (void)saved; }
#else
/* Declared here because clang without its own OpenMP runtime has no omp.h; the names are the standard's. */
extern int omp_in_parallel(void);
extern int omp_get_max_threads(void);
extern void omp_set_num_threads(int threads);

static void one_thread_begin(int *saved) {
    *saved = omp_in_parallel() ? 1 : omp_get_max_threads();
    if (*saved > 1) omp_set_num_threads(1);
}
static void one_thread_end(int saved) {
    if (saved > 1) omp_set_num_threads(saved);
}
#endif

void gemm_f32(bool transpose_a, bool transpose_b, size_t M, size_t N, size_t K, float alpha, const float *a, size_t lda,
              const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    CHECK(M <= INT_MAX && N <= INT_MAX && K <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX,
          "a matrix of %zu, %zu, %zu", M, N, K);
    if (M == 0 || N == 0) return;
    int saved = 1;
    one_thread_begin(&saved);
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, (int)M,
                (int)N, (int)K, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
    one_thread_end(saved);
}

static char library[96];
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static void library_name(void) {
    /* The configuration starts with "OpenBLAS 0.3.21 "; flags follow. */
    const char *config = openblas_get_config(), *end = strchr(config, ' ');
    if (end) end = strchr(end + 1, ' ');
    int length = end ? (int)(end - config) : (int)strlen(config);
    snprintf(library, sizeof library, "%.*s (%s)", length < 60 ? length : 60, config, openblas_get_corename());
}

const char *gemm_library(void) {
    pthread_once(&library_once, library_name);
    return library;
}
#endif
