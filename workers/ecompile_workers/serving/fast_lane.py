"""uvicorn's HTTP protocol with a short way for small inference requests: answered where they are parsed.

The long way costs a task, an event and a cycle object per request, and two writes (decision 0007). A request takes
the short way when it has arrived whole, nothing else is in progress on its connection, and its work is short enough for
the event loop. Everything else goes the long way, through ASGI, unchanged.

Clients send the same headers again and again. What the parser made of a head is remembered by its bytes, so that the
same bytes are not parsed twice, on whatever connection they come (decision 0012).
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any, ClassVar, Final, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .server import App, Response, sizes

MAX_HEADS: Final = 512
"""Heads remembered; their Content-Length differs with the numbers in a body, so that one client has dozens."""
MAX_HEAD_BYTES: Final = 1024
MAX_OVERHEAD_BYTES: Final = 1 << 20
"""Bytes of one request that are not its body: headers, and what frames chunks. The parser keeps them all."""
END_OF_HEAD: Final = b"\r\n\r\n"


class Head(NamedTuple):
    """What a request's head means: sent with the same bytes again, it means the same again."""

    body_bytes: int
    json_bytes: int | None


class FastLane(HttpToolsProtocol):
    """One connection. Use the class that `fast_lane` makes for an application."""

    server_app: ClassVar[App]
    lane_urls: ClassVar[frozenset[bytes]] = frozenset()
    heads: ClassVar[dict[bytes, Head]] = {}
    """Of requests that took the short way, by the bytes from the method to the empty line."""
    header_seconds: ClassVar[float] = 30.0
    """Time for all headers of a request to arrive, and for a client to read what waits for it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._lane = False
        self._lane_body = b""
        self._partial = False
        """The headers of a request have begun, but not ended."""
        self._overhead_bytes = 0
        """Received since the last whole request, and not part of a body."""
        self._messages = 0
        """Requests begun since the last bytes arrived."""
        self._answered_bytes = -1
        """Length of the body of the last request that was answered here, since the last bytes arrived."""
        self._between = True
        """The parser has seen whole requests only: what comes next is a head."""
        self._waiting_since = 0.0
        self._stalled_since: float | None = None
        """Since when the client has not read what was sent."""
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """A client has connected."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's. A request that has not arrived whole by now goes the long way."""
        if self._between:
            end = data.find(END_OF_HEAD) + 4
            head = self.heads.get(data[:end])
            if head is not None and len(data) == end + head.body_bytes and self._free():
                response = self.server_app.answer_body(data[end:], head.json_bytes)
                if response is not None:
                    self._unset_keepalive_if_required()
                    self._send(response)
                    self.server_app.answered()
                    return
        self._messages, self._answered_bytes = 0, -1
        self._overhead_bytes += len(data)
        super().data_received(data)
        if self._overhead_bytes > MAX_OVERHEAD_BYTES and not self.transport.is_closing():
            self._lane = False
            self._send_last(self.server_app.too_much_overhead())
            return
        if self._lane and not self.transport.is_closing():
            self._leave_lane()
        if self._answered_bytes >= 0 and self._messages == 1:
            self._remember(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's; uvicorn has no use for the answer
        """The client sends no more. It may still be reading: what has arrived whole is answered, then we close."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:
        """The parser has given up. The connection ends, but not with two answers to one request, nor with this one in
        place of another's."""
        cycle = self.cycle
        if cycle is None or self._lane:
            self._send_last(self.server_app.not_http())
        elif not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False
        elif cycle.response_complete and not self._partial and not self._between:
            self.transport.close()
        else:
            self._send_last(self.server_app.not_http())

    def _free(self) -> bool:
        """Whether an answer can be written at once, and another request may follow it."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self.transport.is_closing()
            and not self.server_app.draining
        )

    def _remember(self, data: bytes) -> None:
        """Keep what the parser found, where `data` is one request, answered here, whose length its head tells."""
        end = data.find(END_OF_HEAD) + 4
        lengths = [value for name, value in self.headers if name == b"content-length"]
        body_bytes = self._answered_bytes
        if (
            end <= MAX_HEAD_BYTES
            and len(data) == end + body_bytes
            and lengths == [b"%d" % body_bytes]
            and not any(name == b"transfer-encoding" for name, _ in self.headers)
        ):
            if len(self.heads) >= MAX_HEADS:
                del self.heads[next(iter(self.heads))]
            self.heads[data[:end]] = Head(body_bytes, sizes(self.headers)[1])

    def on_message_begin(self) -> None:
        """A request begins; what ASGI is told of it is put together only where it is needed."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._partial, self._between = True, False
        self._messages += 1
        self._waiting_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """The parser has seen all headers of a request."""
        self._partial = False
        if (
            self.url in self.lane_urls
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        ):
            self._lane, self._lane_body = True, b""
        else:
            self._take_long_way()

    def on_body(self, body: bytes) -> None:
        """The parser has seen a part of a body."""
        self._overhead_bytes -= len(body)
        if self._lane:
            self._lane_body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has seen a whole request."""
        self._between = True
        self._overhead_bytes = 0
        if not self._lane:
            super().on_message_complete()
            return
        if self.transport.is_closing():
            self._lane = False
            return
        response = self.server_app.answer_now(self.headers, self._lane_body)
        if response is None:
            self._leave_lane()
            super().on_message_complete()
            return
        self._lane = False
        if self.parser.should_keep_alive() and not self.server_app.draining:
            if response[0] == 200:
                self._answered_bytes = len(self._lane_body)
            self._send(response)
        else:
            self._send_last(response)

    def _leave_lane(self) -> None:
        """What has arrived of the request goes the long way."""
        self._lane = False
        self._take_long_way()
        if self._lane_body:
            super().on_body(self._lane_body)

    def _take_long_way(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.headers.extend(headers)  # the scope has this very list
        self.url, self.expect_100_continue = url, expect
        super().on_headers_complete()

    def _send(self, response: Response) -> None:
        status, headers, body = response
        if len(headers) == 1:
            ((name, value),) = headers
            lines = b"%b: %b\r\n" % (name, value)
        else:
            lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"%bcontent-length: %d\r\n%b\r\n%b" % (STATUS_LINE[status], len(body), lines, body))
        self.server_state.total_requests += 1
        self._waiting_since = self.loop.time()

    def _send_last(self, response: Response) -> None:
        response[1].append((b"connection", b"close"))
        self._send(response)
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read what was sent."""
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._stalled_since = None
        super().resume_writing()

    def _close_if_idle(self) -> None:
        """Clients that connect and say nothing, never end their headers, or never read, hold what others could use. One
        timer per connection, not one per request as on the long way."""
        if self._stalled_since is not None and self.loop.time() - self._stalled_since > self.header_seconds:
            self.transport.abort()
            return
        limit = self.header_seconds if self._partial else self.timeout_keep_alive
        left = self._waiting_since + limit - self.loop.time()
        long_way = self.timeout_keep_alive_task is not None  # the last request went there: its timer counts
        answering = self.cycle is not None and not self.cycle.response_complete
        if left > 0 or long_way or answering:
            self._timer = self.loop.call_later(max(left, limit / 10), self._close_if_idle)
        elif not self.transport.is_closing():
            self.transport.close()


def fast_lane(app: App) -> type[FastLane]:
    """The protocol class for an application."""

    class Lane(FastLane):
        server_app: ClassVar[App] = app
        lane_urls: ClassVar[frozenset[bytes]] = frozenset(path.encode() for path in app.infer_paths)
        heads: ClassVar[dict[bytes, Head]] = {}

    return Lane
