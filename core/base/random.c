/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
 *
 * Counter = (index, stream), key = seed, each as low and high 32-bit word; multipliers and key increments
 * are the paper's. Checked against Random123's known-answer vectors in tests/unit/test_random.c.
 */
#include "base/random.h"

#include "base/error.h"

#include <math.h>

#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u /* golden ratio */
#define PHILOX_W1 0xBB67AE85u /* sqrt(3) - 1 */
#define ROUNDS 10

void random_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * c0, p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection whose every output bit depends on every
 * input bit. */
static uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

uint64_t random_stream(const char *name, uint64_t a, uint64_t b) {
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
    return mix(mix(mix(hash) ^ a) ^ b);
}

void random_open(struct random *random, uint64_t seed, uint64_t stream) {
    *random = (struct random){.seed = seed, .stream = stream, .used = 4};
}

uint32_t random_u32(struct random *random) {
    if (random->used == 4) {
        random_block(random->seed, random->stream, random->index++, random->block);
        random->used = 0;
    }
    return random->block[random->used++];
}

static uint64_t random_u64(struct random *random) {
    uint64_t high = random_u32(random);
    return high << 32 | random_u32(random);
}

uint64_t random_below(struct random *random, uint64_t bound) {
    CHECK(bound > 0, "random_below needs a bound above 0");
    /* 2^64 mod bound values at the bottom are rejected; what is left is a multiple of bound. */
    uint64_t reject = (0 - bound) % bound, word;
    do word = random_u64(random);
    while (word < reject);
    return word % bound;
}

static double uniform_from(uint64_t word) { return (double)(word >> 11) * 0x1p-53; }

double random_uniform(struct random *random) { return uniform_from(random_u64(random)); }

/* Box-Muller with the cosine only: two uniforms a draw, nothing kept between draws. */
double random_normal(struct random *random) {
    double radius = sqrt(-2.0 * log(1.0 - random_uniform(random)));
    return radius * cos(6.283185307179586 * random_uniform(random));
}

void random_permutation(uint64_t seed, uint64_t stream, uint32_t *order, size_t count) {
    CHECK(count <= UINT32_MAX, "a permutation of %zu does not fit 32 bits", count);
    struct random random;
    random_open(&random, seed, stream);
    for (size_t i = 0; i < count; i++) order[i] = (uint32_t)i;
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)random_below(&random, i);
        uint32_t swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
}

/* Two words an element: element i lies in block i/2. */
double random_uniform_at(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t block[4];
    random_block(seed, stream, index / 2, block);
    size_t word = index % 2 * 2;
    return uniform_from((uint64_t)block[word] << 32 | block[word + 1]);
}
