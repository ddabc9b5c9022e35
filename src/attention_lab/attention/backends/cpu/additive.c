/* Additive logits and their gradients without a tanh for each pair of positions:

       tanh(x + y) = 1 - 2 r,  r = 1 / (1 + exp(2x) exp(2y)),  tanh'(x + y) = 4 r (1 - r).

   The exponentials are computed once for each position. Two reciprocals are made from one division,
   (w1 x2 + w2 x1) / (x1 x2) = w1 / x1 + w2 / x2.

   All arrays are contiguous. n counts pairs of batch and head, and each of them is computed by
   itself. The caller keeps the exponentials within the range of normal floats. */
#include <stddef.h>

enum {
    BLOCK = 64,                /* keys at a time, so that their logits stay in registers */
    ROWS = 16, COLUMNS = 256,  /* a tile of gradients that stays in the first cache ... */
    DIMS = 8,                  /* ... while it is used for this many hidden dimensions */
};

/* 1 + product; capped so that the product of two of them stays finite. The cap is exact in single
   precision: beyond 2e7, tanh rounds to 1. */
static inline float denominator(float query, float key) {
    const float product = query * key;
    return 1.0f + (product < 1e18f ? product : 1e18f);
}

static void sum_of_reciprocals(ptrdiff_t keys, ptrdiff_t row_length, ptrdiff_t dims,
                               const float *restrict query, const float *restrict key,
                               const float *restrict vector, float *restrict sums) {
    ptrdiff_t d = 0;
    for (ptrdiff_t j = 0; j < keys; j++) sums[j] = 0.0f;
    for (; d + 1 < dims; d += 2) {
        const float *key_1 = key + d * row_length, *key_2 = key_1 + row_length;
        const float query_1 = query[d], query_2 = query[d + 1];
        const float w_1 = vector[d], w_2 = vector[d + 1];
#pragma omp simd
        for (ptrdiff_t j = 0; j < keys; j++) {
            const float x_1 = denominator(query_1, key_1[j]), x_2 = denominator(query_2, key_2[j]);
            sums[j] += (w_1 * x_2 + w_2 * x_1) / (x_1 * x_2);
        }
    }
    for (; d < dims; d++)
#pragma omp simd
        for (ptrdiff_t j = 0; j < keys; j++)
            sums[j] += vector[d] / denominator(query[d], key[d * row_length + j]);
}

/* logits (n, L, S) from exp(2 query) (n, L, D), exp(2 key) (n, D, S) and vector (n, D). */
void additive_logits(ptrdiff_t n, ptrdiff_t L, ptrdiff_t S, ptrdiff_t D, const float *restrict query,
                     const float *restrict key, const float *restrict vector,
                     float *restrict logits) {
#pragma omp parallel for schedule(static)
    for (ptrdiff_t row = 0; row < n * L; row++) {
        const float *q = query + row * D, *k = key + row / L * D * S, *w = vector + row / L * D;
        float total = 0.0f, sums[BLOCK];
        for (ptrdiff_t d = 0; d < D; d++) total += w[d];
        for (ptrdiff_t start = 0; start < S; start += BLOCK) {
            float *out = logits + row * S + start;
            /* A constant length in the common case lets the compiler keep the sums in registers. */
            const ptrdiff_t keys = S - start < BLOCK ? S - start : BLOCK;
            if (keys == BLOCK) sum_of_reciprocals(BLOCK, S, D, q, k + start, w, sums);
            else sum_of_reciprocals(keys, S, D, q, k + start, w, sums);
            for (ptrdiff_t j = 0; j < keys; j++) out[j] = total - 2.0f * sums[j];
        }
    }
}

/* For one hidden dimension: adds to grad_query, grad_key and tanhs what one query contributes. */
static void add_gradient(ptrdiff_t keys, const float *restrict query, const float *restrict key,
                         const float *restrict gradient, float *restrict grad_query,
                         float *restrict grad_key, float *restrict tanhs) {
    const float q = query[0];
    float sum = 0.0f, sum_r = 0.0f;
#pragma omp simd reduction(+ : sum, sum_r)
    for (ptrdiff_t j = 0; j < keys; j++) {
        const float r = 1.0f / denominator(q, key[j]), gr = gradient[j] * r, slope = gr - gr * r;
        sum += slope, grad_key[j] += slope, sum_r += gradient[j] - 2.0f * gr;
    }
    grad_query[0] += sum, *tanhs += sum_r;
}

/* The same for four queries at once, with one division for two of them. */
static void add_gradients_of_4(ptrdiff_t keys, ptrdiff_t row_length, const float *restrict query,
                               const float *restrict key, const float *restrict gradient,
                               float *restrict grad_query, float *restrict grad_key,
                               float *restrict tanhs) {
    const float q1 = query[0], q2 = query[1], q3 = query[2], q4 = query[3];
    const float *g1 = gradient, *g2 = g1 + row_length, *g3 = g2 + row_length, *g4 = g3 + row_length;
    float sum1 = 0.0f, sum2 = 0.0f, sum3 = 0.0f, sum4 = 0.0f, sum_tanh = 0.0f;
#pragma omp simd reduction(+ : sum1, sum2, sum3, sum4, sum_tanh)
    for (ptrdiff_t j = 0; j < keys; j++) {
        const float x1 = denominator(q1, key[j]), x2 = denominator(q2, key[j]);
        const float x3 = denominator(q3, key[j]), x4 = denominator(q4, key[j]);
        const float r12 = 1.0f / (x1 * x2), r34 = 1.0f / (x3 * x4);
        const float r1 = r12 * x2, r2 = r12 * x1, r3 = r34 * x4, r4 = r34 * x3;
        const float gr1 = g1[j] * r1, gr2 = g2[j] * r2, gr3 = g3[j] * r3, gr4 = g4[j] * r4;
        const float slope1 = gr1 - gr1 * r1, slope2 = gr2 - gr2 * r2;
        const float slope3 = gr3 - gr3 * r3, slope4 = gr4 - gr4 * r4;
        sum1 += slope1, sum2 += slope2, sum3 += slope3, sum4 += slope4;
        grad_key[j] += (slope1 + slope2) + (slope3 + slope4);
        sum_tanh += (g1[j] + g2[j]) + (g3[j] + g4[j]) - 2.0f * ((gr1 + gr2) + (gr3 + gr4));
    }
    grad_query[0] += sum1, grad_query[1] += sum2, grad_query[2] += sum3, grad_query[3] += sum4;
    *tanhs += sum_tanh;
}

/* Gradients from those of the logits (n, L, S), given exp(2 query) (n, D, L) and exp(2 key)
   (n, D, S): of query (n, D, L), key (n, D, S) and vector (n, D), which are all 0 before. */
void additive_gradients(ptrdiff_t n, ptrdiff_t L, ptrdiff_t S, ptrdiff_t D,
                        const float *restrict query, const float *restrict key,
                        const float *restrict vector, const float *restrict gradient,
                        float *restrict grad_query, float *restrict grad_key,
                        float *restrict grad_vector) {
    const ptrdiff_t groups = (D + DIMS - 1) / DIMS;
#pragma omp parallel for schedule(static)
    for (ptrdiff_t unit = 0; unit < n * groups; unit++) {
        const ptrdiff_t batch = unit / groups, first = batch * D + unit % groups * DIMS;
        const ptrdiff_t end = (batch + 1) * D, last = first + DIMS < end ? first + DIMS : end;
        for (ptrdiff_t i = 0; i < L; i += ROWS)
            for (ptrdiff_t j = 0; j < S; j += COLUMNS) {
                const ptrdiff_t rows = L - i < ROWS ? L - i : ROWS;
                const ptrdiff_t keys = S - j < COLUMNS ? S - j : COLUMNS;
                const float *g = gradient + (batch * L + i) * S + j;
                for (ptrdiff_t d = first; d < last; d++) {
                    const float *q = query + d * L + i, *k = key + d * S + j;
                    float *dq = grad_query + d * L + i, *dk = grad_key + d * S + j, tanhs = 0.0f;
                    ptrdiff_t row = 0;
                    for (; row + 3 < rows; row += 4)
                        add_gradients_of_4(keys, S, q + row, k, g + row * S, dq + row, dk, &tanhs);
                    for (; row < rows; row++)
                        add_gradient(keys, q + row, k, g + row * S, dq + row, dk, &tanhs);
                    grad_vector[d] += tanhs;
                }
            }
        for (ptrdiff_t d = first; d < last; d++) {
            for (ptrdiff_t i = 0; i < L; i++) grad_query[d * L + i] *= 4.0f * vector[d];
            for (ptrdiff_t j = 0; j < S; j++) grad_key[d * S + j] *= 4.0f * vector[d];
        }
    }
}
