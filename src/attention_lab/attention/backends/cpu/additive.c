/* Additive logits and their gradients without a tanh for each pair of positions:

       tanh(x + y) = 1 - 2 r,  r = 1 / (1 + exp(2x) exp(2y)),  tanh'(x + y) = 4 r (1 - r).

   The exponentials are computed once for each position. The forward pass makes two reciprocals from
   one division, w1 / x1 + w2 / x2 = (w1 x2 + w2 x1) / (x1 x2).

   All arrays are contiguous. n counts pairs of batch and head, and each of them is computed by
   itself. D is a multiple of 16. The caller keeps the exponentials within the range of normal
   floats. */
#include <stddef.h>
#include <string.h>

enum {
#ifdef __AVX512F__
    LANES = 16,
#else
    LANES = 8,
#endif
    ROWS = 4,   /* queries at a time: a key is loaded once for all of them */
    /* A block of keys stays in the L1 cache while all queries use it. Its largest size: */
    DIMS = 128, /* hidden dimensions, for logits */
    KEYS = 32,  /* keys, for gradients */
};
typedef float vec __attribute__((vector_size(4 * LANES)));

/* Inlined, so that a constant number of rows keeps their sums in registers. */
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

/* 1 + product; capped so that the product of two of them stays finite. The cap is exact in single
   precision: beyond 2e7, tanh rounds to 1. */
INLINE vec denominator(float query, vec key) {
    vec product = query * key;
    for (int lane = 0; lane < LANES; lane++)
        product[lane] = product[lane] < 1e18f ? product[lane] : 1e18f;
    return product + 1.0f;
}

/* Adds the terms of some dimensions, -2 w r, to the logits (rows, S) of a block of keys. */
INLINE void add_logits(int rows, ptrdiff_t keys, ptrdiff_t S, ptrdiff_t D, ptrdiff_t dims,
                       const float *query, const float (*key)[LANES], const float *vector,
                       float *logits) {
    vec sums[ROWS] = {0};
    for (ptrdiff_t d = 0; d < dims; d += 2) {
        const vec key_1 = load(key[d]), key_2 = load(key[d + 1]);
        for (int row = 0; row < rows; row++) {
            const float *q = query + row * D + d;
            const vec x_1 = denominator(q[0], key_1), x_2 = denominator(q[1], key_2);
            sums[row] += (vector[d] * x_2 + vector[d + 1] * x_1) / (x_1 * x_2);
        }
    }
    for (int row = 0; row < rows; row++)
        for (ptrdiff_t j = 0; j < keys; j++) logits[row * S + j] -= 2.0f * sums[row][j];
}

/* logits (n, L, S) from exp(2 query) (n, L, D), exp(2 key) (n, S, D) and vector (n, D). */
void additive_logits(ptrdiff_t n, ptrdiff_t L, ptrdiff_t S, ptrdiff_t D, const float *query,
                     const float *key, const float *vector, float *logits) {
    const ptrdiff_t blocks = (S + LANES - 1) / LANES;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t unit = 0; unit < n * blocks; unit++) {
        const ptrdiff_t batch = unit / blocks, first = unit % blocks * LANES;
        const ptrdiff_t keys = S - first < LANES ? S - first : LANES;
        const float *w = vector + batch * D;
        float *out = logits + batch * L * S + first, total = 0.0f, columns[DIMS][LANES];
        for (ptrdiff_t d = 0; d < D; d++) total += w[d];
        for (ptrdiff_t i = 0; i < L; i++)
            for (ptrdiff_t j = 0; j < keys; j++) out[i * S + j] = total;
        for (ptrdiff_t d = 0; d < D; d += DIMS) {
            const ptrdiff_t dims = D - d < DIMS ? D - d : DIMS;
            for (ptrdiff_t lane = 0; lane < LANES; lane++) {
                const ptrdiff_t j = lane < keys ? lane : 0; /* lanes without a key repeat one */
                const float *k = key + (batch * S + first + j) * D + d;
                for (ptrdiff_t c = 0; c < dims; c++) columns[c][lane] = k[c];
            }
            const float *q = query + batch * L * D + d;
            ptrdiff_t i = 0;
            for (; i + ROWS <= L; i += ROWS)
                add_logits(ROWS, keys, S, D, dims, q + i * D, columns, w + d, out + i * S);
            for (; i < L; i++)
                add_logits(1, keys, S, D, dims, q + i * D, columns, w + d, out + i * S);
        }
    }
}

/* Adds the terms of some queries and keys to the gradients in LANES hidden dimensions: divided by
   4 w for queries and keys, and by -2 for the vector. */
INLINE void add_gradients(int rows, ptrdiff_t keys, ptrdiff_t S, ptrdiff_t D, const float *query,
                          const float *key, const float *gradient, float *grad_query,
                          float *grad_key, vec *grad_vector) {
    vec q[ROWS], dq[ROWS], dv = *grad_vector;
    for (int row = 0; row < rows; row++)
        q[row] = load(query + row * D), dq[row] = load(grad_query + row * D);
    for (ptrdiff_t j = 0; j < keys; j++) {
        const vec k = load(key + j * D);
        vec dk = load(grad_key + j * D);
        for (int row = 0; row < rows; row++) {
            /* An infinite product is no error: then r is 0. */
            const vec shifted = 1.0f / (1.0f + q[row] * k) - 0.5f; /* r - 1/2 = -tanh / 2 */
            const float g = gradient[row * S + j];
            const vec slope = g * (0.25f - shifted * shifted); /* r (1 - r) = 1/4 - (r - 1/2)^2 */
            dq[row] += slope, dk += slope, dv += g * shifted;
        }
        store(grad_key + j * D, dk);
    }
    for (int row = 0; row < rows; row++) store(grad_query + row * D, dq[row]);
    *grad_vector = dv;
}

INLINE void scale(ptrdiff_t count, ptrdiff_t D, vec factor, float *x) {
    for (ptrdiff_t i = 0; i < count; i++) store(x + i * D, factor * load(x + i * D));
}

/* Gradients from those of the logits (n, L, S), given exp(2 query) (n, L, D) and exp(2 key)
   (n, S, D): of query (n, L, D) and key (n, S, D), which are all 0 before, and of vector (n, D). */
void additive_gradients(ptrdiff_t n, ptrdiff_t L, ptrdiff_t S, ptrdiff_t D, const float *query,
                        const float *key, const float *vector, const float *gradient,
                        float *grad_query, float *grad_key, float *grad_vector) {
    const ptrdiff_t groups = D / LANES;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t unit = 0; unit < n * groups; unit++) {
        const ptrdiff_t batch = unit / groups, first = unit % groups * LANES;
        const float *q = query + batch * L * D + first, *g = gradient + batch * L * S;
        float *dq = grad_query + batch * L * D + first, *dk = grad_key + batch * S * D + first;
        vec dv = {0};
        for (ptrdiff_t j = 0; j < S; j += KEYS) {
            const ptrdiff_t keys = S - j < KEYS ? S - j : KEYS;
            const float *k = key + (batch * S + j) * D + first;
            ptrdiff_t i = 0;
            for (; i + ROWS <= L; i += ROWS)
                add_gradients(ROWS, keys, S, D, q + i * D, k, g + i * S + j, dq + i * D,
                              dk + j * D, &dv);
            for (; i < L; i++)
                add_gradients(1, keys, S, D, q + i * D, k, g + i * S + j, dq + i * D, dk + j * D,
                              &dv);
        }
        const vec factor = 4.0f * load(vector + batch * D + first);
        scale(L, D, factor, dq), scale(S, D, factor, dk);
        store(grad_vector + batch * D + first, -2.0f * dv);
    }
}
