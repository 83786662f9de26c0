"""What an operator is told besides its operands: one frozen class per kind of setting.

Axes count the features only: axis 0 is the first one after the batch; negative axes count from the last. Lists over
spatial dimensions have one entry each, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .op import DType


class GeluForm(StrEnum):
    """Which of the two functions called GELU."""

    ERF = "erf"
    TANH = "tanh"


class PadMode(StrEnum):
    """What stands outside of a tensor."""

    CONSTANT = "constant"
    REFLECT = "reflect"
    EDGE = "edge"


class Direction(StrEnum):
    """Which way a recurrent layer reads its sequence."""

    FORWARD = "forward"
    REVERSE = "reverse"
    BOTH = "both"


class Emit(StrEnum):
    """Which states a recurrent layer returns: the hidden ones of all steps, or the last cell of each direction."""

    HIDDEN = "hidden"
    CELL = "cell"


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Base; on its own, that of operators without settings."""


NOTHING = Attributes()


@dataclass(frozen=True, kw_only=True)
class Epsilon(Attributes):
    """Added to a variance."""

    epsilon: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class LastAxes(Epsilon):
    """A normalisation over the last `count` axes."""

    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Slope(Attributes):
    """Factor on negative values."""

    slope: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Line(Attributes):
    """alpha x + beta."""

    alpha: float = 1 / 6
    beta: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Gelu(Attributes):
    """Exact (erf) or the approximation by tanh."""

    form: GeluForm = GeluForm.ERF


@dataclass(frozen=True, kw_only=True)
class Bounds(Attributes):
    """Infinite where there is no bound."""

    lower: float = float("-inf")
    upper: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class Cast(Attributes):
    """The element type to convert to."""

    to: DType


@dataclass(frozen=True, kw_only=True)
class Axis(Attributes):
    """One axis."""

    axis: int = -1


@dataclass(frozen=True, kw_only=True)
class Reduction(Attributes):
    """Axes that are reduced, and whether they stay with size 1."""

    axes: tuple[int, ...]
    keep: bool


@dataclass(frozen=True, kw_only=True)
class Target(Attributes):
    """A shape without the batch."""

    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Order(Attributes):
    """Axis `order[i]` of the input becomes axis i."""

    order: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Ranges(Attributes):
    """Per axis: 0 <= start <= stop <= size, step > 0."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Indices(Attributes):
    """Positions along `axis`, in an array of `shape`, row-major; none negative."""

    axis: int
    indices: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Padding(Attributes):
    """Per axis, how many elements are put before and after; negative numbers cut off."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    mode: PadMode = PadMode.CONSTANT
    value: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Convolution(Attributes):
    """Per spatial dimension, all but `groups`."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Pool(Attributes):
    """Per spatial dimension, all but the last two."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    ceil: bool = False
    """A last window may reach past the end; what it finds there is never counted."""
    count_padding: bool = False
    """The zeros of the padding count in an average."""


@dataclass(frozen=True, kw_only=True)
class Attention(Attributes):
    """Factor on the scores; with `causal`, position i sees positions up to i only."""

    scale: float
    causal: bool = False


@dataclass(frozen=True, kw_only=True)
class Recurrent(Attributes):
    """A recurrent layer; see `operators/recurrent.py` for the equations."""

    direction: Direction = Direction.FORWARD
    emit: Emit = Emit.HIDDEN
    reset_after: bool = True
    """GRU: the reset gate acts after (torch) or before the recurrent matrix."""
