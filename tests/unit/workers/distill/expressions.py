"""Random expressions."""

from __future__ import annotations

from ecompile_workers.distill.symbolic.expression import (
    Apply,
    Binary,
    Constant,
    Expression,
    Function,
    Power,
    Sign,
    Variable,
)
from hypothesis import strategies as st

VARIABLES = 3


def expressions(functions: list[Function], *, size: int = 12) -> st.SearchStrategy[Expression]:
    """Trees with constants of a size that float32 holds well, none of them -0."""
    leaves = st.one_of(
        st.floats(-8, 8, allow_nan=False, width=16).map(lambda v: Constant(v + 0.0)),
        st.integers(0, VARIABLES - 1).map(Variable),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(Apply, st.sampled_from(functions), inner),
            st.builds(Binary, st.sampled_from(list(Sign)), inner, inner),
            st.builds(Power, inner, st.sampled_from([-2, -1, 2, 3])),
        ),
        max_leaves=size,
    )
