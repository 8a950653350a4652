/* Any bytes through tokenizer_parse: what is accepted prints as a file that parses to the same print, and
 * encodes and decodes the input itself without loss unless it lower-cases. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const struct tokenizer *tokenizer, bool lower_case, const uint8_t *data, size_t size) {
    size_t count;
    char *text;
    int32_t *ids = calloc(size + 1, sizeof *ids);
    CHECK(ids && tokenizer_encode(tokenizer, (const char *)data, size, ids, size, &count) == 0, "%s", error_text());
    CHECK(count <= size, "%zu ids of %zu bytes", count, size);
    CHECK(tokenizer_decode(tokenizer, ids, count, &text) == 0, "%s", error_text());
    if (!lower_case) CHECK(memcmp(text, data, size) == 0, "the round trip changed the text");
    memory_release(text);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tokenizer *tokenizer, *again;
    if (tokenizer_parse(&tokenizer, (const char *)data, size) == 0) {
        char *first, *second;
        size_t first_bytes, second_bytes;
        CHECK(tokenizer_print(tokenizer, &first, &first_bytes) == 0, "%s", error_text());
        CHECK(tokenizer_parse(&again, first, first_bytes) == 0, "%s", error_text());
        CHECK(tokenizer_print(again, &second, &second_bytes) == 0, "%s", error_text());
        CHECK(first_bytes == second_bytes && memcmp(first, second, first_bytes) == 0, "printing is not stable");
        bool lower_case = strstr(first, "\"normalizer\":{\"type\":\"Lowercase\"}") != NULL;
        check_round_trip(tokenizer, lower_case, data, size);
        memory_release(first);
        memory_release(second);
        tokenizer_free(again);
    }
    tokenizer_free(tokenizer);
    return 0;
}
