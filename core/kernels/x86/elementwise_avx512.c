/* GELU, softmax, layer norm, addition and AdamW with AVX-512: the vector operations that the shared bodies
 * in elementwise.inc and training.inc are written with. Where the CPU has none, the tests compile this file over an
 * emulation (EMULATE_AVX512). */
#if defined(__x86_64__) || defined(EMULATE_AVX512)
#include "kernels/kernels.h"
#include "kernels/variants.h"

#if !defined(EMULATE_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define VARIANT(name) name##_avx512
#define VEC 16
typedef __m512 vec;

INLINE vec vec_load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void vec_store(float *y, vec a) { _mm512_storeu_ps(y, a); }
INLINE vec vec_set(float a) { return _mm512_set1_ps(a); }
INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
/* 1 / a of 2^-126 < a < 2^126 within 2^-23: an estimate of 14 bits and one step of Newton's, a third of a division. */
INLINE vec vec_reciprocal(vec a) {
#if defined(EMULATE_AVX512)
    return _mm512_div_ps(_mm512_set1_ps(1.0f), a);
#else
    __m512 estimate = _mm512_rcp14_ps(a);
    return _mm512_mul_ps(estimate, _mm512_fnmadd_ps(a, estimate, _mm512_set1_ps(2.0f)));
#endif
}
INLINE vec vec_sqrt(vec a) { return _mm512_sqrt_ps(a); }
INLINE vec vec_fmadd(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec vec_fnmadd(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
/* With a NaN in b the result is b. */
INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vec_abs(vec a) { return _mm512_abs_ps(a); }
INLINE vec vec_round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec vec_times_power_of_2(vec a, vec n) { return _mm512_scalef_ps(a, n); }

/* 0 where x < limit, else a. */
INLINE vec vec_zero_below(vec a, vec x, vec limit) {
    return _mm512_maskz_mov_ps((__mmask16)~_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), a);
}

INLINE vec vec_select_negative(vec x, vec negative, vec otherwise) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(0.0f), _CMP_LT_OQ), otherwise, negative);
}

/* Reductions happen once per row; the compiler makes shuffles of these loops. */
INLINE float vec_reduce_add(vec a) {
    float lanes[VEC];
    vec_store(lanes, a);
    for (int width = VEC / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

INLINE float vec_reduce_max(vec a) {
    float lanes[VEC];
    vec_store(lanes, a);
    for (int width = VEC / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            lanes[lane] = lanes[lane] > lanes[lane + width] ? lanes[lane] : lanes[lane + width];
    return lanes[0];
}

/* 1 - Φ(a) around 32 places 3/16 apart, as polynomials in the distance t from the nearest: coefficients of 1, t, …, t⁴,
 * interpolated at Chebyshev's nodes of each stretch (error below 10⁻⁸); 0 around the last one, 5.81. */
#define TAIL_STEP 0.1875f
static const float normal_tail[5][32] = {
    {0.5f,
     0.425634325f,
     0.353830248f,
     0.286887705f,
     0.22662735f,
     0.174250707f,
     0.130294517f,
     0.0946757421f,
     0.066807203f,
     0.0457536243f,
     0.0303963609f,
     0.0195800792f,
     0.0122244731f,
     0.00739460718f,
     0.00433244836f,
     0.00245790114f,
     0.00134989806f,
     0.000717542309f,
     0.000369078451f,
     0.000183669952f,
     8.84172841e-05f,
     4.11674664e-05f,
     1.85367371e-05f,
     8.0709442e-06f,
     3.39767303e-06f,
     1.38281348e-06f,
     5.4404228e-07f,
     2.06897028e-07f,
     7.60496022e-08f,
     2.70166751e-08f,
     9.27539912e-09f,
     0.0f},
    {-0.398942053f,    -0.391990691f,    -0.371854931f,    -0.340567499f,
     -0.301137447f,    -0.257073998f,    -0.21187678f,     -0.168593332f,
     -0.129517734f,    -0.0960616171f,   -0.0687863529f,   -0.0475539342f,
     -0.0317396633f,   -0.0204526633f,   -0.0127241584f,   -0.00764257787f,
     -0.00443182187f,  -0.00248116814f,  -0.00134110148f,  -0.000699839613f,
     -0.000352587405f, -0.000171500913f, -8.05373566e-05f, -3.65140113e-05f,
     -1.59828014e-05f, -6.75425372e-06f, -2.75570596e-06f, -1.08547385e-06f,
     -4.12797249e-07f, -1.51560158e-07f, -5.37234719e-08f, 0.0f},
    {0.0f,
     0.0367491096f,
     0.0697227642f,
     0.0957845598f,
     0.112926461f,
     0.120503336f,
     0.119180582f,
     0.110639274f,
     0.0971382111f,
     0.0810519233f,
     0.0644871667f,
     0.0490399823f,
     0.035707131f,
     0.0249267109f,
     0.016700495f,
     0.0107474159f,
     0.00664776983f,
     0.00395439332f,
     0.00226313341f,
     0.00124660728f,
     0.000661113707f,
     0.000337650388f,
     0.000166113183f,
     7.87361787e-05f,
     3.59628793e-05f,
     1.58311177e-05f,
     6.71745556e-06f,
     2.74780996e-06f,
     1.08368727e-06f,
     4.12096057e-07f,
     1.51115046e-07f,
     0.0f},
    {0.0663809255f,    0.0629349574f,    0.0531864762f,    0.0387641937f,
     0.0219595209f,    0.00522359973f,   -0.0093219988f,   -0.0202384684f,
     -0.0269184094f,   -0.029528901f,    -0.0288039707f,   -0.0257700235f,
     -0.0214852896f,   -0.0168491006f,   -0.0125028528f,   -0.00881459005f,
     -0.00592129538f,  -0.00379829621f,  -0.00233041891f,  -0.001369345f,
     -0.000771389925f, -0.00041694814f,  -0.000216390559f, -0.000107893349f,
     -5.17087647e-05f, -2.38302509e-05f, -1.05643967e-05f, -4.50659445e-06f,
     -1.85037072e-06f, -7.31442469e-07f, -2.78423073e-07f, 0.0f},
    {0.0f,
     -0.00906321127f,
     -0.0165847074f,
     -0.0213857312f,
     -0.0229048319f,
     -0.0212742519f,
     -0.0172109753f,
     -0.0117745204f,
     -0.00607834617f,
     -0.00104223727f,
     0.00275560259f,
     0.0051101679f,
     0.0061262697f,
     0.00610302715f,
     0.00541133247f,
     0.0043971166f,
     0.00332509936f,
     0.00236151251f,
     0.00158455689f,
     0.00100865425f,
     0.000610922405f,
     0.000352865609f,
     0.000194698368f,
     0.000102763493f,
     5.19419737e-05f,
     2.5164878e-05f,
     1.16948841e-05f,
     5.21672791e-06f,
     2.23479265e-06f,
     9.19847423e-07f,
     3.63923192e-07f,
     0.0f},
};

#define OWN_GELU
/* max(x, 0) - |x| (1 - Φ(|x|)). */
INLINE vec vec_gelu(vec x) {
    const vec magic = vec_set(12582912.0f); /* 1.5 * 2^23: what is added to it ends up in the lowest bits */
    vec a = vec_min(vec_set(31 * TAIL_STEP), vec_abs(x)), shifted = vec_fmadd(a, vec_set(1 / TAIL_STEP), magic);
    vec t = vec_fnmadd(vec_sub(shifted, magic), vec_set(TAIL_STEP), a);
    __m512i place = _mm512_castps_si512(shifted); /* of which the lowest 5 bits count */
    vec p[5];
    for (int i = 0; i < 5; i++)
        p[i] = _mm512_permutex2var_ps(vec_load(normal_tail[i]), place, vec_load(normal_tail[i] + VEC));
    vec tail = vec_fmadd(p[4], t, p[3]);
    tail = vec_fmadd(tail, t, p[2]);
    tail = vec_fmadd(tail, t, p[1]);
    tail = vec_fmadd(tail, t, p[0]);
    return vec_fnmadd(a, tail, vec_max(vec_set(0.0f), x));
}

#include "kernels/vectors/elementwise.inc"
#include "kernels/vectors/training.inc"
#undef OWN_GELU
#undef TAIL_STEP
#undef INLINE
#undef VARIANT
#undef VEC
#else
typedef int empty_translation_unit;
#endif
