"""`compile`: from a network and calibration rows to a package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.hybridmodel import Distill, Equivalence, Strategy
from ecompile_crds.jobs import CandidateReport, DistillReport, ProfileReport
from ecompile_crds.plan import Plan
from numpy.typing import NDArray

from ..codegen import toolchain
from .life import LocalLife, read_network
from .package import PLAN, Manifest, Package, PackagedSegment, read_package, write_package

Data = str | Path | NDArray[np.float32]
Progress = Callable[[str, float], None]
"""(step, fraction of the whole)."""
DISTILL_SHARE = 0.7
"""Of the time that a segment takes."""
SAMPLES = frozenset({Strategy.DEADUNITS, Strategy.SYMBOLIC, Strategy.LOWRANK})
"""Strategies that may turn out not to be equivalent on rows that they did not see: the segment is then distilled
without them."""


class _Steps:
    """Progress of the parts as progress of the whole."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._name, self._begin, self._share = "", 0.0, 0.0

    def start(self, name: str, begin: float, share: float) -> None:
        self._name, self._begin, self._share = name, begin, share
        self._progress(name, begin)

    def inner(self, step: str, fraction: float) -> None:
        self._progress(f"{self._name}: {step}", min(0.999, self._begin + fraction * self._share))


def compile(
    source: str | Path,
    calibration: Data | None = None,
    policy: Distill | None = None,
    *,
    held_out: Data | None = None,
    equivalence: Equivalence | None = None,
    key: Ed25519PrivateKey | None = None,
    progress: Progress = lambda step, fraction: None,
) -> Package:
    """Compile a network (.onnx or .pt2): every segment that pays as code, the others as they are.

    `calibration`, `held_out`: rows [rows, features...], or a .npz file (`file.npz#array`). Without calibration, seeded
    normal rows stand in and the package says so. `key`: signs the package; by default one is made for it.

    Raises DataError, ModelError or ResourceError naming the file or field at fault.
    """
    with tempfile.TemporaryDirectory(prefix="ecompile-") as name:
        directory = Path(name)
        spec: dict[str, Any] = {
            "distill": policy or Distill(),
            "equivalence": equivalence or Equivalence(),
        }
        model = read_network(
            Path(source),
            _file(calibration, directory / "calibration.npz"),
            _file(held_out, directory / "held_out.npz"),
            directory / "artifacts",
            **spec,
        )
        steps = _Steps(progress)
        life = LocalLife(model, key=key, progress=steps.inner)
        steps.start("profile", 0.0, 0.1)
        profile = life.profile()
        share = 0.9 / max(1, len(profile.segments))
        segments = []
        files: dict[str, bytes] = {}
        for index in range(len(profile.segments)):
            made, bundle = _segment(life, profile, index, steps, 0.1 + index * share, share)
            segments.append(made)
            if made.bundle is not None and bundle is not None:
                files[made.bundle] = bundle
        plan = life.plan(profile)
        segments = [
            each.model_copy(update={"predicted_microseconds": plan.segments[each.index].predicted_microseconds})
            for each in segments
        ]
        files |= _plan_files(life, plan)
        manifest = Manifest(
            model=model.name,
            source_digest=profile.source_digest,
            synthetic_calibration=model.synthetic,
            toolchain=toolchain.version(),
            segments=tuple(segments),
        )
        content = write_package(files, manifest, life.public_key_pem, life.key)
        progress("done", 1.0)
        return read_package(content, [life.key.public_key()])


def _file(data: Data | None, target: Path) -> str | None:
    if data is None or isinstance(data, (str, Path)):
        return str(data) if data is not None else None
    np.savez(target, inputs=np.asarray(data, dtype=np.float32))
    return str(target)


def _segment(
    life: LocalLife, profile: ProfileReport, index: int, steps: _Steps, begin: float, share: float
) -> tuple[PackagedSegment, bytes | None]:
    segment = profile.segments[index]
    entry = PackagedSegment(index=index, name=segment.name, outcome="neural", reason=segment.reason, macs=segment.macs)
    if not segment.compilable:
        return entry, None
    rejected: list[str] = []
    without: set[Strategy] = set()
    while True:
        steps.start(f"distill {segment.name}", begin, DISTILL_SHARE * share)
        made = life.distill(profile, index, without=without)
        entry = entry.model_copy(update=_told(made, rejected))
        if not made.pays or made.evidence is None or made.bundle_uri is None:
            return entry, None
        steps.start(f"validate {segment.name}", begin + DISTILL_SHARE * share, (1 - DISTILL_SHARE) * share)
        verdict = life.validate(profile, made, attempt=1 + len(rejected))
        found = {
            "evidence": made.evidence,
            "delta": verdict.delta,
            "correlation": verdict.correlation,
            "max_deviation": verdict.max_deviation,
            "guard_coverage": verdict.guard_coverage,
            "outcome": "compiled" if verdict.passed else "rejected",
        }
        strategy = Strategy(made.strategy)
        if verdict.passed:
            found["bundle"] = f"modules/{segment.name}.eco"
            return entry.model_copy(update=found), life.location(made.bundle_uri).read_bytes()
        if strategy not in SAMPLES:
            return entry.model_copy(update={**found, "reason": verdict.reason}), None
        rejected.append(f"{strategy.value}: rejected: {verdict.reason}")
        without.add(strategy)


def _told(made: DistillReport, rejected: Sequence[str]) -> dict[str, Any]:
    """What the distill Job says, and what was rejected before."""
    return {
        "reason": "; ".join((made.reason, *rejected)),
        "strategy": made.strategy,
        "proof": made.proof,
        "speedup": made.speedup,
        "neural_microseconds": made.neural_microseconds,
        "candidates": (
            *made.candidates,
            *(CandidateReport(strategy=each.partition(":")[0], note=each) for each in rejected),
        ),
    }


def _plan_files(life: LocalLife, plan: Plan) -> dict[str, bytes]:
    """The plan and the files it names, but for the trace and calibration references: they tell of recorded input."""
    names = {plan.neural.path, plan.graph.path, *(segment.neural.path for segment in plan.segments)}
    if plan.stability is not None:
        names.add(plan.stability.path)
    segments = tuple(segment.model_copy(update={"reference": None}) for segment in plan.segments)
    plain = plan.model_copy(update={"trace": None, "segments": segments})
    return {
        PLAN: plain.model_dump_json(by_alias=True, indent=1).encode(),
        **{name: life.plan_file(name) for name in sorted(names)},
    }
