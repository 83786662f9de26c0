"""How far a network with factored matrices can be from the original, for one input: constants of the certificate.

Reference: the chain in real numbers. Compiled: float32, in any order of summation. With activations a of the original
and a' of the compiled network, a layer z = a W + b and its replacement obey

    |z - z'| <= |W| |a - a'| + (what the replacement errs by on a')

in the Euclidean norm, |W| being the operator norm; a ReLU shortens differences. A factored layer computes

    d = a' - m,  c = d V,  z' = c U + (m W + b),  U = V^T W,  R = W - V U

and errs by |R| |p| with p = d - c V^T, whose norm is computed for each input; or, where the matrix itself is thin, by
|R| |d|. Roundings of every step are added by the standard model (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd edition, lemma 3.1), on magnitudes that follow from the norm of the input. The result is affine in what
the code computes for each input, both float32 values of norms: the input's, and |p| of every watched layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..certify.network import Chain, Layer, Values
from ..certify.rounding import FLOAT32_UNIT, gamma32

SLACK = 1.0 + 1e-6
"""Norms are computed in float64 and multiplied by this: far more than their own rounding."""
UNDERFLOW = 1e-17
"""More than what squares that underflow, or products flushed to zero, can take from a norm or a sum of up to 2^20."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A layer as two thin matrices; numbers as the code has them, float32."""

    mean: Values
    """[in]"""
    basis: Values
    """[in, rank]"""
    middle: Values
    """[rank, out]"""
    shift: Values
    """[out]"""
    watched: bool
    """Whether |p| is computed for each input."""

    @property
    def rank(self) -> int:
        return int(self.basis.shape[1])


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """|compiled - original| of every output <= static + size * s + sum of factors[layer] * s[layer], watched layers.

    s: the float32 norm of the input less the first layer's `mean`, if that is factored; s[layer]: that of p there.
    """

    static: float
    size: float
    factors: Mapping[int, float]

    def of(self, size: Values, missed: Mapping[int, Values]) -> Values:
        """The bound of each row from its norms [rows]."""
        return np.asarray(self.static + self.size * size + sum(self.factors[n] * missed[n] for n in self.factors))


def make_factor(layer: Layer, basis: Values, mean: Values, *, watched: bool) -> Factor:
    """Numbers of a factored layer, rounded to float32. `basis` [in, rank], nearly orthonormal."""
    v = _single(basis)
    m = _single(mean)
    return Factor(
        mean=m,
        basis=v,
        middle=_single(v.T @ layer.weight),
        shift=_single(m @ layer.weight + layer.bias),
        watched=watched,
    )


def _single(values: Values) -> Values:
    return values.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class _Norms:
    """What differences of a layer's results are measured in: Euclidean, but for the outputs, one by one."""

    last: bool

    def of_matrix(self, matrix: Values) -> float:
        """|x M| <= of_matrix(M) |x|, x in the Euclidean norm."""
        if matrix.size == 0:
            return 0.0
        found = np.linalg.norm(matrix, axis=0).max() if self.last else np.linalg.norm(matrix, 2)
        return float(found) * SLACK

    def of_vector(self, vector: Values) -> float:
        return float(np.abs(vector).max() if self.last else np.linalg.norm(vector)) * SLACK


def operator_norm(layer: Layer, *, last: bool) -> float:
    """By how much a layer can stretch a difference."""
    norms = _Norms(last)
    return norms.of_matrix(layer.weight) + norms.of_matrix(layer.weight_radius)


def deviation(chain: Chain, factors: Mapping[int, Factor]) -> Deviation:
    """The certificate's constants. `factors`: by number of the layer; the other layers are dense."""
    watched = [number for number, factor in sorted(factors.items()) if factor.watched]
    columns = {number: index + 2 for index, number in enumerate(watched)}
    error = np.zeros(len(watched) + 2)  # of [1, s, s of each watched layer]
    one, size = np.eye(len(error))[:2]
    first = factors.get(0)
    moved = size * (1 + gamma32(chain.inputs + 8)) + one * UNDERFLOW  # |x - m|, m of the first layer
    norm = moved if first is None else moved + one * _length(first.mean)
    for number, layer in enumerate(chain.layers):
        norms = _Norms(last=number == len(chain.layers) - 1)
        factor = factors.get(number)
        if factor is None:
            error = _dense(layer, norms, error, norm)
        else:
            distance = moved if number == 0 else norm + one * _length(factor.mean)
            error = _factored(layer, factor, norms, error, distance, columns.get(number))
        norm = _norm_after(layer, norm, error)
    return Deviation(
        static=float(error[0]) * SLACK,
        size=float(error[1]) * SLACK,
        factors={n: float(error[c]) * SLACK for n, c in sorted(columns.items())},
    )


def _length(vector: Values) -> float:
    return float(np.linalg.norm(vector)) * SLACK


def _constant(error: Values, value: float) -> Values:
    found = np.zeros_like(error)
    found[0] = value
    return found


def _norm_after(layer: Layer, norm: Values, error: Values) -> Values:
    """Of the compiled activations: those of the original for the same input to the layer, and what they err by."""
    fixed = _constant(norm, _length(layer.bias) + _length(layer.bias_radius))
    return np.asarray(norm * operator_norm(layer, last=False) + fixed + error)


def _dense(layer: Layer, norms: _Norms, error: Values, norm: Values) -> Values:
    weight, bias = _single(layer.weight), _single(layer.bias)
    off = norms.of_matrix(np.abs(weight - layer.weight) + layer.weight_radius)
    bias_off = norms.of_vector(np.abs(bias - layer.bias) + layer.bias_radius)
    relative = gamma32(len(weight) + 2)
    own = norm * (off + relative * norms.of_matrix(np.abs(weight)))
    fixed = bias_off + relative * norms.of_vector(bias) + UNDERFLOW
    return np.asarray(error * operator_norm(layer, last=norms.last) + own + _constant(error, fixed))


def _factored(
    layer: Layer, factor: Factor, norms: _Norms, error: Values, distance: Values, column: int | None
) -> Values:
    """`distance`: |a' - m|, and what follows is per unit of it; `column`: of this layer's s, where it is watched."""
    basis, flat = factor.basis, _Norms(last=False)
    size = flat.of_matrix(np.abs(basis))
    one = FLOAT32_UNIT * 2
    summed = gamma32(len(basis) + 3) * size
    code = (flat.of_matrix(basis) + summed) * (1 + one)
    off_code = summed * (1 + one)
    exact_middle = basis.T @ layer.weight
    lost = norms.of_matrix(layer.weight - basis @ exact_middle)
    middle = norms.of_matrix(exact_middle)
    own = norms.of_matrix(np.abs(exact_middle - factor.middle)) * code
    own += gamma32(factor.rank + 2) * norms.of_matrix(np.abs(factor.middle)) * code
    own += norms.of_matrix(layer.weight_radius)
    shifted = factor.mean @ layer.weight + layer.bias
    fixed = norms.of_vector(np.abs(shifted - factor.shift) + layer.bias_radius)
    fixed += gamma32(factor.rank + 2) * norms.of_vector(factor.shift)
    fixed += norms.of_matrix(layer.weight_radius) * _length(factor.mean) + UNDERFLOW
    seen = np.zeros_like(error)
    if column is None:
        own += lost + off_code * middle
    else:
        # |p W| <= |R| |p| + |U| |p V|; p V is zero but for rounding, and V not being quite orthonormal.
        crooked = flat.of_matrix(np.eye(factor.rank) - basis.T @ basis)
        own += middle * (off_code + crooked * code)
        own += lost * gamma32(factor.rank + 4) * (size * code + 1 + one)
        seen[column] = lost * (1 + gamma32(len(basis) + 8))
        fixed += lost * UNDERFLOW
    return np.asarray(error * operator_norm(layer, last=norms.last) + distance * own + _constant(error, fixed) + seen)
