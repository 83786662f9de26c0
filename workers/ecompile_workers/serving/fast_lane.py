"""uvicorn's HTTP protocol with a short way for small inference requests: answered where they are parsed.

The long way costs a task, an event and a cycle object per request, and two writes; the answer itself takes a third of
that. A request takes the short way when it has arrived whole, nothing else is in progress on its connection, and its
work is short enough for the event loop. Everything else goes the long way, through ASGI, unchanged.
"""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .server import App, Response


class FastLane(HttpToolsProtocol):
    """One connection. Use the class that `fast_lane` makes for an application."""

    server_app: ClassVar[App]
    lane_urls: ClassVar[frozenset[bytes]] = frozenset()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._lane = False
        self._lane_body = b""

    def data_received(self, data: bytes) -> None:
        """Bytes of the client's. A request that has not arrived whole by now goes the long way."""
        super().data_received(data)
        if self._lane:
            self._leave_lane()

    def on_headers_complete(self) -> None:
        """The parser has seen all headers of a request."""
        if (
            self.url in self.lane_urls
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        ):
            self._lane, self._lane_body = True, b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The parser has seen a part of a body."""
        if self._lane:
            self._lane_body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has seen a whole request."""
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
        self._write(response)

    def _leave_lane(self) -> None:
        """What has arrived of the request goes the long way."""
        self._lane = False
        super().on_headers_complete()
        if self._lane_body:
            super().on_body(self._lane_body)

    def _write(self, response: Response) -> None:
        status, headers, body = response
        keep_alive = self.parser.should_keep_alive() and not self.server_app.draining
        if not keep_alive:
            headers.append((b"connection", b"close"))
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"%bcontent-length: %d\r\n%b\r\n%b" % (STATUS_LINE[status], len(body), lines, body))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()


def fast_lane(app: App) -> type[FastLane]:
    """The protocol class for an application."""

    class Lane(FastLane):
        server_app: ClassVar[App] = app
        lane_urls: ClassVar[frozenset[bytes]] = frozenset(path.encode() for path in app.infer_paths)

    return Lane
