"""Elementary functions of vectors in C, with the largest error of each. No library is called, none is needed.

Not-a-number gives not-a-number unless C's function of the same name says otherwise; infinities give the limits.
Coefficients: exp and log are S. Moshier's (Cephes), erf and tanh the rational approximations of Eigen and XLA.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an error is measured in."""

    RELATIVE = "relative"
    ABSOLUTE = "absolute"


@dataclass(frozen=True, kw_only=True)
class Stated:
    """Largest error against float64 on a range; tests hold the function to it on every level."""

    error: float
    kind: Kind
    lower: float
    upper: float


TINY, HUGE = 1.17549435e-38, 3.40282346e38
"""Smallest normal and largest float32."""
STATED: dict[str, Stated] = {
    "e_exp": Stated(error=1.0e-7, kind=Kind.RELATIVE, lower=-86.9, upper=88.72),
    "e_log": Stated(error=1.0e-7, kind=Kind.RELATIVE, lower=TINY, upper=HUGE),
    "e_sqrt": Stated(error=6.0e-8, kind=Kind.RELATIVE, lower=0.0, upper=HUGE),
    "e_sigmoid": Stated(error=1.2e-7, kind=Kind.ABSOLUTE, lower=-HUGE, upper=HUGE),
    "e_tanh": Stated(error=3.2e-7, kind=Kind.ABSOLUTE, lower=-HUGE, upper=HUGE),
    "e_erf": Stated(error=4.0e-7, kind=Kind.ABSOLUTE, lower=-HUGE, upper=HUGE),
    "e_gelu": Stated(error=1.3e-6, kind=Kind.ABSOLUTE, lower=-8.0, upper=8.0),
    "e_gelu_tanh": Stated(error=1.3e-6, kind=Kind.ABSOLUTE, lower=-8.0, upper=8.0),
    "e_silu": Stated(error=2.0e-7, kind=Kind.RELATIVE, lower=-80.0, upper=HUGE),
}
"""Outside of its range `e_exp` goes to 0 and infinity; `e_log` of a number below the smallest normal one is -infinity.
The two GELUs are 0 and x far from 0."""
POW_RELATIVE_ERROR = 1.0e-7
"""Of `e_pow`, wherever the result is a normal number."""

TEXT = """\
INLINE v e_sqrt(v a) {
  for (int i = 0; i < LANES; i++) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
// 2^n * p(r), |r| <= ln 2 / 2, n rounded by adding 1.5 * 2^23. Half of 2^n times 2 p reaches both ends of the range.
INLINE v e_exp(v x) {
  x = e_clip(x, -87.3f, 89.0f);
  v n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  v r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  v p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) * 2.0f + 2.0f;
  vi e = (__builtin_convertvector(n, vi) + 126) << 23;
  return p * (v)e;
}
// x = 2^e m, m in [sqrt(1/2), sqrt(2)). Not-a-number below zero, minus infinity at zero.
INLINE v e_log(v x) {
  vi bits = (vi)x, small = x < 1.17549435e-38f;
  vi e = ((bits >> 23) & 255) - 126;
  v m = (v)((bits & 0x007fffff) | 0x3f000000);
  vi low = m < 0.707106781f;
  e = e + low;
  m = e_select(low, m + m, m) - 1.0f;
  v n = __builtin_convertvector(e, v), z = m * m;
  v p = m * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  p = p * m * z + n * -2.12194440e-4f - z * 0.5f;
  v y = (m + p) + n * 0.693359375f;
  y = e_select(small, e_select(x < 0.0f, e_splat(__builtin_nanf("")), e_splat(-__builtin_inff())), y);
  return e_select((x != x) | (x > 3.40282346e38f), x, y);
}
INLINE v e_sigmoid(v x) { return 1.0f / (1.0f + e_exp(-x)); }
// Where |x| >= limit: exactly 1 with the sign of x, else y.
INLINE v e_saturated(v x, v y, float limit) {
  vi one = ((vi)x & (int32_t)0x80000000) | 0x3f800000;
  return e_select(e_abs(x) > limit, (v)one, y);
}
INLINE v e_tanh(v x) {
  v z = x * x;
  v p = z * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * z - 8.60467152213735e-11f;
  p = p * z + 5.12229709037114e-08f;
  p = p * z + 1.48572235717979e-05f;
  p = p * z + 6.37261928875436e-04f;
  p = p * z + 4.89352455891786e-03f;
  v q = z * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * z + 2.26843463243900e-03f;
  q = q * z + 4.89352518554385e-03f;
  return e_saturated(x, x * p / q, 8.6f);
}
INLINE v e_erf(v x) {
  v z = x * x;
  v p = z * -2.72614225801306e-10f + 2.77068142495902e-08f;
  p = p * z - 2.10102402082508e-06f;
  p = p * z - 5.69250639462346e-05f;
  p = p * z - 7.34990630326855e-04f;
  p = p * z - 2.95459980854025e-03f;
  p = p * z - 1.60960333262415e-02f;
  v q = z * -1.45660718464996e-05f - 2.13374055278905e-04f;
  q = q * z - 1.68282697438203e-03f;
  q = q * z - 7.37332916720468e-03f;
  q = q * z - 1.42647390514189e-02f;
  return e_saturated(x, x * p / q, 3.84f);
}
INLINE v e_gelu(v x) { return 0.5f * x * (1.0f + e_erf(x * 0.70710678118654752f)); }
INLINE v e_gelu_tanh(v x) { return 0.5f * x * (1.0f + e_tanh(0.79788456080286536f * (x + 0.044715f * x * x * x))); }
INLINE v e_silu(v x) { return x * e_sigmoid(x); }
INLINE v e_hard_sigmoid(v x, float a, float b) { return e_clip(x * a + b, 0.0f, 1.0f); }
INLINE v e_leaky(v x, float slope) { return e_select(x < 0.0f, x * slope, x); }
"""

POW = """\
typedef double vd __attribute__((vector_size(8 * LANES)));
typedef int64_t vl __attribute__((vector_size(8 * LANES)));
// |x|^y = 2^(y log2 |x|) in double; log of the mantissa by the series of 2 atanh, 2^f by that of e^(f ln 2).
static v e_pow(v x, v y) {
  v a = e_abs(x);
  vl bits = (vl)__builtin_convertvector(a, vd);
  vl raise = (bits & 0x000fffffffffffff) > 0x0006a09e667f3bcd;
  vd m = (vd)(((bits & 0x000fffffffffffff) | 0x3ff0000000000000) + (raise & -0x0010000000000000));
  vd e = __builtin_convertvector((bits >> 52) - 1023 - raise, vd);
  vd s = (m - 1.0) / (m + 1.0), z = s * s;
  vd l = z * (1.0 / 13) + (1.0 / 11);
  l = ((((l * z + (1.0 / 9)) * z + (1.0 / 7)) * z + 0.2) * z + (1.0 / 3)) * z + 1.0;
  vd t = __builtin_convertvector(y, vd) * (e + s * l * 2.8853900817779268);
  vl high = t > 150.0, low = t < -160.0, lost = t != t;
  t = (vd)(~(high | low | lost) & (vl)t);
  vd n = (t + 6755399441055744.0) - 6755399441055744.0, f = (t - n) * 0.69314718055994531;
  vd p = f * (1.0 / 362880) + (1.0 / 40320);
  p = (((p * f + (1.0 / 5040)) * f + (1.0 / 720)) * f + (1.0 / 120)) * f + (1.0 / 24);
  p = (((p * f + (1.0 / 6)) * f + 0.5) * f + 1.0) * f + 1.0;
  v r = __builtin_convertvector(p * (vd)((__builtin_convertvector(n, vl) + 1023) << 52), v);
  vi above = __builtin_convertvector(high, vi), below = __builtin_convertvector(low, vi);
  v infinite = e_splat(__builtin_inff()), zero = e_splat(0.0f), one = e_splat(1.0f);
  above |= ((a == 0.0f) & (y < 0.0f)) | ((a > 3.40282346e38f) & (y > 0.0f));
  below |= ((a == 0.0f) & (y > 0.0f)) | ((a > 3.40282346e38f) & (y < 0.0f));
  r = e_select(a == 1.0f, one, e_select(above, infinite, e_select(below, zero, r)));
  v b = e_abs(y);
  vi huge = b >= 8388608.0f, odd = __builtin_convertvector(e_select(b < 16777216.0f, b, zero), vi);
  vi whole = huge | (__builtin_convertvector(odd, v) == b);
  vi negative = (vi)x & ~(x != x) & whole & (odd << 31) & (int32_t)0x80000000;
  r = (v)((vi)r | negative);
  v none = e_splat(__builtin_nanf(""));
  r = e_select((x < 0.0f) & (a <= 3.40282346e38f) & ~whole, none, r);
  r = e_select((x != x) | (y != y), none, r);
  return e_select((x == 1.0f) | (y == 0.0f), one, r);
}
"""
"""C's pow. Apart, because few modules need it."""
