/* Texts in Unicode's normal form C and in lower case, before they are cut into words. Private to core/text. */
#ifndef NORMALIZE_H
#define NORMALIZE_H

#include <stddef.h>
#include <stdint.h>

enum normal_step {
    NORMAL_COMPOSED, /* NFC: canonical decomposition, marks in order, composition */
    NORMAL_LOWER     /* every character by itself: no final sigma */
};
#define NORMAL_STEPS_MAX 4

struct normal_steps {
    enum normal_step step[NORMAL_STEPS_MAX];
    size_t count;
};

struct normal_text {
    uint8_t *text;
    uint32_t *begin, *end; /* [bytes] what of the original became the character that a byte belongs to */
    size_t bytes;
};

/* Take a text through the steps. Bytes that are no UTF-8 stay as they are. E_MEMORY; E_LIMIT: more than 4 GB. */
int normal_text_open(struct normal_text *normal, const char *text, size_t bytes, const struct normal_steps *steps);
/* From bytes *begin .. *end-1 of the normalized text, at least one, to the smallest part of the original around them.
 */
void normal_text_place(const struct normal_text *normal, uint32_t *begin, uint32_t *end);
void normal_text_close(struct normal_text *normal); /* accepts a zeroed struct */

#endif
