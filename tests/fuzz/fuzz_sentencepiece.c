/* A SentencePiece model and a text: two bytes of the model's length, the model, the text. What is accepted encodes any
 * text twice alike, with ids inside the vocabulary and places inside the text, in order, and decodes what it encoded.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_sentencepiece_text(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    struct encoding first = {.with_offsets = true}, second = {0};
    char *decoded;
    size_t vocabulary = tokenizer_vocabulary(tokenizer);
    CHECK(tokenizer_append(tokenizer, text, bytes, true, true, &first) == 0, "%s", error_text());
    CHECK(tokenizer_append(tokenizer, text, bytes, true, true, &second) == 0, "%s", error_text());
    CHECK(first.count == second.count, "%zu and %zu tokens", first.count, second.count);
    for (size_t i = 0; i < first.count; i++) {
        CHECK(first.ids[i] == second.ids[i], "token %zu", i);
        CHECK(first.ids[i] >= 0 && (size_t)first.ids[i] < vocabulary, "token %zu is %d", i, first.ids[i]);
        CHECK(first.begin[i] <= first.end[i] && first.end[i] <= bytes, "token %zu lies outside the text", i);
        CHECK(i == 0 || first.begin[i] >= first.begin[i - 1], "token %zu begins before the one before", i);
    }
    CHECK(tokenizer_decode(tokenizer, first.ids, first.count, &decoded) == 0, "%s", error_text());
    memory_release(decoded);
    encoding_close(&first);
    encoding_close(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tokenizer *tokenizer;
    if (size < 2) return 0;
    size_t model = (size_t)(data[0] | data[1] << 8);
    if (model > size - 2) model = size - 2;
    if (tokenizer_parse_sentencepiece(&tokenizer, data + 2, model) == 0) {
        check_sentencepiece_text(tokenizer, (const char *)data + 2 + model, size - 2 - model);
        check_sentencepiece_text(tokenizer, (const char *)data, size);
    }
    tokenizer_free(tokenizer);
    return 0;
}
