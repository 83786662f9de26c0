"""One model's whole life: distilled, validated, rolled out, drifting, rolled back, validated and promoted again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ecompile_crds.names import API_VERSION
from ecompile_operator.control.server import ControlServicer
from ecompile_operator.kube.client import Manifest

from .cluster import Cluster
from .memory_api import MemoryApi
from .operators import START, Operator

NAMESPACE, NAME = "test", "net"
LIMIT_SECONDS = 1200.0


def hybrid_model(name: str = NAME, *, replicas: int = 2) -> Manifest:
    """A model with short steps."""
    steps = [{"mode": "shadow", "minComparisons": 100}, {"mode": "canary", "weight": 0.5, "minComparisons": 100}]
    return {
        "apiVersion": API_VERSION,
        "kind": "HybridModel",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "source": {"uri": "file:///artifacts/net.onnx"},
            "calibration": {"uri": "file:///artifacts/data.npz"},
            "serving": {"replicas": replicas},
            "rollout": {"steps": steps, "soakSeconds": 2},
            "revalidation": {"backoffSeconds": 5},
        },
    }


@dataclass
class Stage:
    """API server, stand-ins and the operators that run now."""

    clock: Callable[[], float]
    segments: int = 2
    operators: list[Operator] = field(default_factory=list)
    api: MemoryApi = field(init=False)
    cluster: Cluster = field(init=False)

    def __post_init__(self) -> None:
        self.api = MemoryApi(now=lambda: START + timedelta(seconds=self.clock()))
        self.cluster = Cluster(
            api=self.api,
            clock=self.clock,
            control=self.control,
            adopted=lambda pod, table: None,
            segments=self.segments,
        )

    def control(self) -> ControlServicer | None:
        """Behind the control Service: whoever leads."""
        return next((o.servicer for o in self.operators if o.leads()), None)

    def model(self, name: str = NAME) -> Manifest:
        return self.api.get("hybridmodels", NAMESPACE, name) or {}

    def phase(self) -> str:
        return str(self.model().get("status", {}).get("phase", ""))

    def modules(self) -> list[Manifest]:
        return self.api.all("compiledmodules", NAMESPACE)

    async def until(self, what: str, look: Callable[[], Any], *, seconds: float = LIMIT_SECONDS) -> None:
        """Wait in virtual time.

        Raises AssertionError where it does not come.
        """
        deadline = self.clock() + seconds
        while not look():
            if self.clock() > deadline:
                raise AssertionError(f"{what} did not come within {seconds:.0f} s: {self.describe()}")
            await asyncio.sleep(0.25)

    def describe(self) -> str:
        """Where everything stands, in a line."""
        status = self.model().get("status", {})
        found = [(m["metadata"]["name"], m.get("status", {})) for m in self.modules()]
        modules = "; ".join(f"{name} {s.get('phase')} ({s.get('message')})" for name, s in found)
        return f"{status.get('phase')}, {status.get('message')}; {modules}"

    def promoted(self) -> bool:
        """All modules are in full service, everywhere."""
        status = self.model().get("status", {})
        routing = status.get("routing", {})
        pods = list(self.cluster.pods.values())
        return (
            status.get("phase") == "Promoted"
            and len(self.modules()) == self.segments
            and all(m.get("status", {}).get("phase") == "Promoted" for m in self.modules())
            and routing.get("acknowledgedPods", 0) == routing.get("livePods", -1) == len(pods)
            and all(p.table is not None and p.table.generation == routing.get("generation") for p in pods)
        )
