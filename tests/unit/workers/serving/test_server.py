"""REST answers of the application, without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.server import App

from .world import INPUTS, KEY, LIFE, MODEL, make_world, oracle, rows, table

INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[LocalPod]:
    world = make_world(tmp_path)
    made = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    made.adopt(table(7, world.route(RouteMode.COMPILED)))
    yield made
    made.close()


@pytest.fixture
def app(pod: LocalPod) -> App:
    made = App(model=MODEL, version=LIFE)
    made.serve(pod.bridge)
    return made


async def call(
    app: App,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    chunk: int = 1 << 20,
) -> tuple[int, dict[str, Any], dict[bytes, bytes]]:
    """One request; the body comes in chunks."""
    parts = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
    messages = [{"type": "http.request", "body": part, "more_body": n + 1 < len(parts)} for n, part in enumerate(parts)]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": path, "headers": list(headers)}, receive, send)
    content = sent[1]["body"]
    document = orjson.loads(content) if content.startswith(b"{") else {"text": content.decode()}
    return sent[0]["status"], document, dict(sent[0]["headers"])


def request(data: Any = None, **changes: Any) -> bytes:
    """A good request for one row, plus the change that matters."""
    tensor = {"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": [0.5] * INPUTS if data is None else data}
    top = {key: changes.pop(key) for key in ("id", "parameters", "outputs", "inputs") if key in changes}
    return orjson.dumps({"inputs": [tensor | changes]} | top)


@pytest.mark.asyncio
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("path", [INFER, f"/v2/models/{MODEL}/versions/{LIFE}/infer"])
async def test_rows_are_answered_with_the_path_that_served(app: App, nested: bool, path: str) -> None:
    """Several rows, nested or flat; parameters say who answered."""
    x = rows(3)
    status, answer, _ = await call(
        app, "POST", path, request(x.tolist() if nested else x.ravel().tolist(), shape=[3, INPUTS], id="a")
    )
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (MODEL, LIFE, "a")
    assert answer["parameters"] == {"path": "compiled", "segments": "0:compiled", "generation": 7}
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("h1", "FP32", [3, 8])
    np.testing.assert_allclose(np.reshape(output["data"], (3, 8)), oracle(x), atol=1e-5)


@pytest.mark.asyncio
async def test_request_can_force_the_network(app: App) -> None:
    """Parameter path: neural."""
    _, answer, _ = await call(app, "POST", INFER, request(parameters={"path": "neural"}))
    assert answer["parameters"]["segments"] == "0:neural:requested"


@pytest.mark.asyncio
@pytest.mark.parametrize("datatype", ["FP64", "INT32", "UINT8"])
async def test_other_numeric_types_are_converted(app: App, datatype: str) -> None:
    """JSON numbers are computed in FP32."""
    status, _, _ = await call(app, "POST", INFER, request([1] * INPUTS, datatype=datatype))
    assert status == 200


@pytest.mark.asyncio
async def test_value_beyond_float32_is_answered_by_the_network(app: App) -> None:
    """Infinite in FP32: every guard refuses it."""
    status, answer, _ = await call(app, "POST", INFER, request([1e300] + [0.0] * (INPUTS - 1)))
    assert status == 200
    assert answer["parameters"]["segments"] == "0:neural:outside-guard"


BAD: list[tuple[str, bytes, int, int, str]] = [
    ("not JSON", b"{", 400, 1009, "not JSON"),
    ("NaN is not JSON", request().replace(b"0.5", b"NaN", 1), 400, 1009, "not JSON"),
    ("not an object", b"[]", 400, 1009, "object"),
    ("no inputs", b"{}", 400, 1009, "inputs"),
    ("two tensors", request(inputs=[{}, {}]), 400, 1009, "one tensor"),
    ("tensor not an object", request(inputs=[1]), 400, 1009, "one tensor"),
    ("other name", request(name="input"), 400, 1009, "inputs[0].name"),
    ("other datatype", request(datatype="BYTES"), 400, 1009, "inputs[0].datatype"),
    ("datatype not a string", request(datatype=["FP32"]), 400, 1009, "inputs[0].datatype"),
    ("other shape", request(shape=[1, 15]), 400, 1003, "[rows, 16]"),
    ("no batch dimension", request(shape=[INPUTS]), 400, 1003, "[rows, 16]"),
    ("zero rows", request([], shape=[0, INPUTS]), 400, 1003, "[rows, 16]"),
    ("negative rows", request(shape=[-1, INPUTS]), 400, 1003, "[rows, 16]"),
    ("rows as text", request(shape=["1", INPUTS]), 400, 1003, "[rows, 16]"),
    ("boolean rows", request(shape=[True, INPUTS]), 400, 1003, "[rows, 16]"),
    ("shape missing", request(shape=None), 400, 1003, "[rows, 16]"),
    ("absurd rows", request(shape=[2**62, INPUTS]), 400, 1003, "inputs[0].data"),
    ("too few values", request([1.0]), 400, 1003, "1 values"),
    ("ragged", request([[1.0], [1.0, 2.0]]), 400, 1003, "ragged"),
    ("nested otherwise", request([[1.0] * 8] * 2), 400, 1003, "inputs[0].data"),
    ("text among numbers", request(["a"] * INPUTS), 400, 1002, "numbers only"),
    ("null among numbers", request([None] * INPUTS), 400, 1002, "numbers only"),
    ("booleans", request([True] * INPUTS), 400, 1002, "numbers only"),
    ("an object as data", request({"a": 1}), 400, 1002, "numbers only"),
    ("a number as data", request(1.0), 400, 1002, "numbers only"),
    ("other output", request(outputs=[{"name": "z"}]), 400, 1009, "'h1'"),
    ("outputs not a list", request(outputs=3), 400, 1009, "'h1'"),
    ("other path", request(parameters={"path": "compiled"}), 400, 1009, "parameters.path"),
    ("parameters not an object", request(parameters=[1]), 400, 1009, "parameters.path"),
    ("id not a string", request(id=7), 400, 1009, "id must be"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("body", "status", "code", "sentence"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
async def test_bad_request_is_answered_with_a_sentence(
    app: App, body: bytes, status: int, code: int, sentence: str
) -> None:
    """Status, stable code, whether to retry, and the field at fault."""
    found, answer, _ = await call(app, "POST", INFER, body)
    assert (found, answer["code"], answer["retryable"]) == (status, code, False)
    assert sentence in answer["error"]


@pytest.mark.asyncio
@pytest.mark.parametrize("announced", [True, False])
async def test_huge_body_is_refused(app: App, announced: bool) -> None:
    """By its header where it has one, else once it is too long."""
    headers = ((b"content-length", b"%d" % (17 << 20)),) if announced else ()
    status, answer, _ = await call(app, "POST", INFER, b" " * (17 << 20), headers=headers)
    assert (status, answer["code"]) == (413, 1010)
    assert "16 MiB" in answer["error"]


@pytest.mark.asyncio
async def test_binary_tensors_are_refused(app: App) -> None:
    """Not supported by this version, and said so."""
    headers = ((b"inference-header-content-length", b"10"),)
    status, answer, _ = await call(app, "POST", INFER, request(), headers=headers)
    assert status == 400 and "binary" in answer["error"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", f"/v2/models/{MODEL}", 200),
        ("GET", f"/v2/models/{MODEL}/ready", 200),
        ("GET", f"/v2/models/{MODEL}/versions/{LIFE}", 200),
        ("GET", f"/v2/models/{MODEL}/versions/{LIFE}/ready", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v2/models/other", 404),
        ("GET", f"/v2/models/{MODEL}/versions/9", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", f"/v2/models/{MODEL}/versions/9/infer", 404),
        ("GET", f"/v2/models/{MODEL}/secrets", 404),
        ("GET", "/", 404),
        ("GET", INFER, 405),
        ("DELETE", INFER, 405),
        ("POST", "/v2/health/live", 405),
    ],
)
async def test_paths(app: App, method: str, path: str, status: int) -> None:
    """Health, metadata and what is not there."""
    found, answer, _ = await call(app, method, path)
    assert found == status
    assert status == 200 or answer["error"]


@pytest.mark.asyncio
async def test_metrics_count_paths_and_errors(app: App) -> None:
    """Labels are bounded: unknown names are not among them."""
    await call(app, "POST", INFER, request())
    await call(app, "POST", INFER, b"{")
    _, answer, _ = await call(app, "GET", "/metrics")
    assert 'ecompile_serving_request_seconds_count{path="compiled"} 1.0' in answer["text"]
    assert 'ecompile_serving_errors_total{code="1009"} 1.0' in answer["text"]
    assert "ecompile_serving_routing_generation 7.0" in answer["text"]


@pytest.mark.asyncio
async def test_pod_is_live_but_not_ready_while_loading() -> None:
    """Requests are told to come back."""
    app = App(model=MODEL, version=LIFE)
    assert (await call(app, "GET", "/v2/health/live"))[0] == 200
    assert (await call(app, "GET", "/v2/health/ready"))[0] == 503
    status, answer, _ = await call(app, "POST", INFER, request())
    assert (status, answer["retryable"], answer["retryAfterSeconds"]) == (503, True, 1.0)


@pytest.mark.asyncio
async def test_draining_pod_answers_but_sends_clients_away(app: App) -> None:
    """Not ready, still right, and the connection is closed by the client."""
    app.drain()
    assert (await call(app, "GET", "/v2/health/ready"))[0] == 503
    status, _, headers = await call(app, "POST", INFER, request())
    assert status == 200 and headers[b"connection"] == b"close"


@pytest.mark.asyncio
async def test_large_batch_is_answered_from_the_thread_pool(app: App, pod: LocalPod) -> None:
    """The same answer, and counted."""
    x = rows(5000)
    status, answer, _ = await call(app, "POST", INFER, request(x.ravel().tolist(), shape=[5000, INPUTS]))
    assert status == 200
    np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (5000, 8)), oracle(x), atol=1e-5)
    assert pod.counters()[0].compiled == 1
