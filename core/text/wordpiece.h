/* WordPiece (Schuster and Nakajima 2012, as BERT uses it): what its readers hand to its encoder. Private to core/text.
 */
#ifndef WORDPIECE_H
#define WORDPIECE_H

#include "text/tokenizer_parts.h"

#define WORDPIECE_WORD_MAX 1000 /* characters a word may have before it is unknown, at most */

/* BERT's normalizer, and what the model does with a word. */
struct wordpiece_settings {
    bool clean;         /* drop control characters and U+FFFD, make white space blanks */
    bool split_chinese; /* every CJK ideograph is a word */
    bool strip_accents; /* decompose canonically and drop nonspacing marks */
    bool lower_case;
    bool decode_cleanup; /* no blank before . ? ! , n't 'm 's 've 're when decoding */
    size_t word_max;     /* a longer word, in characters, is unknown; at most WORDPIECE_WORD_MAX */
    const char *prefix;  /* of pieces that go on, "##"; borrowed during the call */
};

extern const struct tokenizer_traits wordpiece_traits;
extern const struct wordpiece_settings wordpiece_bert_settings; /* of the uncased models */

/* Once tokens, special and added are complete: the index of pieces, names, added tokens, and [CLS] … [SEP] as the
 * templates where the vocabulary has both and `frame` asks for it. E_FORMAT: no [UNK] token. */
int wordpiece_finish(struct tokenizer *tokenizer, const struct wordpiece_settings *settings, const char *unknown,
                     bool frame);

/* Of a finished tokenizer, to be changed before it is used; its prefix is NULL. */
struct wordpiece_settings *wordpiece_settings_of(struct tokenizer *tokenizer);

#endif
