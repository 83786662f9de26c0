"""What the code generator can compile. Everything else is correct, but stays neural."""

from __future__ import annotations

from ..ir.graph import Graph
from .blob import Blob
from .levels import LEVELS
from .lowering.base import Unsupported
from .lowering.lower import lower
from .program import Functions
from .steps import plan


def obstacle(graph: Graph) -> str | None:
    """Why a part between two cut points is not compiled, as the end of a sentence; None where it is."""
    try:
        lower(plan(graph), graph, LEVELS["x86-64-v2"], 1, Functions(), Blob())
    except Unsupported as error:
        return str(error)
    return None
