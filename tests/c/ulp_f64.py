"""Measure the float64 functions of csrc/pn_math.h against mpmath; fail above 4 ULP.

Usage: python tests/c/ulp_f64.py ./test_math [count [function ...]]

./test_math is tests/c/test_math.c compiled with -DPN_TNAME=f64. count is the number of points of each
function: 10000 by default (about 10 s in all), 100000 for the full measurement (about 80 s).

A third of the points has random bits (all magnitudes), a third is uniform over the range where the
function has its shape, a third sits a few units in the last place around thresholds. As in kernels,
subnormal arguments count as zero and a subnormal result may be zero.
"""

import math
import random
import struct
import subprocess
import sys

from mpmath import mp, mpf

MAX_ULP = 4
LEAST = 2.0**-1022  # smallest normal number
mp.prec = 120


def softplus(x):
    return mp.log1p(mp.exp(max(x, mpf(-1000)))) if x < 0 else x + mp.log1p(mp.exp(max(-x, mpf(-1000))))


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def log(x):
    return mp.ninf if x == 0 else mp.nan if x < 0 else mp.log(x)


def log1p(x):
    return mp.ninf if x == -1 else mp.nan if x < -1 else mp.log1p(x)


def tanh(x):
    return mp.tanh(x) if abs(x) < 100 else mp.sign(x)


def erf(x):
    return mp.erf(x) if abs(x) < 7 else mp.sign(x)


def exp_below(x):
    return mpf(0) if x < -709 else mp.exp(min(x, mpf(709)))


def clipped(f):  # beyond e^+-1000 every double has overflowed or vanished
    return lambda x: f(max(mpf(-1000), min(x, mpf(1000))))


def power(x, y):
    try:
        want = math.pow(x, y)  # for rules; correct to an ULP, but that is what we measure
    except OverflowError:
        want = math.inf
    except ValueError:
        return mp.ninf if x == 0 and math.copysign(1, x) < 0 and y % 2 == 1 else mp.inf if x == 0 else mp.nan
    if x == 0 or y == 0 or abs(y * math.log(abs(x))) > 1000:
        return mpf(abs(want)) * (-1 if x < 0 and y % 2 == 1 else 1)
    return mp.power(abs(mpf(x)), mpf(y)) * (-1 if x < 0 else 1) ** (y % 2 == 1)


# name: reference, range of the uniform points, thresholds
STEPS = [(k + 0.5) * math.log(2) for k in range(-1080, 1026)]
SPLIT = [math.sqrt(0.5) * 2.0**e for e in range(-1021, 1024)] + [2.0**e for e in range(-1021, 1024)]
ANGLES = [float(k * mp.pi / 2) for k in [*range(-200, 201), *(2**i + d for i in range(8, 20) for d in range(40))]]
ENDS = [-745.2, -708.3964185322641, 709.782712893384, 710, 36.7, -37.5, -38, 0.0, 2.0**-60, 2.0**-30]
CASES = {
    "exp": (clipped(mp.exp), (-750, 715), STEPS + ENDS),
    "exp_below": (exp_below, (-720, 715), STEPS + ENDS),
    "expm1": (clipped(mp.expm1), (-40, 40), STEPS + ENDS),
    "log": (log, (0, 4), SPLIT + [1.0] * 500),
    "log1p": (log1p, (-1, 3), [s - 1 for s in SPLIT] + SPLIT + [-1.0] * 50),
    "tanh": (tanh, (-22, 22), [s / 2 for s in STEPS if abs(s) < 45] + [20.0, 19.06, 18.7]),
    "sigmoid": (clipped(sigmoid), (-720, 40), STEPS + ENDS),
    "erf": (erf, (-6.1, 6.1), [6.0, 5.92, 5.86, 0.5, 1.0, 0.0]),
    "softplus": (softplus, (-720, 40), STEPS + ENDS),
    "sin": (mp.sin, (-1000, 1000), [*ANGLES, 2.0**19, 2.0**-30]),
    "cos": (mp.cos, (-1000, 1000), [*ANGLES, 2.0**19]),
}
POWERS = [0.0, 0.5, -1.0, 2.0, 3.0, 2.7, -2.3, 1e3, -1e15, 1e300]


def from_bits(b):
    return struct.unpack("<d", struct.pack("<Q", b))[0]


def to_bits(x):
    return struct.unpack("<Q", struct.pack("<d", x))[0]


def any_double():
    x = from_bits(random.getrandbits(64))
    return x if math.isfinite(x) else any_double()


def near(x):
    for _ in range(random.randrange(4)):
        x = math.nextafter(x, random.choice((-math.inf, math.inf)))
    return x


def flushed(x):
    return math.copysign(0, x) if abs(x) < LEAST else x


def ulp(got, want):
    """|got - want| in units in the last place at want; beyond the largest double inf stands for 2^1024."""
    if mp.isnan(want) or math.isnan(got):
        return 0 if mp.isnan(want) and math.isnan(got) else math.inf
    top, got = mpf(2) ** 1024, flushed(got)
    want = max(-top, min(want, top))
    size = abs(want)
    if got == 0 and size < LEAST:
        return 0
    unit = mpf(2) ** (min(max(mp.frexp(size)[1] - 1, -1022), 1023) - 52)
    if got == 0 and size < 2 * LEAST:
        return float((size - LEAST) / unit + 1)
    g = mpf(got) if math.isfinite(got) else mp.sign(mpf(got)) * top
    return float(abs(g - want) / unit)


def run(program, name, lines):
    done = subprocess.run([program, "0", name], input="\n".join(lines), capture_output=True, text=True, check=True)
    return [from_bits(int(line, 16)) for line in done.stdout.split()]


def measure(program, name, count):
    if name == "pow":
        bases = (any_double, lambda: random.uniform(0, 3))
        powers = (lambda: random.uniform(-300, 300), lambda: random.choice(POWERS))
        points = [(bases[i % 2](), powers[i % 3 > 0]()) for i in range(count)]
        reference = power
    else:
        reference, (low, high), marks = CASES[name]
        make = (any_double, lambda: random.uniform(low, high), lambda: near(random.choice(marks)))
        points = [(make[i % 3](),) for i in range(count)]
        real = reference
        reference = lambda x: real(mpf(x))  # noqa: E731
    got = run(program, name, [" ".join(f"{to_bits(v):x}" for v in p) for p in points])
    worst = (0, None, None)
    for p, y in zip(points, got, strict=True):
        err = ulp(y, reference(*map(flushed, p)))
        if err > worst[0]:
            worst = (err, p, y)
    print(f"{name:9}{worst[0]:8.3f} ULP at {worst[1]}, got {worst[2]}", flush=True)
    return worst[0]


def main():
    program, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10000
    random.seed(1)
    worst = max(measure(program, name, count) for name in sys.argv[3:] or [*CASES, "pow"])
    sys.exit(worst > MAX_ULP)


if __name__ == "__main__":
    main()
