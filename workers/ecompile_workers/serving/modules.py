"""Compiled modules in this pod: fetched by URI and digest, verified, loaded, warmed; only then usable.

Unloaded when the last route and the last request that use them are gone (reference counting; see codegen.loader).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ecompile_crds.errors import Code, ModelError, ResourceError
from ecompile_crds.evidence import Evidence, EvidenceKind
from ecompile_crds.hybridmodel import Isolation
from ecompile_crds.plan import Plan
from ecompile_crds.routing import SegmentRoute
from pydantic import ValidationError

from ..certify import certificate as certificates
from ..codegen import signing
from ..codegen.bundle import Bundle, read_bundle
from ..codegen.levels import cpu_levels
from ..codegen.loader import CompiledFunction
from ..data import store
from ..equivalence.risk import CalibratedRisk
from ..equivalence.risk import from_meta as calibrated_risk
from .isolated import IsolatedFunction
from .journal import Journal
from .neural import Rows

KEY_PATTERN = "*.pub"
WARM_RUNS = 3


@dataclass(frozen=True, kw_only=True, weakref_slot=True, slots=True)
class LoadedModule:
    """A module that has answered its warm-up."""

    name: str
    uri: str
    digest: str
    """Where its bundle was read from, and its digest."""
    run: Callable[[Rows, Rows], int]
    """run(x, y) -> reason; 0 where y was written."""
    outputs: int
    function: CompiledFunction | IsolatedFunction
    lower: Rows
    upper: Rows
    """The guard: [features] float32 each."""
    risk: float | None = None
    """Sampled evidence: upper bound of the share of inputs that are answered beyond the limit."""
    evidence: str = ""
    """Label of the evidence, such as `sampled(n=1100, <=2.7e-03)`."""
    kind: EvidenceKind | None = None
    calibrated: CalibratedRisk | None = None
    """How far from the calibration sample it may answer; None in older bundles."""
    proven_boxes: tuple[Rows, Rows] | None = None
    """Lower and upper bounds [regions, features] of what the certificate covers; None without one."""

    def proves(self, x: Rows) -> bool:
        """Whether each row [rows, features] lies in a proven region."""
        if self.proven_boxes is None:
            return False
        lower, upper = self.proven_boxes
        return all(bool(((lower <= row) & (row <= upper)).all(axis=1).any()) for row in x)


def trusted_keys(trust_dir: Path) -> tuple[Ed25519PublicKey, ...]:
    """Keys in the trust directory; read at each load, because a mounted ConfigMap changes in place.

    Raises ResourceError where there is none, ModelError where one is not an ed25519 key.
    """
    try:
        keys = tuple(signing.load_public(path.read_bytes()) for path in sorted(trust_dir.glob(KEY_PATTERN)))
    except OSError as error:
        raise ResourceError(Code.STORAGE_UNAVAILABLE, f"{trust_dir}: trusted keys cannot be read: {error}.") from error
    if not keys:
        raise ResourceError(
            Code.STORAGE_UNAVAILABLE,
            f"{trust_dir} holds no trusted key ({KEY_PATTERN}); mount the trust ConfigMap.",
        )
    return keys


class ModuleStore:
    """Loads modules for routes; the same digest is loaded once. Called from loading threads, never per request."""

    def __init__(
        self,
        plan: Plan,
        keys: Callable[[], tuple[Ed25519PublicKey, ...]],
        *,
        read: Callable[[str], bytes] = lambda uri: store.read(uri, what="bundle"),
        journal: Journal | None = None,
        isolation: Isolation = Isolation.NONE,
    ) -> None:
        self._plan = plan
        self._keys = keys
        self._read = read
        self._journal = journal
        self._isolation = isolation
        self._loaded: WeakValueDictionary[tuple[int, str], LoadedModule] = WeakValueDictionary()
        self._lock = threading.Lock()

    def kept_out(self, route: SegmentRoute) -> str | None:
        """Why the module of a route must not be loaded in this pod; None where it may."""
        if self._journal is None or route.bundle_digest is None:
            return None
        return self._journal.quarantined.get(route.bundle_digest)

    def known(self, route: SegmentRoute) -> LoadedModule | None:
        """The module of a route if it is loaded and may be used; never waits for a load in another thread."""
        if route.bundle_digest is None or self.kept_out(route) is not None:
            return None
        return self._loaded.get((route.segment, route.bundle_digest))

    def load(self, route: SegmentRoute) -> LoadedModule:
        """The module of a route, ready to answer.

        Raises an EcompileError saying why it must not be used.
        """
        assert route.bundle_uri is not None and route.bundle_digest is not None, "routing.judge has checked this"
        key = (route.segment, route.bundle_digest)
        with self._lock:
            known = self._loaded.get(key)
            if known is not None:
                return known
            bundle = read_bundle(self._read(route.bundle_uri), self._keys(), digest=route.bundle_digest)
            self._check_identity(bundle, route.segment)
            evidence = _evidence(bundle)
            sampled = evidence is None or evidence.kind is EvidenceKind.SAMPLED
            isolated = self._isolation is Isolation.SAMPLED and sampled
            journal = self._journal if not isolated else None  # what it breaks is in another process
            with journal.using(route.bundle_digest) if journal is not None else contextlib.nullcontext():
                function = _isolated(bundle) if isolated else bundle.load(cpu_levels())
                self._check_sizes(function, route.segment)
                lower, upper = _guard(bundle, function)
                _warm(function, lower, upper)
            module = LoadedModule(
                name=route.module or "",
                uri=route.bundle_uri,
                digest=route.bundle_digest,
                run=journal.watch(route.bundle_digest, function.run) if journal is not None else function.run,
                outputs=function.outputs,
                function=function,
                lower=lower,
                upper=upper,
                risk=evidence.bound if evidence is not None and evidence.kind is EvidenceKind.SAMPLED else None,
                evidence=evidence.label() if evidence is not None else "",
                kind=evidence.kind if evidence is not None else None,
                calibrated=calibrated_risk(bundle.meta),
                proven_boxes=_proven_boxes(bundle),
            )
            self._loaded[key] = module
            return module

    def _check_identity(self, bundle: Bundle, segment: int) -> None:
        made_for, source = bundle.meta.get("segment"), bundle.meta.get("sourceDigest")
        if made_for != segment or source != self._plan.source_digest:
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"the bundle was made for segment {made_for} of source {str(source)[:19]}..., "
                f"not for segment {segment} of {self._plan.source_digest[:19]}...: compile the model again.",
            )

    def _check_sizes(self, function: CompiledFunction | IsolatedFunction, index: int) -> None:
        segment = self._plan.segments[index]
        if (function.inputs, function.outputs) != (segment.input.size, segment.output.size):
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"the module takes {function.inputs} values and gives {function.outputs}; segment {index} has "
                f"{segment.input.size} and {segment.output.size}.",
            )


def _isolated(bundle: Bundle) -> IsolatedFunction:
    meta = bundle.meta
    return IsolatedFunction(
        bundle.library(cpu_levels()), macs=int(meta["macs"]), inputs=int(meta["inputs"]), outputs=int(meta["outputs"])
    )


def _guard(bundle: Bundle, function: CompiledFunction | IsolatedFunction) -> tuple[Rows, Rows]:
    """Lower and upper bound of each feature."""
    try:
        guard = bundle.meta["guard"]
        lower, upper = (np.asarray(guard[side], dtype=np.float32).reshape(-1) for side in ("lower", "upper"))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(Code.BUNDLE_MALFORMED, "meta.json in the bundle has no usable guard.") from error
    if lower.size != function.inputs or upper.size != function.inputs:
        raise ModelError(Code.BUNDLE_MALFORMED, "the guard in the bundle has not one bound for each feature.")
    return lower, upper


def _proven_boxes(bundle: Bundle) -> tuple[Rows, Rows] | None:
    """Of the certificate, which was checked when the bundle was opened."""
    content = bundle.files.get(certificates.FILE)
    if content is None:
        return None
    boxes = [region["box"] for region in orjson.loads(content)["regions"]]
    if not boxes:
        return None
    lower, upper = (np.asarray([box[side] for box in boxes], dtype=np.float32) for side in ("lower", "upper"))
    return lower, upper


def _evidence(bundle: Bundle) -> Evidence | None:
    try:
        return Evidence.model_validate(bundle.meta["evidence"])
    except (KeyError, ValidationError):
        return None


def _warm(function: CompiledFunction | IsolatedFunction, lower: Rows, upper: Rows) -> None:
    """Run the point of the guard nearest to zero: pages are touched, and a module that cannot answer is found here."""
    row = np.clip(np.zeros((1, function.inputs), dtype=np.float32), lower, upper)
    for _ in range(WARM_RUNS):
        y = np.empty((1, function.outputs), dtype=np.float32)
        reason = function.run(row, y)
        if reason != 0 or not np.isfinite(y).all():
            raise ModelError(
                Code.BUNDLE_INCOMPATIBLE,
                f"the module does not answer a point inside its own guard (reason {reason}): compile it again.",
            )
