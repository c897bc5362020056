/* 2^n y for integral n in [-1100, 1100] (double) or [-150, 150] (float): two exact factors, so that
   a denormal result is rounded once and 2^n itself need not be finite. */
static inline float scale32(float y, float n) {
  const uint32_t u = bits32(n + 12582912.0f) - 0x4b400000u + 256u;
  const uint32_t a = u >> 1, b = u - a;
  return y * float32((a - 1u) << 23) * float32((b - 1u) << 23);
}

static inline double scale64(double y, double n) {
  const uint64_t u = bits64(n + 6755399441055744.0) - 0x4338000000000000u + 2048u;
  const uint64_t a = u >> 1, b = u - a;
  return y * float64((a - 1u) << 52) * float64((b - 1u) << 52);
}
