/* one block of elements at a time: `shared` is what does not depend on x, AT(s, j) its part for the
   element j. A load under a condition from memory that may change keeps gcc from vectorising, so
   HOLD(s) copies what is uniform. */

/* lanes that hold the terms of the first n elements of a block */
INLINE int64_t lanes_of(int64_t n) { return n; }

#ifdef PERIODIC
/* the fast sin and cos give nan beyond their range: such blocks are done again by the exact ones */
static inline bool any_nan(const storage *restrict y) {
  int found = 0;
  for (int j = 0; j < BLOCK; j++) {
    const real v = load(y[j]);
    found |= v != v;
  }
  return found;
}
#endif

static inline void forward_block(
    const storage *restrict x, storage *restrict y, const shared *restrict s) {
  HOLD(s);
#pragma GCC ivdep
  for (int j = 0; j < BLOCK; j++) {
    const uniform u = AT(s, j);
    y[j] = store(f(load(x[j]), &u));
  }
#ifdef PERIODIC
  const bool again = any_nan(y);
  for (int j = 0; again && j < BLOCK; j++) {
    const uniform u = AT(s, j);
    y[j] = store(f_exact(load(x[j]), &u));
  }
#endif
}

static inline void backward_block(
    const storage *restrict x, const storage *restrict dout, storage *restrict dx,
    real lanes[restrict][BLOCK], const shared *restrict s) {
  HOLD(s);
#ifdef PERIODIC
  real before[TERMS][BLOCK];
  memcpy(before, lanes, sizeof before);
#endif
#pragma GCC ivdep
  for (int j = 0; j < BLOCK; j++) {
    const uniform u = AT(s, j);
    real terms[TERMS];
    dx[j] = store(backward_one(load(x[j]), load(dout[j]), &u, terms));
    for (int p = 0; p < PARAMS; p++) lanes[p][j] += terms[p];
  }
#ifdef PERIODIC
  int again = any_nan(dx);
  for (int p = 0; p < PARAMS; p++)
    for (int j = 0; j < BLOCK; j++) again |= lanes[p][j] != lanes[p][j];
  if (again) memcpy(lanes, before, sizeof before);
  for (int j = 0; again && j < BLOCK; j++) {
    const uniform u = AT(s, j);
    real terms[TERMS];
    dx[j] = store(backward_exact(load(x[j]), load(dout[j]), &u, terms));
    for (int p = 0; p < PARAMS; p++) lanes[p][j] += terms[p];
  }
#endif
}

static inline void gradient_block(
    const storage *restrict x, const storage *restrict dout, storage *restrict dx,
    const shared *restrict s) {
  HOLD(s);
#pragma GCC ivdep
  for (int j = 0; j < BLOCK; j++) {
    const uniform u = AT(s, j);
    real terms[TERMS];
    dx[j] = store(backward_one(load(x[j]), load(dout[j]), &u, terms));
  }
#ifdef PERIODIC
  const bool again = any_nan(dx);
  for (int j = 0; again && j < BLOCK; j++) {
    const uniform u = AT(s, j);
    real terms[TERMS];
    dx[j] = store(backward_exact(load(x[j]), load(dout[j]), &u, terms));
  }
#endif
}
