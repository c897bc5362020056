/* ask for large pages under a large fresh result: most of its cost is otherwise page faults */
INLINE void large_pages(void *start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = 4096, low = ((uintptr_t)start + page - 1) & ~(page - 1);
  const uintptr_t high = ((uintptr_t)start + (uintptr_t)bytes) & ~(page - 1);
  if (bytes >= (int64_t)1 << 24) madvise((void *)low, high - low, MADV_HUGEPAGE);
#else
  (void)start, (void)bytes;
#endif
}

/* bits of a number and back */
INLINE uint32_t bits32(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
INLINE float float32(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
INLINE uint64_t bits64(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
INLINE double float64(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }

/* storage formats: nan stays nan, round to nearest even, denormals as they are */
INLINE float load_bf16(uint16_t h) { return float32((uint32_t)h << 16); }

INLINE uint16_t store_bf16(float x) {
  const uint32_t u = bits32(x);
  const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
  const uint32_t quiet = u | 0x400000u;
  return (uint16_t)(((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) >> 16);
}

INLINE float load_fp16(uint16_t h) {
  const uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13;
  const uint32_t top = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  return float32(bits32(float32(magnitude) * 0x1p112f) | top | sign);
}

INLINE uint16_t store_fp16(float x) {
  const uint32_t u = bits32(x), a = u & 0x7fffffffu;
  const uint32_t normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
  /* adding 0.5 leaves the denormal's digits, rounded, at the end of the sum */
  const uint32_t denormal = bits32(float32(a) + 0.5f) - 0x3f000000u;
  const uint32_t special = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = a < 0x38800000u ? denormal : normal;
  return (uint16_t)((a < 0x47800000u ? finite : special) | ((u >> 16) & 0x8000u));
}

/* round to odd: a second rounding to a half format is then as good as one */
INLINE float narrow(double x) {
  const float y = (float)x;
  const uint32_t u = bits32(y);
  const uint32_t toward_zero = u - (fabs((double)y) > fabs(x) ? 1u : 0u);
  const uint32_t odd = (double)y == x || y != y ? u : toward_zero | 1u;
  return float32(odd);
}
