/* See prompt_text.h. A prompt and its reference are tokenized as one text, so that a token may not begin in one and end
 * in the other but where the tokenizer itself would have it so. */
#include "task/prompt_text.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "task/example_arrays.h"

int prompt_encode(const struct tokenizer *tokenizer, const char *prompt, struct encoding *encoding) {
    int status = 0;
    struct tokenizer_special special = tokenizer_special(tokenizer);
    encoding->with_offsets = true;
    TRY(tokenizer_append(tokenizer, prompt, strlen(prompt), true, false, encoding));
    while (encoding->count > 1 && encoding->end[encoding->count - 1] == 0) {
        int32_t last = encoding->ids[encoding->count - 1];
        if (last < 0 || (last != special.end && last != special.sep)) break;
        encoding->count--;
    }
out:
    return status;
}

static bool ends_blank(const char *text) {
    size_t length = strlen(text);
    return length == 0 || strchr(" \t\r\n", text[length - 1]) != NULL;
}

/* The ids of one pair into encoding, which is emptied first. */
static int pair_encode(const struct tokenizer *tokenizer, const struct prompt_pair *pair, bool line,
                       struct encoding *encoding) {
    int status = 0;
    void *block = NULL;
    size_t room = strlen(pair->prompt) + strlen(pair->reference) + 3;
    TRY(memory_take(&block, room, 1));
    char *text = block;
    snprintf(text, room, "%s%s%s%s", pair->prompt, ends_blank(pair->prompt) ? "" : " ", pair->reference,
             line ? "\n" : "");
    encoding->count = 0;
    TRY(prompt_encode(tokenizer, text, encoding));
out:
    memory_release(block);
    return status;
}

int prompt_examples_open(struct task_examples *out, const struct tokenizer *tokenizer, const struct prompt_pair *pairs,
                         size_t count, size_t max_tokens, bool ended, bool line) {
    int status = 0;
    struct encoding encoding = {0};
    struct example_arrays *arrays;
    int32_t end = tokenizer_special(tokenizer).end;
    size_t used = 0, slots, kept = 0;
    *out = (struct task_examples){0};
    TRY(size_multiply(count, max_tokens, &slots));
    TRY(example_arrays_open(out, count, slots, &arrays));
    for (size_t i = 0; i < count; i++) {
        TRY(pair_encode(tokenizer, &pairs[i], line, &encoding));
        size_t length = encoding.count < max_tokens ? encoding.count : max_tokens;
        memcpy(arrays->ids + used, encoding.ids, length * sizeof *arrays->ids);
        if (ended && end >= 0 && length < max_tokens) arrays->ids[used + length++] = end;
        if (length < 2) continue; /* nothing to predict */
        used += length;
        arrays->offset[++kept] = (uint32_t)used;
    }
    if (!kept) FAIL(E_FORMAT, "no prompt with its reference has two tokens: nothing to predict");
    void *block = arrays->ids;
    TRY(memory_resize(&block, used, sizeof *arrays->ids));
    arrays->ids = block;
    example_arrays_view(out, kept, 0, false);
out:
    encoding_close(&encoding);
    if (status < 0) task_examples_close(out);
    return status;
}
