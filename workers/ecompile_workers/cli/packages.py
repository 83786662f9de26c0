"""`ecompile compile`, `verify`, `bench`, and `run` and `inspect` of a package."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ecompile_crds.base import ApiModel
from ecompile_crds.errors import Code, DataError, ResourceError
from ecompile_crds.hybridmodel import Distill, Equivalence
from ecompile_crds.jobs import CandidateReport
from ecompile_crds.plan import Plan
from numpy.typing import NDArray
from pydantic import ValidationError

from ..codegen.signing import load_private, load_public
from ..data import store
from ..data.arrays import pick, side_by_side
from ..hybrid import HybridSession, Package, compile, read_package
from ..hybrid.checks import verify
from ..hybrid.package import describe

Rows = NDArray[np.float32]
Say = Callable[[str], None]
BAR = 30
Model = TypeVar("Model", bound=ApiModel)


class Progress:
    """A bar on a terminal, lines elsewhere."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._last = ""

    def __call__(self, step: str, fraction: float) -> None:
        if sys.stderr.isatty():
            done = int(BAR * fraction)
            print(f"\r\x1b[K[{'#' * done}{'.' * (BAR - done)}] {fraction:4.0%} {step}", end="", file=sys.stderr)
            if fraction >= 1.0:
                print(file=sys.stderr)
        elif step != self._last:
            self._say(f"{fraction:4.0%} {step}")
        self._last = step


def read_bytes(path: Path) -> bytes:
    """Raises DataError where the file does not exist, ResourceError where it cannot be read."""
    return store.read(f"file://{path.resolve()}", what=str(path))


def write_bytes(path: Path, content: bytes) -> None:
    """Complete or not there.

    Raises ResourceError where it cannot be written.
    """
    try:
        store.write_file(path, content)
    except OSError as error:
        raise ResourceError(Code.STORAGE_FULL, f"{path}: cannot be written: {error.strerror}.") from error


def open_package(path: Path, key: Path | None) -> Package:
    """Raises an EcompileError naming the file."""
    keys: list[Ed25519PublicKey] = [load_public(read_bytes(key))] if key is not None else []
    return read_package(read_bytes(path), keys, name=str(path))


def compile_command(
    source: Path,
    output: Path,
    *,
    calibration: str | None,
    held_out: str | None,
    key: Path | None,
    min_speedup: float | None,
    targets: Sequence[str] | None,
    strategies: Sequence[str] | None,
    max_deviation: float | None,
    max_relative_error: float | None,
    as_json: bool,
    say: Say,
) -> int:
    policy = _policy(Distill, {"minSpeedup": min_speedup, "targets": _list(targets), "strategies": _list(strategies)})
    limits = {"maxDeviation": max_deviation, "maxRelativeError": max_relative_error}
    equivalence = _policy(Equivalence, limits)
    package = compile(
        source,
        calibration,
        policy,
        held_out=held_out,
        equivalence=equivalence,
        key=load_private(read_bytes(key)) if key is not None else None,
        progress=Progress(say),
    )
    write_bytes(output, package.content)
    show(package, as_json=as_json)
    if not as_json:
        print(f"\nwrote {output}, {len(package.content) / 1e6:.1f} MB")
    return 0


def _list(values: Sequence[str] | None) -> list[str] | None:
    return list(values) if values else None


def _policy(kind: type[Model], given: dict[str, Any]) -> Model:
    """Fields that were given on the command line; the others keep their defaults.

    Raises DataError naming the option.
    """
    try:
        return kind.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option = re.sub("([A-Z])", lambda m: f"-{m[1].lower()}", str(first["loc"][0]))
        raise DataError(Code.SPEC_INVALID, f"--{option}: {first['msg']}.") from error


def show(package: Package, *, as_json: bool) -> None:
    """What is in a package."""
    if as_json:
        print(json.dumps(describe(package), indent=1))
        return
    manifest = package.manifest
    print(f"{manifest.model}  {package.digest[:26]}...")
    if manifest.synthetic_calibration:
        print("  made with seeded random rows, because no calibration data was given: compile again with --calibration")
    for segment in manifest.segments:
        print(f"  {segment.name}: {segment.outcome}, {segment.macs:,} multiply-adds")
        if segment.outcome == "compiled" and segment.evidence is not None:
            speedup = f"{segment.speedup:.2f}x" if segment.speedup is not None else "?"
            evidence = segment.evidence.label()
            print(f"    strategy {segment.strategy}, {speedup} ONNX Runtime at batch 1, evidence {evidence}")
            bundle = package.bundle(segment)
            low, high = bundle.meta["guard"]["lower"], bundle.meta["guard"]["upper"]
            print(f"    guard: {len(low)} features within [{min(low):.4g}, {max(high):.4g}], each with its own range")
            print(f"    code for {', '.join(bundle.levels)}, by {bundle.meta['toolchain']}")
        elif segment.reason:
            print(f"    {segment.reason}")
        if segment.proof is not None:
            print(f"    proof {segment.proof.label()}, for {segment.proof.proven_coverage or 0:.1%} of held-out rows")
        if segment.predicted_microseconds is not None:
            print(f"    predicted by the cost model: {segment.predicted_microseconds:g} us a row")
        if segment.neural_microseconds is not None:
            print(f"    - ONNX Runtime: {segment.neural_microseconds:g} us a row")
        for candidate in segment.candidates:
            print(f"    {_candidate(candidate)}")


def _candidate(candidate: CandidateReport) -> str:
    """One line of the table of strategies."""
    if candidate.microseconds is None:
        return f"- {candidate.note}"
    answered = "" if candidate.answered in (None, 1.0) else f", answers {candidate.answered:.1%}"
    return f"- {candidate.strategy}: {candidate.microseconds:g} us a row{answered}: {candidate.note}"


def verify_command(path: Path, source: Path, *, key: Path | None, as_json: bool) -> int:
    """0 where every claim that can be checked here is true; 1 at the first false one."""
    package = open_package(path, key)
    read_bytes(source)
    claims = []
    false = None
    for claim in verify(package, source):
        claims.append({"claim": claim.text, "holds": claim.holds, "detail": claim.detail})
        if not as_json:
            word = {True: "true     ", False: "FALSE    ", None: "unchecked"}[claim.holds]
            print(f"{word} {claim.text}{f' ({claim.detail})' if claim.detail else ''}")
        if claim.holds is False:
            false = claim
            break
    if as_json:
        print(json.dumps(claims, indent=1))
    if false is not None:
        print(f"ecompile verify: {path}: false: {false.text}. {false.detail}".rstrip(), file=sys.stderr)
    return 0 if false is None else 1


def read_rows(path: Path, plan: Plan) -> Rows:
    """Rows of a .npy file, or of a .npz file with an array for each input of the network.

    Raises DataError naming the file.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            parts = {each.name: each.shape for each in plan.network_inputs}
            rows = pick(found.files) if len(parts) == 1 else None
            if rows is None or rows in parts:
                return side_by_side({each: found[each] for each in parts if each in found.files}, parts, name=str(path))
            found = found[rows]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(Code.DATA_MALFORMED, f"{path}: not a readable .npy or .npz file: {error}.") from error
    if found.dtype.kind not in "fiu":
        raise DataError(Code.DATA_MALFORMED, f"{path}: a .npy file with one numeric array is expected.")
    given: Rows = found
    return given


def run_command(path: Path, source: Path, target: Path, *, key: Path | None, as_json: bool) -> int:
    package = open_package(path, key)
    session = HybridSession(package)
    if len(session.outputs) > 1:
        target = target.with_suffix(".npz")
    y = session.run(read_rows(source, package.plan))
    with tempfile.TemporaryFile() as buffer:
        if target.suffix == ".npz":
            named: dict[str, Any] = session.named(y)
            np.savez(buffer, **named)
        else:
            np.save(buffer, y)
        buffer.seek(0)
        write_bytes(target, buffer.read())
    if as_json:
        print(json.dumps({"rows": len(y), "compiledRows": session.compiled_rows, "output": str(target)}))
    else:
        print(f"{len(y)} rows, {session.compiled_rows} answered by compiled code; outputs in {target}")
    return 0
