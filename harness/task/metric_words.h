/* Texts as lists of word numbers, for metrics that compare words. Equal words have equal numbers within one pool. */
#ifndef METRIC_WORDS_H
#define METRIC_WORDS_H

#include "text/token_map.h"

struct word_list {
    uint32_t *id; /* [count] */
    size_t count, capacity;
};

/* Append a word. E_MEMORY, E_LIMIT. */
int word_list_add(struct word_list *list, struct text_pool *pool, const char *word, size_t bytes);
/* Append the words of a text that holds single blanks between them. */
int word_list_split(struct word_list *list, struct text_pool *pool, const char *text);
void word_list_close(struct word_list *list); /* accepts a zeroed list */

/* Bytes of the white space character (as Python's str.split sees it) that begins at `text`; 0: none does. */
size_t blank_bytes(const char *text);
/* A text as Python's str.lower makes it: all of Unicode, a capital sigma at a word's end to a final one. Malformed
 * bytes stay as they are. Release with memory_release. E_MEMORY. */
int text_lower(const char *text, char **lower);

#endif
