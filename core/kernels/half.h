/* IEEE 754 binary16 in plain C: conversion to nearest even and back. Kernels convert from it (the scales
 * of packed groups), formats convert to it. Every half is exact in f32. */
#ifndef HALF_H
#define HALF_H

#include <stdint.h>

/* Nearest even; beyond 65504 + half a step it becomes infinite; NaN stays NaN. */
uint16_t half_from_float(float value);
float half_to_float(uint16_t half);

#endif
