/* 2^n y, with n given as the rounding sum n + 1.5 * 2^23 + 254 (double: n + 1.5 * 2^52 + 2046), whose
   last bits hold n and twice the bias: two exact factors, so that a denormal result is rounded once
   and 2^n itself need not be finite */
INLINE float scale32(float y, float n_shifted) {
  const uint32_t u = bits32(n_shifted), a = u >> 1, b = u - a;
  return y * float32(a << 23) * float32(b << 23);
}

INLINE double scale64(double y, double n_shifted) {
  const uint64_t u = bits64(n_shifted), a = u >> 1, b = u - a;
  return y * float64(a << 52) * float64(b << 52);
}
