"""What the three Jobs share: where things are, how inputs of a segment are found, how progress is told."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from ecompile_crds.errors import Code, DataError
from ecompile_crds.hybridmodel import Equivalence, Fairness
from ecompile_crds.jobs import JobInput
from ecompile_crds.plan import Plan, PlanFile, PlanTensor
from numpy.typing import NDArray

from ..data import arrays, store
from ..distill.measure import infer, session
from ..ir import serialize
from ..ir.graph import Graph, Tensor

Progress = Callable[[str, float], None]
Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Context:
    """One Job's surroundings."""

    job: JobInput
    progress: Progress
    signing_key: Ed25519PrivateKey | None = None
    trusted_keys: tuple[Ed25519PublicKey, ...] = ()
    local_root: Path | None = None
    """Where `file:///artifacts` is on this machine, outside of a cluster."""

    def resolve(self, uri: str) -> str:
        """The URI as this machine reaches it."""
        if self.local_root is not None and uri.startswith("file:///artifacts"):
            return f"file://{self.local_root.resolve()}{uri.removeprefix('file:///artifacts')}"
        return uri

    def place(self, *parts: str) -> str:
        """URI of a result of this Job's life."""
        job = self.job
        return store.join(job.artifacts_uri, job.namespace, job.model, job.life, *parts)

    def read(self, uri: str, *, digest: str | None = None, what: str) -> bytes:
        location, _, _ = uri.partition("#")
        return store.read(self.resolve(location), digest=digest, what=what)

    def write(self, uri: str, content: bytes) -> str:
        return store.write(self.resolve(uri), content)

    def rows(
        self,
        uri: str,
        *,
        digest: str | None,
        what: str,
        inputs: Sequence[Tensor | PlanTensor],
        names: Sequence[str] = arrays.CALIBRATION_NAMES,
    ) -> Rows:
        """Input rows [rows, features] of a data file, for a network with these inputs.

        `names`: arrays that are looked for where the URI names none.
        """
        return self.data(uri, digest=digest, what=what, inputs=inputs, names=names).inputs

    def data(
        self,
        uri: str,
        *,
        digest: str | None,
        what: str,
        inputs: Sequence[Tensor | PlanTensor],
        names: Sequence[str] = arrays.CALIBRATION_NAMES,
    ) -> arrays.Rows:
        """`rows`, with labels and groups where the file has them."""
        content = self.read(uri, digest=digest, what=what)
        _, _, array = uri.partition("#")
        return arrays.parse(
            content,
            name=f"{what} ({uri})",
            shape=inputs[0].shape if len(inputs) == 1 else (sum(each.size for each in inputs),),
            array=array or None,
            parts={each.name: each.shape for each in inputs} if len(inputs) > 1 else {},
            names=names,
        )

    def calibration(self, inputs: Sequence[Tensor | PlanTensor]) -> Rows:
        """spec.calibration."""
        return self._calibration(inputs).inputs

    def _calibration(self, inputs: Sequence[Tensor | PlanTensor]) -> arrays.Rows:
        job = self.job
        return self.data(job.calibration_uri, digest=job.calibration_digest, what="spec.calibration", inputs=inputs)

    def judged(self, inputs: Sequence[Tensor | PlanTensor], *, unlike: Rows | None = None) -> tuple[arrays.Rows, str]:
        """What validation judges by: spec.heldOut, else spec.calibration; and which of them.

        Raises DataError where spec.heldOut is the calibration `unlike`.
        """
        held_out = self._held_out(inputs, unlike=unlike)
        return (held_out, "spec.heldOut") if held_out is not None else (self._calibration(inputs), "spec.calibration")

    def held_out(self, inputs: Sequence[Tensor | PlanTensor], *, unlike: Rows | None = None) -> Rows | None:
        """spec.heldOut, if it is given; arrays named like held-out ones come first.

        Raises DataError where it is the calibration `unlike`.
        """
        found = self._held_out(inputs, unlike=unlike)
        return found.inputs if found is not None else None

    def _held_out(self, inputs: Sequence[Tensor | PlanTensor], *, unlike: Rows | None) -> arrays.Rows | None:
        job = self.job
        if job.held_out_uri is None:
            return None
        names = (*arrays.HELD_OUT_NAMES, *arrays.CALIBRATION_NAMES)
        found = self.data(job.held_out_uri, digest=None, what="spec.heldOut", inputs=inputs, names=names)
        if unlike is not None and np.array_equal(found.inputs, unlike):
            raise DataError(
                Code.DATA_MALFORMED,
                f"spec.heldOut ({job.held_out_uri}): its rows are those of spec.calibration, so they would judge what "
                "was made from them. Name another array with #name, give another file, or leave the field out.",
            )
        return found


def fairness_groups(
    equivalence: Equivalence, data: arrays.Rows, *, what: str
) -> tuple[Fairness, NDArray[np.str_]] | None:
    """What is asked about groups, and the group of each row; None where nothing is asked.

    Raises DataError where the data do not name the groups that are asked about.
    """
    fairness = equivalence.fairness
    if fairness is None:
        return None
    if data.groups is None:
        raise DataError(
            Code.DATA_MALFORMED,
            f"{what}: it has no array named groups, which spec.equivalence.fairness needs; add the group of each row.",
        )
    missing = [group for group in fairness.groups if not (data.groups == group).any()]
    if missing:
        raise DataError(
            Code.DATA_EMPTY,
            f"{what}, array groups: no row is in group {missing[0]!r}, which spec.equivalence.fairness names.",
        )
    return fairness, data.groups


def read_plan(context: Context) -> Plan:
    """The plan that the profile Job wrote."""
    uri = context.job.plan_uri
    assert uri is not None, "distill and validate Jobs are told planUri"
    return Plan.model_validate_json(context.read(uri, what="planUri"))


def plan_file(context: Context, file: PlanFile) -> bytes:
    """A file of the plan, checked against its digest."""
    assert context.job.plan_uri is not None
    base = context.job.plan_uri.rsplit("/", 1)[0]
    return context.read(f"{base}/{file.path}", digest=file.digest, what=file.path)


def rows_at_segment(context: Context, plan: Plan, index: int, rows: Rows) -> Rows:
    """What reaches segment `index` when `rows` reach the network."""
    for segment in plan.segments[:index]:
        rows = infer(session(plan_file(context, segment.neural)), rows)
    return rows


def pack_graphs(graphs: list[Graph]) -> bytes:
    """Graphs of the segments as one zip with fixed dates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, graph in enumerate(graphs):
            for name, content in zip(("ir.json", "weights.bin"), serialize.dump(graph), strict=True):
                entry = zipfile.ZipInfo(f"{index}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
                archive.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def unpack_graph(content: bytes, index: int) -> Graph:
    """One segment's graph."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return serialize.load(archive.read(f"{index}/ir.json"), archive.read(f"{index}/weights.bin"))
