/* Command lines of verbs (contract: arguments.h). */
#include "verbs/arguments.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/option.h"
#include "verbs/verbs.h"

enum { MAX_FLAGS = 64 };

static const char *flag_nearest(const struct flag *flags, const char *name) {
    const char *names[MAX_FLAGS + 2];
    size_t count = 0;
    for (; flags->name && count < MAX_FLAGS; flags++) names[count++] = flags->name;
    names[count++] = "help";
    names[count] = NULL;
    return word_nearest(names, name);
}

static void help_print(const struct flag *flags, const char *name) {
    const struct verb *verb = verb_find(name);
    printf("usage: runexp %s %s\n", name, verb ? verb->usage : "[options]");
    if (verb) printf("\n%c%s.\n", verb->summary[0] - 'a' + 'A', verb->summary + 1);
    printf("\n");
    for (; flags->name; flags++) {
        char left[96], letter[8] = "    ";
        if (flags->letter) snprintf(letter, sizeof letter, "-%c, ", flags->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, flags->name, flags->value ? " " : "",
                 flags->value ? flags->value : "");
        printf("  %-36s %s\n", left, flags->help);
    }
    printf("  %-36s %s\n", "    --help", "print this");
}

static bool choice_has(const char *choices, const char *word) {
    size_t length = strlen(word);
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, word, length) == 0 && (p[length] == '|' || p[length] == 0)) return length > 0;
    return false;
}

static int number_set(const struct flag *flag, const char *text) {
    int status = 0;
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    bool whole = flag->type == FLAG_INTEGER;
    if (end == text || *end || errno || !isfinite(number) || (whole && number != floor(number)))
        FAIL(E_ARGUMENT, "--%s expects %s (got \"%s\")", flag->name, whole ? "a whole number" : "a number", text);
    if (flag->low < flag->high && (number < flag->low || number > flag->high))
        FAIL(E_ARGUMENT, "--%s must be in %.10g..%.10g (got %s)", flag->name, flag->low, flag->high, text);
    if (whole && fabs(number) >= 9007199254740992.0)
        FAIL(E_ARGUMENT, "--%s is too large a number (got %s)", flag->name, text);
    if (whole) *(int64_t *)flag->target = (int64_t)number;
    else *(double *)flag->target = number;
out:
    return status;
}

static int flag_set(const struct flag *flag, const char *text) {
    int status = 0;
    switch (flag->type) {
    case FLAG_SWITCH: *(bool *)flag->target = true; break;
    case FLAG_TEXT:
        if (!*text) FAIL(E_ARGUMENT, "--%s expects %s (got an empty text)", flag->name, flag->value);
        *(const char **)flag->target = text;
        break;
    case FLAG_CHOICE:
        if (!choice_has(flag->value, text))
            FAIL(E_ARGUMENT, "--%s must be one of %s (got \"%s\")", flag->name, flag->value, text);
        *(const char **)flag->target = text;
        break;
    case FLAG_INTEGER:
    case FLAG_REAL: TRY(number_set(flag, text)); break;
    case FLAG_LIST: {
        struct flag_list *list = flag->target;
        if (list->count == list->capacity)
            FAIL(E_ARGUMENT, "--%s may be given at most %zu times", flag->name, list->capacity);
        list->items[list->count++] = text;
    }
    }
out:
    return status;
}

static const struct flag *flag_find(const struct flag *flags, const char *word, size_t length) {
    for (; flags->name; flags++) {
        if (strlen(flags->name) == length && strncmp(flags->name, word, length) == 0) return flags;
    }
    return NULL;
}

static const struct flag *letter_find(const struct flag *flags, char letter) {
    for (; flags->name; flags++)
        if (flags->letter == letter) return flags;
    return NULL;
}

int arguments_parse(const struct flag *flags, int *argc, char **argv) {
    int status = 0, kept = 1;
    for (int i = 1; i < *argc; i++) {
        char *word = argv[i];
        if (strcmp(word, "--") == 0) {
            while (++i < *argc) argv[kept++] = argv[i];
            break;
        }
        if (word[0] != '-' || !word[1]) {
            argv[kept++] = word;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            help_print(flags, argv[0]);
            return ARGUMENTS_HELP;
        }
        const struct flag *flag;
        const char *value = NULL;
        if (word[1] == '-') {
            char name[64];
            size_t length = strcspn(word + 2, "=");
            flag = flag_find(flags, word + 2, length);
            snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), word + 2);
            const char *nearest = flag ? NULL : flag_nearest(flags, name);
            if (!flag)
                FAIL(E_ARGUMENT, "unknown flag --%s%s%s%s; see runexp %s --help", name,
                     nearest ? ", did you mean --" : "", nearest ? nearest : "", nearest ? "?" : "", argv[0]);
            if (word[2 + length] == '=') value = word + 2 + length + 1;
        } else {
            flag = letter_find(flags, word[1]);
            if (!flag || word[2]) FAIL(E_ARGUMENT, "unknown flag %s; see runexp %s --help", word, argv[0]);
        }
        if (flag->type == FLAG_SWITCH && value) FAIL(E_ARGUMENT, "--%s takes no value (got \"%s\")", flag->name, value);
        if (flag->type != FLAG_SWITCH && !value) {
            if (++i == *argc) FAIL(E_ARGUMENT, "--%s expects %s", flag->name, flag->value);
            value = argv[i];
        }
        TRY(flag_set(flag, value));
    }
    *argc = kept;
out:
    return status;
}

int arguments_expect(int argc, char **argv, int low, int high, const char *what) {
    int status = 0;
    if (argc - 1 < low) FAIL(E_ARGUMENT, "%s expects %s; see runexp %s --help", argv[0], what, argv[0]);
    if (argc - 1 > high)
        FAIL(E_ARGUMENT, "%s expects %s (got \"%s\" too); see runexp %s --help", argv[0], what, argv[high + 1],
             argv[0]);
out:
    return status;
}
