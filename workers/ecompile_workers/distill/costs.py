"""What a graph will take, from what is in it: a linear model over counted work, its coefficients measured on a machine.

Used where nothing can be measured yet: to choose where a network is cut. What is compiled is then measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ..codegen.steps import plan
from ..ir.attributes import Convolution, Pool
from ..ir.graph import Graph, Node, Op
from ..ir.operators import OPERATORS
from ..ir.operators.spec import product

NEAR_BYTES, MIDDLE_BYTES = 192 << 10, 4 << 20
"""Weights of a whole graph up to which they stay in a second-level cache, and in a third-level one."""
FEW_POSITIONS = 4
"""A matrix that is applied to fewer positions is as slow as reading it; to more, as multiplying."""


class Work(StrEnum):
    """Kinds of work that are counted, per row."""

    CALL = "call"
    """A module or a session is called."""
    STEP = "step"
    """An operator, after fusion, is started."""
    NEAR = "near"
    """Bytes of weights that are read, from a near cache."""
    MIDDLE = "middle"
    FAR = "far"
    PRODUCT = "product"
    """Multiply-adds of matrices at many positions, and of products of two tensors."""
    CONVOLUTION = "convolution"
    POINTWISE = "pointwise"
    """Multiply-adds of convolutions with kernels of one element."""
    DEPTHWISE = "depthwise"
    """Multiply-adds of convolutions with groups."""
    PLAIN = "plain"
    """Elements that are moved, added, compared or pooled."""
    FUNCTION = "function"
    """Elements of transcendental functions."""


Counts = Mapping[Work, float]
FUNCTIONS = frozenset(
    {Op.SIGMOID, Op.TANH, Op.GELU, Op.SILU, Op.EXP, Op.LOG, Op.ERF, Op.POW, Op.SOFTMAX, Op.HARD_SWISH, Op.DIV, Op.SQRT}
)


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Seconds per unit of work, of compiled code and of the neural path."""

    compiled: Mapping[Work, float]
    neural: Mapping[Work, float]

    def compiled_seconds(self, graph: Graph) -> float:
        """One row through the module of a graph."""
        return total(counted(graph), self.compiled)

    def neural_seconds(self, graph: Graph) -> float:
        """One row through its neural path."""
        return total(counted(graph), self.neural)

    @property
    def neural_call_seconds(self) -> float:
        """What one more session costs."""
        return self.neural.get(Work.CALL, 0.0)


def total(counts: Counts, coefficients: Mapping[Work, float]) -> float:
    return sum(coefficients.get(kind, 0.0) * amount for kind, amount in counts.items())


def counted(graph: Graph) -> Counts:
    """The work of a graph, fused as the code generator fuses it; unknown operators count as one step each."""
    if graph.opaque_operators:
        return _counted(graph, [(node, 0) for node in graph.nodes])
    return _counted(graph, [(step.node, step.output.size * (step.activation != "{0}")) for step in plan(graph)])


def _counted(graph: Graph, steps: Sequence[tuple[Node, int]]) -> Counts:
    """`steps`: operators, and elements of the activation that follows."""
    found: dict[Work, float] = defaultdict(float, {Work.CALL: 1, Work.PLAIN: graph.input.size + graph.output.size})
    weights = 4 * sum(value.size for node, _ in steps for value in node.constants.values())
    memory = Work.NEAR if weights <= NEAR_BYTES else Work.MIDDLE if weights <= MIDDLE_BYTES else Work.FAR
    shapes = {name: tensor.shape for name, tensor in graph.tensors.items()}
    shapes |= {node.output.name: node.output.shape for node, _ in steps}
    for node, activated in steps:
        found[Work.STEP] += 1
        found[Work.PLAIN] += activated
        if node.op is Op.OPAQUE:
            found[Work.PLAIN] += node.output.size
            continue
        operands = [shapes[o] if isinstance(o, str) else o.shape for o in node.operands]
        macs = OPERATORS[node.op].macs(node.attributes, operands, node.output.shape)
        found[_kind(node, operands, memory)] += _amount(node, operands, macs)
    return found


def _kind(node: Node, operands: Sequence[tuple[int, ...]], memory: Work) -> Work:
    match node.op:
        case Op.GEMM:
            return memory if product(node.output.shape[:-1]) < FEW_POSITIONS else Work.PRODUCT
        case Op.LSTM | Op.GRU:
            return memory
        case Op.MATMUL | Op.ATTENTION:
            return Work.PRODUCT
        case Op.CONV:
            attributes = node.attributes
            assert isinstance(attributes, Convolution)
            if attributes.groups > 1:
                return Work.DEPTHWISE
            return Work.POINTWISE if product(operands[1][2:]) == 1 else Work.CONVOLUTION
    return Work.FUNCTION if node.op in FUNCTIONS else Work.PLAIN


def _amount(node: Node, operands: Sequence[tuple[int, ...]], macs: int) -> float:
    if node.op is Op.GEMM and product(node.output.shape[:-1]) < FEW_POSITIONS:
        return 4.0 * macs
    if node.op in (Op.LSTM, Op.GRU):
        return 4.0 * macs
    if macs:
        return float(macs)
    size = max([product(shape) for shape in operands[:1]] + [node.output.size])
    return float(node.output.size * product(node.attributes.kernel) if isinstance(node.attributes, Pool) else size)


def fit(observations: Sequence[tuple[Counts, float]]) -> dict[Work, float]:
    """Coefficients >= 0 with the least relative errors; `observations`: counted work and seconds.

    Non-negative least squares (Lawson and Hanson, Solving Least Squares Problems, 1974), each row divided by its time.
    """
    from scipy.optimize import nnls

    rows = np.array([[counts.get(kind, 0.0) / seconds for kind in Work] for counts, seconds in observations])
    sizes = np.linalg.norm(rows, axis=0)
    sizes[sizes == 0] = 1.0
    found, _ = nnls(rows / sizes, np.ones(len(rows)))
    return {kind: float(value) for kind, value in zip(Work, found / sizes, strict=True)}
