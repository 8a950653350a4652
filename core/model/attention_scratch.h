/* Cutting the scratch of the attention layers that work in codes or halves. Private to core/model. */
#ifndef ATTENTION_SCRATCH_H
#define ATTENTION_SCRATCH_H

#include "base/memory.h"

/* The next `bytes` at *at, which moves on; from nothing it measures. */
static inline void *scratch_cut(uintptr_t *at, size_t bytes) {
    uintptr_t begin = *at;
    *at += size_round_up(bytes, MEMORY_ALIGN);
    return (void *)begin; /* NOLINT: of scratch that is there, or of nothing */
}

#endif
