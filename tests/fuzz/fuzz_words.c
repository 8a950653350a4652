/* WordPiece and byte-level BPE out of their own files: the input is a vocab.txt, or a vocab.json and a merges.txt, and
 * a text, with a zero byte after each; the first byte says which. What is accepted encodes the text, which is any
 * bytes, alone and as a pair with itself.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The next part of the input, which it is cut off from; without its zero byte. */
static const char *next_part(const uint8_t **data, size_t *size, size_t *bytes) {
    const uint8_t *part = *data, *end = memchr(part, 0, *size);
    *bytes = end ? (size_t)(end - part) : *size;
    *data += end ? *bytes + 1 : *size;
    *size -= end ? *bytes + 1 : *size;
    return (const char *)part;
}

static void use(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    struct encoding encoding = {.with_offsets = true};
    char *copy = malloc(bytes + 1), *decoded;
    int32_t *types = NULL;
    CHECK(tokenizer_append(tokenizer, text, bytes, true, false, &encoding) == 0, "%s", error_text());
    for (size_t i = 0; i < encoding.count; i++) {
        CHECK(encoding.begin[i] <= encoding.end[i] && encoding.end[i] <= bytes, "token %zu is outside the text", i);
        CHECK((size_t)encoding.ids[i] < tokenizer_vocabulary(tokenizer), "token %zu does not exist", i);
    }
    CHECK(tokenizer_decode(tokenizer, encoding.ids, encoding.count, &decoded) == 0, "%s", error_text());
    memory_release(decoded);
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    encoding.count = 0;
    int status = tokenizer_append_pair(tokenizer, copy, copy, 7, false, &encoding, &types);
    CHECK(status == 0 || status == E_UNSUPPORTED, "%s", error_text());
    CHECK(encoding.count <= 7, "%zu tokens are more than asked for", encoding.count);
    memory_release(types);
    free(copy);
    encoding_close(&encoding);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tokenizer *tokenizer;
    size_t first_bytes, second_bytes, text_bytes;
    int status;
    if (!size) return 0;
    uint8_t how = *data++;
    size--;
    const char *first = next_part(&data, &size, &first_bytes);
    if (how & 1) {
        status = tokenizer_parse_vocab(&tokenizer, first, first_bytes, how & 2);
    } else {
        const char *second = next_part(&data, &size, &second_bytes);
        status = tokenizer_parse_merges(&tokenizer, first, first_bytes, second, second_bytes);
    }
    const char *text = next_part(&data, &size, &text_bytes);
    if (status == 0) use(tokenizer, text, text_bytes);
    tokenizer_free(tokenizer);
    return 0;
}
