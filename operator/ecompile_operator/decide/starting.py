"""Why a rollout may not start, or not go on, just now. Rollbacks ask none of this."""

from __future__ import annotations

from datetime import timedelta

from ecompile_crds.compiledmodule import (
    Stage,
)

from .clock import from_text, to_condition_time
from .draft import Draft
from .observed import ObservedModule
from .windows import next_opening

SLOT_RECHECK_SECONDS = 60.0
"""A free slot wakes who waits for it; this is for the case that the news of it was lost."""


def why_not_start(draft: Draft, module: ObservedModule) -> str:
    """The first reason for which a validated module has to wait; empty where it may start."""
    return storm(draft) or _soaking(draft, module) or closed(draft) or _no_slot(draft)


def closed(draft: Draft) -> str:
    """Why no window is open; empty where one is."""
    windows = draft.spec.rollout.windows
    opens = next_opening(windows, draft.now)
    if opens <= draft.now:
        return ""
    draft.wakes.append(opens)
    return f"waits for the window that opens at {to_condition_time(opens)}"


def _soaking(draft: Draft, module: ObservedModule) -> str:
    """Another module was promoted so recently that an alert could be about either; empty where none was."""
    soak = draft.spec.rollout.soak_seconds
    for other in draft.of_life(module.spec.life):
        since = from_text(draft.modules[other.name].rollout.since)
        if other.name == module.name or draft.stage(other) is not Stage.PROMOTED or since is None:
            continue
        until = since + timedelta(seconds=soak)
        if draft.now < until:
            draft.wakes.append(until)
            return f"waits until {to_condition_time(until)}: {other.name} was promoted recently (soakSeconds)"
    return ""


def storm(draft: Draft) -> str:
    """So many models were rolled back at once that they share a cause; empty where they were not."""
    storm = draft.observed.fleet.storm
    if storm is None or draft.now >= storm.until:
        return ""
    draft.wakes.append(storm.until)
    return (
        f"waits: {storm.models} models were rolled back within {storm.window_seconds} s, mostly for {storm.reason}; "
        f"look for a cause that they share, such as an image, a node or a feature that stopped. "
        f"It goes on at {to_condition_time(storm.until)} where no more are"
    )


def _no_slot(draft: Draft) -> str:
    """Why no more rollouts may start; empty where one may."""
    fleet = draft.observed.fleet
    if fleet.limit and fleet.rollouts >= fleet.limit:
        why = f"{fleet.rollouts} rollouts run in the cluster, the operator's limit is {fleet.limit}"
    elif fleet.limit_per_namespace and fleet.rollouts_in_namespace >= fleet.limit_per_namespace:
        why = f"{fleet.rollouts_in_namespace} run in the namespace, the limit is {fleet.limit_per_namespace}"
    else:
        return ""
    draft.waits_for_slot = True
    draft.wakes.append(draft.now + timedelta(seconds=SLOT_RECHECK_SECONDS))
    return f"waits for other rollouts: {why}"
