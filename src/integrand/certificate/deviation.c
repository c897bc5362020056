/* fp32 values against fp64 ones at consecutive bit patterns of x: rule and units of `comparison.py`.
   `bound` and `term`, per 2^17 patterns, are the error of the fp64 values and a lower bound of the
   largest term. What fp64 cannot clear is flagged for the caller to decide. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 4096, BIN = 17 };

typedef struct {
  double worst;
  int64_t at, beyond, flagged;
} result;

static inline double float64(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }
static inline uint64_t bits64(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }

static inline double pattern(int64_t p) {
  const uint32_t u = (uint32_t)p;
  float x;
  memcpy(&x, &u, 4);
  return x;
}

/* the spacing of fp32 numbers at v */
static inline double spacing(double v) {
  const double power = float64(bits64(v) & 0x7ff0000000000000u);
  return (power > 0x1p-126 ? power : 0x1p-126) * 0x1p-23;
}

/* |x f'/f|, from the slopes, else from the neighbours: the flatter side, so that a jump forgives
   nothing */
static double condition(
    int64_t first, int64_t n, int64_t j, const double *v, const double *slopes) {
  const double x = pattern(first + j);
  if (slopes) return fabs(x * slopes[j] / v[j]);
  double least = INFINITY;
  for (int64_t k = j - 1; k <= j + 1; k += 2)
    if (k >= 0 && k < n) least = fmin(least, fabs((v[k] - v[j]) / (pattern(first + k) - x)));
  return least < INFINITY ? fabs(x * least / v[j]) : 1.0;
}

static int cleared(float y, double v, double unit, double bound, double factor) {
  if (isinf(y)) return y == v || (y * v > 0 && fabs(v) - bound > FLT_MAX / 2);
  const double allowed = fmax(4 * factor * spacing(v), 4 * unit);
  return fabs(y - v) + bound <= allowed;
}

/* `first` is a multiple of BLOCK; `flags` comes zeroed */
void deviate(
    int64_t first, int64_t n, const float *y, const double *v, const double *slopes,
    const double *bounds, const double *terms, uint8_t *flags, result *blocks, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < (n + BLOCK - 1) / BLOCK; b++) {
    const int64_t start = b * BLOCK, stop = start + BLOCK < n ? start + BLOCK : n;
    const double bound = bounds[(first + start) >> BIN];
    const double band = 0x1p-23 * terms[(first + start) >> BIN];
    double ratios[BLOCK], worst = 0;
    int64_t beyond = 0, doubtful = 0;
    for (int64_t j = start; j < stop; j++) {
      const double ulp = spacing(v[j]), unit = ulp > band ? ulp : band;
      const double error = fabs(y[j] - v[j]), ratio = error / unit;
      const double finite = ratio <= DBL_MAX ? ratio : 0;
      ratios[j - start] = finite;
      worst = finite > worst ? finite : worst;
      beyond += finite > 1;
      doubtful += !(error + bound <= 4 * unit);
    }
    result r = {worst, 0, beyond, 0};
    for (int64_t j = start; worst > 0 && j < stop; j++)
      if (ratios[j - start] == worst) { r.at = j; break; }
    for (int64_t j = start; doubtful && j < stop; j++) {
      const double ulp = spacing(v[j]), unit = ulp > band ? ulp : band;
      if (fabs(y[j] - v[j]) + bound <= 4 * unit) continue;
      /* a hundredth for the slope's own error */
      const double factor = fmax(1, 0.99 * condition(first, n, j, v, slopes));
      flags[j] = !cleared(y[j], v[j], unit, bound, factor);
      r.flagged += flags[j];
    }
    blocks[b] = r;
  }
}
