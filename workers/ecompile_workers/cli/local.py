"""`ecompile run --local`: the life of a HybridModel on this machine, through the Job functions and the bridge."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ecompile_crds.audit import GENESIS, AuditRecord
from ecompile_crds.errors import Code, DataError
from ecompile_crds.hybridmodel import HybridModelSpec, StepMode
from ecompile_crds.jobs import DistillReport, JobKind, ProfileReport
from ecompile_crds.names import LABEL_EXAMPLE, SIGNING_PUBLIC_KEY
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from numpy.typing import NDArray
from pydantic import ValidationError

from ..governance import audit
from ..hybrid.life import LocalLife, LocalModel
from ..serving.counters import SegmentCounters
from ..serving.local import LocalPod

Say = Callable[[str], None]
Rows = NDArray[np.float32]
DRIFT_FACTOR = 8.0
CHECK_REQUESTS = 50
"""Requests between two looks at alerts and comparisons."""


@dataclass
class LocalReport:
    """What the run found."""

    model: str
    synthetic_calibration: bool = False
    segments: list[dict[str, Any]] = field(default_factory=list)
    rollout: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""
    """File of the network."""
    bundles: list[str] = field(default_factory=list)
    """Files of the modules that passed; `ecompile serve` takes them."""
    key: str = ""
    """File of the public key that they are signed with."""


def read_manifest(path: Path, artifacts: Path, say: Say) -> LocalModel:
    """A HybridModel from YAML; an example's network is trained where it is missing.

    Raises DataError naming the field.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec = HybridModelSpec.model_validate(document["spec"])
        name, labels = str(document["metadata"]["name"]), document["metadata"].get("labels", {})
    except OSError as error:
        raise DataError(Code.DATA_MISSING, f"{path}: cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["spec", *map(str, first["loc"])])
        raise DataError(Code.SPEC_INVALID, f"{path}: {where}: {first['msg']}.") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(Code.SPEC_INVALID, f"{path}: not a HybridModel manifest ({error!r}).") from error
    if labels.get(LABEL_EXAMPLE) == "digits" and not (artifacts / "digits" / "model.onnx").exists():
        say("training the example network (once)")
        from ..examples.digits import write_example

        write_example(artifacts)
    return LocalModel(name=name, spec=spec, artifacts=artifacts)


class LocalRun:
    """One life, told step by step."""

    def __init__(self, model: LocalModel, say: Say) -> None:
        self._model = model
        self._say = say
        self._life = LocalLife(model)
        self.report = LocalReport(model=model.name, synthetic_calibration=model.synthetic)

    def run(self) -> LocalReport:
        """Profile, distil, validate; then serve what passed through a rollout, a drift and a revalidation."""
        self._say("profile")
        profile = self._life.profile()
        passed = [made for segment in profile.segments if (made := self._segment(profile, segment.index)) is not None]
        if passed:
            self._keep(passed)
            self._serve(profile, passed)
        return self.report

    def _keep(self, passed: list[DistillReport]) -> None:
        """Tell where the bundles are, and keep the public key they are signed with beside the audit log."""
        folder = self._model.artifacts / "local" / self._model.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SIGNING_PUBLIC_KEY).write_bytes(self._life.public_key_pem)
        self.report.source = str(self._life.location(self._model.spec.source.uri))
        self.report.key = str(folder / SIGNING_PUBLIC_KEY)
        uris = [each.bundle_uri for each in passed if each.bundle_uri is not None]
        self.report.bundles = [str(self._life.location(uri)) for uri in uris]

    def _segment(self, profile: ProfileReport, index: int) -> DistillReport | None:
        """Distil and validate one segment; the module's report where it may serve."""
        segment = profile.segments[index]
        entry: dict[str, Any] = {
            "name": segment.name,
            "macs": segment.macs,
            "outcome": "neural",
            "reason": segment.reason,
        }
        self.report.segments.append(entry)
        if not segment.compilable:
            return None
        self._say(f"distill {segment.name}")
        made = self._life.distill(profile, index)
        entry |= {"strategy": made.strategy, "speedup": made.speedup, "reason": made.reason}
        if not made.pays or made.evidence is None:
            return None
        self._say(f"validate {segment.name}")
        verdict = self._life.validate(profile, made, attempt=1)
        entry |= {
            "evidence": made.evidence.label(),
            "delta": verdict.delta,
            "correlation": verdict.correlation,
            "maxDeviation": verdict.max_deviation,
            "outcome": "compiled" if verdict.passed else "rejected",
            "validation": verdict.reason,
        }
        return made if verdict.passed else None

    def _serve(self, profile: ProfileReport, made: list[DistillReport]) -> None:
        context = self._life.context(JobKind.VALIDATE)
        plan = self._life.plan(profile)
        held_out = context.held_out(plan.network_inputs)
        rows = held_out if held_out is not None else context.calibration(plan.network_inputs)
        keys, analysis = [self._life.key.public_key()], self._model.spec.rollout.analysis
        with closing(LocalPod(profile.plan_uri, keys=keys, analysis=analysis, resolve=context.resolve)) as pod:
            rollout = _Rollout(pod, self._model, made, self.report, self._say)
            rollout.run(rows, lambda: all(self._life.validate(profile, each, attempt=2).passed for each in made))


class _Rollout:
    """Shadow, canary, promoted; drift, rollback, revalidation, promoted again."""

    def __init__(
        self, pod: LocalPod, model: LocalModel, made: list[DistillReport], report: LocalReport, say: Say
    ) -> None:
        self._pod, self._model, self._made, self._report, self._say = pod, model, made, report, say
        self._generation = 0
        self._log = model.artifacts / "local" / model.name / "audit.jsonl"
        self._log.unlink(missing_ok=True)

    def run(self, rows: Rows, revalidate: Callable[[], bool]) -> None:
        if not self._promote(rows):
            return
        asked = self._ask((rows * DRIFT_FACTOR).astype(np.float32), limit=2000)
        alert = next(iter(self._pod.alerts()), None)
        detail = alert.detail if alert is not None else "no alert: the inputs stay inside the guard"
        self._note("drift", alert is not None, f"{asked} requests {DRIFT_FACTOR:.0f} times larger: {detail}")
        if alert is None:
            return
        self._route(RouteMode.NEURAL, 0.0, 0.0, reason=detail)
        passed = revalidate()
        self._note("revalidation", passed, "validated again" if passed else "stays neural")
        if passed:
            self._promote(rows)

    def _promote(self, rows: Rows) -> bool:
        """Every step of spec.rollout, then compiled."""
        for step in self._model.spec.rollout.steps:
            mode = RouteMode.SHADOW if step.mode is StepMode.SHADOW else RouteMode.CANARY
            weight = step.weight if mode is RouteMode.CANARY else 0.0
            self._route(mode, weight, step.compare, reason="step passed")
            asked = self._ask(rows, limit=20 * step.min_comparisons, comparisons=step.min_comparisons)
            counters = self._counters()
            compared = min(c.comparisons for c in counters)
            mean = max(c.delta_sum / max(1, c.comparisons) for c in counters)
            good = not self._pod.alerts() and compared >= step.min_comparisons
            self._note(step.mode.value, good, f"{asked} requests, {compared} comparisons, mean delta {mean:.1e}")
            if not good:
                self._route(RouteMode.NEURAL, 0.0, 0.0, reason="step failed")
                return False
        self._route(RouteMode.COMPILED, 1.0, self._model.spec.rollout.analysis.compare, reason="all steps passed")
        asked = self._ask(rows, limit=500)
        shares = [each.compiled / max(1, each.requests) for each in self._counters()]
        self._note("promoted", True, f"{asked} requests, deterministic coverage {min(shares):.0%}")
        return True

    def _route(self, mode: RouteMode, weight: float, compare: float, *, reason: str) -> None:
        self._generation += 1
        bridge = self._pod.bridge
        plan = bridge.network.plan
        before = {segment.index: segment.mode.value for segment in bridge.state.segments}
        routes = []
        for each in self._made:
            compiled = mode is not RouteMode.NEURAL
            module = f"segment-{each.segment}"
            routes.append(
                SegmentRoute(
                    segment=each.segment,
                    mode=mode,
                    weight=weight,
                    compare=compare,
                    module=module if compiled else None,
                    bundle_uri=each.bundle_uri if compiled else None,
                    bundle_digest=each.bundle_digest if compiled else None,
                )
            )
            audit.append(
                self._log,
                AuditRecord(
                    sequence=1,
                    time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                    namespace=plan.namespace,
                    model=plan.model,
                    generation=self._generation,
                    segment=each.segment,
                    module=module,
                    bundle_digest=each.bundle_digest,
                    before=before[each.segment],
                    after=mode.value,
                    actor="local",
                    reason=reason,
                    previous=GENESIS,
                ),
            )
        self._pod.adopt(
            RoutingTable(
                namespace=plan.namespace,
                model=plan.model,
                life=plan.life,
                generation=self._generation,
                segments=tuple(routes),
            )
        )

    def _ask(self, rows: Rows, *, limit: int, comparisons: int | None = None) -> int:
        """Requests, one row each, until an alert, enough comparisons, or the limit. Returns how many."""
        for index in range(limit):
            self._pod.infer(rows[index % len(rows)][None])
            if index % CHECK_REQUESTS == CHECK_REQUESTS - 1:
                self._pod.finish_comparisons()
                done = [each.comparisons for each in self._counters()]
                if self._pod.alerts() or (comparisons is not None and min(done) >= comparisons):
                    return index + 1
        self._pod.finish_comparisons()
        return limit

    def _counters(self) -> list[SegmentCounters]:
        """Of the segments that have a module, since the table in force was adopted."""
        made = {each.segment for each in self._made}
        return [each for each in self._pod.counters() if each.segment in made]

    def _note(self, step: str, passed: bool, text: str) -> None:
        self._say(f"{step}: {text}")
        self._report.rollout.append({"step": step, "passed": passed, "detail": text})
