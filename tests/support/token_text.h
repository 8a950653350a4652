/* What a tokenizer makes of a text, and of ids, for comparing with what is written down. */
#ifndef TOKEN_TEXT_H
#define TOKEN_TEXT_H

#include "text/tokenizer.h"

/* ids as "3 4 5", of a text without special tokens; good until the next call. */
const char *ids_text(const struct tokenizer *tokenizer, const char *text);
/* The test fails unless the ids' text is the expected one. */
void check_decoded(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, const char *expected);

#endif
