"""`python -m demo`: one model's whole life on a real cluster, with figures measured in this run."""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from devcluster import node, paths
from devcluster.console import DevclusterError

from . import development
from .cluster import SYSTEM, Cluster, ClusterError, Manifest, load_example, wait_for
from .traffic import Traffic

STARTED = time.monotonic()
MODEL = "digits"
DRIFT_FACTOR = 8.0
"""Drifted inputs are this many times larger than any in calibration: far outside of what the module was made for."""


class Cast:
    """Prints lines, and keeps them with their times for a recording."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []

    def say(self, text: str = "") -> None:
        seconds = time.monotonic() - STARTED
        for line in text.split("\n"):
            self.lines.append((seconds, line))
            print(f"[{seconds:6.1f} s] {line}" if line else "", flush=True)


class Watch:
    """Shows each change of phase once."""

    def __init__(self, cluster: Cluster, cast: Cast) -> None:
        self._cluster, self._cast = cluster, cast
        self._seen: dict[str, str] = {}

    def look(self) -> list[str]:
        """Look once; returns the stages of the modules."""
        model = self._cluster.model(MODEL).get("status", {})
        self._show("hm/" + MODEL, model.get("phase", ""), model.get("progress") or model.get("message", ""))
        stages = []
        for module in self._cluster.modules(MODEL):
            status = module.get("status", {})
            stages.append(status.get("phase", "Pending"))
            text = f"{stages[-1]} {status.get('step', '')}".strip()
            self._show("cmod/" + module["metadata"]["name"], text, status.get("message", ""))
        return stages

    def _show(self, name: str, phase: str, message: str) -> None:
        if phase and self._seen.get(name) != phase:
            self._seen[name] = phase
            self._cast.say(f"  {name:<28} {phase:<22} {message[:90]}")


def until(watch: Watch, wanted: str, *, seconds: float) -> None:
    """Show progress until a module reaches a stage."""

    def reached() -> bool:
        stages = watch.look()
        if "Rejected" in stages or ("Held" in stages and wanted != "Held"):
            raise ClusterError(f"a module ended in {stages}; see kubectl describe cmod")
        return wanted in stages

    wait_for(f"stage {wanted}", reached, seconds=seconds)


def run(cluster: Cluster, cast: Cast) -> Manifest:
    """The life; returns the measured figures. Raises ClusterError where something does not happen."""
    cast.say("$ helm upgrade --install ecompile charts/ecompile")
    cluster.install(development.VALUES)
    cast.say("$ kubectl apply -f examples/digits/train-job.yaml")
    development.train_example(cluster)
    artifacts = development.artifacts_directory(cluster)
    cast.say("$ kubectl apply -f examples/digits/hybridmodel.yaml; kubectl get hm,cmod -w")
    cluster.apply(load_example())
    watch = Watch(cluster, cast)

    def serving() -> bool:
        watch.look()
        return int(cluster.model(MODEL).get("status", {}).get("readyReplicas", 0)) >= 3

    wait_for("three serving pods", serving, seconds=180)
    service = cluster.get("services", MODEL)
    assert service is not None
    plan_uri = cluster.model(MODEL)["status"]["serving"]["planUri"]
    folder = artifacts / Path(plan_uri.removeprefix("file:///artifacts/")).parent
    held_out = np.load(io.BytesIO((artifacts / "digits" / "held_out.npz").read_bytes()))["inputs"]
    traffic = Traffic(
        host=service["spec"]["clusterIP"],
        port=80,
        model=MODEL,
        neural=(folder / "model.onnx").read_bytes(),
        rows=held_out,
    )
    with traffic:
        cast.say("traffic: 3 connections, every answer checked against ONNX Runtime on this machine")
        until(watch, "Promoted", seconds=180)
        cast.say(cluster.kubectl("get", "hm,cmod"))
        time.sleep(6)
        status = cluster.model(MODEL)["status"]
        figures: Manifest = {
            "speed-up against ONNX Runtime (io_binding, batch 1)": f"{status['speedup']:.2f}x",
            "deterministic coverage": f"{status.get('deterministicCoverage', 0):.0%}",
            "evidence": status["evidence"],
        }
        cast.say(f"drift: inputs are now {DRIFT_FACTOR:.0f} times larger than any in calibration")
        drifted_at = time.monotonic()
        traffic.use((held_out * DRIFT_FACTOR).astype(np.float32))

        def rolled_back() -> Manifest | None:
            watch.look()
            found: Manifest = cluster.modules(MODEL)[0]["status"].get("lastRollback") or {}
            return found if found.get("routedNeuralInSeconds") is not None else None

        rollback = wait_for("rollback", rolled_back, seconds=120, every=0.1)
        noticed = time.monotonic() - drifted_at
        cast.say(f"rolled back by itself: {rollback['detail']}")
        figures["drift to all pods neural"] = f"{noticed:.1f} s (seen from outside)"
        figures["alert to all pods neural"] = f"{rollback['routedNeuralInSeconds']:.3f} s"
        cast.say("inputs are ordinary again; revalidation follows by itself")
        traffic.use(held_out)
        until(watch, "Promoted", seconds=240)
        attempts = cluster.modules(MODEL)[0]["status"]["validation"]
        figures["revalidation"] = (
            f"attempt {attempts['attempt']}: {'Pass' if attempts['passed'] else 'Fail'}, promoted again"
        )
        time.sleep(3)
    tally = traffic.tally
    figures["requests sent / failed / wrong"] = f"{tally.sent} / {tally.failed} / {tally.wrong}"
    figures["answered by compiled code"] = str(tally.paths["compiled"])
    audit = cluster.get("configmaps", f"{MODEL}-audit") or {}
    figures["audit records"] = str(len(audit.get("data", {}).get("audit.jsonl", "").splitlines()))
    if tally.failed or tally.wrong:
        raise ClusterError(
            f"{tally.failed} requests failed and {tally.wrong} answers were wrong: {tally.first_failure}"
        )
    return figures


def select_cluster(name: str, *, yes: bool) -> Cluster:
    """The cluster to run on.

    Raises ClusterError where it cannot be used.
    """
    if name == "devcluster":
        return development.start()
    for tool in ("kubectl", "helm"):
        if shutil.which(tool) is None:
            raise ClusterError(f"--cluster {name} needs {tool} on PATH.")
    if name == "kind":
        if shutil.which("kind") is None:
            raise ClusterError("--cluster kind needs kind and Docker; without them use the development cluster.")
        subprocess.run(["kind", "create", "cluster", "--name", "ecompile-demo"], check=True)
        return Cluster()
    if not yes:
        context = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, text=True, check=False)
        raise ClusterError(f"this would install into context {context.stdout.strip()!r}; add --yes to do so.")
    return Cluster()


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--cluster", choices=("devcluster", "kind", "current"), default="devcluster")
    parser.add_argument("--yes", action="store_true", help="install into the current context")
    parser.add_argument("--record", type=Path, help="write the run as an SVG picture")
    arguments = parser.parse_args()
    cast = Cast()
    try:
        cluster = select_cluster(arguments.cluster, yes=arguments.yes)
        figures = run(cluster, cast)
        width = max(len(name) for name in figures)
        cast.say("\nmeasured in this run")
        for name, value in figures.items():
            cast.say(f"  {name:<{width}}  {value}")
        status = 0
    except (ClusterError, DevclusterError) as error:
        print(f"demo: {error}", file=sys.stderr)
        print(f"demo: operator: kubectl -n {SYSTEM} logs deployment/ecompile-operator", file=sys.stderr)
        print(f"demo: logs of the cluster's components are in {paths.LOGS} (kept with --keep)", file=sys.stderr)
        status = 1
    if arguments.record is not None and status == 0:
        from .render import render

        arguments.record.write_text(render(cast.lines))
    if arguments.cluster == "devcluster" and not arguments.keep:
        node.down()
    return status


if __name__ == "__main__":
    sys.exit(main())
