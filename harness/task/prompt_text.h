/* Prompts as a language model reads them, alone and with the text that should follow. Private to harness/task. */
#ifndef PROMPT_TEXT_H
#define PROMPT_TEXT_H

#include "task/task.h"

/* The ids of a prompt, with what the tokenizer puts in front of a text but nothing that would end it; appended. */
int prompt_encode(const struct tokenizer *tokenizer, const char *prompt, struct encoding *encoding);

struct prompt_pair {
    const char *prompt, *reference;
};
/* One example a pair: prompt, a blank where the prompt does not end in white space, reference; then a line break when
 * `line`, and the tokenizer's end token, if it has one, when `ended`. Cut to max_tokens. E_LIMIT, E_MEMORY. */
int prompt_examples_open(struct task_examples *out, const struct tokenizer *tokenizer, const struct prompt_pair *pairs,
                         size_t count, size_t max_tokens, bool ended, bool line);

#endif
