/* elements in whole blocks; what is left goes through a padded copy of itself, so that every element
   meets the same instructions wherever it stands. `in` and `out` are the INPUTS arrays of the forward
   pass and their gradients: x alone, or gate and up. */
enum { RUN = 1024, CHUNK = 16384, SERIAL = 32768 };

/* restrict holds for parameters: gcc takes a restrict pointer of a block's own for the whole function
   it is inlined into */
#if INPUTS == 1
#define FORWARD(in, y, u) forward_block((in)[0], y, u)
#define GRADIENT(in, dout, out, u) gradient_block((in)[0], dout, (out)[0], u)
#define BACKWARD(in, dout, out, lanes, u) backward_block((in)[0], dout, (out)[0], lanes, u)
#else
#define FORWARD(in, y, u) forward_block((in)[0], (in)[1], y, u)
#define GRADIENT(in, dout, out, u) \
  gradient_block((in)[0], (in)[1], dout, (out)[0], (out)[1], u)
#define BACKWARD(in, dout, out, lanes, u) \
  backward_block((in)[0], (in)[1], dout, (out)[0], (out)[1], lanes, u)
#endif

typedef struct {
  storage in[INPUTS][BLOCK], dout[BLOCK], out[INPUTS][BLOCK];
  const storage *from[INPUTS];
  storage *to[INPUTS];
} padded;

static inline void move_in(const storage *const *in, const storage **from, int64_t i) {
  for (int k = 0; k < INPUTS; k++) from[k] = in[k] + i;
}

static inline void move_out(storage *const *out, storage **to, int64_t i) {
  for (int k = 0; k < INPUTS; k++) to[k] = out[k] + i;
}

/* a copy of the last elements, fewer than a block; the rest repeats one of them, dout 0 */
static void pad(padded *b, const storage *const *in, const storage *dout, int64_t i, int64_t n) {
  const size_t bytes = (size_t)(n - i) * sizeof(storage);
  for (int k = 0; k < INPUTS; k++) {
    for (int j = 0; j < BLOCK; j++) b->in[k][j] = in[k][i];
    memcpy(b->in[k], in[k] + i, bytes);
    b->from[k] = b->in[k], b->to[k] = b->out[k];
  }
  memset(b->dout, 0, sizeof b->dout);
  if (dout) memcpy(b->dout, dout + i, bytes);
}

static inline void unpad(const padded *b, storage *const *out, int64_t i, int64_t n) {
  for (int k = 0; k < INPUTS; k++)
    memcpy(out[k] + i, b->out[k], (size_t)(n - i) * sizeof(storage));
}

static void forward_span(
    const storage *const *in, storage *y, int64_t i, int64_t n, const uniform *u) {
  const storage *from[INPUTS];
  for (; i + BLOCK <= n; i += BLOCK) {
    move_in(in, from, i);
    FORWARD(from, y + i, u);
  }
  if (i < n) {
    padded b;
    pad(&b, in, 0, i, n);
    FORWARD(b.from, b.dout, u);
    memcpy(y + i, b.dout, (size_t)(n - i) * sizeof(storage));
  }
}

static void gradient_span(
    const storage *const *in, const storage *dout, storage *const *out, int64_t i, int64_t n,
    const uniform *u) {
  const storage *from[INPUTS];
  storage *to[INPUTS];
  for (; i + BLOCK <= n; i += BLOCK) {
    move_in(in, from, i);
    move_out(out, to, i);
    GRADIENT(from, dout + i, to, u);
  }
  if (i < n) {
    padded b;
    pad(&b, in, dout, i, n);
    GRADIENT(b.from, b.dout, b.to, u);
    unpad(&b, out, i, n);
  }
}

/* at most 64 terms, in a tree of depth 18, meet in one fp32 sum; these meet in double */
static void backward_span(
    const storage *const *in, const storage *dout, storage *const *out, int64_t i, int64_t n,
    const uniform *u, double *sums) {
  const storage *from[INPUTS];
  storage *to[INPUTS];
  while (i < n) {
    const int64_t end = i + RUN < n ? i + RUN : n;
    real lanes[TERMS][BLOCK] = {{0}};
    for (; i + BLOCK <= end; i += BLOCK) {
      move_in(in, from, i);
      move_out(out, to, i);
      BACKWARD(from, dout + i, to, lanes, u);
    }
    if (i < end) {
      padded b;
      real last[TERMS][BLOCK] = {{0}};
      pad(&b, in, dout, i, end);
      BACKWARD(b.from, b.dout, b.to, last, u);
      unpad(&b, out, i, end);
      for (int p = 0; p < PARAMS; p++)
        for (int64_t j = 0; j < lanes_of(end - i); j++) lanes[p][j] += last[p][j];
      i = end;
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

static int forward_all(
    const storage *const *in, storage *y, int64_t n, const double *params, int threads) {
  uniform u;
  prepare(params, &u);
  const int64_t chunks = (n + CHUNK - 1) / CHUNK;
  large_pages(y, n * (int64_t)sizeof(storage));
#pragma omp parallel for schedule(static) num_threads(threads) if (n > SERIAL && threads > 1)
  for (int64_t k = 0; k < chunks; k++)
    forward_span(in, y, k * CHUNK, (k + 1) * CHUNK < n ? (k + 1) * CHUNK : n, &u);
  return 0;
}

/* dparams may be null: the gradients of the inputs alone.
   the partition into chunks and the order of the sums do not depend on the number of threads */
static int backward_all(
    const storage *const *in, const storage *dout, storage *const *out, int64_t n,
    const double *params, double *dparams, int threads) {
  uniform u;
  prepare(params, &u);
  const int64_t chunks = (n + CHUNK - 1) / CHUNK;
  double small[TERMS * 64];
  double *sums = chunks <= 64 ? small : malloc((size_t)chunks * TERMS * sizeof(double));
  if (!sums) return 1;
  for (int k = 0; k < INPUTS; k++) large_pages(out[k], n * (int64_t)sizeof(storage));
#pragma omp parallel for schedule(static) num_threads(threads) if (n > SERIAL && threads > 1)
  for (int64_t k = 0; k < chunks; k++) {
    const int64_t start = k * CHUNK, stop = start + CHUNK < n ? start + CHUNK : n;
    double part[TERMS] = {0};
    if (dparams)
      backward_span(in, dout, out, start, stop, &u, part);
    else
      gradient_span(in, dout, out, start, stop, &u);
    memcpy(sums + k * TERMS, part, sizeof part);
  }
  for (int p = 0; dparams && p < PARAMS; p++) {
    dparams[p] = 0;
    for (int64_t k = 0; k < chunks; k++) dparams[p] += sums[k * TERMS + p];
  }
  if (sums != small) free(sums);
  return 0;
}

#if INPUTS == 1
int forward(
    const storage *x, storage *y, int64_t n, const double *params, int threads) {
  return forward_all(&x, y, n, params, threads);
}

int backward(
    const storage *x, const storage *dout, storage *dx, int64_t n, const double *params,
    double *dparams, int threads) {
  return backward_all(&x, dout, &dx, n, params, dparams, threads);
}
#else
int forward(
    const storage *gate, const storage *up, storage *y, int64_t n, const double *params,
    int threads) {
  const storage *in[] = {gate, up};
  return forward_all(in, y, n, params, threads);
}

int backward(
    const storage *gate, const storage *up, const storage *dout, storage *dgate, storage *dup,
    int64_t n, const double *params, double *dparams, int threads) {
  const storage *in[] = {gate, up};
  storage *out[] = {dgate, dup};
  return backward_all(in, dout, out, n, params, dparams, threads);
}
#endif
