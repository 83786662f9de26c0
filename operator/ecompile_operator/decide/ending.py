"""The end of a HybridModel with `deletionPolicy: Orphan`: all of its pods neural first, then nobody's.

A model with `deletionPolicy: Delete` carries no finalizer of ours and is never asked about: its children go with it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from ecompile_crds.compiledmodule import SERVING_STAGES, Stage
from ecompile_crds.hybridmodel import DataRef, DeletionPolicy, HybridModelSpec, LifeStatus, ModelPhase, Source

from .clock import from_text, to_text
from .decision import Decision, ModelEvent
from .draft import Draft
from .gate import unacknowledged
from .observed import Observed
from .routes import route
from .stages import ready_pods, reports_of

ACKNOWLEDGE_SECONDS = 90.0
"""A pod that cannot reach the operator reads the table from its mounted ConfigMap, which the kubelet refreshes within
about a minute; after this time the model does not wait for it any longer."""
POLL_SECONDS = 1.0
UNREADABLE = HybridModelSpec(source=Source(uri="file:///"), calibration=DataRef(uri="file:///"))
"""In place of a spec that cannot be read: with no module in service, no route depends on the spec."""


def end(observed: Observed, now: datetime) -> Decision:
    """What a HybridModel that is being deleted still needs. It lets go once every ready pod serves neural."""
    spec = observed.spec
    if not observed.finalizer or (spec is not None and spec.deletion_policy is DeletionPolicy.DELETE):
        return Decision(status=observed.status)
    draft = Draft(
        observed=observed,
        spec=spec if spec is not None else UNREADABLE,
        now=now,
        life=observed.status.life or LifeStatus(key=""),
        serving=observed.status.serving,
        modules={m.name: m.status for m in observed.modules},
    )
    reason = "the HybridModel is being deleted with deletionPolicy Orphan"
    for name, status in draft.modules.items():
        if status.rollout.stage in SERVING_STAGES:
            rollout = status.rollout.model_copy(update={"stage": Stage.HELD})
            draft.modules[name] = status.model_copy(update={"rollout": rollout, "message": reason})
    routed = route(draft)
    since = from_text(observed.status.orphaning_since) or now
    missing: tuple[str, ...] = ()
    if draft.serving is not None:
        life = draft.serving.key
        missing = unacknowledged(ready_pods(draft, life), reports_of(draft, life), routed.status.generation)
    late = (now - since).total_seconds() >= ACKNOWLEDGE_SECONDS
    done = not missing or late
    message = "what serves stays, on the neural path and without an owner"
    if missing:
        message = f"{len(missing)} pods have not acknowledged the neural path yet, {missing[0]} among them"
    update = {
        "routing": routed.status,
        "orphaning_since": to_text(since),
        "phase": ModelPhase.NEURAL,
        "message": f"being deleted: {message}",
    }
    if routed.audit:
        update |= {"audit_head": routed.audit[-1].hash, "audit_sequence": routed.audit[-1].sequence}
    event = ModelEvent(type="Warning" if missing else "Normal", reason="Orphaned", message=message)
    return Decision(
        status=observed.status.model_copy(update=update),
        audit=routed.audit,
        routing=routed.table,
        finalizer=not done,
        orphan=done,
        events=(event,) if done else (),
        wake_at=None if done else now + timedelta(seconds=POLL_SECONDS),
    )
