/* parameters per channel: rows of `channels` elements, cut into blocks of BLOCK channels;
   the last block of a row goes through a padded copy of itself */
enum { RUN = 16, CHUNKS = 64, SERIAL = 32768 };

static shared *prepare_blocks(const double *params, int64_t channels) {
  const int64_t blocks = (channels + BLOCK - 1) / BLOCK;
  shared *all = malloc((size_t)(blocks ? blocks : 1) * sizeof(shared));
  if (!all) return all;
  for (int64_t c = 0; c < blocks * BLOCK; c++) {
    double values[TERMS] = {0};
    /* the padding repeats the last channel: its values are certainly in range */
    for (int p = 0; p < PARAMS; p++)
      values[p] = params[p * channels + (c < channels ? c : channels - 1)];
    uniform u;
    prepare(values, &u);
    put(all + c / BLOCK, (int)(c % BLOCK), u);
  }
  return all;
}

int forward(
    const storage *x, storage *y, int64_t rows, int64_t channels, const double *params,
    int threads) {
  shared *all = prepare_blocks(params, channels);
  if (!all) return 1;
  large_pages(y, rows * channels * (int64_t)sizeof(storage));
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (rows * channels > SERIAL && threads > 1)
  for (int64_t r = 0; r < rows; r++) {
    const storage *from = x + r * channels;
    storage *to = y + r * channels;
    int64_t c = 0;
    for (; c + BLOCK <= channels; c += BLOCK) forward_block(from + c, to + c, all + c / BLOCK);
    if (c < channels) {
      storage xs[BLOCK] = {0}, ys[BLOCK];
      memcpy(xs, from + c, (size_t)(channels - c) * sizeof(storage));
      forward_block(xs, ys, all + c / BLOCK);
      memcpy(to + c, ys, (size_t)(channels - c) * sizeof(storage));
    }
  }
  free(all);
  return 0;
}

/* rows [r, end) of one block of `width` channels: at most RUN terms meet in one lane */
static void backward_run(
    const storage *x, const storage *dout, storage *dx, int64_t r, int64_t end, int64_t channels,
    int64_t width, const shared *b, double *sums) {
  real lanes[TERMS][BLOCK] = {{0}};
  for (; r < end; r++) {
    const int64_t at = r * channels;
    if (width == BLOCK) {
      backward_block(x + at, dout + at, dx + at, lanes, b);
      continue;
    }
    storage xs[BLOCK] = {0}, ds[BLOCK] = {0}, out[BLOCK];
    memcpy(xs, x + at, (size_t)width * sizeof(storage));
    memcpy(ds, dout + at, (size_t)width * sizeof(storage));
    backward_block(xs, ds, out, lanes, b);
    memcpy(dx + at, out, (size_t)width * sizeof(storage));
  }
  for (int p = 0; p < PARAMS; p++)
    for (int64_t j = 0; j < width; j++) sums[p * channels + j] += (double)lanes[p][j];
}

/* dparams has the shape of params; the partition does not depend on the number of threads */
int backward(
    const storage *x, const storage *dout, storage *dx, int64_t rows, int64_t channels,
    const double *params, double *dparams, int threads) {
  const int64_t per_chunk = ((rows + CHUNKS - 1) / CHUNKS + RUN - 1) / RUN * RUN;
  const int64_t chunks = per_chunk ? (rows + per_chunk - 1) / per_chunk : 0;
  const int64_t cells = PARAMS * channels;
  shared *all = prepare_blocks(params, channels);
  double *sums = calloc((size_t)(chunks * cells + 1), sizeof(double));
  if (!all || !sums) {
    free(all);
    free(sums);
    return 1;
  }
  large_pages(dx, rows * channels * (int64_t)sizeof(storage));
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (rows * channels > SERIAL && threads > 1)
  for (int64_t k = 0; k < chunks; k++) {
    const int64_t stop = (k + 1) * per_chunk < rows ? (k + 1) * per_chunk : rows;
    for (int64_t r = k * per_chunk; r < stop; r += RUN)
      for (int64_t c = 0; c < channels; c += BLOCK)
        backward_run(
            x + c, dout + c, dx + c, r, r + RUN < stop ? r + RUN : stop, channels,
            channels - c < BLOCK ? channels - c : BLOCK, all + c / BLOCK, sums + k * cells + c);
  }
  for (int64_t i = 0; i < cells; i++) {
    dparams[i] = 0;
    for (int64_t k = 0; k < chunks; k++) dparams[i] += sums[k * cells + i];
  }
  free(all);
  free(sums);
  return 0;
}
