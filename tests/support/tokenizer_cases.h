/* Tokenizers against golden files: tokenizers/cases.jsonl holds texts, tokenizers/NAME.jsonl what NAME makes of them.
 */
#ifndef TOKENIZER_CASES_H
#define TOKENIZER_CASES_H

#include <stdbool.h>
#include <stddef.h>

#include "text/tokenizer.h"

/* DIR/name in `path`, DIR from DATA or beside the checkout; false, after printing "skipped: …", when it is not there.
 */
bool data_path(char *path, size_t size, const char *name);

/* Every case's ids, ids with special tokens and decoded text are equal; fails with the first case that is not.
 * `literal` as for tokenizer_append. At least one case must be there. */
void tokenizer_cases_check(const struct tokenizer *tokenizer, const char *name, bool literal);

#endif
