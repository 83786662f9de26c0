"""From the stages of modules to a routing table, and from a change of table to audit records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecompile_crds.audit import GENESIS, AuditRecord, seal
from ecompile_crds.compiledmodule import Stage
from ecompile_crds.hybridmodel import RoutingStatus, ServingPolicy
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute

from .clock import to_text
from .draft import Draft
from .observed import ObservedModule


@dataclass(frozen=True, kw_only=True)
class Routed:
    """The table in force, its status, and the records of what changed."""

    table: RoutingTable | None
    status: RoutingStatus
    audit: tuple[AuditRecord, ...]


def route_of(draft: Draft, module: ObservedModule) -> SegmentRoute:
    """How a module's stage is served."""
    rollout = draft.modules[module.name].rollout
    spec = draft.spec.rollout
    segment = module.spec.segment
    step = spec.steps[min(rollout.step, len(spec.steps) - 1)]
    match rollout.stage:
        case Stage.SHADOW:
            mode, weight, compare = RouteMode.SHADOW, 0.0, step.compare
        case Stage.CANARY:
            mode, weight, compare = RouteMode.CANARY, step.weight, step.compare
        case Stage.PROMOTED:
            mode, weight, compare = RouteMode.COMPILED, 1.0, spec.analysis.compare
        case _:
            return SegmentRoute(segment=segment)
    return SegmentRoute(
        segment=segment,
        mode=mode,
        weight=weight,
        compare=compare,
        module=module.name,
        bundle_uri=module.spec.bundle.uri,
        bundle_digest=module.spec.bundle.digest,
    )


def desired_segments(draft: Draft) -> tuple[SegmentRoute, ...]:
    """Routes of all segments of the life being served."""
    if draft.serving is None:
        return ()
    routes = {s.index: SegmentRoute(segment=s.index) for s in draft.serving.segments}
    for module in draft.of_life(draft.serving.key):
        route = route_of(draft, module)
        if route.mode is not RouteMode.NEURAL:
            routes[route.segment] = route
    return tuple(routes[index] for index in sorted(routes))


def current_table(status: RoutingStatus) -> RoutingTable | None:
    """The table recorded in the status, if any."""
    return RoutingTable.model_validate_json(status.table_json) if status.table_json else None


def route(draft: Draft) -> Routed:
    """The table in force after this decision: the recorded one where it already says what is wanted."""
    observed = draft.observed
    status = observed.status.routing
    before = current_table(status)
    if draft.serving is None:
        return Routed(table=before, status=status, audit=())
    segments = desired_segments(draft)
    policy = draft.spec.serving.policy
    same = before is not None and before.life == draft.serving.key and before.policy == policy
    if before is not None and same and before.segments == segments:
        return Routed(table=before, status=status, audit=())
    table = RoutingTable(
        model=observed.name,
        namespace=observed.namespace,
        life=draft.serving.key,
        generation=status.generation + 1,
        segments=segments,
        policy=policy,
    )
    changed = status.model_copy(
        update={
            "generation": table.generation,
            "life": table.life,
            "table_json": table.model_dump_json(by_alias=True, exclude_defaults=True),
        }
    )
    return Routed(table=table, status=changed, audit=_records(draft, before, table))


def describe(route_: SegmentRoute | None, policy: ServingPolicy | None = None) -> str:
    """A route in words: `neural`, `shadow m`, `canary 50% m`, `compiled m`; with the policy where it is not the
    default one."""
    if route_ is None or route_.mode is RouteMode.NEURAL:
        return "neural"
    share = f" {route_.weight:.0%}" if route_.mode is RouteMode.CANARY else ""
    by = f" by policy {policy.name.value}" if policy is not None and policy != ServingPolicy() else ""
    return f"{route_.mode.value}{share} {route_.module}{by}"


def _records(draft: Draft, before: RoutingTable | None, table: RoutingTable) -> tuple[AuditRecord, ...]:
    observed = draft.observed
    head = observed.audit
    # Written by a decision whose status was lost: what it says is not repeated where it is decided again, and put
    # right where something else is decided now.
    recorded = head.recorded if head is not None and head.generation == table.generation else {}
    sequence = max(head.sequence if head is not None else 0, observed.status.audit_sequence)
    previous = observed.status.audit_head or GENESIS
    if head is not None and head.sequence >= observed.status.audit_sequence:
        previous = head.hash
    old = {s.segment: s for s in before.segments} if before is not None else {}
    same_life = before is not None and before.life == table.life
    by_name = {m.name: m for m in observed.modules}
    records: list[AuditRecord] = []
    for new in table.segments:
        earlier = describe(old.get(new.segment), before.policy if before is not None else None)
        was, now = recorded.get(new.segment, earlier), describe(new, table.policy)
        if was == now and (same_life or before is None or new.segment in recorded):
            continue
        subject = by_name.get(new.module or "") or _module_of(draft, new.segment)
        status = draft.modules[subject.name] if subject is not None else None
        sequence += 1
        record = seal(
            AuditRecord(
                sequence=sequence,
                time=to_text(draft.now),
                namespace=observed.namespace,
                model=observed.name,
                generation=table.generation,
                segment=new.segment,
                module=subject.name if subject is not None else None,
                bundle_digest=subject.spec.bundle.digest if subject is not None else None,
                before=was,
                after=now,
                actor=_actor(draft),
                reason=status.message if status is not None else "source switched",
                previous=previous,
            )
        )
        previous = record.hash
        records.append(record)
    return tuple(records)


def _module_of(draft: Draft, segment: int) -> ObservedModule | None:
    assert draft.serving is not None
    found: Sequence[ObservedModule] = [m for m in draft.of_life(draft.serving.key) if m.spec.segment == segment]
    return found[-1] if found else None


def _actor(draft: Draft) -> str:
    return f"command:{draft.command_token}" if draft.command_token else "operator"
