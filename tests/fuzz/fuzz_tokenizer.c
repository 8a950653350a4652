/* Any bytes through tokenizer_parse: what is accepted encodes and decodes the input itself with offsets inside it;
 * byte- level BPE prints as a file that parses to the same print, and loses nothing of the input where it has all bytes
 * and does not normalize.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_encoding(const struct tokenizer *tokenizer, const uint8_t *data, size_t size, bool lossless) {
    struct encoding encoding = {.with_offsets = true};
    char *text;
    for (int literal = 0; literal < 2; literal++) {
        encoding.count = 0;
        CHECK(tokenizer_append(tokenizer, (const char *)data, size, !literal, literal, &encoding) == 0, "%s",
              error_text());
        for (size_t i = 0; i < encoding.count; i++)
            CHECK(encoding.begin[i] <= encoding.end[i] && encoding.end[i] <= size, "token %zu is outside the text", i);
    }
    CHECK(tokenizer_decode(tokenizer, encoding.ids, encoding.count, &text) == 0, "%s", error_text());
    if (lossless) CHECK(memcmp(text, data, size) == 0, "the round trip changed the text");
    memory_release(text);
    encoding_close(&encoding);
}

static bool has_every_byte(const struct tokenizer *tokenizer) {
    for (unsigned byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        size_t count;
        CHECK(tokenizer_encode(tokenizer, &text, 1, NULL, 0, &count) == 0, "%s", error_text());
        if (count != 1) return false;
    }
    return true;
}

static void check_print(const struct tokenizer *tokenizer, bool *normalizes) {
    struct tokenizer *again;
    char *first, *second;
    size_t first_bytes, second_bytes;
    CHECK(tokenizer_print(tokenizer, &first, &first_bytes) == 0, "%s", error_text());
    CHECK(tokenizer_parse(&again, first, first_bytes) == 0, "%s", error_text());
    CHECK(tokenizer_print(again, &second, &second_bytes) == 0, "%s", error_text());
    CHECK(first_bytes == second_bytes && memcmp(first, second, first_bytes) == 0, "printing is not stable");
    *normalizes = strstr(first, "\"normalizer\":null") == NULL;
    memory_release(first);
    memory_release(second);
    tokenizer_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tokenizer *tokenizer;
    if (tokenizer_parse(&tokenizer, (const char *)data, size) == 0) {
        bool normalizes = true;
        if (tokenizer_kind(tokenizer) == TOKENIZER_BYTE_BPE) check_print(tokenizer, &normalizes);
        check_encoding(tokenizer, data, size, !normalizes && has_every_byte(tokenizer));
    }
    tokenizer_free(tokenizer);
    return 0;
}
