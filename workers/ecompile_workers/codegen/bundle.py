"""Bundles: one module as a zip that `unzip` opens, written reproducibly and opened only after verification."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from ecompile_crds.errors import Code, ModelError

from ..certify import certificate as certificates
from ..certify import checker
from ..certify.regions import RegionTree
from ..data.store import digest_of
from ..ir import serialize
from ..ir.graph import Graph
from . import archive
from .abi import ABI_VERSION, GuardBox
from .compile import CompiledSegment
from .loader import CompiledFunction

SCHEMA_VERSION = 1
SUBJECT = "the bundle"
"""Of sentences about it."""
MAX_UNPACKED_BYTES = 2 << 30
MAX_FILES = 64
CODE_GRAPH = ("code.json", "code.bin")
"""What was compiled in place of the segment."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle."""

    digest: str
    meta: dict[str, Any]
    files: dict[str, bytes]

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self.meta["levels"])

    def graph(self) -> Graph:
        """The segment that the module replaces.

        Raises ModelError.
        """
        return serialize.load(self.files["ir.json"], self.files["weights.bin"])

    def code_graph(self) -> Graph:
        """What the libraries compute: the segment, or what a strategy put in its place.

        Raises ModelError.
        """
        if CODE_GRAPH[0] not in self.files:
            return self.graph()
        return serialize.load(*(self.files[name] for name in CODE_GRAPH))

    def regions(self) -> RegionTree | None:
        """Boxes with code of their own, if there are any."""
        proof = self.files.get(certificates.FILE)
        return certificates.read_tree(self.graph(), proof) if proof is not None else None

    def load(self, cpu_levels: Sequence[str]) -> CompiledFunction:
        """Load the best library that this CPU can run; `cpu_levels` is best first.

        Raises ModelError where there is none.
        """
        return CompiledFunction(self.library(cpu_levels), macs=int(self.meta["macs"]))

    def library(self, cpu_levels: Sequence[str]) -> bytes:
        """The best library that this CPU can run; `cpu_levels` is best first.

        Raises ModelError where there is none.
        """
        for level in cpu_levels:
            if level in self.levels:
                return self.files[f"lib/{level}.so"]
        raise ModelError(
            Code.BUNDLE_INCOMPATIBLE,
            f"the bundle has code for {', '.join(self.levels)}; "
            f"this CPU supports {', '.join(cpu_levels) or 'none of them'}.",
        )


def write_bundle(
    *,
    graph: Graph,
    compiled: CompiledSegment,
    guard: GuardBox,
    meta: dict[str, Any],
    key: Ed25519PrivateKey,
    certificate: bytes | None = None,
    code: Graph | None = None,
) -> bytes:
    """The bundle's bytes; equal input gives equal bytes. `certificate` states what is proven of the module; `code` is
    what was compiled, where that is not the segment itself."""
    text, weights = serialize.dump(graph)
    full = {
        **meta,
        "schemaVersion": SCHEMA_VERSION,
        "abi": ABI_VERSION,
        "levels": sorted(compiled.libraries),
        "macs": compiled.macs,
        "inputs": graph.input.size,
        "outputs": graph.output.size,
        "proven": certificate is not None,
        "guard": {"lower": guard.lower.reshape(-1).tolist(), "upper": guard.upper.reshape(-1).tolist()},
    }
    files = {
        "meta.json": json.dumps(full, sort_keys=True, indent=1).encode(),
        "ir.json": text,
        "weights.bin": weights,
        **{f"sources/{level}.c": source.encode() for level, source in compiled.sources.items()},
        **{f"lib/{level}.so": library for level, library in compiled.libraries.items()},
    }
    if code is not None and code is not graph:
        files |= dict(zip(CODE_GRAPH, serialize.dump(code), strict=True))
    if certificate is not None:
        files[certificates.FILE] = certificate
    return archive.sealed(files, {"meta": meta}, key)


def read_bundle(content: bytes, keys: Sequence[Ed25519PublicKey], *, digest: str | None = None) -> Bundle:
    """Verify, then open: digest, structure, signature, checksums, ABI, proof. Nothing is written to disk or run.

    Raises ModelError saying what is wrong.
    """
    actual = digest_of(content)
    if digest is not None and digest != actual:
        raise ModelError(
            Code.BUNDLE_ALTERED, f"the bundle has digest {actual[:19]}..., expected {digest[:19]}...: it was altered."
        )
    files = archive.checked(
        archive.unpacked(content, name=SUBJECT, max_bytes=MAX_UNPACKED_BYTES, max_files=MAX_FILES), keys, name=SUBJECT
    )
    meta = json.loads(files["meta.json"])
    if meta.get("schemaVersion") != SCHEMA_VERSION or meta.get("abi") != ABI_VERSION:
        raise ModelError(
            Code.BUNDLE_INCOMPATIBLE,
            f"the bundle has schema {meta.get('schemaVersion')} and ABI {meta.get('abi')}; "
            f"this program reads {SCHEMA_VERSION} and {ABI_VERSION}. Compile the model again.",
        )
    bundle = Bundle(digest=actual, meta=meta, files=files)
    _check_proof(bundle)
    return bundle


def _check_proof(bundle: Bundle) -> None:
    """Re-derive what the certificate claims; a bundle that says it is proven has one."""
    proof = bundle.files.get(certificates.FILE)
    if (proof is not None) != bool(bundle.meta.get("proven", False)):
        raise ModelError(Code.BUNDLE_MALFORMED, "the bundle and its certificate do not agree on whether it is proven.")
    if proof is not None:
        checker.check(bundle.graph(), proof)
