/* Counter-based random numbers (Philox4x32-10, Salmon et al. 2011, "Parallel random numbers: as easy
 * as 1, 2, 3"): every number is a pure function of (seed, stream, index), so any thread may draw any
 * part of a stream and the result does not depend on the number of threads.
 */
#ifndef RANDOM_H
#define RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* The four 32-bit words of block `index` of stream (seed, stream). */
void random_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);

/* A stream number from a name ("dropout", "shuffle") and two integers (step, layer), well mixed. */
uint64_t random_stream(const char *name, uint64_t a, uint64_t b);

/* A sequential reader of one stream. */
struct random {
    uint64_t seed, stream, index;
    uint32_t block[4];
    int used;
};
void random_open(struct random *random, uint64_t seed, uint64_t stream);
uint32_t random_u32(struct random *random);
uint64_t random_below(struct random *random, uint64_t bound); /* uniform in 0..bound-1, unbiased; bound > 0 */
double random_uniform(struct random *random);                 /* in [0,1), 53 bits */
double random_normal(struct random *random);                  /* mean 0, standard deviation 1 */

/* Fisher-Yates shuffle of 0..count-1 into `order`. */
void random_permutation(uint64_t seed, uint64_t stream, uint32_t *order, size_t count);

/* Element `index` of the stream's uniform sequence, without a reader. */
double random_uniform_at(uint64_t seed, uint64_t stream, uint64_t index);

#endif
