"""The Jobs of a life on this machine: profile, distill and validate by the functions that run in a cluster."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.errors import Code, DataError, ModelError
from ecompile_crds.hybridmodel import HybridModelSpec, Strategy
from ecompile_crds.jobs import DistillReport, JobInput, JobKind, ProfileReport, ValidateReport
from ecompile_crds.plan import Plan

from ..ir.load import load_source
from ..jobs.__main__ import run
from ..jobs.context import Context, Progress

LIFE = "local"
SYNTHETIC_ROWS = 1200


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A HybridModel as this machine sees it."""

    name: str
    spec: HybridModelSpec
    artifacts: Path
    """Stands for `file:///artifacts`."""
    synthetic: bool = False
    """No calibration data was given."""


def read_network(path: Path, calibration: str | None, held_out: str | None, artifacts: Path, **spec: Any) -> LocalModel:
    """A bare network file; without calibration data, seeded standard-normal rows stand in.

    `spec`: further fields of HybridModelSpec. Raises an EcompileError where a file cannot be used.
    """
    if not path.exists():
        raise DataError(Code.DATA_MISSING, f"{path}: no such file.")
    kind = {".onnx": "onnx", ".pt2": "pt2"}.get(path.suffix)
    if kind is None:
        raise ModelError(
            Code.MODEL_UNSUPPORTED, f"{path}: a .onnx or .pt2 file, or a HybridModel in YAML, is expected."
        )
    synthetic = calibration is None
    if calibration is None:
        graph = load_source(path).graph
        if graph.integers:
            raise DataError(
                Code.DATA_MISSING,
                f"{path}: an input takes whole numbers of a meaning, so random rows cannot stand in: give calibration "
                "rows with --calibration.",
            )
        rows = np.random.default_rng(0).normal(size=(SYNTHETIC_ROWS, graph.input.size)).astype(np.float32)
        target = artifacts / path.stem / "synthetic.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(target, inputs=rows)
        calibration = str(target)
    fields: dict[str, Any] = {
        **spec,
        "source": {"uri": f"file://{path.resolve()}", "format": kind},
        "calibration": {"uri": file_uri(calibration)},
    }
    if held_out is not None:
        fields["heldOut"] = {"uri": file_uri(held_out)}
    name = path.stem.lower().replace("_", "-")
    return LocalModel(name=name, spec=HybridModelSpec.model_validate(fields), artifacts=artifacts, synthetic=synthetic)


def file_uri(location: str) -> str:
    """`file.npz#array` as a URI."""
    path, hash_, array = location.partition("#")
    return f"file://{Path(path).resolve()}{hash_}{array}"


class LocalLife:
    """One life. Without a key one is made for it: nothing local is trusted elsewhere."""

    def __init__(
        self,
        model: LocalModel,
        *,
        key: Ed25519PrivateKey | None = None,
        progress: Progress = lambda step, fraction: None,
    ) -> None:
        self.model = model
        self._key = key or Ed25519PrivateKey.generate()
        self._progress = progress

    @property
    def key(self) -> Ed25519PrivateKey:
        """What bundles are signed with."""
        return self._key

    @property
    def public_key_pem(self) -> bytes:
        """What the bundles are to be checked with."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def context(self, kind: JobKind, **told: Any) -> Context:
        """Surroundings of a Job; `told` are further fields of its JobInput."""
        spec = self.model.spec
        job = JobInput.model_validate(
            {
                "kind": kind,
                "namespace": "local",
                "model": self.model.name,
                "job": f"{self.model.name}-{kind.value}",
                "life": LIFE,
                "sourceUri": spec.source.uri,
                "sourceDigest": spec.source.digest,
                "sourceFormat": spec.source.format.value,
                "calibrationUri": spec.calibration.uri,
                "calibrationDigest": spec.calibration.digest,
                "heldOutUri": spec.held_out.uri if spec.held_out is not None else None,
                "artifactsUri": "file:///artifacts",
                "distill": spec.distill.model_dump(mode="json", by_alias=True),
                "equivalence": spec.equivalence.model_dump(mode="json", by_alias=True, exclude_none=True),
                **told,
            }
        )
        return Context(
            job=job,
            progress=self._progress,
            signing_key=self._key,
            trusted_keys=(self._key.public_key(),),
            local_root=self.model.artifacts,
        )

    def profile(self) -> ProfileReport:
        """Import the network and cut it.

        Raises an EcompileError naming the field or file at fault.
        """
        report = run(self.context(JobKind.PROFILE), index=0).profile
        assert report is not None
        return report

    def plan(self, profile: ProfileReport) -> Plan:
        """What `profile` wrote; its files are given by `plan_file`."""
        return Plan.model_validate_json(self.context(JobKind.PROFILE).read(profile.plan_uri, what="plan"))

    def plan_file(self, name: str) -> bytes:
        """A file beside the plan."""
        context = self.context(JobKind.PROFILE)
        return context.read(context.place("profile", name), what=name)

    def distill(self, profile: ProfileReport, index: int, *, without: Collection[Strategy] = ()) -> DistillReport:
        """Make the module of one segment by the strategies of the policy, `without` some of them.

        Raises an EcompileError.
        """
        told: dict[str, Any] = {"planUri": profile.plan_uri, "segments": (index,)}
        policy = self.model.spec.distill
        if without:
            kept = [each for each in policy.strategies if each not in without] or [Strategy.EXACT]
            left = policy.model_copy(update={"strategies": kept})
            told["distill"] = left.model_dump(mode="json", by_alias=True)
        report = run(self.context(JobKind.DISTILL, **told), index=0).distill
        assert report is not None
        return report

    def validate(self, profile: ProfileReport, made: DistillReport, *, attempt: int) -> ValidateReport:
        """Judge a module on inputs that distillation did not see.

        Raises an EcompileError where no verdict can be reached.
        """
        told = {"segment": made.segment, "bundleUri": made.bundle_uri, "bundleDigest": made.bundle_digest}
        context = self.context(JobKind.VALIDATE, planUri=profile.plan_uri, attempt=attempt, **told)
        report = run(context, index=0).validation
        assert report is not None
        return report

    def location(self, uri: str) -> Path:
        """File of a result on this machine."""
        return Path(self.context(JobKind.PROFILE).resolve(uri).removeprefix("file://"))
