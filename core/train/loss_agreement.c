/* Two passes of an example (see loss.h). With a = log p and b = log q of the two,
 *
 *   d ½[KL(p‖q) + KL(q‖p)] / dz_p = ½ [p (a - b - KL(p‖q)) + p - q],  and with p and q exchanged for z_q.
 *
 * A row has as many logits as there are classes, so one thread does it all, in double. */
#include <math.h>

#include "train/loss.h"

static double log_sum(size_t V, const float *z) {
    double top = (double)z[0], sum = 0;
    for (size_t c = 1; c < V; c++)
        if (!((double)z[c] <= top)) top = (double)z[c]; /* a NaN shows in the loss */
    for (size_t c = 0; c < V; c++) sum += exp((double)z[c] - top);
    return top + log(sum);
}

/* ½ of the two divergences; gradients times `share`. */
static double pair_loss(size_t V, const float *z, double share, float *gradient) {
    const float *other = z + V;
    double lse = log_sum(V, z), lse_other = log_sum(V, other), shift = lse - lse_other, forth = 0, back = 0;
    for (size_t c = 0; c < V; c++) {
        double ahead = (double)z[c] - (double)other[c] - shift; /* log p - log q */
        forth += exp((double)z[c] - lse) * ahead;
        back -= exp((double)other[c] - lse_other) * ahead;
    }
    for (size_t c = 0; c < V; c++) {
        double p = exp((double)z[c] - lse), q = exp((double)other[c] - lse_other);
        double ahead = (double)z[c] - (double)other[c] - shift;
        gradient[c] = (float)(share / 2 * (p * (ahead - forth) + p - q));
        gradient[V + c] = (float)(share / 2 * (q * (-ahead - back) + q - p));
    }
    return (forth + back) / 2;
}

double loss_agreement(const float *logits, size_t pairs, size_t V, const int32_t *labels, const float *class_weight,
                      double weight, double scale, float *gradient) {
    double all = 0, sum = 0;
    for (size_t i = 0; i < pairs; i++) all += class_weight ? (double)class_weight[labels[2 * i]] : 1;
    for (size_t i = 0; i < pairs; i++) {
        double share = all > 0 ? weight * (class_weight ? (double)class_weight[labels[2 * i]] : 1) / all : 0;
        sum += share * pair_loss(V, logits + 2 * i * V, share * scale, gradient + 2 * i * V);
    }
    return sum;
}
