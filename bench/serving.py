"""Serving: REST latency on one connection, and what the bridge adds to a module, on a 16-float network.

    python bench/serving.py [--json]

Peers: for REST, the same pod asked for the original network (ONNX Runtime); for the bridge, the module called directly.
Everything is measured in one run, interleaved, one connection, medians of rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ecompile_crds.plan import Plan, PlanFile, PlanSegment, PlanTensor
from ecompile_crds.routing import RouteMode, RoutingTable, SegmentRoute
from ecompile_workers.codegen.abi import GuardBox
from ecompile_workers.codegen.bundle import write_bundle
from ecompile_workers.codegen.compile import compile_graph
from ecompile_workers.ir.graph import Graph, Node, Op, Tensor
from ecompile_workers.ir.to_onnx import export
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.modules import cpu_levels

INPUTS, HIDDEN, OUTPUTS = 16, 64, 8
ROUNDS = 15
REQUESTS = 300
CALLS = 2000
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
INFER = "/v2/models/bench/infer"


def make_graph() -> Graph:
    """16 -> 64 -> 8, ReLU between."""
    rng = np.random.default_rng(0)

    def gemm(source: str, name: str, inputs: int, outputs: int) -> Node:
        weight = (rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
        constants = {"weight": weight, "bias": rng.normal(size=outputs).astype(np.float32)}
        return Node(op=Op.GEMM, inputs=(source,), output=Tensor(name=name, shape=(outputs,)), constants=constants)

    first, last = gemm("x", "z", INPUTS, HIDDEN), gemm("h", "y", HIDDEN, OUTPUTS)
    relu = Node(op=Op.RELU, inputs=("z",), output=Tensor(name="h", shape=(HIDDEN,)))
    return Graph(input=Tensor(name="x", shape=(INPUTS,)), output=last.output, nodes=(first, relu, last))


def write_artifacts(directory: Path) -> RoutingTable:
    """Plan, network, signed bundle, trust; the table that promotes the bundle."""
    graph = make_graph()

    def put(name: str, content: bytes) -> PlanFile:
        (directory / name).write_bytes(content)
        return PlanFile(path=name, digest=f"sha256:{sha256(content).hexdigest()}")

    neural = put("model.onnx", export(graph).SerializeToString())
    x, y = PlanTensor(name="x", shape=(INPUTS,)), PlanTensor(name="y", shape=(OUTPUTS,))
    segment = PlanSegment(index=0, name="segment-0", compilable=True, input=x, output=y, neural=neural)
    plan = Plan(
        namespace="bench",
        model="bench",
        life="1",
        source_digest=neural.digest,
        source_format="onnx",
        input=x,
        output=y,
        neural=neural,
        graph=put("graph.zip", b""),
        segments=(segment,),
    )
    put("plan.json", plan.model_dump_json(by_alias=True).encode())
    bound = np.full(INPUTS, 10.0, dtype=np.float32)
    guard = GuardBox(lower=-bound, upper=bound)
    code = compile_graph(graph, guard, levels=cpu_levels()[:1])
    meta = {"segment": 0, "sourceDigest": neural.digest}
    bundle = put("segment-0.eco", write_bundle(graph=graph, compiled=code, guard=guard, meta=meta, key=KEY))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (directory / "signing.pub").write_bytes(KEY.public_key().public_bytes(serialization.Encoding.PEM, spki))
    route = SegmentRoute(
        segment=0,
        mode=RouteMode.COMPILED,
        module="bench-0",
        bundle_uri=f"file://{directory}/segment-0.eco",
        bundle_digest=bundle.digest,
    )
    table = RoutingTable(model="bench", namespace="bench", life="1", generation=1, segments=(route,))
    (directory / "routing.json").write_text(table.model_dump_json(by_alias=True))
    return table


def median_seconds(calls: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Median time of each call, over interleaved rounds."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(count):
                call()
            samples[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in samples.items()}


def bench_bridge(directory: Path, table: RoutingTable, x: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, object]:
    """infer and settle of the bridge against the module alone."""
    pod = LocalPod(f"file://{directory}/plan.json", keys=[KEY.public_key()])
    with closing(pod):
        pod.adopt(table)
        module = pod.bridge.state.segments[0].module
        assert module is not None
        y = np.empty((1, OUTPUTS), dtype=np.float32)
        times = median_seconds({"bridge": lambda: pod.infer(x), "module": lambda: module.run(x, y)}, CALLS)
        error = float(np.abs(pod.infer(x).y - pod.infer(x, neural_only=True).y).max())
    return row("bridge", times["bridge"] * 1e6, "module called directly", times["module"] * 1e6, "us", error)


def bench_rest(directory: Path, x: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, object]:
    """p50 on one held connection, compiled against neural."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "ECO_NAMESPACE": "bench",
        "ECO_MODEL": "bench",
        "ECO_LIFE": "1",
        "ECO_PLAN_URI": f"file://{directory}/plan.json",
        "ECO_PORT": str(port),
        "ECO_TRUST_DIR": str(directory),
        "ECO_ROUTING_DIR": str(directory),
    }
    command = [sys.executable, "-m", "ecompile_workers.serving"]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        wait_ready(port)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
            tensor = {"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": x.ravel().tolist()}
            bodies = {
                "compiled": json.dumps({"inputs": [tensor]}).encode(),
                "neural": json.dumps({"inputs": [tensor], "parameters": {"path": "neural"}}).encode(),
            }

            def ask(body: bytes) -> dict[str, Any]:
                client.request("POST", INFER, body)
                answer: dict[str, Any] = json.loads(client.getresponse().read())
                return answer

            times: dict[str, list[float]] = {name: [] for name in bodies}
            answers = {}
            for _ in range(ROUNDS * REQUESTS):
                for name, body in bodies.items():
                    start = time.perf_counter()
                    answers[name] = ask(body)
                    times[name].append(time.perf_counter() - start)
            assert answers["compiled"]["parameters"]["path"] == "compiled", answers["compiled"]
            outputs = [np.asarray(answers[name]["outputs"][0]["data"]) for name in bodies]
    finally:
        process.terminate()
        process.wait(30)
    ours, peer = (statistics.median(times[name]) * 1e3 for name in bodies)
    error = float(np.abs(outputs[0] - outputs[1]).max())
    return row("REST p50, one connection, Python client included", ours, "same pod, path neural", peer, "ms", error)


def wait_ready(port: int) -> None:
    """Poll readiness with a deadline."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
            try:
                client.request("GET", "/v2/health/ready")
                if client.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
    raise TimeoutError("the pod is not ready after 30 s")


def row(name: str, ours: float, peer: str, peer_value: float, unit: str, max_error: float) -> dict[str, object]:
    """One line of the table."""
    return {
        "name": name,
        "batch": 1,
        "ours": round(ours, 4),
        "peer": peer,
        "peer_value": round(peer_value, 4),
        "unit": unit,
        "ratio": round(peer_value / ours, 3),
        "max_error": max_error,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    arguments = parser.parse_args()
    x = np.random.default_rng(1).normal(size=(1, INPUTS)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        table = write_artifacts(directory)
        rows = [bench_rest(directory, x), bench_bridge(directory, table, x)]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    for each in rows:
        print(
            f"{each['name']:50} {each['ours']:>9} {each['unit']}   {each['peer']}: {each['peer_value']} {each['unit']}"
            f"   ratio {each['ratio']}   max error {each['max_error']:.1e}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
