/* A set of texts with a number each: finds duplicates among thousands of cells in linear time. */
#ifndef TEXT_INDEX_H
#define TEXT_INDEX_H

#include <stdbool.h>
#include <stddef.h>

struct text_index {
    struct text_slot {
        const char *text; /* borrowed; NULL: free */
        size_t value;
    } * slots;
    size_t count, capacity; /* a power of two */
};

/* Put (text, value) in unless the text is there; *found is the value that stands there, *fresh whether it is new. */
int text_index_put(struct text_index *index, const char *text, size_t value, size_t *found, bool *fresh);
void text_index_close(struct text_index *index); /* accepts a zeroed index */

#endif
