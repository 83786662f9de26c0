"""Every transition of a CompiledModule, and how each waiting stage ends: data for the documentation.

Not read by `decide`. The walk of all abstract states (`tests/unit/operator/decide`) holds it to the code in both
directions: each transition seen is listed here, and each listed one is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from ecompile_crds.compiledmodule import FINAL_STAGES, Stage


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One arrow. `source` is None where the module is created."""

    source: Stage | None
    target: Stage
    why: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How a stage in which a module waits comes to an end."""

    awaits: str
    deadline: str
    """After which time something happens though what is awaited does not come."""
    then: str
    by_hand: str
    """Commands that end the wait."""


def _arrow(source: Stage | None, target: Stage, why: str) -> Transition:
    return Transition(source=source, target=target, why=why)


TRANSITIONS: tuple[Transition, ...] = (
    _arrow(None, Stage.PENDING, "its segment pays off as code"),
    _arrow(Stage.PENDING, Stage.VALIDATING, "at once"),
    _arrow(Stage.PENDING, Stage.HELD, "abort"),
    _arrow(Stage.VALIDATING, Stage.VALIDATED, "the Job finds it equivalent"),
    _arrow(Stage.VALIDATING, Stage.REJECTED, "the Job finds that it is not"),
    _arrow(Stage.VALIDATING, Stage.HELD, "the Job fails, or abort"),
    _arrow(Stage.VALIDATED, Stage.SHADOW, "all pods ready, no other module in a step, window and limits allow"),
    _arrow(Stage.VALIDATED, Stage.PROMOTED, "promote"),
    _arrow(Stage.VALIDATED, Stage.HELD, "abort"),
    _arrow(Stage.VALIDATED, Stage.ROLLING_BACK, "promote while an alert stands"),
    _arrow(Stage.SHADOW, Stage.CANARY, "gate passes, approved where asked for"),
    _arrow(Stage.SHADOW, Stage.PROMOTED, "promote"),
    _arrow(Stage.SHADOW, Stage.ROLLING_BACK, "alert, gate fails, no data, abort or rollback"),
    _arrow(Stage.CANARY, Stage.PROMOTED, "last gate passes, or promote"),
    _arrow(Stage.CANARY, Stage.ROLLING_BACK, "alert, gate fails, no data, abort or rollback"),
    _arrow(Stage.PROMOTED, Stage.ROLLING_BACK, "alert or rollback"),
    _arrow(Stage.ROLLING_BACK, Stage.ROLLED_BACK, "every live pod has acknowledged, attempts are left"),
    _arrow(Stage.ROLLING_BACK, Stage.HELD, "every live pod has acknowledged, no attempts left or rolled back by hand"),
    _arrow(Stage.ROLLED_BACK, Stage.REVALIDATING, "after the back-off, or retry"),
    _arrow(Stage.ROLLED_BACK, Stage.HELD, "abort"),
    _arrow(Stage.REVALIDATING, Stage.VALIDATED, "the Job finds it equivalent"),
    _arrow(Stage.REVALIDATING, Stage.ROLLED_BACK, "the Job fails or refuses, attempts are left"),
    _arrow(Stage.REVALIDATING, Stage.HELD, "no attempts left, or abort"),
    _arrow(Stage.HELD, Stage.REVALIDATING, "retry"),
    _arrow(Stage.RETIRED, Stage.REVALIDATING, "its source is wanted again"),
    *(_arrow(stage, Stage.RETIRED, "its source is no longer served") for stage in Stage if stage not in FINAL_STAGES),
)

WAITS: dict[Stage, Wait] = {
    Stage.VALIDATING: Wait(
        awaits="the validate Job",
        deadline="spec.jobs.deadlineSeconds",
        then="Held, with the reason",
        by_hand="abort",
    ),
    Stage.VALIDATED: Wait(
        awaits="serving pods, other modules of the model, an open window, the limits on simultaneous rollouts",
        deadline="none: the neural path serves, and the message names what is missing",
        then="the wait goes on",
        by_hand="promote, abort",
    ),
    Stage.SHADOW: Wait(
        awaits="acknowledgements, enough comparisons, approval where asked for",
        deadline="deadlineSeconds of the step",
        then="what spec.rollout.analysis.onNoData says: wait, hold (Held) or neural (RolledBack)",
        by_hand="approve, promote, abort, rollback",
    ),
    Stage.CANARY: Wait(
        awaits="acknowledgements, enough comparisons",
        deadline="deadlineSeconds of the step",
        then="what spec.rollout.analysis.onNoData says: wait, hold (Held) or neural (RolledBack)",
        by_hand="promote, abort, rollback",
    ),
    Stage.ROLLING_BACK: Wait(
        awaits="the acknowledgement of every live pod",
        deadline="60 s",
        then="a warning that names the pod; its routing file and its own breaker hold meanwhile",
        by_hand="delete the pod",
    ),
    Stage.ROLLED_BACK: Wait(
        awaits="the back-off", deadline="rollout.notBefore", then="Revalidating", by_hand="retry, abort"
    ),
    Stage.REVALIDATING: Wait(
        awaits="the validate Job",
        deadline="spec.jobs.deadlineSeconds",
        then="RolledBack with a longer back-off, or Held",
        by_hand="abort",
    ),
    Stage.HELD: Wait(
        awaits="a human", deadline="none: the neural path serves", then="the wait goes on", by_hand="retry"
    ),
}
"""Stages that are neither final, nor left at once, nor where all is well."""
