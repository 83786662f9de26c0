"""`verify`: every claim of a package that can be checked without the data it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ecompile_crds.errors import EcompileError

from ..codegen import toolchain
from ..codegen.abi import GuardBox
from ..codegen.bundle import Bundle
from ..codegen.compile import compile_graph
from ..data.store import digest_of
from ..ir import serialize
from ..ir.graph import Graph
from ..ir.load import load_source
from ..jobs.context import unpack_graph
from .package import Package, PackagedSegment


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence, and whether it was found to be true; None where it could not be checked here."""

    text: str
    holds: bool | None
    detail: str = ""


def verify(package: Package, source: Path) -> Iterator[Claim]:
    """Claims one by one, cheapest first. Signature and checksums were checked when the package was read.

    Raises an EcompileError where `source` cannot be read.
    """
    yield Claim(text="signature and checksums of all files", holds=True)
    digest = digest_of(source.read_bytes())
    same = digest == package.manifest.source_digest
    yield Claim(text=f"made from {source.name}", holds=same, detail=digest if same else f"{source} has {digest}")
    if not same:
        return
    graph = load_source(source).graph
    parts = [unpack_graph(package.files[package.plan.graph.path], s.index) for s in package.plan.segments]
    nodes = [node for part in parts for node in part.nodes]
    joined = Graph(
        input=graph.input,
        output=graph.output,
        nodes=tuple(nodes),
        inputs=parts[0].inputs,
        outputs=parts[-1].outputs,
    )
    plan = package.plan
    told = [(each.name, each.shape) for each in (*plan.network_inputs, *plan.network_outputs)]
    borders = (*(graph.inputs or (graph.input,)), *(graph.outputs or (graph.output,)))
    whole = serialize.dump(graph) == serialize.dump(joined) and told == [(each.name, each.shape) for each in borders]
    yield Claim(text="the segments, one after the other, are the network", holds=whole)
    for segment in package.manifest.segments:
        if segment.bundle is not None:
            yield from _module(package, segment)


def _module(package: Package, segment: PackagedSegment) -> Iterator[Claim]:
    name = segment.name
    try:
        bundle = package.bundle(segment)
    except EcompileError as error:
        yield Claim(text=f"{name}: the module is what was signed", holds=False, detail=error.message)
        return
    yield Claim(text=f"{name}: the module is what was signed", holds=True)
    planned = unpack_graph(package.files[package.plan.graph.path], segment.index)
    same = serialize.dump(bundle.graph()) == serialize.dump(planned)
    yield Claim(text=f"{name}: the module was made from this segment", holds=same)
    said = bundle.meta.get("evidence")
    ours = segment.evidence.model_dump(mode="json", by_alias=True, exclude_none=True) if segment.evidence else None
    yield Claim(text=f"{name}: evidence {_label(segment)}", holds=said == ours)
    yield _recompiled(bundle, name)


def _label(segment: PackagedSegment) -> str:
    return segment.evidence.label() if segment.evidence is not None else "none"


def _recompiled(bundle: Bundle, name: str) -> Claim:
    """Compiling is deterministic: the same compiler gives the same library."""
    text = f"{name}: the libraries are what the segment compiles to"
    made, here = bundle.meta.get("toolchain"), toolchain.version()
    if made != here:
        return Claim(text=text, holds=None, detail=f"made by {made}; this machine has {here}")
    guard = GuardBox(
        lower=np.asarray(bundle.meta["guard"]["lower"], dtype=np.float32),
        upper=np.asarray(bundle.meta["guard"]["upper"], dtype=np.float32),
    )
    again = compile_graph(bundle.code_graph(), guard, levels=bundle.levels, regions=bundle.regions())
    wrong = [level for level in bundle.levels if again.libraries[level] != bundle.files[f"lib/{level}.so"]]
    return Claim(text=text, holds=not wrong, detail=", ".join(wrong))
