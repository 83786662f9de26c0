"""The demonstration itself: from a trained file to Promoted, through drift and rollback, to promoted again."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import examples
from .artifacts import Artifacts
from .cast import Cast
from .cluster import Cluster, ClusterError, Manifest, wait_for
from .reach import Target, forwarded, service_address
from .traffic import Oracle, Traffic

MODEL = "digits"
DRIFT_FACTOR = 8.0
"""Drifted inputs are this many times larger than any in calibration: far outside of what the module was made for."""
AGAIN_SECONDS = 0.2
UNWANTED = frozenset({"Rejected", "Held"})


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where the demo runs, and what differs between clusters."""

    cluster: Cluster
    values: Manifest
    worker_image: str
    pull_policy: str
    torch_from: Path | None
    routed: bool
    """Whether this machine has a route to Services."""


@dataclass
class Watch:
    """Shows each change of phase once."""

    cluster: Cluster
    cast: Cast
    seen: dict[str, str] = field(default_factory=dict)

    def look(self) -> list[Manifest]:
        """Look once; returns the modules."""
        status = self.cluster.status(MODEL)
        self._show(f"hm/{MODEL}", status.get("phase", ""), status.get("progress") or status.get("message", ""))
        modules = self.cluster.modules(MODEL)
        for module in modules:
            found = module.get("status") or {}
            text = f"{found.get('phase', 'Pending')} {found.get('step', '')}".strip()
            self._show(f"cmod/{module['metadata']['name']}", text, found.get("message", ""))
        return modules

    def until(self, what: str, reached: Callable[[list[Manifest]], bool], *, seconds: float) -> None:
        """Look until `reached` holds; raises ClusterError where the model ends elsewhere, or too late."""

        def look() -> bool:
            modules = self.look()
            if reached(modules):
                return True
            stuck = UNWANTED & {(module.get("status") or {}).get("phase", "") for module in modules}
            stalled = self.cluster.status(MODEL).get("phase") == "Stalled"
            if stuck or stalled:
                said = [(module.get("status") or {}).get("message", "") for module in modules]
                raise ClusterError(
                    f"{what} is out of reach: {'; '.join([self.cluster.status(MODEL).get('message', ''), *said])}"
                )
            return False

        wait_for(what, look, seconds=seconds, every=AGAIN_SECONDS)

    def until_stage(self, wanted: str, *, seconds: float) -> None:
        """Look until every module is at a stage."""
        self.until(
            f"stage {wanted}",
            lambda modules: bool(modules) and all((m.get("status") or {}).get("phase") == wanted for m in modules),
            seconds=seconds,
        )

    def _show(self, name: str, phase: str, message: str) -> None:
        if phase and self.seen.get(name) != phase:
            self.seen[name] = phase
            self.cast.say(f"  {name:<28} {phase:<20} {message[:58]}".rstrip())


def run(stage: Stage, cast: Cast) -> dict[str, str]:
    """The life; returns the measured figures.

    Raises ClusterError where something does not happen.
    """
    cluster = stage.cluster
    cast.say("$ helm upgrade --install ecompile charts/ecompile -n ecompile-system --create-namespace --wait")
    cluster.install(stage.values)
    artifacts = Artifacts(cluster, image=stage.worker_image, pull_policy=stage.pull_policy)
    cast.say("$ kubectl apply -f examples/digits/train-job.yaml")
    examples.train(
        cluster,
        examples.training_job(image=stage.worker_image, pull_policy=stage.pull_policy, torch_from=stage.torch_from),
    )
    cast.say("  a 64-128-64-10 network is trained; model, calibration and held-out rows are on the artifact volume")
    cast.say("$ kubectl apply -f examples/digits/hybridmodel.yaml; kubectl get hm,cmod -w")
    cluster.apply(examples.hybrid_model())
    watch = Watch(cluster, cast)
    wanted = int(examples.hybrid_model()["spec"]["serving"]["replicas"])
    watch.until("all serving pods", lambda _: len(cluster.pods(MODEL)) >= wanted, seconds=240)
    rows = np.load(io.BytesIO(artifacts.read(f"{examples.SOURCE}/held_out.npz")))["inputs"]
    oracle = Oracle(artifacts.read(f"{examples.SOURCE}/model.onnx"))
    with contextlib.ExitStack() as stack:
        targets: list[Target] = (
            [service_address(cluster, MODEL)]
            if stage.routed
            else stack.enter_context(forwarded(cluster, cluster.pods(MODEL)))
        )
        traffic = stack.enter_context(Traffic(targets=targets, model=MODEL, oracle=oracle, rows=rows, connections=6))
        cast.say("traffic: 6 open connections; every answer is checked against ONNX Runtime on this machine")
        figures = _promote(watch, traffic)
        figures |= _drift(watch, traffic, rows)
        figures |= _revalidate(watch, traffic, rows)
    return figures | _tally(cluster, traffic)


def _promote(watch: Watch, traffic: Traffic) -> dict[str, str]:
    cluster = watch.cluster
    watch.until_stage("Promoted", seconds=240)

    def covered() -> Manifest | None:
        watch.look()
        status = cluster.status(MODEL)
        return status if status.get("deterministicCoverage") is not None else None

    status = wait_for("a figure for coverage", covered, seconds=60)
    assert status is not None, "wait_for returns what is true"
    watch.cast.say(cluster.kubectl("get", "hm,cmod"))
    time.sleep(3)
    module = cluster.modules(MODEL)[0]
    neural, compiled = traffic.tally.median_ms("neural"), traffic.tally.median_ms("compiled")
    seen = f"{neural:.2f} ms neural, {compiled:.2f} ms compiled" if neural and compiled else "too few requests"
    return {
        "speed-up against ONNX Runtime": f"{module['status']['validation']['speedup']:.2f}x "
        "(io_binding, batch 1, interleaved, in the validate Job)",
        "speed-up while serving": f"{status['speedup']:.2f}x (median of the segment, by the pods)",
        "request seen from outside": f"{seen} (median, HTTP and JSON included)",
        "deterministic coverage": f"{status['deterministicCoverage']:.0%} of requests, evidence: {status['evidence']}",
    }


def _drift(watch: Watch, traffic: Traffic, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> dict[str, str]:
    watch.cast.say(f"drift begins: inputs are now {DRIFT_FACTOR:.0f} times larger than any in calibration")
    began = time.monotonic()
    traffic.use((rows * DRIFT_FACTOR).astype(np.float32))

    def rolled_back(modules: list[Manifest]) -> bool:
        found = (modules[0].get("status") or {}).get("lastRollback") or {}
        return found.get("routedNeuralInSeconds") is not None

    watch.until("a rollback", rolled_back, seconds=120)
    took = time.monotonic() - began
    rollback = watch.cluster.modules(MODEL)[0]["status"]["lastRollback"]
    watch.cast.say(f"{rollback['reason'].upper()} alert: {rollback['detail'][:90]}")
    watch.cast.say(f"rolled back by itself: all pods neural {rollback['routedNeuralInSeconds']:.3f} s after the alert")
    return {
        "drift to all pods neural": f"{took:.2f} s (seen from outside; polled every {AGAIN_SECONDS} s)",
        "alert to all pods neural": f"{rollback['routedNeuralInSeconds']:.3f} s ({rollback['reason']} alert)",
    }


def _revalidate(
    watch: Watch, traffic: Traffic, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> dict[str, str]:
    watch.cast.say("drift ends: inputs are ordinary again; revalidation follows by itself")
    traffic.use(rows)
    watch.until_stage("Promoted", seconds=300)
    time.sleep(2)
    validation = watch.cluster.modules(MODEL)[0]["status"]["validation"]
    verdict = "Pass" if validation["passed"] else "Fail"
    return {"revalidation": f"attempt {validation['attempt']}: {verdict}, promoted again ({validation['reason']})"}


def _tally(cluster: Cluster, traffic: Traffic) -> dict[str, str]:
    tally = traffic.tally
    if tally.failed or tally.wrong:
        raise ClusterError(
            f"{tally.failed} of {tally.sent} requests failed and {tally.wrong} were wrong. {tally.first_failure}"
        )
    audit = (cluster.get("configmaps", f"{MODEL}-audit") or {}).get("data", {}).get("audit.jsonl", "")
    paths = ", ".join(f"{count} {path}" for path, count in sorted(tally.paths.items()))
    return {
        "requests sent / failed / wrong": f"{tally.sent} / {tally.failed} / {tally.wrong}",
        "connections that broke": str(tally.reconnected),
        "answered": paths,
        "audit records": str(len(audit.splitlines())),
    }
