/* See metrics.h: Porter's stemmer (An algorithm for suffix stripping, 1980), with the changes of NLTK's default mode:
 * words of one or two letters stay, a list of irregular words, "ies" and "ied" after one letter, y to i only after a
 * consonant that is not the first letter, and the rules bli, fulli and logi of step 2.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "task/metrics.h"

struct stem {
    char *text;
    size_t length;
};

/* y is one at the start and after a vowel. */
static bool is_consonant_after(char c, bool after_consonant) {
    if (c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u') return false;
    return c != 'y' || !after_consonant;
}

static bool is_consonant(const struct stem *word, size_t i) {
    size_t from = i;
    while (from > 0 && word->text[from] == 'y') from--; /* only y asks for what is before it */
    bool consonant = false;
    for (; from <= i; from++) consonant = is_consonant_after(word->text[from], consonant);
    return consonant;
}

/* Porter's m: how often a consonant follows a vowel. */
static size_t measure(const struct stem *word) {
    size_t count = 0;
    bool before = false, consonant;
    for (size_t i = 0; i < word->length; i++, before = consonant) {
        consonant = is_consonant_after(word->text[i], before);
        count += i > 0 && consonant && !before;
    }
    return count;
}

static bool has_vowel(const struct stem *word) {
    bool consonant = false;
    for (size_t i = 0; i < word->length; i++) {
        consonant = is_consonant_after(word->text[i], consonant);
        if (!consonant) return true;
    }
    return false;
}

static bool double_consonant(const struct stem *word) {
    size_t n = word->length;
    return n >= 2 && word->text[n - 1] == word->text[n - 2] && is_consonant(word, n - 1);
}

/* Consonant, vowel, consonant other than w, x, y; or just vowel and consonant. */
static bool ends_short(const struct stem *word) {
    size_t n = word->length;
    if (n == 2) return !is_consonant(word, 0) && is_consonant(word, 1);
    return n >= 3 && is_consonant(word, n - 3) && !is_consonant(word, n - 2) && is_consonant(word, n - 1) &&
           !strchr("wxy", word->text[n - 1]);
}

static bool ends_with(const struct stem *word, const char *suffix) {
    size_t n = strlen(suffix);
    return word->length >= n && memcmp(word->text + word->length - n, suffix, n) == 0;
}

static struct stem without(const struct stem *word, size_t letters) {
    return (struct stem){word->text, word->length - letters};
}

static void replace(struct stem *word, size_t letters, const char *by) {
    word->length -= letters;
    memcpy(word->text + word->length, by, strlen(by)); /* at most one byte longer than what it replaces */
    word->length += strlen(by);
}

struct rule {
    const char *suffix, *by;
};

/* The first rule whose suffix fits decides: it is applied when the rest has measure >= least, else nothing is. */
static void rules_apply(struct stem *word, const struct rule *rules, size_t count, size_t least) {
    for (size_t i = 0; i < count; i++) {
        if (!ends_with(word, rules[i].suffix)) continue;
        size_t letters = strlen(rules[i].suffix);
        struct stem rest = without(word, letters);
        if (measure(&rest) >= least) replace(word, letters, rules[i].by);
        return;
    }
}
#define RULES(rules) (rules), sizeof(rules) / sizeof *(rules)

static void step_1a(struct stem *word) {
    static const struct rule rules[] = {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}};
    if (ends_with(word, "ies") && word->length == 4) replace(word, 3, "ie");
    else rules_apply(word, RULES(rules), 0);
}

static void step_1b(struct stem *word) {
    if (ends_with(word, "ied")) {
        replace(word, 3, word->length == 4 ? "ie" : "i");
        return;
    }
    if (ends_with(word, "eed")) {
        struct stem rest = without(word, 3);
        if (measure(&rest) > 0) replace(word, 3, "ee");
        return;
    }
    struct stem rest = ends_with(word, "ed") ? without(word, 2) : ends_with(word, "ing") ? without(word, 3) : *word;
    if (rest.length == word->length || !has_vowel(&rest)) return;
    *word = rest;
    if (ends_with(word, "at") || ends_with(word, "bl") || ends_with(word, "iz")) replace(word, 0, "e");
    else if (double_consonant(word)) word->length -= strchr("lsz", word->text[word->length - 1]) == NULL;
    else if (measure(word) == 1 && ends_short(word)) replace(word, 0, "e");
}

static void step_1c(struct stem *word) {
    if (ends_with(word, "y") && word->length > 2 && is_consonant(word, word->length - 2)) replace(word, 1, "i");
}

static void step_2(struct stem *word) {
    static const struct rule rules[] = {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
                                        {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
                                        {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
                                        {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
                                        {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
                                        {"fulli", "ful"}};
    struct stem rest = without(word, word->length < 4 ? 0 : 4);
    if (ends_with(word, "alli") && measure(&rest) > 0) {
        replace(word, 4, "al");
        step_2(word);
        return;
    }
    if (ends_with(word, "logi")) { /* its condition looks at the word with the l */
        rest = without(word, 3);
        if (measure(&rest) > 0) replace(word, 4, "log");
        return;
    }
    rules_apply(word, RULES(rules), 1);
}

static void step_3(struct stem *word) {
    static const struct rule rules[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
                                        {"ical", "ic"},  {"ful", ""},   {"ness", ""}};
    rules_apply(word, RULES(rules), 1);
}

static void step_4(struct stem *word) {
    static const struct rule before[] = {{"al", ""},    {"ance", ""}, {"ence", ""}, {"er", ""},
                                         {"ic", ""},    {"able", ""}, {"ible", ""}, {"ant", ""},
                                         {"ement", ""}, {"ment", ""}, {"ent", ""}};
    static const struct rule after[] = {{"ou", ""},  {"ism", ""}, {"ate", ""}, {"iti", ""},
                                        {"ous", ""}, {"ive", ""}, {"ize", ""}};
    if (ends_with(word, "ion")) {
        struct stem rest = without(word, 3);
        if (measure(&rest) > 1 && (ends_with(&rest, "s") || ends_with(&rest, "t"))) *word = rest;
        return;
    }
    size_t length = word->length;
    rules_apply(word, RULES(before), 2);
    if (word->length == length) rules_apply(word, RULES(after), 2);
}

static void step_5(struct stem *word) {
    if (ends_with(word, "e")) {
        struct stem rest = without(word, 1);
        size_t m = measure(&rest);
        if (m > 1 || (m == 1 && !ends_short(&rest))) *word = rest;
    }
    struct stem rest = without(word, 1);
    if (ends_with(word, "ll") && measure(&rest) > 1) *word = rest;
}

size_t porter_stem(char *text, size_t length) {
    static const struct rule irregular[] = {
        {"sky", "sky"},        {"skies", "sky"},       {"dying", "die"},        {"lying", "lie"},
        {"tying", "tie"},      {"news", "news"},       {"innings", "inning"},   {"inning", "inning"},
        {"outings", "outing"}, {"outing", "outing"},   {"cannings", "canning"}, {"canning", "canning"},
        {"howe", "howe"},      {"proceed", "proceed"}, {"exceed", "exceed"},    {"succeed", "succeed"}};
    struct stem word = {text, length};
    for (size_t i = 0; i < sizeof irregular / sizeof *irregular; i++)
        if (strlen(irregular[i].suffix) == length && memcmp(irregular[i].suffix, text, length) == 0) {
            replace(&word, length, irregular[i].by);
            return word.length;
        }
    if (length <= 2) return length;
    step_1a(&word);
    step_1b(&word);
    step_1c(&word);
    step_2(&word);
    step_3(&word);
    step_4(&word);
    step_5(&word);
    return word.length;
}
