/* small_wordnet DIR: write the synthetic WordNet folder that shell tests use as data. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "small_wordnet.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: small_wordnet DIR\n");
        return 2;
    }
    if (small_wordnet_write(argv[1], 80, 60) < 0) {
        fprintf(stderr, "small_wordnet: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}
