"""Conditions, as the Kubernetes API conventions define them, and their types on our kinds."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from pydantic import Field

from .base import ApiModel

ConditionStatus = Literal["True", "False", "Unknown"]


class ConditionType(StrEnum):
    """Types on HybridModel; `Ready`, `Reconciling` and `Stalled` follow kstatus."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    PROFILED = "Profiled"
    DISTILLED = "Distilled"
    SERVING_AVAILABLE = "ServingAvailable"
    DEGRADED = "Degraded"


class Condition(ApiModel):
    """metav1.Condition."""

    type: str
    status: ConditionStatus
    reason: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)
    message: str = Field(default="", max_length=32768)
    last_transition_time: str = ""
    observed_generation: int = 0


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of that type, if there."""
    return next((c for c in conditions if c.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    """Whether the condition is there and True."""
    condition = find(conditions, type_)
    return condition is not None and condition.status == "True"


def merge(previous: Iterable[Condition], current: Iterable[Condition], *, now: str) -> tuple[Condition, ...]:
    """`current` with the transition time of `previous` kept where the status is unchanged; sorted by type."""
    old = {c.type: c for c in previous}
    merged = []
    for condition in current:
        before = old.get(condition.type)
        same = before is not None and before.status == condition.status and before.last_transition_time
        time = before.last_transition_time if same and before is not None else now
        merged.append(condition.model_copy(update={"last_transition_time": time}))
    return tuple(sorted(merged, key=lambda c: c.type))
