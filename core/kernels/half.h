/* IEEE 754 binary16 and bfloat16 in plain C: conversion to nearest even and back. Kernels convert from them
 * (the scales of packed groups, weights in 16 bits), formats convert to them. Both are exact in f32. */
#ifndef HALF_H
#define HALF_H

#include <stdint.h>

/* Nearest even; beyond 65504 + half a step it becomes infinite; NaN stays NaN. */
uint16_t half_from_float(float value);
float half_to_float(uint16_t half);

/* The upper half of an f32, to nearest even; beyond the largest bf16 and half a step it becomes infinite; NaN stays
 * NaN. */
uint16_t bf16_from_float(float value);
float bf16_to_float(uint16_t bf16);

#endif
