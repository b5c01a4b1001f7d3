"""Compute the coefficients of csrc/pn_math_f32.h and csrc/pn_math_f64.h.

Usage: python tests/c/minimax.py [name ...]      (no name: all; needs mpmath; up to a few minutes)

Each entry is a function g on [a, b] with a weight w; Remez's exchange finds the polynomial p, or the
quotient of polynomials p/q with q(0) = 1, that minimises max |w (p/q - g)|. The weight turns the error of
g into the relative error of the function that is built from it. Printed are C hexadecimal constants,
rounded to the type, lowest order first (p, then q), and log2 of the weighted error before and after that
rounding.
"""

import itertools
import struct
import sys

from mpmath import mp, mpf

mp.dps = 60


def remez(g, w, a, b, n, m=0, rounds=12, grid=60):
    """Find the polynomials p of degree n and q of degree m, q(0) = 1, that minimise max |w (p/q - g)| on [a, b]."""
    a, b = mpf(a), mpf(b)
    count = n + m + 2
    x = [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * (i + mpf(1) / 2) / count) for i in range(count)]
    q = [mpf(1)]
    for _ in range(rounds):
        for _ in range(8 if m else 1):
            # w (p/q - g) = -e, e, -e, ... at the points x: linear in p, q and e but for e q, which takes the last q
            rows = [
                [t**j for j in range(n + 1)]
                + [-g(t) * t**j for j in range(1, m + 1)]
                + [(-1) ** i * value(q, t) / w(t)]
                for i, t in enumerate(x)
            ]
            found = list(mp.lu_solve(mp.matrix(rows), mp.matrix([g(t) for t in x])))
            p, q = found[: n + 1], [mpf(1), *found[n + 1 : n + m + 1]]
        x, spread = exchange(g, w, (p, q), a, b, x, grid)
        if spread < 1.01:
            break
    return p, q


def exchange(g, w, pq, a, b, x, grid):
    """Move each point to the extremum of its half wave of w (p/q - g); also the ratio of their sizes."""
    edges = [a, *((s + t) / 2 for s, t in itertools.pairwise(x)), b]
    points = sorted({l + (r - l) * i / grid for l, r in itertools.pairwise(edges) for i in range(grid + 1)})
    values = [w(t) * (quotient(pq, t) - g(t)) for t in points]
    waves, start = [], 0
    for i in range(1, len(points) + 1):
        if i == len(points) or (values[i] > 0) != (values[start] > 0):
            k = max(range(start, i), key=lambda j: abs(values[j]))
            waves.append((points[k], abs(values[k])))
            start = i
    while len(waves) > len(x):
        waves.pop(0 if waves[0][1] < waves[-1][1] else -1)
    if len(waves) < len(x):
        return x, mpf(1)
    sizes = [s for _, s in waves]
    return [t for t, _ in waves], max(sizes) / min(sizes)


def value(c, t):
    r = mpf(0)
    for k in reversed(c):
        r = r * t + k
    return r


def quotient(pq, t):
    return value(pq[0], t) / value(pq[1], t)


def rounded(c, kind):
    if kind == "f64":
        return [mpf(float(k)) for k in c]
    return [mpf(struct.unpack("f", struct.pack("f", float(k)))[0]) for k in c]


def worst(g, w, a, b, pq):
    a, b = mpf(a), mpf(b)
    pts = [a + (b - a) * (i + mpf("0.37")) / 1000 for i in range(1000)]
    e = max(abs(w(t) * (quotient(pq, t) - g(t))) for t in pts)
    return float(mp.log(e, 2))


def literal(k, kind):
    head, _, power = float(k).hex().partition("p")
    return head.rstrip("0") + "p" + power + ("f" if kind == "f32" else "")


LN2_2 = mp.log(2) / 2 * mpf("1.0005")  # r = x - k ln 2, k rounded in the arithmetic of the type
F0, F1 = mp.sqrt(mpf(1) / 2) - 1, mp.sqrt(2) - 1
TINY = mpf(10) ** -12


def exp_q(r):  # expm1(r) = r + r^2 q(r)
    return (mp.expm1(r) - r) / r**2


def log_p(f):  # log1p(f) = f - f^2/2 + f^3 p(f)
    return (mp.log1p(f) - f + f * f / 2) / f**3


def log_r(z):  # log1p(f) = f - s (f - z r(z)), s = f / (2 + f), z = s^2
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s) / (s * z)


def unit_w(z):  # d log1p / log1p by d R, f = 2 s / (1 - s) up to 1
    s = mp.sqrt(z)
    return s * z / mp.log1p(2 * s / (1 - s))


def normal_r(z):  # Phi(x) = 1/2 + x p(z) / q(z), z = x^2
    x = mp.sqrt(z)
    return mp.erf(x / mp.sqrt(2)) / (2 * x)


def erf_p(a):  # erf(a) = -expm1(-(a + a p(a))), a >= 0
    return -mp.log(mp.erfc(a)) / a - 1


def erf_w(a):  # d erf / erf by d p
    return a * mp.erfc(a) / mp.erf(a)


def sin_s(z):  # sin(r) = r + r z s(z), z = r^2
    r = mp.sqrt(z)
    return (mp.sin(r) - r) / (r * z)


def cos_c(z):  # cos(r) = 1 - z/2 + z^2 c(z), z = r^2
    return (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2


QUARTER = (mp.pi / 4 * mpf("1.0001")) ** 2

PLANS = {
    "exp_f32": ("f32", exp_q, lambda r: abs(r * r / mp.expm1(r)), -LN2_2, LN2_2 + TINY, 4),
    "exp_f64": ("f64", exp_q, lambda r: abs(r * r / mp.expm1(r)), -LN2_2, LN2_2 + TINY, 10),
    "log_f32": ("f32", log_p, lambda f: f**3 / mp.log1p(f), F0, F1, 7),
    "log_f64": ("f64", log_r, lambda z: z, TINY, mpf("0.0295"), 6),
    "erf_f32": ("f32", erf_p, erf_w, TINY, 4, 8),
    "normal_f32": ("f32", normal_r, mp.sqrt, TINY, mpf("5.6") ** 2, 5, 5),
    "erf_f64": ("f64", erf_p, erf_w, TINY, 6, 24),
    "unit_f32": ("f32", log_r, unit_w, TINY, mpf("0.1112"), 3),  # log1p on [0, 1], for softplus
    "unit_f64": ("f64", log_r, unit_w, TINY, mpf("0.1112"), 9),
    "pow_log_f32": ("f64", log_r, lambda z: z, TINY, mpf("0.0295"), 3),  # in double lanes
    "pow_exp_f32": ("f64", exp_q, lambda r: r * r, -LN2_2, LN2_2 + TINY, 5),
    "sin_f32": ("f64", sin_s, lambda z: z, TINY, QUARTER, 2),
    "cos_f32": ("f64", cos_c, lambda z: z**2, TINY, QUARTER, 2),
    "sin_f64": ("f64", sin_s, lambda z: z, TINY, QUARTER, 5),
    "cos_f64": ("f64", cos_c, lambda z: z**2, TINY, QUARTER, 5),
}


def main(names):
    for name in names or PLANS:
        kind, g, w, a, b, *degrees = PLANS[name]
        pq = remez(g, w, a, b, *degrees)
        exact = worst(g, w, a, b, pq)
        pq = [rounded(c, kind) for c in pq]
        print(f"{name}: 2^{exact:.1f}, rounded 2^{worst(g, w, a, b, pq):.1f}")
        for c in pq[: len(degrees)]:
            print("  " + ", ".join(literal(k, kind) for k in c))


if __name__ == "__main__":
    main(sys.argv[1:])
