"""Small real networks, plans and signed bundles for tests of the serving pod."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.plan import Plan, PlanFile, PlanSegment, PlanTensor
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from ecompile_workers.codegen.abi import GuardBox
from ecompile_workers.codegen.bundle import write_bundle
from ecompile_workers.codegen.compile import CompiledSegment, compile_graph
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor
from ecompile_workers.ir.to_onnx import export
from ecompile_workers.trace import reference as references
from numpy.typing import NDArray

Rows = NDArray[np.float32]
NAMESPACE, MODEL, LIFE = "shop", "digits", "life-a"
INPUTS, HIDDEN, OUTPUTS = 16, 24, 8
SOURCE_DIGEST = f"sha256:{'a' * 64}"
GUARD_HALF_WIDTH = 4.0
LEVEL = "x86-64-v2"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def dense(index: int, inputs: int, outputs: int, *, scale: float = 1.0) -> tuple[Node, Node]:
    """A layer and its activation, the same for the same index; `scale` makes it wrong."""
    rng = np.random.default_rng(100 + index)
    weight = (scale * rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    source = "x" if index == 0 else f"h{index - 1}"
    linear = Tensor(name=f"z{index}", shape=(outputs,))
    active = Tensor(name=f"h{index}", shape=(outputs,))
    return (
        Node(op=Op.GEMM, inputs=(source,), output=linear, constants={"weight": weight, "bias": bias}),
        Node(op=Op.TANH, inputs=(linear.name,), output=active),
    )


def graphs(segments: int, *, scale: float = 1.0) -> list[Graph]:
    """The network as one graph, or cut into two."""
    first, second = dense(0, INPUTS, HIDDEN, scale=scale), dense(1, HIDDEN, OUTPUTS, scale=scale)
    x, middle, y = Tensor(name="x", shape=(INPUTS,)), first[-1].output, second[-1].output
    if segments == 1:
        return [Graph(input=x, output=y, nodes=(*first, *second))]
    return [Graph(input=x, output=middle, nodes=first), Graph(input=middle, output=y, nodes=second)]


def oracle(rows: Rows) -> Rows:
    """What the network answers, in float64."""
    current = rows.astype(np.float64)
    for node, _ in (dense(0, INPUTS, HIDDEN), dense(1, HIDDEN, OUTPUTS)):
        current = np.tanh(current @ node.constants["weight"] + node.constants["bias"])
    return current.astype(np.float32)


@functools.cache
def compiled(segments: int, index: int, scale: float) -> tuple[CompiledSegment, GuardBox]:
    """Code of a segment; compiled once per test run."""
    graph = graphs(segments, scale=scale)[index]
    bound = np.full(graph.input.size, GUARD_HALF_WIDTH, dtype=np.float32)
    guard = GuardBox(lower=-bound, upper=bound)
    return compile_graph(graph, guard, levels=[LEVEL]), guard


FAULTS = {
    "nan": 'y[0] = __builtin_nanf("");',
    "crash": "*(volatile int *)0 = 1;",
    "hang": "for (volatile int i = 0;; i++);",
    "leak": "volatile char *p = malloc(64 << 20); for (int64_t i = 0; i < 64 << 20; i += 4096) p[i] = 1;",
    "stray": "volatile char near[8]; for (int64_t i = 0; i < 1 << 24; i++) near[i] = 1;",
}
"""What a faulty module does where x[0] > 2. It keeps the ABI otherwise."""


def faulty_source(fault: str) -> str:
    return f"""
#include <stdint.h>
#include <stdlib.h>
int eco_run(const float *x, float *y, int64_t n, void *scratch, uint32_t *reason) {{
  for (int64_t i = 0; i < n * {OUTPUTS}; i++) y[i] = 0.0f;
  if (x[0] > 2.0f) {{ {FAULTS[fault]} }}
  return *reason = 0;
}}
const char *eco_meta(void) {{
  return "{{\\"abi\\":1,\\"inputs\\":{INPUTS},\\"outputs\\":{OUTPUTS},\\"max_rows\\":64,"
         "\\"scratch_bytes\\":64,\\"level\\":\\"{LEVEL}\\"}}";
}}
"""


@functools.cache
def faulty_library(fault: str) -> bytes:
    """A module with one of FAULTS."""
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "faulty.so"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=faulty_source(fault).encode(), check=True, timeout=60)
        return library.read_bytes()


@dataclass(frozen=True)
class World:
    """Artifacts in a directory."""

    directory: Path
    segments: int = 1

    def uri(self, name: str) -> str:
        return f"file://{self.directory}/{name}"

    @property
    def plan_uri(self) -> str:
        return self.uri("plan.json")

    def bundle(
        self,
        *,
        segment: int = 0,
        scale: float = 1.0,
        key: Ed25519PrivateKey = KEY,
        alter: bool = False,
        fault: str = "",
        **meta: object,
    ) -> tuple[str, str]:
        """URI and digest of a signed bundle; `scale` perturbs its weights, `fault` is one of FAULTS,
        `alter` breaks it after signing."""
        code, guard = compiled(self.segments, segment, scale)
        if fault:
            sources, libraries = {LEVEL: faulty_source(fault)}, {LEVEL: faulty_library(fault)}
            code = CompiledSegment(sources=sources, libraries=libraries, macs=code.macs)
        content = write_bundle(
            graph=graphs(self.segments, scale=scale)[segment],
            compiled=code,
            guard=guard,
            meta={"segment": segment, "sourceDigest": SOURCE_DIGEST, "model": MODEL, **meta},
            key=key,
        )
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        name = f"{digest[7:23]}.eco"
        if alter:
            name = f"altered-{name}"
            content = content[:200] + bytes([content[200] ^ 1]) + content[201:]
        (self.directory / name).write_bytes(content)
        return self.uri(name), digest

    def route(
        self,
        mode: RouteMode,
        *,
        segment: int = 0,
        weight: float = 0.0,
        compare: float = 0.0,
        bundle: tuple[str, str] | None = None,
    ) -> SegmentRoute:
        """A route to the faithful module, or to the given bundle."""
        if mode is RouteMode.NEURAL:
            return SegmentRoute(segment=segment)
        uri, digest = bundle or self.bundle(segment=segment)
        return SegmentRoute(
            segment=segment,
            mode=mode,
            weight=weight,
            compare=compare,
            module=f"digits-{segment}-a1",
            bundle_uri=uri,
            bundle_digest=digest,
        )


def table(generation: int, *routes: SegmentRoute, **changes: str) -> RoutingTable:
    """A routing table for the test pod."""
    names: dict[str, Any] = {"namespace": NAMESPACE, "model": MODEL, "life": LIFE} | changes
    return RoutingTable(generation=generation, segments=routes, **names)


def make_world(directory: Path, *, segments: int = 1, reference: Rows | None = None) -> World:
    """Write plan, whole network and segments; `reference`: calibration rows of the first segment."""
    directory.mkdir(parents=True, exist_ok=True)

    def put(name: str, content: bytes) -> PlanFile:
        (directory / name).write_bytes(content)
        return PlanFile(path=name, digest=f"sha256:{hashlib.sha256(content).hexdigest()}")

    whole = put("model.onnx", export(graphs(1)[0]).SerializeToString())
    parts = graphs(segments)
    made = []
    for index, graph in enumerate(parts):
        name = f"segment-{index}.onnx"
        made.append(
            PlanSegment(
                index=index,
                name=f"segment-{index}",
                compilable=True,
                input=PlanTensor(name=graph.input.name, shape=graph.input.shape),
                output=PlanTensor(name=graph.output.name, shape=graph.output.shape),
                neural=whole if segments == 1 else put(name, export(graph).SerializeToString()),
                macs=graph.macs,
                reference=put("reference.npz", references.fit(reference).to_bytes())  # type: ignore[union-attr]  # enough rows
                if reference is not None and index == 0
                else None,
            )
        )
    plan = Plan(
        namespace=NAMESPACE,
        model=MODEL,
        life=LIFE,
        source_digest=SOURCE_DIGEST,
        source_format="onnx",
        input=PlanTensor(name="x", shape=(INPUTS,)),
        output=PlanTensor(name="h1", shape=(OUTPUTS,)),
        neural=whole,
        graph=put("graph.zip", b""),
        segments=tuple(made),
    )
    (directory / "plan.json").write_text(plan.model_dump_json(by_alias=True))
    return World(directory=directory, segments=segments)


def write_trust(directory: Path) -> None:
    """The trusted signing key, as the trust ConfigMap is mounted."""
    directory.mkdir(parents=True, exist_ok=True)
    pem = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (directory / "signing.pub").write_bytes(pem)


def rows(count: int, *, seed: int = 0, scale: float = 1.0) -> Rows:
    """Ordinary inputs, inside the guard for scale 1."""
    drawn = np.random.default_rng(seed).normal(size=(count, INPUTS)) * scale
    return np.clip(drawn, -3.9 * scale, 3.9 * scale).astype(np.float32)
