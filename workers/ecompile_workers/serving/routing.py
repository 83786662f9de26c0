"""Is a routing table for this pod, and newer? Pure, but for reading the mounted ConfigMap."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ecompile_crds.errors import Code, DataError
from ecompile_crds.names import ROUTING_KEY
from ecompile_crds.plan import Plan
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from pydantic import ValidationError


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which tables concern this pod."""

    namespace: str
    model: str
    life: str


class Answer(Enum):
    """What to do with a table."""

    ADOPT = "adopt"
    KEEP = "keep"
    """It is the one in force."""
    REFUSE = "refuse"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The answer and, where refused, a sentence."""

    answer: Answer
    reason: str = ""


def parse_table(text: str | bytes) -> RoutingTable:
    """Raises DataError naming the field at fault."""
    try:
        return RoutingTable.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DataError(Code.DATA_MALFORMED, f"the routing table is malformed: {where}: {first['msg']}.") from error


def judge(table: RoutingTable, *, identity: Identity, plan: Plan, current: int) -> Judgement:
    """May this pod adopt the table, where generation `current` is in force (0: none)?"""
    for name, theirs, ours in (
        ("namespace", table.namespace, identity.namespace),
        ("model", table.model, identity.model),
        ("life", table.life, identity.life),
    ):
        if theirs != ours:
            return _refuse(f"the table is for {name} {theirs!r}; this pod serves {ours!r}.")
    if table.generation < current:
        return _refuse(f"generation {table.generation} is older than {current}, which is in force.")
    if table.generation == current:
        return Judgement(answer=Answer.KEEP)
    numbers = [route.segment for route in table.segments]
    if len(set(numbers)) != len(numbers):
        return _refuse("the table has two routes for one segment.")
    for route in table.segments:
        problem = _problem(route, plan)
        if problem:
            return _refuse(f"segment {route.segment}: {problem}")
    return Judgement(answer=Answer.ADOPT)


def _problem(route: SegmentRoute, plan: Plan) -> str:
    if route.segment >= len(plan.segments):
        return f"the plan has {len(plan.segments)} segments, numbered from 0."
    if route.mode is RouteMode.NEURAL:
        return ""
    if route.bundle_uri is None or route.bundle_digest is None:
        return f"mode {route.mode.value} needs bundleUri and bundleDigest."
    return ""


def _refuse(reason: str) -> Judgement:
    return Judgement(answer=Answer.REFUSE, reason=reason)


def read_mounted(routing_dir: Path) -> RoutingTable | None:
    """The table in the mounted ConfigMap; None where there is none yet.

    Raises DataError where the file is not a table.
    """
    try:
        content = (routing_dir / ROUTING_KEY).read_bytes()
    except OSError:
        return None  # optional mount: absent until the operator has written the first table
    return parse_table(content)
