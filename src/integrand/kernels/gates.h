/* blocks.h for f(gate) * up: products in the compute type, rounded once */

INLINE int64_t lanes_of(int64_t n) { return n; }

static inline void forward_block(
    const storage *restrict gate, const storage *restrict up, storage *restrict y,
    const shared *restrict s) {
  HOLD(s);
#pragma GCC ivdep
  for (int j = 0; j < BLOCK; j++) {
    const uniform u = AT(s, j);
    y[j] = store(f(load(gate[j]), &u) * load(up[j]));
  }
}

static inline void backward_block(
    const storage *restrict gate, const storage *restrict up, const storage *restrict dout,
    storage *restrict dgate, storage *restrict dup, real lanes[restrict][BLOCK],
    const shared *restrict s) {
  HOLD(s);
#pragma GCC ivdep
  for (int j = 0; j < BLOCK; j++) {
    const uniform u = AT(s, j);
    real terms[TERMS];
    const real x = load(gate[j]), d = load(dout[j]);
    dup[j] = store(d * f(x, &u));
    dgate[j] = store(backward_one(x, d * load(up[j]), &u, terms));
    for (int p = 0; p < PARAMS; p++) lanes[p][j] += terms[p];
  }
}

static inline void gradient_block(
    const storage *restrict gate, const storage *restrict up, const storage *restrict dout,
    storage *restrict dgate, storage *restrict dup, const shared *restrict s) {
  HOLD(s);
#pragma GCC ivdep
  for (int j = 0; j < BLOCK; j++) {
    const uniform u = AT(s, j);
    real terms[TERMS];
    const real x = load(gate[j]), d = load(dout[j]);
    dup[j] = store(d * f(x, &u));
    dgate[j] = store(backward_one(x, d * load(up[j]), &u, terms));
  }
}
