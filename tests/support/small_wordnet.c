/* Glosses from word lists of our own; see small_wordnet.h. */
#include "small_wordnet.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/random.h"

static const struct {
    int file;
    const char *cue[4];
} classes[8] = {
    {4, {"doing", "playing", "working", "moving"}},        {5, {"furry", "feathered", "burrowing", "swimming"}},
    {6, {"wooden", "metal", "handheld", "mechanical"}},    {10, {"spoken", "written", "printed", "recited"}},
    {15, {"northern", "coastal", "inland", "riverside"}},  {18, {"skilled", "elderly", "famous", "learned"}},
    {20, {"leafy", "flowering", "evergreen", "climbing"}}, {26, {"feverish", "restless", "calm", "weary"}},
};
static const char *const filler[] = {"small", "old",   "thing", "kind",  "sort",  "form",  "known", "from",
                                     "place", "with",  "many",  "other", "seen",  "early", "late",  "common",
                                     "found", "named", "after", "under", "often", "large", "plain", "rare"};
#define FILLERS (sizeof filler / sizeof *filler)

/* One synset line. cue: NULL for a gloss that tells nothing. */
static void line_write(FILE *file, struct random *random, unsigned offset, int lexicographer, char type,
                       const char *cue) {
    fprintf(file, "%08u %02d %c 01 word%u 0 000 | a", offset, lexicographer, type, offset);
    size_t words = 2 + random_below(random, 4), place = random_below(random, words);
    for (size_t i = 0; i < words; i++) {
        if (cue && i == place) fprintf(file, " %s", cue);
        fprintf(file, " %s", filler[random_below(random, FILLERS)]);
    }
    fprintf(file, " number %llu", (unsigned long long)random_below(random, 100000)); /* texts differ */
    if (random_below(random, 3) == 0) fputs("; \"they saw it; often\"", file);
    fputs("  \n", file);
}

int small_wordnet_write(const char *folder, size_t per_class, size_t other_count) {
    static const struct {
        const char *name;
        int lexicographer;
        char type;
    } files[] = {{"data.noun", 3, 'n'}, {"data.verb", 29, 'v'}, {"data.adj", 0, 's'}, {"data.adv", 2, 'r'}};
    if (mkdir(folder, 0777) && errno != EEXIST) return -1;
    for (size_t f = 0; f < 4; f++) {
        char path[4096];
        if (snprintf(path, sizeof path, "%s/%s", folder, files[f].name) >= (int)sizeof path) return -1;
        FILE *file = fopen(path, "w");
        if (!file) return -1;
        struct random random;
        random_open(&random, 7, f);
        fputs("  1 Made-up glosses in the format of a WordNet data file.  \n", file);
        unsigned offset = 1740;
        for (size_t i = 0; i < other_count; i++, offset += 97)
            line_write(file, &random, offset, files[f].lexicographer, files[f].type, NULL);
        for (size_t i = 0; f == 0 && i < 8 * per_class; i++, offset += 97) {
            const char *cue = classes[i % 8].cue[random_below(&random, 4)];
            line_write(file, &random, offset, classes[i % 8].file, 'n', random_below(&random, 10) ? cue : NULL);
        }
        int failed = ferror(file);
        if (fclose(file) || failed) return -1;
    }
    return 0;
}
