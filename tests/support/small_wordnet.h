/* A tiny made-up WordNet in the real one's file format, for tests and quick end-to-end experiments. */
#ifndef SMALL_WORDNET_H
#define SMALL_WORDNET_H

#include <stddef.h>

/* Write data.noun, data.verb, data.adj and data.adv into `folder` (created when absent): per_class synsets
 * of each of the eight classes plus other_count of a class that is not used, and other_count in each other
 * file. Every gloss holds a word that tells its class, except for one in ten. Same arguments, same bytes.
 * Returns 0, or -1 with errno. */
int small_wordnet_write(const char *folder, size_t per_class, size_t other_count);

#endif
