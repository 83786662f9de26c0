"""The package: a network with the modules of its segments in one signed zip, `model.eco`.

package.json          what was made of each segment and why, schema versioned
plan.json, *.onnx, ...  how the network is cut, and the neural path of each segment
modules/<segment>.eco   bundles of single segments, as serving pods load them
signing.pub             the key that all of it is signed with; trust it only if you know it
SHA256SUMS, attestation.dsse.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from ecompile_crds.base import ApiModel
from ecompile_crds.errors import Code, ModelError
from ecompile_crds.evidence import Evidence
from ecompile_crds.jobs import CandidateReport
from ecompile_crds.plan import Plan
from pydantic import ValidationError

from ..codegen import archive, signing
from ..codegen.bundle import Bundle, read_bundle
from ..data.store import digest_of

SCHEMA_VERSION = 1
MANIFEST = "package.json"
PLAN = "plan.json"
KEY = "signing.pub"
MAX_UNPACKED_BYTES = 8 << 30
MAX_FILES = 4096


class PackagedSegment(ApiModel):
    """What became of one segment."""

    index: int
    name: str
    outcome: str
    """`compiled`, `rejected` (not equivalent) or `neural`."""
    reason: str = ""
    macs: int = 0
    strategy: str | None = None
    evidence: Evidence | None = None
    proof: Evidence | None = None
    """What is proven of part of the traffic."""
    speedup: float | None = None
    predicted_microseconds: float | None = None
    """By the cost model, before anything was compiled."""
    neural_microseconds: float | None = None
    """ONNX Runtime, one row, measured beside the candidates."""
    candidates: tuple[CandidateReport, ...] = ()
    """All strategies that were asked: measured, or why not."""
    delta: float | None = None
    correlation: float | None = None
    max_deviation: float | None = None
    guard_coverage: float | None = None
    bundle: str | None = None
    """Its file in the package."""


class Manifest(ApiModel):
    """package.json."""

    schema_version: int = SCHEMA_VERSION
    model: str
    source_digest: str
    synthetic_calibration: bool = False
    toolchain: str = ""
    segments: tuple[PackagedSegment, ...]


@dataclass(frozen=True, kw_only=True)
class Package:
    """A checked package."""

    manifest: Manifest
    plan: Plan
    files: Mapping[str, bytes]
    key: Ed25519PublicKey
    content: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    def bundle(self, segment: PackagedSegment) -> Bundle:
        """The module of a compiled segment.

        Raises ModelError where it is not what was signed.
        """
        assert segment.bundle is not None, "only compiled segments have one"
        return read_bundle(self.files[segment.bundle], [self.key])


def write_package(files: Mapping[str, bytes], manifest: Manifest, public: bytes, key: Ed25519PrivateKey) -> bytes:
    """The package's bytes; equal input gives equal bytes."""
    text = manifest.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode()
    entries = {**files, MANIFEST: text, KEY: public}
    return archive.sealed(entries, {"package": manifest.model}, key)


def is_package(content: bytes, *, name: str = "package") -> bool:
    """Whether these bytes are a whole network's package rather than one segment's bundle.

    Raises ModelError where they are neither.
    """
    return MANIFEST in _unpack(content, name)


def read_package(content: bytes, keys: Sequence[Ed25519PublicKey] = (), *, name: str = "package") -> Package:
    """Check signature and checksums, then open. Without `keys` the package's own key is believed: that shows that
    nothing was damaged, not who made it.

    Raises ModelError naming the file at fault.
    """
    files = _unpack(content, name)
    missing = [each for each in (MANIFEST, PLAN, KEY, archive.ATTESTATION) if each not in files]
    if missing:
        raise ModelError(Code.BUNDLE_MALFORMED, f"{name}: it lacks {missing[0]}; it is not a package of a network.")
    own = signing.load_public(files[KEY])
    files = archive.checked(files, list(keys) or [own], name=name)
    try:
        manifest = Manifest.model_validate_json(files[MANIFEST])
        plan = Plan.model_validate_json(files[PLAN])
    except ValidationError as error:
        raise ModelError(Code.BUNDLE_MALFORMED, f"{name}: {error.errors()[0]['msg']}.") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise ModelError(
            Code.BUNDLE_INCOMPATIBLE,
            f"{name}: schema {manifest.schema_version}; this program reads {SCHEMA_VERSION}. Compile the model again.",
        )
    return Package(manifest=manifest, plan=plan, files=files, key=own, content=content)


def _unpack(content: bytes, name: str) -> dict[str, bytes]:
    return archive.unpacked(content, name=name, max_bytes=MAX_UNPACKED_BYTES, max_files=MAX_FILES)


def describe(package: Package) -> dict[str, Any]:
    """For people and programs: everything but the bytes."""
    return {
        "digest": package.digest,
        "signedBy": signing.key_id(package.key),
        **package.manifest.model_dump(mode="json", by_alias=True, exclude_none=True),
        "files": {name: len(content) for name, content in sorted(package.files.items())},
    }
