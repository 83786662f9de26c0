"""REST answers of the application, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving.admission import Limits
from ecompile_workers.serving.feedback import Feedback
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.server import App
from ecompile_workers.serving.service import Service

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
def service() -> Iterator[Service]:
    made = Service(model=MODEL, version=LIFE)
    yield made
    made.close()


@pytest.fixture
def app(pod: LocalPod, service: Service) -> App:
    made = App(service)
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
@pytest.mark.parametrize(("group", "status"), [("north", 200), (7, 400), ("x" * 65, 400)])
async def test_group_of_a_request_is_a_short_text(app: App, group: object, status: int) -> None:
    """Parameter group."""
    answered, answer, _ = await call(app, "POST", INFER, request(parameters={"group": group}))
    assert answered == status
    assert status == 200 or "parameters.group" in answer["error"]


@pytest.mark.asyncio
async def test_labels_are_joined_with_answers(app: App, service: Service, pod: LocalPod) -> None:
    """POST .../feedback; refused where the model does not remember answers."""
    path, entry = f"/v2/models/{MODEL}/feedback", {"id": "q1", "label": 0}
    body = orjson.dumps({"feedback": [entry]})
    status, answer, _ = await call(app, "POST", path, body)
    assert status == 400 and "spec.serving.feedback.remember" in answer["error"]
    service.feedback = Feedback(10)
    made = App(service)
    made.serve(pod.bridge)
    _, answered, _ = await call(made, "POST", INFER, request(id="q1"))
    best = int(np.argmax(answered["outputs"][0]["data"]))
    status, answer, _ = await call(made, "POST", path, orjson.dumps({"feedback": [entry | {"label": best}]}))
    assert (status, answer) == (200, {"matched": 1, "unmatched": 0})
    _, metrics, _ = await call(made, "GET", "/metrics")
    assert 'ecompile_serving_feedback_total{correct="true",path="compiled"} 1.0' in metrics["text"]
    assert (await call(made, "GET", path))[0] == 405


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
    """Infinite in FP32: every guard refuses it. numpy is told not to warn, as in a pod."""
    with np.errstate(over="ignore"):
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
    ("explain not a flag", request(parameters={"explain": 1}), 400, 1009, "parameters.explain"),
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


def binary(
    x: Any, *, datatype: str = "FP32", size: int | None = None, **top: Any
) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """A body with rows `x` as bytes after the JSON, and its headers."""
    raw = x.tobytes()
    tensor = {
        "name": "x",
        "shape": list(x.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw) if size is None else size},
    }
    head = orjson.dumps({"inputs": [tensor]} | top)
    return head + raw, ((b"inference-header-content-length", b"%d" % len(head)),)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("datatype", "dtype"), [("FP32", "<f4"), ("FP64", "<f8"), ("FP16", "<f2"), ("INT8", "i1"), ("UINT64", "<u8")]
)
async def test_binary_tensor_is_answered_as_json_is(app: App, datatype: str, dtype: str) -> None:
    """Little-endian elements after the JSON; the answer is JSON unless bytes are asked for."""
    x = np.abs(np.round(rows(3))).astype(dtype)
    body, headers = binary(x, datatype=datatype)
    status, answer, _ = await call(app, "POST", INFER, body, headers=headers)
    assert status == 200
    expected = oracle(x.astype(np.float32))
    np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (3, 8)), expected, atol=1e-5)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "asked",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "h1", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "h1"}], "parameters": {"binary_data_output": True}},
    ],
)
async def test_binary_output_where_asked_for(app: App, asked: dict[str, Any]) -> None:
    """The header tells where the JSON ends."""
    body, headers = binary(rows(2), **asked)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": INFER, "headers": list(headers)}, receive, send)
    told = dict(sent[0]["headers"])
    assert told[b"content-type"] == b"application/octet-stream"
    length = int(told[b"inference-header-content-length"])
    (output,) = orjson.loads(sent[1]["body"][:length])["outputs"]
    raw = sent[1]["body"][length:]
    assert output["parameters"] == {"binary_data_size": len(raw)} and "data" not in output
    np.testing.assert_allclose(np.frombuffer(raw, "<f4").reshape(output["shape"]), oracle(rows(2)), atol=1e-5)


def announced(body: bytes, json_bytes: int | bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """A body whose header tells the length of its JSON."""
    told = json_bytes if isinstance(json_bytes, bytes) else b"%d" % json_bytes
    return body, ((b"inference-header-content-length", told),)


def output_with(**parameters: Any) -> bytes:
    return request(outputs=[{"name": "h1", "parameters": parameters}])


BAD_BINARY: list[tuple[str, Any, str]] = [
    ("size told wrong", lambda: binary(rows(1), size=60), "binary_data_size is 60, but 64 bytes"),
    ("too few bytes", lambda: binary(rows(1)[:, :15]), "[rows, 16]"),
    ("bytes of another type", lambda: binary(rows(1), datatype="FP64"), "need 128"),
    ("JSON cut off", lambda: announced(request(), 20), "not JSON"),
    ("header longer than body", lambda: announced(b"{}", 3), "has 2 bytes"),
    ("header not a number", lambda: announced(b"{}", b"-1"), "number of bytes"),
    ("bytes not announced", lambda: announced(request() + b"abc", len(request())), "3 bytes follow"),
    ("compressed", lambda: (b"", ((b"content-encoding", b"gzip"),)), "Content-Encoding"),
    ("classification", lambda: (output_with(classification=3), ()), "classification"),
    ("flag not boolean", lambda: (output_with(binary_data=1), ()), "binary_data"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("make", "sentence"), [b[1:] for b in BAD_BINARY], ids=[b[0] for b in BAD_BINARY])
async def test_bad_binary_request_is_answered_with_a_sentence(app: App, make: Any, sentence: str) -> None:
    """400 and the field at fault."""
    body, headers = make()
    status, answer, _ = await call(app, "POST", INFER, body, headers=headers)
    assert (status, answer["retryable"]) == (400, False)
    assert sentence in answer["error"]


@pytest.mark.asyncio
async def test_explanation_says_who_answered_and_how_sure_it_is(app: App) -> None:
    """The module's evidence, and the terms of the confidence."""
    _, answer, _ = await call(app, "POST", INFER, request(parameters={"explain": True}))
    (segment,) = orjson.loads(answer["parameters"]["explanation"])
    assert (segment["served"], segment["module"], segment["ood"]) == ("compiled", "digits-0-a1", 0.0)
    assert segment["confidence"] == 1.0 and segment["recentAccuracy"] is None
    far = [20.0] + [0.0] * (INPUTS - 1)
    _, answer, _ = await call(app, "POST", INFER, request(far, parameters={"explain": True}))
    (segment,) = orjson.loads(answer["parameters"]["explanation"])
    assert (segment["served"], segment["ood"]) == ("neural:outside-guard", pytest.approx(0.8))
    assert segment["confidence"] == pytest.approx(0.2)


@pytest.mark.asyncio
async def test_body_that_arrives_too_slowly_is_given_up(pod: LocalPod, service: Service) -> None:
    """408, and the place is free again."""
    app = App(service, body_seconds=0.01)
    app.serve(pod.bridge)
    first = [{"type": "http.request", "body": b"{", "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        return first.pop() if first else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": INFER, "headers": []}, receive, send)
    assert sent[0]["status"] == 408
    assert orjson.loads(sent[1]["body"])["code"] == 4003
    assert (service.admission.requests, service.admission.body_bytes) == (0, 0)


@pytest.mark.asyncio
async def test_too_much_at_once_is_refused_with_the_time_to_come_back(pod: LocalPod) -> None:
    """429 with Retry-After; nothing is queued."""
    service = Service(model=MODEL, version=LIFE, limits=Limits(requests=0))
    app = App(service)
    app.serve(pod.bridge)
    status, answer, headers = await call(app, "POST", INFER, request())
    service.close()
    assert (status, answer["code"], answer["retryable"]) == (429, 3009, True)
    assert answer["retryAfterSeconds"] > 0 and headers[b"retry-after"] == b"1"
    assert pod.bridge.totals.errors == {3009: 1}


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
    assert 'ecompile_serving_limit{kind="fallback"} 0.05' in answer["text"]


@pytest.mark.asyncio
async def test_pod_is_live_but_not_ready_while_loading(service: Service) -> None:
    """Requests are told to come back."""
    app = App(service)
    assert (await call(app, "GET", "/v2/health/live"))[0] == 200
    assert (await call(app, "GET", "/v2/health/ready"))[0] == 503
    status, answer, _ = await call(app, "POST", INFER, request())
    assert (status, answer["retryable"], answer["retryAfterSeconds"]) == (503, True, 1.0)


@pytest.mark.asyncio
async def test_draining_pod_answers_but_sends_clients_away(app: App, service: Service) -> None:
    """Not ready, still right, and the connection is closed by the client."""
    service.drain()
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
