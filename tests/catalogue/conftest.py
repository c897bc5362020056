"""The published formula of every row, written by hand and independent of the TOML text."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import mpmath
import pytest

from integrand.spec import Param, dependency_order, row

mp = mpmath.mp


def step(x, positive, negative):
    return positive if x > 0 else negative


def clamp(x, lo, hi):
    return min(max(x, lo), hi)


def s(x):
    return 1 / (1 + mp.exp(-x))


def sp(x):
    return mp.log(1 + mp.exp(x))


def phi(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def cdf(x):
    return (1 + mp.erf(x / mp.sqrt(2))) / 2


def softsign(x):
    return x / (1 + abs(x))


def gate_atan(x):
    return mp.atan(x) / mp.pi + mp.mpf(1) / 2


def expanded(gate, alpha):
    return gate * (1 + 2 * alpha) - alpha


def li2(x):
    return mp.re(mp.polylog(2, -mp.exp(x)))


def soft_threshold(x, t, m):
    return mp.sign(x) * min(max(abs(x) - t, mp.mpf(0)), m)


def quad(g, x):
    return mp.quad(g, mp.linspace(0, x, 9)) if x else mp.mpf(0)


def bernstein_leaky(x, eps, a):
    """The degree-2 Bernstein polynomial of Leaky ReLU on [-eps, eps], Leaky ReLU outside."""

    def leaky(t):
        return t if t > 0 else a * t

    if abs(x) >= eps:
        return leaky(x)
    u = (x + eps) / (2 * eps)
    nodes = [leaky(eps * (k - 1)) for k in range(3)]
    return sum(mp.binomial(2, k) * u**k * (1 - u) ** (2 - k) * nodes[k] for k in range(3))


def smoothed_leaky(x, a, b):
    """Leaky ReLU of slope a convolved with a Gaussian of standard deviation 1/b, by quadrature."""

    def integrand(t):
        y = x - t / b
        return (y if y > 0 else a * y) * phi(t)

    cuts = sorted({mp.mpf(-16), mp.mpf(0), mp.mpf(16), clamp(b * x, mp.mpf(-16), mp.mpf(16))})
    return mp.quad(integrand, cuts)


def xielu_negative(x, p):
    return p.alpha_n * (mp.exp(x) - 1) - p.alpha_n * x + p.beta * x


def softsign_negative(x, p):
    return p.alpha_n * x * softsign(x) + p.beta * x


def quadratic(x, p):
    return p.alpha_p * x * x + p.beta * x


def cubic(x, p):
    return p.alpha_p3 * x**3 + p.alpha_p2 * x**2 + p.beta * x


def xielu(x, p):
    return step(x, quadratic(x, p), xielu_negative(x, p))


def elu(x, alpha=1):
    return step(x, x, alpha * (mp.exp(x) - 1))


def selu(x):
    scale = mp.mpf("1.0507009873554804934193349852946")
    return scale * elu(x, mp.mpf("1.6732632423543772848170429916717"))


def side_power(x, p):
    value = abs(x) ** (p.p + 1) / (p.p + 1)
    return step(x, p.a_p * value, -p.a_n * value)


def aglu_gate(x, p):
    return (p.lam * mp.exp(-p.kappa * x) + 1) ** (-1 / p.lam)


HALF = mp.mpf(1) / 2

Formula = Callable[[Any, Any], Any]
PUBLISHED: dict[str, Formula] = {
    "xielu": xielu,
    "xielu_beta": xielu,
    "xiprelu": lambda x, p: step(x, p.alpha_p, p.alpha_n) * x * x + p.beta * x,
    "xiprelup": lambda x, p: step(x, p.alpha_p, p.alpha_n) * abs(x) ** p.p + p.beta * x,
    "xiep": lambda x, p: step(x, cubic(x, p), xielu_negative(x, p)),
    "xssslur2": lambda x, p: step(x, quadratic(x, p), softsign_negative(x, p)),
    "xssslupr": lambda x, p: step(x, cubic(x, p), softsign_negative(x, p)),
    "relu2": lambda x, p: max(x, 0) ** 2,
    "xsilu": lambda x, p: x * expanded(s(x), p.alpha),
    "xgelu": lambda x, p: x * expanded(cdf(x), p.alpha),
    "xatlu": lambda x, p: x * expanded(gate_atan(x), p.alpha),
    "atlu": lambda x, p: x * gate_atan(x),
    "xsig": lambda x, p: expanded(s(x), p.alpha),
    "xge": lambda x, p: mp.erf(x / mp.sqrt(2)) * (HALF + p.alpha) + HALF,
    "xat": lambda x, p: mp.atan(x) / mp.pi * (1 + 2 * p.alpha) + HALF,
    "sss": lambda x, p: (softsign(x) + 1) / 2,
    "ssslu": lambda x, p: x * (softsign(x) + 1) / 2,
    "xsss": lambda x, p: p.alpha * softsign(x) + HALF,
    "xssslu": lambda x, p: x * (p.alpha * softsign(x) + HALF),
    "integral_sigmoid": lambda x, p: sp(x) - mp.log(2),
    "integral_ndtr": lambda x, p: x * cdf(x) + phi(x) - phi(mp.mpf(0)),
    "integral_erf": lambda x, p: x * mp.erf(x) + (mp.exp(-x * x) - 1) / mp.sqrt(mp.pi),
    "integral_tanh": lambda x, p: mp.log(mp.cosh(x)),
    "integral_atan": lambda x, p: x * mp.atan(x) - mp.log(1 + x * x) / 2,
    "integral_softsign": lambda x, p: abs(x) - mp.log(1 + abs(x)),
    "integral_relu": lambda x, p: step(x, x * x / 2, 0),
    "integral_prelu": lambda x, p: step(x, 1, p.a) * x * x / 2,
    "integral_power": side_power,
    "integral_elu": lambda x, p: step(x, x * x / 2, p.alpha * (mp.exp(x) - 1 - x)),
    "integral_gelu": lambda x, p: ((x * x - 1) * cdf(x) + x * phi(x) + HALF) / 2,
    "integral_silu": lambda x, p: x * sp(x) + li2(x) - li2(mp.mpf(0)),
    "integral_softplus": lambda x, p: li2(mp.mpf(0)) - li2(x),
    "integral_smooth_leaky": lambda x, p: (
        p.a * x * x / 2
        + (1 - p.a) * (x * sp(p.k * x) / p.k + (li2(p.k * x) - li2(mp.mpf(0))) / p.k**2)
    ),
    "integral_gem1": lambda x, p: step(x, (x * x - mp.log(1 + x * x)) / 2, 0),
    "integral_snake": lambda x, p: x * x / 2 + x / (2 * p.a) - mp.sin(2 * p.a * x) / (4 * p.a**2),
    "integral_elephant2": lambda x, p: p.a * mp.atan(x / p.a),
    "integral_elephant8": lambda x, p: quad(lambda t: 1 / (1 + abs(t / p.a) ** 8), x),
    "integral_cauchy": lambda x, p: (
        p.lambda1 / 2 * mp.log((x * x + p.d**2) / p.d**2) + p.lambda2 / p.d * mp.atan(x / p.d)
    ),
    "integral_mish": lambda x, p: quad(lambda t: t * mp.tanh(sp(t)), x),
    "integral_x_gauss": lambda x, p: 1 - mp.exp(-x * x / 2),
    "identity": lambda x, p: x,
    "relu": lambda x, p: max(x, 0),
    "leaky_relu": lambda x, p: max(x, 0) + p.a * min(x, 0),
    "prelu": lambda x, p: max(x, 0) + p.a * min(x, 0),
    "relu6": lambda x, p: clamp(x, 0, 6),
    "polyrelu": lambda x, p: (
        p.a0 + p.a1 * max(x, 0) + p.a2 * max(x, 0) ** 2 + p.a3 * max(x, 0) ** 3
    ),
    "clipped_shifted_relu": lambda x, p: clamp(x - p.t, 0, p.m),
    "clipped_soft_threshold": lambda x, p: soft_threshold(x, p.t, p.m),
    "softshrink": lambda x, p: soft_threshold(x, p.lam, mp.inf),
    "hardswish": lambda x, p: x * clamp(x + 3, 0, 6) / 6,
    "hardmish": lambda x, p: x * clamp(x + 2, 0, 2) / 2,
    "hardsigmoid": lambda x, p: clamp(x + 3, 0, 6) / 6,
    "hardtanh": lambda x, p: clamp(x, -1, 1),
    "elu": lambda x, p: elu(x, p.alpha),
    "celu": lambda x, p: max(x, 0) + min(0, p.alpha * (mp.exp(x / p.alpha) - 1)),
    "selu": lambda x, p: selu(x),
    "silu": lambda x, p: x * s(x),
    "swish": lambda x, p: x * s(p.beta * x),
    "gelu": lambda x, p: x * cdf(x),
    "gelu_tanh": lambda x, p: (
        HALF * x * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))
    ),
    "gelu_quick": lambda x, p: x * s(mp.mpf("1.702") * x),
    "mish": lambda x, p: x * mp.tanh(sp(x)),
    "apa": aglu_gate,
    "aglu": lambda x, p: x * aglu_gate(x, p),
    "softplus": lambda x, p: sp(x),
    "squareplus": lambda x, p: (x + mp.sqrt(x * x + p.b)) / 2,
    "sau": lambda x, p: smoothed_leaky(x, p.a, p.b),
    "smooth_leaky": lambda x, p: p.a * x + (1 - p.a) * x * s(p.c * x / p.p),
    "gem1": lambda x, p: step(x, x**3 / (1 + x**2), 0),
    "gem2": lambda x, p: step(x, x**5 / (1 + x**4), 0),
    "berlu": lambda x, p: bernstein_leaky(x, p.eps, p.a),
    "crrelu": lambda x, p: max(x, 0) + p.epsilon * x * mp.exp(-x * x / 2),
    "sigmoid": lambda x, p: s(x),
    "tanh": lambda x, p: mp.tanh(x),
    "atan": lambda x, p: mp.atan(x),
    "softsign": lambda x, p: softsign(x),
    "logsigmoid": lambda x, p: mp.log(s(x)),
    "tempered_sigmoid": lambda x, p: p.scale / (1 + mp.exp(-p.t * x)) - p.offset,
    "laplace": lambda x, p: (1 + mp.erf((x - p.mu) / (p.sigma * mp.sqrt(2)))) / 2,
    "tanhshrink": lambda x, p: x - mp.tanh(x),
    "symlog": lambda x, p: mp.sign(x) * mp.log(1 + abs(x)),
    "elephant": lambda x, p: 1 / (1 + abs(x / p.a) ** 8),
    "cauchy": lambda x, p: p.lambda1 * x / (x**2 + p.d**2) + p.lambda2 / (x**2 + p.d**2),
    "gaussian": lambda x, p: mp.exp(-x * x / (2 * p.s**2)),
    "snake": lambda x, p: x + mp.sin(p.a * x) ** 2 / p.a,
    "snake_beta": lambda x, p: x + mp.sin(p.alpha * x) ** 2 / p.beta,
    "sine": lambda x, p: mp.sin(p.w0 * x),
}


def draw(params: dict[str, Param], rng: random.Random) -> dict[str, Any]:
    """Random values that respect the bounds."""
    values: dict[str, Any] = {}

    def limit(bound):
        return values[bound] if isinstance(bound, str) else mp.mpf(bound)

    for name in dependency_order(params):
        p, size = params[name], mp.mpf(rng.uniform(0.1, 2.5))
        if p.above is not None:
            values[name] = limit(p.above) + size
        elif p.below is not None:
            values[name] = limit(p.below) - size
        else:
            values[name] = mp.mpf(p.init) + rng.choice([-1, 1]) * size
    return values


def draw_cases(name: str, points: int) -> Iterator[tuple[Any, dict[str, Any], SimpleNamespace]]:
    """Random points of many sizes at the initial values and at random admissible ones."""
    rng = random.Random(name)
    params = row(name).spec.params
    initial = {k: mp.mpf(p.init) for k, p in params.items()}
    for i in range(points):
        values = initial if i % 3 == 0 else draw(params, rng)
        x = mp.mpf(rng.choice([-1, 1]) * 10 ** rng.uniform(-3, 1.6))
        yield x, values, SimpleNamespace(**values)


@pytest.fixture(autouse=True)
def fifty_digits() -> Iterator[None]:
    with mp.workdps(50):
        yield


@pytest.fixture(scope="session")
def published() -> dict[str, Formula]:
    """f(x, p) by name, p with the parameter values as attributes; in the precision at hand."""
    return PUBLISHED


@pytest.fixture(scope="session")
def cases() -> Callable[[str, int], Iterator[tuple[Any, dict[str, Any], SimpleNamespace]]]:
    """(x, values, values as a namespace) for a name and a number of points."""
    return draw_cases
