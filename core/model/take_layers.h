/* A smaller model out of a larger one: chosen layers, and of each, where it is to be narrower, a part of every matrix.
 *
 * This is how a student starts from its teacher: whole layers as DistilBERT does (Sanh et al. 2019, section 2), which
 * compute from the first step on; parts of them where the width differs, which keep what directions of the residual
 * stream, heads and hidden units mean to each other, and are a better beginning than random numbers.
 */
#ifndef TAKE_LAYERS_H
#define TAKE_LAYERS_H

#include "model/model.h"

/* Make `taken` a new editable f32 model whose block i is block layers[i] of `source`, any family, any order. `config`
 * says its sizes, or NULL: those of the source with `count` layers. It may have a smaller width, feed_forward, heads,
 * key_value_heads or head_width than the source, and fewer heads of enum model_head; all else must be as there.
 *
 * Everything outside the blocks, and the metadata, comes from the source as well. A narrower model takes the leading
 * part of each matrix, counted over heads as heads: head h the leading columns of the head at its place in its group of
 * keys and values (of both halves where positions are rotary). Packed layers are taken with the values that they
 * unpack to. E_ARGUMENT: no layers, or one that the source does not have; E_SHAPE: a size that the source cannot give,
 * or an inconsistent config; E_NUMERIC: a value is not finite; E_MEMORY. `taken` needs model_close after success only.
 */
int model_take_layers(struct model *taken, const struct model *source, const struct model_config *config,
                      const size_t *layers, size_t count);

/* Could a model of configuration `to` be taken from one of `from`? E_SHAPE names the size that it cannot give. */
int model_take_check(const struct model_config *to, const struct model_config *from);

/* `count` of `from` layers, spread evenly from the first to the last: i·(from-1)/(count-1), rounded; one: the first.
 * 6 of 12 are 0, 2, 4, 7, 9, 11, as DistilBERT took them. layers [count]; 1 <= count <= from. */
void layers_spread(size_t from, size_t count, size_t *layers);

#endif
