"""Live figures: each serving pod's own metrics, read through the API server (needs `get` on `pods/proxy`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from ecompile_operator.kube.client import KubeClient
from ecompile_operator.kube.errors import KubeError
from prometheus_client.parser import text_string_to_metric_families

METRICS_PORT = 8080
PARALLEL = 8
REQUESTS = "ecompile_serving_request_seconds_count"
GENERATION = "ecompile_serving_routing_generation"
COMPARISONS = "ecompile_serving_segment_comparisons_total"
FALLBACKS = "ecompile_serving_segment_fallbacks_total"
TRIPPED = "ecompile_serving_segment_tripped"
NAMES = (REQUESTS, GENERATION, COMPARISONS, FALLBACKS, TRIPPED)
"""Samples of a serving pod that are read; a test holds them to what pods expose."""


@dataclass(frozen=True, kw_only=True)
class PodFigures:
    """What one pod counts."""

    requests: int = 0
    compiled: int = 0
    generation: int = 0
    comparisons: int = 0
    fallbacks: int = 0
    tripped: int = 0

    def sentence(self) -> str:
        """For one line of the tree."""
        share = f" ({self.compiled / self.requests:.0%} by code)" if self.requests else ""
        tripped = f", breaker holds {self.tripped} segments neural" if self.tripped else ""
        return (
            f"{self.requests} requests{share}, generation {self.generation}, "
            f"{self.comparisons} comparisons, {self.fallbacks} refusals{tripped}"
        )


def parse(text: str) -> PodFigures:
    """From Prometheus' text format; metrics that are not there count as 0.

    Raises ValueError where the text is something else.
    """
    sums: dict[str, float] = {}
    compiled = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
            if sample.name == REQUESTS and sample.labels.get("path") == "compiled":
                compiled += sample.value
    return PodFigures(
        requests=int(sums.get(REQUESTS, 0)),
        compiled=int(compiled),
        generation=int(sums.get(GENERATION, 0)),
        comparisons=int(sums.get(COMPARISONS, 0)),
        fallbacks=int(sums.get(FALLBACKS, 0)),
        tripped=int(sums.get(TRIPPED, 0)),
    )


async def read(client: KubeClient, namespace: str, pods: Iterable[str]) -> dict[str, PodFigures]:
    """Figures of the pods that answer; the others are left out."""
    limit = asyncio.Semaphore(PARALLEL)

    async def one(pod: str) -> PodFigures | None:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{METRICS_PORT}/proxy/metrics"
        try:
            async with limit:
                return parse(await client.text(path))
        except (KubeError, ValueError):
            return None

    names = list(pods)
    found = await asyncio.gather(*(one(pod) for pod in names))
    return {pod: figures for pod, figures in zip(names, found, strict=True) if figures is not None}
