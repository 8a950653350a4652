/* See token_text.h. */
#include "token_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

const char *ids_text(const struct tokenizer *tokenizer, const char *text) {
    static char out[1 << 12];
    struct encoding encoding = {0};
    size_t used = 0;
    out[0] = 0;
    assert_int_equal(tokenizer_append(tokenizer, text, strlen(text), false, true, &encoding), 0);
    for (size_t i = 0; i < encoding.count; i++)
        used += (size_t)snprintf(out + used, sizeof out - used, "%s%d", i ? " " : "", (int)encoding.ids[i]);
    encoding_close(&encoding);
    return out;
}

void check_decoded(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, const char *expected) {
    char *text;
    assert_int_equal(tokenizer_decode(tokenizer, ids, count, &text), 0);
    assert_string_equal(text, expected);
    memory_release(text);
}
