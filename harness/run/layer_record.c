/* See layer_record.h. Neighbouring bins are added up until there are few enough: what is stored is for looking at, the
 * range was chosen from all of them. */
#include "run/layer_record.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#define COUNT_TEXT 21 /* digits of a u64, and a comma */

/* "[1,0,2]" of the thinned bins, each of `each` of the histogram's; release with memory_release. */
static int counts_text(const struct histogram *histogram, size_t each, char **text) {
    int status = 0;
    void *block;
    size_t used = 0;
    TRY(memory_take(&block, (histogram->bins / each + 1) * COUNT_TEXT + 3, 1));
    *text = block;
    for (size_t i = 0; i < histogram->bins; i += each) {
        uint64_t sum = 0;
        for (size_t k = i; k < i + each && k < histogram->bins; k++) sum += histogram->counts[k];
        used += (size_t)snprintf(*text + used, COUNT_TEXT + 1, "%c%llu", i ? ',' : '[', (unsigned long long)sum);
    }
    (*text)[used] = ']';
out:
    return status;
}

void record_layer_told(struct record *record, int stage, const struct technique_layer *layer) {
    const struct histogram *histogram = layer->inputs;
    char *text = NULL;
    struct layer_record row = {.stage = stage,
                               .layer = layer->name,
                               .format = layer->format,
                               .low = layer->low,
                               .high = layer->high,
                               .seen_low = NAN,
                               .seen_high = NAN,
                               .error_name = layer->error_name,
                               .error = layer->error,
                               .score_lost = layer->score_lost,
                               .bytes_f32 = (int64_t)layer->bytes_f32,
                               .bytes_packed = (int64_t)layer->bytes_packed};
    if (record->status < 0 || !layer->name || !layer->format) return;
    if (histogram && histogram->values) {
        row.seen_low = (double)histogram->low;
        row.seen_high = (double)histogram->high;
    }
    if (histogram && histogram->bins) {
        size_t each = (histogram->bins + LAYER_RECORD_BINS - 1) / LAYER_RECORD_BINS;
        int status = counts_text(histogram, each, &text);
        if (status < 0) {
            record->status = status;
            return;
        }
        row.histogram = text;
        row.histogram_low = histogram_edge(histogram, 0);
        row.histogram_width = (double)each * histogram->width;
    }
    record_layer(record, &row);
    memory_release(text);
}
