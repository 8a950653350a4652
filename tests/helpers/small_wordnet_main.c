/* small_wordnet DIR: write the synthetic WordNet folder that shell tests use as data. */
#include <stdio.h>

#include "base/error.h"
#include "small_wordnet.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: small_wordnet DIR\n");
        return 2;
    }
    if (small_wordnet_write(argv[1]) < 0) {
        fprintf(stderr, "small_wordnet: %s\n", error_text());
        return 1;
    }
    return 0;
}
