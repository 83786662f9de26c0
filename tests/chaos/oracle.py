"""What must hold in every run, whatever went wrong, and the final state that all runs must come to."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ecompile_crds import audit
from ecompile_crds.errors import EcompileError
from ecompile_crds.jobs import JobKind
from ecompile_crds.names import audit_configmap, routing_configmap
from ecompile_crds.routing import RouteMode, RoutingTable
from ecompile_operator.decide.routes import describe
from ecompile_operator.kube.client import Manifest
from ecompile_operator.observe.observe import AUDIT_KEY

from .cluster import ServingPod, job_input
from .life import NAME, NAMESPACE, Stage
from .memory_api import Place

COMPARED = ("deployments", "services", "configmaps", "poddisruptionbudgets", "horizontalpodautoscalers")


@dataclass
class Oracle:
    """Watches a run from outside; `violations` are sentences."""

    stage: Stage
    violations: list[str] = field(default_factory=list)
    tables: dict[int, RoutingTable] = field(default_factory=dict)
    """Every routing table that was written, by generation."""
    _served: dict[int, RoutingTable] = field(default_factory=dict)
    _jobs: Counter[str] = field(default_factory=Counter)
    _needed: dict[str, int] = field(default_factory=dict)
    """Validations of each module that must have succeeded before it may serve."""
    _generation: int = 0

    def attach(self) -> None:
        self.stage.api.observers.append(self._wrote)
        self.stage.cluster.adopted = self._adopted

    def say(self, sentence: str) -> None:
        if sentence not in self.violations:
            self.violations.append(f"{self.stage.clock():.2f} s: {sentence}")

    # While it runs

    def _wrote(self, verb: str, place: Place, before: Manifest | None, after: Manifest) -> None:
        plural, _, name = place
        if plural == "jobs" and verb == "create":
            self._job_created(name, after)
        elif plural == "compiledmodules" and verb != "delete":
            self._module_written(name, before, after)
        elif plural == "hybridmodels" and verb != "delete":
            self._model_written(after)

    def _job_created(self, name: str, job: Manifest) -> None:
        self._jobs[name] += 1
        if self._jobs[name] > 1:
            self.say(f"Job {name} was created {self._jobs[name]} times")
        told = job_input(job)
        for other in self.stage.api.all("jobs", NAMESPACE):
            theirs = job_input(other)
            same = (theirs.kind, theirs.life, theirs.segment) == (told.kind, told.life, told.segment)
            running = not other.get("status", {}).get("conditions")
            if other["metadata"]["name"] != name and same and running:
                self.say(f"Jobs {name} and {other['metadata']['name']} do the same at the same time")

    def _module_written(self, name: str, before: Manifest | None, after: Manifest) -> None:
        was = (before or {}).get("status", {}).get("rollout", {}).get("stage")
        now = after.get("status", {}).get("rollout", {}).get("stage")
        if now == "RollingBack" and was != "RollingBack":
            self._needed[name] = self._validations(after) + 1

    def _validations(self, module: Manifest) -> int:
        segment = module["spec"]["segment"]
        finished = self.stage.cluster.finished
        return sum(1 for told in finished if told.kind is JobKind.VALIDATE and told.segment == segment)

    def _model_written(self, model: Manifest) -> None:
        routing = model.get("status", {}).get("routing", {})
        generation = routing.get("generation", 0)
        if generation < self._generation:
            self.say(f"the routing generation went back from {self._generation} to {generation}")
        self._generation = max(self._generation, generation)
        if routing.get("tableJson"):
            table = RoutingTable.model_validate_json(routing["tableJson"])
            if self.tables.setdefault(generation, table) != table:
                self.say(f"generation {generation} was written with two contents")

    def _adopted(self, pod: ServingPod, table: RoutingTable) -> None:
        if self._served.setdefault(table.generation, table) != table:
            self.say(f"pods were sent two tables of generation {table.generation}")
        if table.generation not in self.tables:
            self.say(f"pod {pod.name} serves generation {table.generation}, which is in no status")
        for route in table.segments:
            if route.mode is RouteMode.NEURAL:
                continue
            module = self.stage.api.get("compiledmodules", NAMESPACE, route.module or "")
            if module is None:
                self.say(f"pod {pod.name} serves {route.module}, which does not exist")
            elif self._stale(table):
                continue  # a table from before the rollback, adopted late; the newer one follows
            elif self._validations(module) < self._needed.get(route.module or "", 1):
                self.say(f"pod {pod.name} serves {route.module} in generation {table.generation} without validation")

    def _stale(self, table: RoutingTable) -> bool:
        return table.generation < self._generation

    # At the end

    def finish(self, *, expected: dict[str, Any] | None) -> dict[str, Any]:
        """Check what can be checked at the end only; the final state without what may differ between runs."""
        self.stage.api.collect_garbage()
        self._check_audit()
        self._check_orphans()
        final = final_state(self.stage)
        if expected is not None and final != expected:
            for name in sorted(set(final) | set(expected)):
                if final.get(name) != expected.get(name):
                    self.say(f"the end differs in {name}: {final.get(name)}, undisturbed: {expected.get(name)}")
        return final

    def _check_audit(self) -> None:
        log = self.stage.api.get("configmaps", NAMESPACE, audit_configmap(NAME))
        status = self.stage.model().get("status", {})
        if log is None:
            self.say("there is no audit log")
            return
        try:
            records = audit.parse(log["data"][AUDIT_KEY].splitlines())
            audit.verify(records, head=status.get("auditHead"))
        except EcompileError as error:
            self.say(error.message)
            return
        told = {(r.generation, r.segment): r.after for r in records}
        previous: RoutingTable | None = None
        for generation in sorted(self.tables):
            table = self.tables[generation]
            old = {s.segment: describe(s) for s in previous.segments} if previous is not None else {}
            for route in table.segments:
                now = describe(route)
                if now != old.get(route.segment, "neural") and told.get((generation, route.segment)) != now:
                    self.say(f"the swap of segment {route.segment} to {now} in generation {generation} is not audited")
            previous = table

    def _check_orphans(self) -> None:
        uids = {o["metadata"]["uid"] for o in self.stage.api.objects.values()}
        for place, found in self.stage.api.objects.items():
            owners = found["metadata"].get("ownerReferences") or []
            if any(owner["uid"] not in uids for owner in owners):
                self.say(f"{place[0]} {place[2]} has lost its owner")
        for job in self.stage.api.all("jobs", NAMESPACE):
            if not job.get("status", {}).get("conditions"):
                self.say(f"Job {job['metadata']['name']} still runs")


def final_state(stage: Stage) -> dict[str, Any]:
    """What must be the same at the end of all runs."""
    status = stage.model().get("status", {})
    table = json.loads(status.get("routing", {}).get("tableJson") or "{}")
    routing = stage.api.get("configmaps", NAMESPACE, routing_configmap(NAME)) or {"data": {"routing.json": "{}"}}
    mounted = json.loads(routing["data"]["routing.json"])
    found: dict[str, Any] = {
        "phase": status.get("phase"),
        "conditions": sorted((c["type"], c["status"], c["reason"]) for c in status.get("conditions", [])),
        "coverage": status.get("deterministicCoverage"),
        "evidence": status.get("evidence"),
        "routes": table.get("segments"),
        "mounted table is the one in force": mounted == table,
        "modules": [
            (m["metadata"]["name"], m["status"]["phase"], m["status"]["validation"]["passed"])
            for m in stage.modules()
            if "validation" in m.get("status", {})
        ],
        "pods": sorted(
            (p.ready, p.table is not None and p.table.generation == table.get("generation"))
            for p in stage.cluster.pods.values()
        ),
    }
    for plural in COMPARED:
        found[plural] = [(o["metadata"]["name"], _spec(plural, o)) for o in stage.api.all(plural, NAMESPACE)]
    return found


def _spec(plural: str, found: Manifest) -> Any:
    return None if plural == "configmaps" else found.get("spec")
