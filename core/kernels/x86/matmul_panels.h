/* What the AVX-512 multiplications share beyond their body (private to kernels/x86). */
#ifndef MATMUL_PANELS_H
#define MATMUL_PANELS_H

#include <stddef.h>
#include <string.h>
#if !defined(EMULATE_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define TILE_TOKENS 6

/* Tokens of the next tile when `left` remain: dealt evenly (7 = 4+3, not 6+1). */
INLINE size_t even_share(size_t left, size_t most) {
    size_t tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* 16 values, or the first `count` of them. */
INLINE __m512 load_some(const float *x, size_t count) {
    if (count == 16) return _mm512_loadu_ps(x);
    float lanes[16] = {0};
    memcpy(lanes, x, count * sizeof *x);
    return _mm512_loadu_ps(lanes);
}
INLINE void store_some(float *y, size_t count, __m512 value) {
    if (count == 16) {
        _mm512_storeu_ps(y, value);
    } else {
        float lanes[16];
        _mm512_storeu_ps(lanes, value);
        memcpy(y, lanes, count * sizeof *y);
    }
}

#endif
