"""The short way answers exactly as the long way does, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import pytest_asyncio
import uvicorn
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving import fast_lane as fast_lanes
from ecompile_workers.serving.fast_lane import MAX_HEADS, FastLane, Head, fast_lane
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.server import App
from ecompile_workers.serving.service import Service
from uvicorn.server import ServerState

from .test_server import INFER, binary, request
from .world import KEY, LIFE, MODEL, make_world, oracle, rows, table


class Door:
    """A listening application, and whether the long way was taken."""

    def __init__(self, app: App, service: Service, pod: LocalPod) -> None:
        self.app, self.service, self.pod = app, service, pod
        self.long_way = 0
        self.port = 0
        self.config: uvicorn.Config | None = None
        self.state = ServerState()

    def keep_alive_seconds(self, seconds: float) -> None:
        """For connections made from now on."""
        assert self.config is not None
        self.config.timeout_keep_alive = seconds  # type: ignore[assignment]  # uvicorn passes it to call_later

    async def counted(self, scope: object, receive: object, send: object) -> None:
        self.long_way += 1
        await self.app(scope, receive, send)  # type: ignore[arg-type]  # as uvicorn calls it

    async def exchange(self, *parts: bytes, answers: int = 1) -> list[tuple[int, dict[bytes, bytes], bytes]]:
        """Send parts, each once the one before was taken by the server; the responses."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        found = []
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            status, *lines = head[:-4].split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines)
            body = await reader.readexactly(int(headers[b"content-length"]))
            found.append((int(status.split()[1]), headers, body))
        if found[-1][1].get(b"connection") == b"close":
            assert await reader.read() == b""
        writer.close()
        return found


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    world = make_world(tmp_path)
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    pod.adopt(table(7, world.route(RouteMode.COMPILED)))
    service = Service(model=MODEL, version=LIFE)
    app = App(service)
    app.serve(pod.bridge)
    made = Door(app, service, pod)
    config = uvicorn.Config(
        made.counted,  # type: ignore[arg-type]  # types of our own for the messages
        http=fast_lane(app),
        interface="asgi3",
        lifespan="off",
        log_config=None,
        ws="none",
    )
    config.load()
    made.config = config
    state, loop = made.state, asyncio.get_running_loop()
    factory = config.http_protocol_class
    server = await loop.create_server(
        lambda: factory(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]  # of uvicorn's own
        "127.0.0.1",
        0,
    )
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    for connection in list(state.connections):
        connection.shutdown()
    service.close()
    pod.close()


def post(body: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    head = [b"POST %b HTTP/%b" % (INFER.encode(), version), b"host: a", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*head, b"", b""]) + body


def outputs(body: bytes) -> object:
    return np.asarray(orjson.loads(body)["outputs"][0]["data"])


async def test_whole_request_takes_the_short_way(door: Door) -> None:
    """Counted, measured and described as ever."""
    ((status, headers, body),) = await door.exchange(post(request()))
    assert (status, headers[b"content-type"], door.long_way) == (200, b"application/json", 0)
    assert orjson.loads(body)["parameters"] == {"path": "compiled", "segments": "0:compiled", "generation": 7}
    assert door.pod.counters()[0].compiled == 1
    assert door.pod.bridge.totals.latency["compiled"].sum_seconds > 0


async def test_short_and_long_way_give_the_same_answer(door: Door) -> None:
    """Headers and body, byte for byte; HTTP/1.0 takes the long way, and closes."""
    short = await door.exchange(post(request(id="7")))
    long = await door.exchange(post(request(id="7"), version=b"1.0"))
    assert door.long_way == 1
    assert short[0][2] == long[0][2]
    assert long[0][1] == short[0][1] | {b"connection": b"close"}


async def test_requests_sent_at_once_are_answered_in_order(door: Door) -> None:
    """Pipelined: the short way, a health check, an error, the short way again."""
    health = b"GET /v2/health/ready HTTP/1.1\r\nhost: a\r\n\r\n"
    sent = b"".join([post(request(id="1")), health, post(b"{"), post(request(id="4"))])
    found = await door.exchange(sent, answers=4)
    assert [status for status, _, _ in found] == [200, 200, 400, 200]
    assert orjson.loads(found[0][2])["id"] == "1" and orjson.loads(found[3][2])["id"] == "4"


async def test_request_in_pieces_takes_the_long_way(door: Door) -> None:
    """Cut anywhere: in the headers, between headers and body, in the body."""
    whole = post(request())
    cut = whole.index(b"\r\n\r\n") + 4
    for at in (30, cut, cut + 5):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(whole[:at])
        await writer.drain()
        while at > 40 and door.long_way == 0:  # until the server has seen the first part
            await asyncio.sleep(0)
        writer.write(whole[at:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert door.long_way == (1 if at >= cut else 0)
        door.long_way = 0


async def test_binary_tensors_take_the_short_way(door: Door) -> None:
    """Bytes in, bytes out."""
    body, headers = binary(rows(2), parameters={"binary_data_output": True})
    ((status, told, answer),) = await door.exchange(post(body, *[b"%b: %b" % header for header in headers]))
    raw = answer[int(told[b"inference-header-content-length"]) :]
    assert (status, door.long_way) == (200, 0)
    np.testing.assert_allclose(np.frombuffer(raw, "<f4").reshape(2, 8), oracle(rows(2)), atol=1e-5)


async def test_error_keeps_the_connection(door: Door) -> None:
    """With its status and code, and the next request on it is answered."""
    found = await door.exchange(post(b"{") + post(request()), answers=2)
    assert [status for status, _, _ in found] == [400, 200]
    assert orjson.loads(found[0][2])["code"] == 1009
    assert door.pod.bridge.totals.errors == {1009: 1}


async def test_connection_is_closed_where_the_client_or_a_drain_asks_for_it(door: Door) -> None:
    """The answer comes first."""
    ((status, headers, _),) = await door.exchange(post(request(), b"connection: close"))
    assert (status, headers[b"connection"]) == (200, b"close")
    door.service.drain()
    ((status, headers, _),) = await door.exchange(post(request()))
    assert (status, headers[b"connection"], door.long_way) == (200, b"close", 0)


async def test_long_work_takes_the_long_way(door: Door) -> None:
    """It must not hold the event loop."""
    door.pod.bridge.network = replace(door.pod.bridge.network, row_seconds=1.0)
    ((status, _, body),) = await door.exchange(post(request()))
    assert (status, door.long_way) == (200, 1)
    np.testing.assert_allclose(outputs(body), oracle(np.full((1, 16), 0.5, dtype=np.float32))[0], atol=1e-5)


async def test_idle_connection_is_closed_after_the_keep_alive_time(door: Door) -> None:
    """And not while it is used; the timer is one per connection."""
    door.keep_alive_seconds(0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    for _ in range(3):
        writer.write(post(request()))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"POST /v2/models", b"GET /v2 HTTP/1.1\r\nhost: a\r\n"])
async def test_client_that_never_ends_its_headers_is_let_go(
    door: Door, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor may it say nothing at all."""
    door.keep_alive_seconds(0.05)
    monkeypatch.setattr(FastLane, "header_seconds", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(sent)
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


async def test_request_in_progress_is_not_cut_off(door: Door) -> None:
    """However long ago the client spoke: its answer is being computed."""
    started, go_on = asyncio.Event(), asyncio.Event()
    app = door.counted

    async def slow(scope: object, receive: object, send: object) -> None:
        started.set()
        await go_on.wait()
        await app(scope, receive, send)

    assert door.config is not None
    door.config.loaded_app = slow
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(post(request(), version=b"1.0"))
    await started.wait()
    (connection,) = door.state.connections
    assert isinstance(connection, FastLane)
    connection._waiting_since = float("-inf")
    connection._close_if_idle()
    go_on.set()
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_body_that_breaks_off_in_garbage_is_refused(door: Door) -> None:
    """The parser gives up after the headers have taken the short way; nothing is answered twice."""
    head = post(request()).split(b"content-length")[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(head + b"transfer-encoding: chunked\r\n\r\nZZ\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
    assert door.long_way == 0


async def again(door: Door, *contents: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each, one after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    found = []
    for content in contents:
        writer.write(content)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append((int(head.split()[1]), await reader.readexactly(length)))
    writer.close()
    return found


def remembered(door: Door) -> dict[bytes, Head]:
    (connection, *_) = door.state.connections
    assert isinstance(connection, FastLane)
    return connection.heads


async def test_head_that_was_seen_is_not_parsed_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered as the first time, whatever the body; also on another connection."""
    parsed = []
    whole = FastLane.on_headers_complete

    def on_headers_complete(self: FastLane) -> None:
        parsed.append(self.url)
        whole(self)

    monkeypatch.setattr(FastLane, "on_headers_complete", on_headers_complete)
    good = post(request())
    bad = good[:-1] + b"["
    found = await again(door, good, good, bad, good)
    assert [status for status, _ in found] == [200, 200, 400, 200] and found[0] == found[1] == found[3]
    assert len(parsed) == 1
    assert await again(door, good) == found[:1]
    assert len(parsed) == 1 and door.pod.counters()[0].compiled == 4


async def test_request_after_a_remembered_one_is_parsed_where_the_parser_stands(door: Door) -> None:
    """The bytes that it did not see leave no trace: whole, in pieces, pipelined, another path."""
    good = post(request())
    health = b"GET /v2/health/ready HTTP/1.1\r\nhost: a\r\n\r\n"
    await again(door, good)
    assert [status for status, _ in await again(door, good, health, good, post(request(id="a")), good)] == [200] * 5
    found = await door.exchange(good, good + good, answers=3)
    assert [status for status, _, _ in found] == [200] * 3
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    for part in (good, good[:50], good[50:], good[: len(good) - 3], good[len(good) - 3 :]):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write_eof()
    text = await reader.read()
    assert text.count(b"HTTP/1.1 200") == 3
    writer.close()


async def test_head_is_not_remembered_where_it_does_not_tell_the_length(door: Door) -> None:
    """Chunked, closing, long, for the long way or refused."""
    body = request()
    chunked = post(body).split(b"content-length")[0] + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(body),
        body,
    )
    long = post(body, b"x-long: " + b"a" * 2000)
    refused = post(b"{")
    assert [status for status, _ in await again(door, chunked, chunked, long, refused)] == [200, 200, 200, 400]
    await again(door, post(body, b"connection: close"))
    await again(door, post(body, version=b"1.0"))
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(post(body, b"x-last: 1"))
    await reader.readuntil(b"\r\n\r\n")
    assert [b"x-last" in head for head in remembered(door)] == [True]
    writer.close()


async def test_heads_do_not_pile_up(door: Door) -> None:
    """A client may send another header each time."""
    contents = [post(request(), b"x-request-id: %d" % number) for number in range(MAX_HEADS + 20)]
    await again(door, *contents)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(contents[-1])
    await reader.readuntil(b"\r\n\r\n")
    assert len(remembered(door)) == MAX_HEADS
    writer.close()


async def test_drain_closes_connections_whose_head_is_remembered(door: Door) -> None:
    """The client is told to leave, and is answered and counted once."""
    good = post(request())
    await again(door, good, good)
    door.service.drain()
    ((status, headers, _),) = await door.exchange(good)
    assert (status, headers[b"connection"]) == (200, b"close")
    assert door.pod.counters()[0].requests == 3


async def test_client_that_has_stopped_sending_is_answered(door: Door) -> None:
    """It closed its half of the connection behind the request: the answer comes once it is there, then the end."""
    started, go_on = asyncio.Event(), asyncio.Event()
    app = door.counted

    async def slow(scope: object, receive: object, send: object) -> None:
        started.set()
        await go_on.wait()
        await app(scope, receive, send)

    assert door.config is not None
    door.config.loaded_app = slow
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(post(request(), version=b"1.0"))
    await started.wait()
    writer.write_eof()
    for _ in range(20):  # the server sees the end
        await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(30):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_client_that_stops_in_the_middle_is_let_go(door: Door) -> None:
    """Nothing more can come: the request is given up, and the connection closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(post(request())[:-5])
    writer.write_eof()
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


async def test_what_is_no_request_is_told_so_in_our_words(door: Door) -> None:
    """JSON with a code, as every other error, and counted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"\x16\x03\x01\x02\x00 this is TLS\r\n\r\n")
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"connection: close" in head
    assert orjson.loads(body) == {"error": "this is no HTTP request.", "code": 1009, "retryable": False}
    assert door.pod.bridge.totals.errors == {1009: 1}


@pytest.mark.parametrize("start", [b"", b"transfer-encoding: chunked\r\n\r\n1;"], ids=["headers", "chunk extensions"])
async def test_headers_without_end_are_refused(door: Door, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser would keep them all."""
    monkeypatch.setattr(fast_lanes, "MAX_OVERHEAD_BYTES", 1000)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    more = b"a" * 1200 if start else (b"a: " + b"b" * 55 + b"\r\n") * 20
    writer.write(post(request()).split(b"content-length")[0] + start + more)
    async with asyncio.timeout(30):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 431") and b"too long" in answer
    writer.close()


async def test_large_body_in_small_chunks_is_no_overhead(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not body counts."""
    monkeypatch.setattr(fast_lanes, "MAX_OVERHEAD_BYTES", 1000)
    body = request().ljust(20_000)
    assert [status for status, _ in await again(door, post(body), post(body), post(body))] == [200, 200, 200]


async def test_client_that_does_not_read_is_let_go(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers would wait for ever; one that begins to read again stays."""
    door.keep_alive_seconds(0.02)
    monkeypatch.setattr(FastLane, "header_seconds", 0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    while not door.state.connections:
        await asyncio.sleep(0)
    (connection,) = door.state.connections
    assert isinstance(connection, FastLane)
    connection.pause_writing()
    connection.resume_writing()
    connection._waiting_since = float("inf")
    connection._close_if_idle()
    assert not connection.transport.is_closing()
    connection.pause_writing()
    connection._stalled_since = float("-inf")
    connection._close_if_idle()
    assert connection.transport.is_closing()
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()


async def test_garbage_behind_a_request_is_not_taken_for_its_answer(door: Door) -> None:
    """Its own answer comes, then the end: a refusal before it would be read as the answer."""
    started, go_on = asyncio.Event(), asyncio.Event()
    app = door.counted

    async def slow(scope: object, receive: object, send: object) -> None:
        started.set()
        await go_on.wait()
        await app(scope, receive, send)

    assert door.config is not None
    door.config.loaded_app = slow
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
    await started.wait()
    writer.write(b"\x00garbage\r\n\r\n")
    for _ in range(20):  # the server sees it
        await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(30):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200") and answer.count(b"HTTP/1.1") == 1
    writer.close()


async def test_request_that_was_refused_early_is_not_refused_again(door: Door) -> None:
    """Its answer came before its body; that the body is garbage ends the connection, without another answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = post(b"").split(b"content-length")[0]
    writer.write(head + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
    writer.write(b"ZZ\r\n")
    async with asyncio.timeout(30):
        assert b"HTTP/1.1" not in await reader.read()
    writer.close()
