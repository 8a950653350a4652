/* Layers that a stage tells of, on their way into a record: histograms are thinned and become text. */
#ifndef LAYER_RECORD_H
#define LAYER_RECORD_H

#include "run/record.h"
#include "technique.h"

#define LAYER_RECORD_BINS 256 /* of a stored histogram, at most */

/* Add a layer as of stage `stage`; a layer without a name or format is left out. Errors are in record->status. */
void record_layer_told(struct record *record, int stage, const struct technique_layer *layer);

#endif
