/* Moving a factor per channel from the input of linear layers into what makes that input, so that the model computes
 * the same and its activations or weights get other ranges: what SmoothQuant (Xiao et al. 2023), AWQ and cross-layer
 * range equalisation (Nagel et al. 2019) have in common.
 *
 * Every block has four inputs whose producer may take the factor s: activations become x/s, columns of the consumers'
 * weights W·s.
 *   norm_attention  a pre-norm block's first norm → query, key, value. Exact: gain and bias are divided.
 *   value           value → attention_output. Exact: attention averages values, so what divides a row of the value
 *                   layer divides that channel of every head that shares it; those columns must then share a factor.
 *   norm_feed       a pre-norm block's second norm → gate, up. Exact.
 *   up              up → down. Exact with ReLU (positive factors pass through) and with a gate (silu(gate)·up is
 *                   linear in up); not with GELU.
 * In post-norm models (BERT, DistilBERT, OPT-350M) a norm's output is also what the next residual sum adds, so that no
 * factor can be taken out of it: those two inputs are listed with a reason.
 */
#ifndef FOLD_H
#define FOLD_H

#include "model/model.h"

enum fold_kind { FOLD_NORM_ATTENTION, FOLD_VALUE, FOLD_NORM_FEED, FOLD_UP, FOLD_KINDS };
const char *fold_kind_name(enum fold_kind kind); /* "norm_attention", … */

struct fold_site {
    enum fold_kind kind;
    size_t block;
    size_t consumer[3], consumers; /* indices into model->linears, the leader of their input first */
    size_t source;                 /* value, up: index of the layer whose rows are divided */
    size_t channels;               /* factors: C; K·D; F */
    size_t columns;                /* of each consumer */
    const char *reason;            /* why no factor can be moved; NULL: it can */
};

/* All sites, block by block in order of execution: sites [FOLD_KINDS·layers]. */
void fold_sites(const struct model *model, struct fold_site *sites);

/* The factor that column `column` of a site's consumers takes, 0..channels-1. */
size_t fold_channel(const struct model *model, const struct fold_site *site, size_t column);

/* most[channels] = largest |w| of the consumers' columns, or of the source's row, that go with each channel. Layers
 * have f32 values. */
void fold_consumer_absmax(const struct model *model, const struct fold_site *site, float *most);
void fold_source_absmax(const struct model *model, const struct fold_site *site, float *most);
/* From the largest magnitude of each column of the input to that of each channel. */
void fold_channel_absmax(const struct model *model, const struct fold_site *site, const float *columns, float *most);

/* E_UNSUPPORTED: a layer of the site is packed, or the model is not editable; the text names it. */
int fold_check(const struct model *model, const struct fold_site *site);
/* Move factors [channels], all positive and finite, of a site without a reason that fold_check let pass. */
void fold_apply(struct model *model, const struct fold_site *site, const float *factor);

#endif
