"""Appending to the audit log: once per record, in order, never over someone else's write."""

from __future__ import annotations

import asyncio

import pytest
from ecompile_crds import audit
from ecompile_crds.audit import GENESIS, AuditRecord, seal
from ecompile_operator.apply.apply import Applier, NotLeading
from ecompile_operator.apply.events import EventEmitter
from ecompile_operator.apply.trust import TrustKeeper
from ecompile_operator.control.hub import Hub
from ecompile_operator.decide.clock import from_text
from ecompile_operator.decide.decision import Decision
from ecompile_operator.decide.observed import Observed
from ecompile_operator.kube.errors import Conflict
from ecompile_operator.observe.cache import Cache
from ecompile_operator.settings import Settings

from ..fake_api import FakeClient

NOW = from_text("2026-01-01T00:00:00Z")
OBSERVED = Observed(namespace="test", name="net", uid="uid-1", generation=1)
PLACE = ("ConfigMap", "test", "net-audit")


def chain(length: int) -> tuple[AuditRecord, ...]:
    records: list[AuditRecord] = []
    for sequence in range(1, length + 1):
        record = AuditRecord(
            sequence=sequence,
            time="2026-01-01T00:00:00Z",
            namespace="test",
            model="net",
            generation=sequence,
            segment=0,
            before="neural",
            after="shadow m",
            actor="operator",
            reason="because",
            previous=records[-1].hash if records else GENESIS,
        )
        records.append(seal(record))
    return tuple(records)


class Stage:
    """An applier over a fake API server."""

    def __init__(self) -> None:
        assert NOW is not None
        now = NOW
        self.client = FakeClient()
        self.cache = Cache(lambda key: None)
        self.leads = True
        self.applier = Applier(
            client=self.client,
            cache=self.cache,
            hub=Hub(lambda key: None, lambda: now),
            settings=Settings(),
            trust=TrustKeeper(self.client, ca_certificate="", clock=lambda: 0.0),
            leading=lambda: self.leads,
            events=EventEmitter(self.client, self.cache, instance="me", now=lambda: now),
        )

    def append(self, *records: AuditRecord) -> None:
        decision = Decision(status=OBSERVED.status, audit=records)
        asyncio.run(self.applier.apply(OBSERVED, decision, {}))

    def text(self) -> str:
        return str(self.client.objects[PLACE]["data"]["audit.jsonl"])


def test_records_are_appended_in_order() -> None:
    stage, records = Stage(), chain(3)
    stage.append(*records[:1])
    stage.append(*records[1:])
    audit.verify(audit.parse(stage.text().splitlines()), head=records[-1].hash)


def test_a_repeated_decision_appends_nothing() -> None:
    stage, records = Stage(), chain(2)
    stage.append(*records)
    writes = len(stage.client.calls)
    stage.append(*records)
    assert len(stage.client.calls) == writes


def test_a_log_that_changed_meanwhile_is_not_overwritten() -> None:
    stage, records = Stage(), chain(2)
    stage.append(records[0])
    stage.client.objects[PLACE]["metadata"]["resourceVersion"] = "99"
    with pytest.raises(Conflict):
        stage.append(records[1])


def test_a_log_that_the_cache_does_not_know_is_not_overwritten() -> None:
    stage, records = Stage(), chain(1)
    stage.client.objects[PLACE] = {"metadata": {"name": "net-audit", "resourceVersion": "5"}}
    with pytest.raises(Conflict):
        stage.append(records[0])


def test_a_log_that_someone_scribbled_in_is_continued_and_reported() -> None:
    stage, records = Stage(), chain(1)
    stage.append(records[0])
    known = stage.cache.child("ConfigMap", ("test", "net"), "net-audit")
    assert known is not None
    known["data"]["audit.jsonl"] += "scribble\n"
    known["metadata"]["resourceVersion"] = "7"
    stage.client.objects[PLACE] = known
    stage.cache.put_child("ConfigMap", "applied", known)
    stage.append(chain(2)[1])
    assert stage.text().splitlines()[-2] == "scribble"
    assert '"sequence":2' in stage.text().splitlines()[-1]
    assert [o["reason"] for (kind, _, _), o in stage.client.objects.items() if kind == "Event"] == ["AuditBroken"]


def test_who_does_not_lead_writes_nothing() -> None:
    stage = Stage()
    stage.leads = False
    with pytest.raises(NotLeading):
        stage.append(*chain(1))
    assert stage.client.calls == []
