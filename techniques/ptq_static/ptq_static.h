/* What the files of ptq_static share. */
#ifndef PTQ_STATIC_H
#define PTQ_STATIC_H

#include "technique.h"

#include "calibrate/calibrate.h"
#include "calibrate/observer.h"

#pragma GCC visibility push(hidden)

struct ptq_static_options {
    const char *calibrator, *granularity, *sensitivity;
    double percentile, averaging;
    int64_t bins, quantized_bins, examples, batch, max_tokens, sensitivity_examples, keep_worst;
    bool asymmetric, bias_correction;
    struct option_names layers, keep;
};

/* One linear layer that is to be quantized. */
struct ptq_static_layer {
    size_t linear, leader;                 /* indices in the model; leader: who was shown its input */
    struct activation_quantizer quantizer; /* of its input */
    double error, score_lost;              /* when it alone is quantized; NaN: not asked */
    uint64_t bytes_before, bytes_after;
    bool kept; /* in f32 after all */
};

struct ptq_static_means;
/* What packing a layer did, added up. */
struct ptq_static_rounded {
    const struct ptq_static_means *means; /* to correct biases with; NULL: they are left alone */
    double error, size;                   /* squares of what rounding did to weights, and of these */
    size_t corrected;                     /* layers */
};

struct ptq_static {
    struct technique_context *context;
    const struct ptq_static_options *options;
    struct calibration_plan plan;
    struct observer *observers; /* [linear_count]; open where a leader is */
    struct range *ranges;       /* [linear_count] of leaders */
    bool *leads;                /* [linear_count] */
    struct ptq_static_layer *layers;
    size_t layer_count, kept;
    const char *error_name, *error_unit;
    double score;    /* of the f32 model; NaN: not asked */
    double from, to; /* shares of the whole between which progress is told */
    struct ptq_static_rounded rounded;
};

/* E_INTERRUPTED when the host wants to stop. */
int ptq_static_progress(const struct ptq_static *work, double fraction, const char *text);

/* ptq_static_ranges.c: observers of all leaders, over the examples, then a range and a quantizer for each layer. */
int ptq_static_observe(struct ptq_static *work);

/* Put one layer of a model into int8 with its quantizer. rounded: NULL: not asked. */
int ptq_static_pack(const struct ptq_static *work, struct model *model, const struct ptq_static_layer *layer,
                    struct ptq_static_rounded *rounded);

/* ptq_static_sensitivity.c: error and score_lost of every layer, quantized alone; the keep_worst worst are kept. */
int ptq_static_measure(struct ptq_static *work);

/* ptq_static_bias.c: what quantizing takes from the mean of a layer's outputs goes into its bias. The means are those
 * of the f32 model: made before packing. `correct` takes the layer's weights (R,N) before and after; false: it has no
 * bias. */
struct ptq_static_means {
    double **exact, **rounded; /* [linear_count] sums over rows of inputs, as they are and quantized; of leaders */
    uint64_t *rows;            /* [linear_count] */
};
int ptq_static_means_open(struct ptq_static_means *means, struct ptq_static *work);
void ptq_static_means_close(struct ptq_static_means *means, const struct ptq_static *work);
bool ptq_static_correct(const struct ptq_static_means *means, const struct ptq_static_layer *layer,
                        struct linear *linear, const float *before, const float *after);

#pragma GCC visibility pop

#endif
