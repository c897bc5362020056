/* blocks.h for bf16 on little-endian machines: two numbers in a word need no widening and no
   narrowing; the terms of both go to one lane */

INLINE int64_t lanes_of(int64_t n) { return (n + 1) / 2; }

static inline void forward_block(
    const storage *restrict x, storage *restrict y, const shared *restrict s) {
  HOLD(s);
  const word *restrict from = (const word *)x;
  word *restrict to = (word *)y;
#pragma GCC ivdep
  for (int j = 0; j < BLOCK / 2; j++) {
    const uniform u = AT(s, j);
    to[j] = join_bf16(f(first_bf16(from[j]), &u), f(second_bf16(from[j]), &u));
  }
}

static inline void backward_block(
    const storage *restrict x, const storage *restrict dout, storage *restrict dx,
    real lanes[restrict][BLOCK], const shared *restrict s) {
  HOLD(s);
  const word *restrict from = (const word *)x, *restrict d = (const word *)dout;
  word *restrict to = (word *)dx;
#pragma GCC ivdep
  for (int j = 0; j < BLOCK / 2; j++) {
    const uniform u = AT(s, j);
    real first[TERMS], second[TERMS];
    to[j] = join_bf16(
        backward_one(first_bf16(from[j]), first_bf16(d[j]), &u, first),
        backward_one(second_bf16(from[j]), second_bf16(d[j]), &u, second));
    for (int p = 0; p < PARAMS; p++) lanes[p][j] += first[p] + second[p];
  }
}

static inline void gradient_block(
    const storage *restrict x, const storage *restrict dout, storage *restrict dx,
    const shared *restrict s) {
  HOLD(s);
  const word *restrict from = (const word *)x, *restrict d = (const word *)dout;
  word *restrict to = (word *)dx;
#pragma GCC ivdep
  for (int j = 0; j < BLOCK / 2; j++) {
    const uniform u = AT(s, j);
    real terms[TERMS];
    to[j] = join_bf16(
        backward_one(first_bf16(from[j]), first_bf16(d[j]), &u, terms),
        backward_one(second_bf16(from[j]), second_bf16(d[j]), &u, terms));
  }
}
