/* What a token's output loses as its neurons are left out, the smallest first: see cett.py.
   Neurons are sorted by magnitude, and the norm of the running sum is known after each. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, DIGIT = 8, DIGITS = 4, RADIX = 1 << DIGIT };

typedef struct { uint32_t key, neuron; } entry;

static inline uint32_t bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }

/* ascending by key, which has 31 bits; the result is in `a` or in `b` */
static entry *sorted(entry *a, entry *b, int64_t n) {
  static _Thread_local uint32_t place[DIGITS][RADIX];
  memset(place, 0, sizeof place);
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < DIGITS; ++d) ++place[d][(a[i].key >> (d * DIGIT)) & (RADIX - 1)];
  for (int d = 0; d < DIGITS; ++d) {
    uint32_t *p = place[d], before = 0;
    for (int k = 0; k < RADIX; ++k) { const uint32_t here = p[k]; p[k] = before; before += here; }
    for (int64_t i = 0; i < n; ++i) b[p[(a[i].key >> (d * DIGIT)) & (RADIX - 1)]++] = a[i];
    entry *other = a; a = b; b = other;
  }
  return a;
}

/* sum += a * column; the squared norm of sum */
static inline float grown(float *restrict sum, const float *restrict column, float a, int64_t d) {
  float square[LANES] = {0};
  for (int64_t k = 0; k < d; k += LANES)
    for (int l = 0; l < LANES; ++l) {
      sum[k + l] += a * column[k + l];
      square[l] += sum[k + l] * sum[k + l];
    }
  for (int half = LANES / 2; half; half /= 2)
    for (int l = 0; l < half; ++l) square[l] += square[l + half];
  return square[0];
}

/* h (tokens, width), norms (width), columns (width, d) with d a multiple of 16; added to: count,
   ratio, power (2^15 each), at_rank (ranks), and totals: tokens with an output, their squared norms.
   Returns 0, or -1 without memory. */
int add_losses(
    const float *h, const float *norms, const float *columns,
    int64_t tokens, int64_t width, int64_t d, const int64_t *rank, int64_t ranks,
    int64_t *count, double *ratio, double *power, double *at_rank, double *totals) {
  entry *a = malloc(2 * width * sizeof(entry)), *b = a + width;
  float *sum = malloc((d + width) * sizeof(float)), *lost = sum + d;
  if (!a || !sum) { free(a); free(sum); return -1; }
  for (int64_t t = 0; t < tokens; ++t, h += width) {
    int64_t n = 0;
    for (int64_t i = 0; i < width; ++i) {
      const float magnitude = fabsf(h[i]) * norms[i];
      if (magnitude > 0) a[n++] = (entry){bits(magnitude), (uint32_t)i};
    }
    const int64_t zeros = width - n;
    count[0] += zeros;
    const entry *order = sorted(a, b, n);
    memset(sum, 0, d * sizeof(float));
    for (int64_t j = 0; j < n; ++j) {
      const uint32_t i = order[j].neuron;
      lost[j] = grown(sum, columns + i * d, h[i], d);
    }
    const double whole = n ? lost[n - 1] : 0;
    double last = 0, last_power = 0;
    for (int64_t j = 0; j < n; ++j) {
      /* the smallest bf16 number that is no smaller */
      const uint32_t bin = (order[j].key + 0xffff) >> 16;
      ++count[bin];
      if (!(whole > 0)) continue;
      const double now = sqrt(lost[j] / whole);
      ratio[bin] += now - last;
      power[bin] += lost[j] - last_power;
      last = now;
      last_power = lost[j];
    }
    if (!(whole > 0)) continue;
    totals[0] += 1;
    totals[1] += whole;
    for (int64_t r = 0; r < ranks; ++r)
      if (rank[r] > zeros) at_rank[r] += sqrt(lost[rank[r] - zeros - 1] / whole);
  }
  free(a);
  free(sum);
  return 0;
}
