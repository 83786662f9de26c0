"""What Alertmanager sends, as values: its webhook payload, version 4. Pure; the server is in `webhook.py`.

An alert is ours where it has the label `ecompile_rollback`, whose value names the kind: the chart's rules have it, and
so may yours. Format: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from ecompile_crds.errors import Code, DataError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..decide.observed import AlertKind, PodAlert

LABEL = "ecompile_rollback"
MAX_ALERTS = 1000
MAX_DETAIL = 500
MAX_SEGMENT = 63
KINDS = {kind.value.lower(): kind for kind in AlertKind}


class _Alert(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    status: str = Field(pattern="^(firing|resolved)$")
    labels: dict[str, str]
    annotations: dict[str, str] = Field(default_factory=dict)
    starts_at: str = Field(alias="startsAt", default="")
    fingerprint: str = ""


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    version: str = Field(pattern="^4$")
    alerts: list[_Alert] = Field(max_length=MAX_ALERTS)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One alert about one segment: it fires, or has ended."""

    namespace: str
    model: str
    identity: str
    """The same for each repetition of one firing; another one when it fires again later."""
    firing: bool
    alert: PodAlert
    """Its generation is 0: Alertmanager knows none."""


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """An alert that is not acted upon, and why."""

    name: str
    reason: str
    """A sentence."""
    ours: bool
    """It has our label, so that something is wrong with it."""


def parse(body: bytes) -> tuple[list[Notice], list[Ignored]]:
    """Alerts of one webhook call.

    Raises DataError (SPEC_INVALID) where the body is not such a payload, naming the field.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(Code.SPEC_INVALID, f"body: not JSON ({error}); send Alertmanager's webhook payload.") from error
    try:
        payload = _Payload.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise DataError(
            Code.SPEC_INVALID, f"{field}: {first['msg']}; send Alertmanager's webhook payload, version 4."
        ) from error
    notices: list[Notice] = []
    ignored: list[Ignored] = []
    for alert in payload.alerts:
        found = _read(alert)
        if isinstance(found, Notice):
            notices.append(found)
        else:
            ignored.append(found)
    return notices, ignored


def _read(alert: _Alert) -> Notice | Ignored:
    labels = alert.labels
    name = labels.get("alertname", "unnamed")[:100]
    if LABEL not in labels:
        return Ignored(name=name, reason=f"label {LABEL} is missing, so it asks for no rollback", ours=False)
    kind = KINDS.get(labels[LABEL].lower())
    if kind is None:
        wanted = ", ".join(k.value for k in AlertKind)
        return Ignored(name=name, reason=f"label {LABEL}: {labels[LABEL][:40]!r}; use one of {wanted}", ours=True)
    for label in ("namespace", "model", "segment"):
        if not labels.get(label):
            return Ignored(
                name=name, reason=f"label {label} is missing; keep it in the rule's `sum by (...)`", ours=True
            )
    segment = labels["segment"]
    if not (segment.isascii() and segment.isdigit() and len(segment) <= 3 and int(segment) <= MAX_SEGMENT):
        return Ignored(
            name=name, reason=f"label segment: {segment[:40]!r}; use its number, 0 to {MAX_SEGMENT}", ours=True
        )
    said = alert.annotations.get("summary") or alert.annotations.get("description") or "fires"
    return Notice(
        namespace=labels["namespace"],
        model=labels["model"],
        identity=f"{alert.fingerprint or sorted(labels.items())}/{alert.starts_at}",
        firing=alert.status == "firing",
        alert=PodAlert(
            kind=kind,
            segment=int(segment),
            value=_number(alert.annotations.get("value")),
            limit=_number(alert.annotations.get("limit")),
            detail=f"{name}: {said}"[:MAX_DETAIL],
            generation=0,
        ),
    )


def _number(text: str | None) -> float:
    """A figure for the record; 0 where there is none that can be read."""
    try:
        found = float(text) if text is not None else 0.0
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0
