/* elements in whole blocks; what is left goes through a padded copy of itself, so that every element
   meets the same instructions wherever it stands */
enum { RUN = 1024, CHUNK = 16384, SERIAL = 32768 };

static void forward_span(const storage *x, storage *y, int64_t n, const uniform *u) {
  int64_t i = 0;
  for (; i + BLOCK <= n; i += BLOCK) forward_block(x + i, y + i, u);
  if (i < n) {
    storage xs[BLOCK] = {0}, ys[BLOCK];
    memcpy(xs, x + i, (size_t)(n - i) * sizeof(storage));
    forward_block(xs, ys, u);
    memcpy(y + i, ys, (size_t)(n - i) * sizeof(storage));
  }
}

int forward(const storage *x, storage *y, int64_t n, const double *params, int threads) {
  uniform u;
  prepare(params, &u);
  const int64_t chunks = (n + CHUNK - 1) / CHUNK;
  large_pages(y, n * (int64_t)sizeof(storage));
#pragma omp parallel for schedule(static) num_threads(threads) if (n > SERIAL && threads > 1)
  for (int64_t k = 0; k < chunks; k++) {
    const int64_t start = k * CHUNK, left = n - start;
    forward_span(x + start, y + start, left < CHUNK ? left : CHUNK, &u);
  }
  return 0;
}

static void gradient_span(
    const storage *x, const storage *dout, storage *dx, int64_t n, const uniform *u) {
  int64_t i = 0;
  for (; i + BLOCK <= n; i += BLOCK) gradient_block(x + i, dout + i, dx + i, u);
  if (i < n) {
    storage xs[BLOCK] = {0}, ds[BLOCK] = {0}, out[BLOCK];
    memcpy(xs, x + i, (size_t)(n - i) * sizeof(storage));
    memcpy(ds, dout + i, (size_t)(n - i) * sizeof(storage));
    gradient_block(xs, ds, out, u);
    memcpy(dx + i, out, (size_t)(n - i) * sizeof(storage));
  }
}

/* at most 64 terms, in a tree of depth 18, meet in one fp32 sum; these meet in double */
static void backward_span(
    const storage *x, const storage *dout, storage *dx, int64_t n, const uniform *u, double *sums) {
  for (int64_t start = 0; start < n; start += RUN) {
    const int64_t end = start + RUN < n ? start + RUN : n;
    real lanes[TERMS][BLOCK] = {{0}};
    int64_t i = start;
    for (; i + BLOCK <= end; i += BLOCK) backward_block(x + i, dout + i, dx + i, lanes, u);
    if (i < end) {
      storage xs[BLOCK] = {0}, ds[BLOCK] = {0}, out[BLOCK];
      real last[TERMS][BLOCK] = {{0}};
      memcpy(xs, x + i, (size_t)(end - i) * sizeof(storage));
      memcpy(ds, dout + i, (size_t)(end - i) * sizeof(storage));
      backward_block(xs, ds, out, last, u);
      memcpy(dx + i, out, (size_t)(end - i) * sizeof(storage));
      for (int p = 0; p < PARAMS; p++)
        for (int64_t j = 0; j < end - i; j++) lanes[p][j] += last[p][j];
    }
    for (int p = 0; p < PARAMS; p++) {
      real folded[16];
      for (int j = 0; j < 16; j++)
        folded[j] = (lanes[p][j] + lanes[p][j + 16]) + (lanes[p][j + 32] + lanes[p][j + 48]);
      double part[4] = {0};
      for (int j = 0; j < 16; j += 4)
        for (int m = 0; m < 4; m++) part[m] += (double)folded[j + m];
      sums[p] += (part[0] + part[1]) + (part[2] + part[3]);
    }
  }
}

/* dparams may be null: dx alone.
   the partition into chunks and the order of the sums do not depend on the number of threads */
int backward(
    const storage *x, const storage *dout, storage *dx, int64_t n, const double *params,
    double *dparams, int threads) {
  uniform u;
  prepare(params, &u);
  const int64_t chunks = (n + CHUNK - 1) / CHUNK;
  double small[TERMS * 64];
  double *sums = chunks <= 64 ? small : malloc((size_t)chunks * TERMS * sizeof(double));
  if (!sums) return 1;
  large_pages(dx, n * (int64_t)sizeof(storage));
#pragma omp parallel for schedule(static) num_threads(threads) if (n > SERIAL && threads > 1)
  for (int64_t k = 0; k < chunks; k++) {
    const int64_t start = k * CHUNK, left = n - start;
    double part[TERMS] = {0};
    if (dparams)
      backward_span(x + start, dout + start, dx + start, left < CHUNK ? left : CHUNK, &u, part);
    else
      gradient_span(x + start, dout + start, dx + start, left < CHUNK ? left : CHUNK, &u);
    memcpy(sums + k * TERMS, part, sizeof part);
  }
  for (int p = 0; dparams && p < PARAMS; p++) {
    dparams[p] = 0;
    for (int64_t k = 0; k < chunks; k++) dparams[p] += sums[k * TERMS + p];
  }
  if (sums != small) free(sums);
  return 0;
}
