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

/* selects by arithmetic, for a, b < 2^31: gcc vectorises them whatever surrounds them */
INLINE uint32_t below(uint32_t a, uint32_t b) { return (uint32_t)((int32_t)(a - b) >> 31); }
INLINE uint32_t pick(uint32_t mask, uint32_t a, uint32_t b) { return (a & mask) | (b & ~mask); }

/* storage formats: nan stays nan, round to nearest even, denormals as they are */
INLINE float load_bf16(uint16_t h) { return float32((uint32_t)h << 16); }

/* a nan's digits come from half-precision data, arithmetic or `number`: the last 16 are 0, and
   rounding does not carry into its sign */
INLINE double number(double x) { return x == x ? x : NAN; }
INLINE uint32_t round_bf16(float x) {
  const uint32_t u = bits32(x);
  return u + 0x7fffu + ((u >> 16) & 1u);
}
INLINE uint16_t store_bf16(float x) { return (uint16_t)(round_bf16(x) >> 16); }

/* a word of two */
typedef uint32_t __attribute__((may_alias, aligned(2))) word;
INLINE float first_bf16(uint32_t w) { return float32(w << 16); }
INLINE float second_bf16(uint32_t w) { return float32(w & 0xffff0000u); }
INLINE uint32_t join_bf16(float first, float second) {
  return (round_bf16(first) >> 16) | (round_bf16(second) & 0xffff0000u);
}

INLINE float load_fp16(uint16_t h) {
  const uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13;
  const uint32_t top = ~below(magnitude, 0x0f800000u) & 0x7f800000u;
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  return float32(bits32(float32(magnitude) * 0x1p112f) | top | sign);
}

INLINE uint16_t store_fp16(float x) {
  const uint32_t u = bits32(x), a = u & 0x7fffffffu;
  const uint32_t normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
  /* adding 0.5 leaves the denormal's digits, rounded, at the end of the sum */
  const uint32_t denormal = bits32(float32(a) + 0.5f) - 0x3f000000u;
  const uint32_t special = 0x7c00u | (~below(a, 0x7f800001u) & 0x200u);
  const uint32_t finite = pick(below(a, 0x38800000u), denormal, normal);
  return (uint16_t)(pick(below(a, 0x47800000u), finite, special) | ((u >> 16) & 0x8000u));
}

/* round to odd, where fp32 is not denormal: a second rounding to a half format is as good as one */
INLINE float narrow(double x) {
  const uint64_t u = bits64(x), dropped = 0x1fffffffu;
  const uint64_t sticky = ((u & dropped) + dropped) & 0x20000000u;
  return (float)float64((u & ~dropped) | sticky);
}
