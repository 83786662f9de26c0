"""Elementary functions of generated code against float64, on every level and at every optimisation."""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from ecompile_workers.codegen import toolchain
from ecompile_workers.codegen.c_printer import Printed
from ecompile_workers.codegen.kernels.functions import POW_RELATIVE_ERROR, STATED, TINY, Kind
from ecompile_workers.codegen.kernels.prelude import prelude
from ecompile_workers.codegen.levels import LEVELS, cpu_levels
from numpy.typing import NDArray

HERE = cpu_levels()
BUILDS = [(level, optimisation) for level in HERE for optimisation in toolchain.OPTIMISATIONS]
FOLDS: dict[str, Callable[..., Any]] = {"e_sum": np.sum, "e_highest": np.max, "e_lowest": np.min}
Wide = NDArray[np.float64]
Rows = NDArray[np.float32]


def sigmoid(x: Wide) -> Wide:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


ERF = np.vectorize(math.erf, otypes=[np.float64])
REFERENCES: dict[str, Callable[[Wide], Wide]] = {
    "e_exp": np.exp,
    "e_log": np.log,
    "e_sqrt": np.sqrt,
    "e_sigmoid": sigmoid,
    "e_tanh": np.tanh,
    "e_erf": ERF,
    "e_gelu": lambda x: 0.5 * x * (1 + ERF(x / math.sqrt(2))),
    "e_gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "e_silu": lambda x: x * sigmoid(x),
}


@cache
def library(level: str, optimisation: str) -> ctypes.CDLL:
    """Every function under its own name with "t_" in front: (x, y, n) for n whole vectors."""
    export = '__attribute__((visibility("default")))'
    parts = [
        f"{export} void t_{name}(const float *x, float *y, long n) "
        f"{{ for (long i = 0; i < n; i += LANES) STOREU(y + i, {name}(LOADU(x + i))); }}"
        for name in STATED
    ]
    parts += [
        f"{export} void t_{name}(const float *x, float *y, long n) "
        f"{{ for (long i = 0; i < n; i += LANES) y[i / LANES] = {name}(LOADU(x + i)); }}"
        for name in FOLDS
    ]
    parts.append(
        f"{export} void t_e_pow(const float *x, const float *y, float *z, long n) "
        "{ for (long i = 0; i < n; i += LANES) STOREU(z + i, e_pow(LOADU(x + i), LOADU(y + i))); }"
    )
    body = "\n".join(parts) + "\n"
    printed = Printed(source=prelude(LEVELS[level], body) + body, weights=b"\0" * 64)
    content = toolchain.build(printed, LEVELS[level], optimisation=optimisation)
    return load(content)


def load(content: bytes) -> ctypes.CDLL:
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(content)
        file.flush()
        return ctypes.CDLL(file.name)


def apply(build: tuple[str, str], name: str, *operands: Rows) -> Rows:
    """Elementwise; the operands are padded to whole vectors."""
    count = operands[0].size
    padded = [np.resize(o, -(-count // 16) * 16) for o in operands]
    result = np.empty_like(padded[0])
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (*padded, result)]
    getattr(library(*build), f"t_{name}")(*addresses, ctypes.c_long(result.size))
    return result[:count]


def inputs(lower: float, upper: float) -> Rows:
    """Evenly spaced, evenly spaced near zero, and random ones of every magnitude, inside the bounds."""
    rng = np.random.default_rng(0)
    magnitudes = np.exp(rng.uniform(np.log(TINY), np.log(3e38), 60_000)) * rng.choice([-1, 1], 60_000)
    low, high = max(lower, -100.0), min(upper, 100.0)
    parts = [np.linspace(low, high, 60_000), np.linspace(0.5, 1.5, 20_000), np.linspace(-1e-3, 1e-3, 9_999)]
    ends = [lower, upper, 0.0, TINY, 1.0, -1.0]
    x = np.concatenate([*parts, magnitudes, ends]).astype(np.float32)
    return x[(x >= np.float32(lower)) & (x <= np.float32(upper))]


def largest_error(name: str, x: Rows, y: Rows) -> float:
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](x.astype(np.float64))
        error = np.abs(y - expected)
        if STATED[name].kind is Kind.RELATIVE:
            error = error / np.maximum(np.abs(expected), TINY)
    return float(error[error == error].max())


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
@pytest.mark.parametrize("name", STATED)
def test_error_is_below_the_stated_one(name: str, build: tuple[str, str]) -> None:
    stated = STATED[name]
    x = inputs(stated.lower, stated.upper)
    y = apply(build, name, x)
    assert np.isfinite(y).all()
    assert largest_error(name, x, y) <= stated.error


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
def test_limits_at_infinity_and_not_a_number(build: tuple[str, str]) -> None:
    inf, nan = np.inf, np.nan
    limits = {
        "e_exp": [0.0, inf, nan],
        "e_log": [nan, inf, nan],
        "e_sqrt": [nan, inf, nan],
        "e_sigmoid": [0.0, 1.0, nan],
        "e_tanh": [-1.0, 1.0, nan],
        "e_erf": [-1.0, 1.0, nan],
        "e_gelu": [nan, inf, nan],  # as in PyTorch: -inf times 0
        "e_gelu_tanh": [nan, inf, nan],
        "e_silu": [nan, inf, nan],
    }
    assert limits.keys() == STATED.keys()
    for name, expected in limits.items():
        np.testing.assert_array_equal(apply(build, name, np.array([-inf, inf, nan], np.float32)), expected, name)
    np.testing.assert_array_equal(apply(build, "e_log", np.array([0.0, -0.0, -1.0], np.float32)), [-inf, -inf, nan])


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
def test_far_from_zero_activations_are_exactly_flat(build: tuple[str, str]) -> None:
    x = np.array([-1e30, -1e6, -60.0, 60.0, 1e6, 1e30], np.float32)
    for name in ("e_gelu", "e_gelu_tanh"):
        np.testing.assert_array_equal(apply(build, name, x), np.maximum(x, 0.0), name)
    for name in ("e_tanh", "e_erf"):
        np.testing.assert_array_equal(apply(build, name, x), np.sign(x), name)


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
def test_pow_of_random_numbers(build: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-20, 20, 50_000)).astype(np.float32)
    y = rng.normal(0, 3, x.size).astype(np.float32)
    expected = x.astype(np.float64) ** y
    normal = (expected >= TINY) & (expected <= 3.4e38)
    error = np.abs(apply(build, "e_pow", x, y) - expected) / expected
    assert float(error[normal].max()) <= POW_RELATIVE_ERROR


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
def test_pow_of_special_numbers_is_that_of_c(build: tuple[str, str]) -> None:
    special = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1.5, 1e30, -1e30, 1e-30, np.inf, -np.inf, np.nan]
    x, y = (np.array(part, np.float32).reshape(-1) for part in np.meshgrid(special, special))
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    found = apply(build, "e_pow", x, y)
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-38)
    known = expected == expected
    np.testing.assert_array_equal(np.signbit(found[known]), np.signbit(expected[known]))


@pytest.mark.parametrize("build", BUILDS, ids="-".join)
@pytest.mark.parametrize("name", FOLDS)
def test_folds_of_a_vector(name: str, build: tuple[str, str]) -> None:
    lanes = LEVELS[build[0]].lanes
    x = np.random.default_rng(0).integers(-1000, 1000, (200, lanes)).astype(np.float32)
    for lane in range(lanes):
        x[lane, lane] = np.nan
    found = np.empty(len(x), np.float32)
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (x, found)]
    getattr(library(*build), f"t_{name}")(*addresses, ctypes.c_long(x.size))
    np.testing.assert_array_equal(found, FOLDS[name](x, axis=1))
