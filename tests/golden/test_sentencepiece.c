/* SentencePiece BPE against the library: ids, ids with the begin token, and decoded text of every case. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "golden_files.h"
#include "tokenizer_cases.h"

static void test_tok512(void **state) {
    (void)state;
    char path[512], *model;
    size_t bytes;
    struct tokenizer *tokenizer;
    if (!golden_path(path, sizeof path, "tokenizers/tok512.jsonl")) skip();
    if (!data_path(path, sizeof path, "models/stories260K/tok512.model")) skip();
    assert_int_equal(file_read(path, 1u << 28, &model, &bytes), 0);
    if (tokenizer_parse_sentencepiece(&tokenizer, model, bytes) < 0) fail_msg("%s", error_text());
    assert_int_equal(tokenizer_kind(tokenizer), TOKENIZER_SENTENCE_BPE);
    tokenizer_cases_check(tokenizer, "tok512", true);
    tokenizer_cases_check(tokenizer, "tok512", false); /* SentencePiece never looks for special tokens in a text */
    tokenizer_free(tokenizer);
    memory_release(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tok512)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
