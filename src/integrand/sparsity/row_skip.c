/* Matrix rows that are used, and no others: W is (rows, d) with a stride between rows; a list names
   the rows, or is null for the first n. Sums are fp32; every grouping of terms depends on n, batch
   and d alone, so results are the same bits for any number of threads. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float reals __attribute__((vector_size(LANES * 4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
#define INLINE static inline __attribute__((always_inline))

/* BLOCK numbers as they are stored become two vectors: for bf16 those at even and at odd places, so
   that widening is a shift and a mask. Vectors x and sums are kept in that order ("arranged"). */
enum { BLOCK = 2 * LANES, ROWS = 4, ADDED = 4, TILE = 32 * BLOCK, PARTS = 8, STRIPE = 64 };
enum { SERIAL = 1 << 18 };

INLINE float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
INLINE uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }

#ifdef BF16
typedef uint16_t storage;
INLINE float widen(storage h) { return float_of((uint32_t)h << 16); }
INLINE storage round_to(float x) {
  const uint32_t u = bits_of(x);
  /* the digits of a nan could carry into its sign */
  return x == x ? (storage)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16) : (storage)0x7fc0;
}
INLINE void load(const storage *p, reals *a, reals *b) {
  words w;
  memcpy(&w, p, sizeof w);
  *a = (reals)(w << 16), *b = (reals)(w & 0xffff0000u);
}
INLINE int64_t place(int64_t lane, int64_t half) { return 2 * lane + half; }
INLINE int is_some(storage h) { return (h & 0x7fff) != 0; }
#else
typedef float storage;
INLINE float widen(storage x) { return x; }
INLINE storage round_to(float x) { return x; }
INLINE void load(const storage *p, reals *a, reals *b) {
  memcpy(a, p, sizeof *a), memcpy(b, p + LANES, sizeof *b);
}
INLINE int64_t place(int64_t lane, int64_t half) { return lane + half * LANES; }
INLINE int is_some(storage x) { return (bits_of(x) & 0x7fffffffu) != 0; }
#endif

INLINE reals at(const float *p) { reals v; memcpy(&v, p, sizeof v); return v; }
INLINE void put(float *p, reals v) { memcpy(p, &v, sizeof v); }
INLINE float total(reals a, reals b) {
  float lane[LANES];
  put(lane, a + b);
  for (int half = LANES / 2; half; half /= 2)
    for (int j = 0; j < half; j++) lane[j] += lane[j + half];
  return lane[0];
}

/* rows are far apart where the list skips: the processor does not guess the next one */
INLINE void fetch(const storage *p) { __builtin_prefetch(p, 0, 3); }

static void arrange(const storage *x, int64_t d, float *to) {
  int64_t j = 0;
  for (; j + BLOCK <= d; j += BLOCK) {
    reals a, b;
    load(x + j, &a, &b);
    put(to + j, a), put(to + j + LANES, b);
  }
  for (; j < d; j++) to[j] = widen(x[j]);
}

/* ROWS products with x at once; the rows that come next are fetched meanwhile */
static void products(
    const storage *const *row, const storage *const *next, const float *x, int64_t d, float *out) {
  reals sum[ROWS][2] = {{{0}}};
  int64_t j = 0;
  for (; j + BLOCK <= d; j += BLOCK) {
    const reals xa = at(x + j), xb = at(x + j + LANES);
    for (int r = 0; r < ROWS; r++) {
      reals a, b;
      load(row[r] + j, &a, &b);
      if (next && (j * (int64_t)sizeof(storage)) % 64 == 0) fetch(next[r] + j);
      sum[r][0] += a * xa, sum[r][1] += b * xb;
    }
  }
  for (int r = 0; r < ROWS; r++) {
    out[r] = total(sum[r][0], sum[r][1]);
    for (int64_t i = j; i < d; i++) out[r] += widen(row[r][i]) * x[i];
  }
}

INLINE int64_t listed(const int32_t *list, int64_t k, int64_t n) {
  /* past the end: the last row again */
  k = k < n ? k : n - 1;
  return list ? list[k] : k;
}

/* the columns that hold anything but zeros, of which a nan is none: at most width numbers, -1 where
   there is no memory */
int64_t active(const storage *a, int64_t batch, int64_t width, int32_t *list) {
  uint8_t *used = calloc((size_t)width + 8, 1);
  if (!used) return -1;
  for (int64_t t = 0; t < batch; t++)
    for (int64_t i = 0; i < width; i++) used[i] |= is_some(a[t * width + i]);
  int64_t n = 0;
  for (int64_t i = 0; i < width; i += 8) {
    uint64_t eight;
    memcpy(&eight, used + i, 8);
    if (!eight) continue;
    for (int64_t j = i; j < i + 8; j++)
      if (used[j]) list[n++] = (int32_t)j;
  }
  free(used);
  return n;
}

/* max |x|; with a nan, nan: its bits are above those of an infinity */
float largest(const storage *x, int64_t n) {
  uint32_t top = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t u = bits_of(widen(x[i])) & 0x7fffffffu;
    top = u > top ? u : top;
  }
  return float_of(top);
}

/* the largest sum of magnitudes of a row; nan or infinite where an element is, or a sum overflows */
float norm(const storage *w, int64_t stride, int64_t n, int64_t d, int threads) {
  uint32_t top = 0;
#pragma omp parallel for reduction(max : top) num_threads(threads) if (threads > 1)
  for (int64_t k = 0; k < n; k++) {
    const storage *row = w + k * stride;
    reals sum[2] = {{0}};
    int64_t j = 0;
    for (; j + BLOCK <= d; j += BLOCK) {
      reals a, b;
      load(row + j, &a, &b);
      sum[0] += (reals)((words)a & 0x7fffffffu), sum[1] += (reals)((words)b & 0x7fffffffu);
    }
    float all = total(sum[0], sum[1]);
    for (; j < d; j++) all += float_of(bits_of(widen(row[j])) & 0x7fffffffu);
    const uint32_t u = bits_of(all) & 0x7fffffffu;
    top = u > top ? u : top;
  }
  return float_of(top);
}

/* out[t, k] = row k . x[t] + bias, rounded; times scale[t, row], rounded again, where there is one */
int rows(
    const storage *w, int64_t stride, const storage *bias, const int32_t *list, int64_t n,
    const storage *x, int64_t batch, int64_t d, const storage *scale, int64_t width, storage *out,
    int threads) {
  float *arranged = malloc((size_t)(batch * d + 1) * sizeof(float));
  if (!arranged) return 1;
  for (int64_t t = 0; t < batch; t++) arrange(x + t * d, d, arranged + t * d);
  /* a short list in pieces that still come out even among threads */
  const int64_t stripe = n < 16 * STRIPE ? (n / 16 / ROWS + 1) * ROWS : STRIPE;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1 && n * d * batch > SERIAL)
  for (int64_t start = 0; start < n; start += stripe) {
    const int64_t stop = start + stripe < n ? start + stripe : n;
    for (int64_t k = start; k < stop; k += ROWS) {
      const storage *row[ROWS], *next[ROWS];
      int64_t index[ROWS];
      for (int r = 0; r < ROWS; r++) {
        index[r] = listed(list, k + r, n);
        row[r] = w + index[r] * stride;
        next[r] = w + listed(list, k + ROWS + r, n) * stride;
      }
      for (int64_t t = 0; t < batch; t++) {
        float sum[ROWS];
        products(row, t == 0 ? next : 0, arranged + t * d, d, sum);
        for (int r = 0; r < ROWS && k + r < stop; r++) {
          storage v = round_to(bias ? sum[r] + widen(bias[index[r]]) : sum[r]);
          if (scale) v = round_to(widen(scale[t * width + index[r]]) * widen(v));
          out[t * n + k + r] = v;
        }
      }
    }
  }
  free(arranged);
  return 0;
}

/* sum += h[r] * row[r] over ADDED rows, for the columns from `start` to `stop` */
static void add(
    const storage *const *row, const storage *const *next, const float *h, int64_t start,
    int64_t stop, float *sum) {
  int64_t j = start;
  for (; j + BLOCK <= stop; j += BLOCK) {
    reals sa = at(sum + j), sb = at(sum + j + LANES);
    for (int r = 0; r < ADDED; r++) {
      reals a, b;
      load(row[r] + j, &a, &b);
      if (next && (j * (int64_t)sizeof(storage)) % 64 == 0) fetch(next[r] + j);
      sa += a * h[r], sb += b * h[r];
    }
    put(sum + j, sa), put(sum + j + LANES, sb);
  }
  for (; j < stop; j++)
    for (int r = 0; r < ADDED; r++) sum[j] += widen(row[r][j]) * h[r];
}

/* one part of the list, for the columns from `start` to `stop`, into sums (batch, d) of its own */
static void part(
    const storage *w, int64_t stride, const int32_t *list, int64_t begin, int64_t end,
    const storage *h, int64_t n, int64_t batch, int64_t d, int64_t start, int64_t stop, float *sum) {
  for (int64_t t = 0; t < batch; t++)
    memset(sum + t * d + start, 0, (size_t)(stop - start) * sizeof(float));
  for (int64_t k = begin; k < end; k += ADDED) {
    const storage *row[ADDED], *next[ADDED];
    for (int r = 0; r < ADDED; r++) {
      row[r] = w + listed(list, k + r, end) * stride;
      next[r] = w + listed(list, k + ADDED + r, end) * stride;
    }
    for (int64_t from = start; from < stop; from += TILE) {
      const int64_t to = from + TILE < stop ? from + TILE : stop;
      for (int64_t t = 0; t < batch; t++) {
        float weight[ADDED];
        for (int r = 0; r < ADDED; r++) weight[r] = k + r < end ? widen(h[t * n + k + r]) : 0;
        add(row, t == 0 ? next : 0, weight, from, to, sum + t * d);
      }
    }
  }
}

/* y[t] = bias + sum over k of h[t, k] * row k, rounded */
int add_rows(
    const storage *w, int64_t stride, const storage *bias, const int32_t *list, int64_t n,
    const storage *h, int64_t batch, int64_t d, storage *y, int threads) {
  /* a large batch has work enough in its tiles: its sums need not be many */
  const int64_t groups = (n + ADDED - 1) / ADDED, most = batch > 4 ? PARTS / 2 : PARTS;
  const int64_t parts = groups < most ? groups : most;
  const int64_t width = batch > 4 ? TILE : d, tiles = (d + width - 1) / width;
  float *sums = malloc((size_t)(parts * batch * d + 1) * sizeof(float));
  if (!sums) return 1;
#pragma omp parallel num_threads(threads) if (threads > 1 && n * d * batch > SERIAL)
  {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < parts * tiles; task++) {
      const int64_t p = task / tiles, start = task % tiles * width;
      const int64_t begin = groups * p / parts * ADDED, end = groups * (p + 1) / parts * ADDED;
      part(w, stride, list, begin, end < n ? end : n, h, n, batch, d, start,
           start + width < d ? start + width : d, sums + p * batch * d);
    }
#pragma omp for schedule(static)
    for (int64_t block = 0; block < batch * ((d + BLOCK - 1) / BLOCK); block++) {
      const int64_t per = (d + BLOCK - 1) / BLOCK, t = block / per, j = block % per * BLOCK;
      const int64_t count = j + BLOCK <= d ? BLOCK : d - j;
      float sum[BLOCK] = {0};
      for (int64_t p = 0; p < parts; p++)
        for (int64_t i = 0; i < count; i++) sum[i] += sums[(p * batch + t) * d + j + i];
      for (int64_t i = 0; i < count; i++) {
        const int64_t to = j + (count == BLOCK ? place(i % LANES, i / LANES) : i);
        y[t * d + to] = round_to(bias ? sum[i] + widen(bias[to]) : sum[i]);
      }
    }
  }
  free(sums);
  return 0;
}
