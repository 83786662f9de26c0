"""A module in a process of its own: what it breaks is not the pod. For modules whose evidence is only sampled
(spec.serving.isolation: Sampled).

Rows and answers are in shared memory; a byte over a socket pair says "run", another says "done". A child that ends
(crash), does not answer in time (hang), or needs more memory than it may (leak) is killed, and every later call raises:
the bridge has the network answer, and the breaker keeps the module out. What a module writes elsewhere in its memory is
its own affair; an answer is copied out of the shared memory before it is looked at.

This file is also the child: `python -m ecompile_workers.serving.isolated` with its descriptors as arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from typing import Final

import numpy as np
from ecompile_crds.errors import Code, ModelError

from ..codegen.loader import CompiledFunction
from ..trace.reference import Rows

CHUNK_ROWS: Final = 64
"""Rows handed over at a time."""
START_SECONDS: Final = 20.0
"""For the child to import numpy and load the library; about 0.3 s on an idle machine."""
CALL_SECONDS: Final = 0.5
"""Least time that a call may take: a thousand times what a small module needs, and a pause of the machine."""
SLOWER: Final = 20.0
"""A call may take so many times what it took when it was measured, where that is more."""
MEMORY_BYTES: Final = 256 << 20
"""Address space that the child may take beyond what it has once the module is loaded."""
MESSAGE: Final = struct.Struct("<q")
PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38


class ModuleGone(RuntimeError):
    """The module's process has ended, or did not answer."""


class IsolatedFunction:
    """As CompiledFunction: `run(x, y) -> reason`. One call at a time; others wait."""

    def __init__(
        self, library: bytes, *, macs: int, inputs: int, outputs: int, call_seconds: float = CALL_SECONDS
    ) -> None:
        """Start the process and load the library there.

        Raises ModelError where that fails.
        """
        self.inputs, self.outputs = inputs, outputs
        self._lock = threading.Lock()
        self._gone = ""
        size = 4 * CHUNK_ROWS * (inputs + outputs)
        with contextlib.ExitStack() as stack:
            rows, code = (stack.enter_context(_memory(name)) for name in ("ecompile-rows", "ecompile-module"))
            os.ftruncate(rows.fileno(), size)
            code.write(library)
            code.flush()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(theirs)
            descriptors = (theirs.fileno(), rows.fileno(), code.fileno())
            told = map(str, (*descriptors, macs, os.getpid()))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ecompile_workers.serving.isolated", *told],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            self._socket = ours
            self._map = mmap.mmap(rows.fileno(), size)
        self._x = np.frombuffer(self._map, dtype=np.float32, count=CHUNK_ROWS * inputs).reshape(CHUNK_ROWS, inputs)
        self._y = np.frombuffer(self._map, dtype=np.float32, offset=4 * CHUNK_ROWS * inputs).reshape(
            CHUNK_ROWS, outputs
        )
        self._finalizer = weakref.finalize(self, _end, self._process, ours)
        self._seconds = START_SECONDS
        try:
            self._wait()
        except ModuleGone as error:
            raise ModelError(Code.BUNDLE_MALFORMED, f"the module cannot be loaded in a process: {error}.") from error
        self._seconds = call_seconds
        self._measured = False

    def run(self, x: Rows, y: Rows) -> int:
        """Rows [rows, inputs] float32, C-contiguous; 0 where y [rows, outputs] was written, else the reason.

        Raises ModuleGone where the process has ended or does not answer.
        """
        with self._lock:
            if self._gone:
                raise ModuleGone(self._gone)
            start = time.perf_counter()
            for first in range(0, len(x), CHUNK_ROWS):
                count = min(CHUNK_ROWS, len(x) - first)
                self._x[:count] = x[first : first + count]
                self._send(count)
                reason = self._wait()
                if reason:
                    return reason
                y[first : first + count] = self._y[:count]
            if not self._measured:
                self._measured = True
                per_row = (time.perf_counter() - start) / max(1, len(x))
                self._seconds = max(self._seconds, SLOWER * CHUNK_ROWS * per_row)
            return 0

    def close(self) -> None:
        """End the process."""
        self._gone = self._gone or "the module is not in use any more"
        self._finalizer()

    def _send(self, count: int) -> None:
        try:
            self._socket.send(MESSAGE.pack(count))
        except OSError as error:
            raise ModuleGone(self._give_up(f"its process cannot be reached: {error}")) from error

    def _wait(self) -> int:
        self._socket.settimeout(self._seconds)
        try:
            message = self._socket.recv(MESSAGE.size)
        except TimeoutError as error:
            raise ModuleGone(self._give_up(f"it did not answer within {self._seconds:.3g} s")) from error
        except OSError as error:
            raise ModuleGone(self._give_up(f"its process cannot be reached: {error}")) from error
        if len(message) != MESSAGE.size:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            raise ModuleGone(self._give_up(_ended(self._process.returncode)))
        reason: int = MESSAGE.unpack(message)[0]
        return reason

    def _give_up(self, why: str) -> str:
        self._gone = why
        self._finalizer()
        return why


def _memory(name: str) -> io.BufferedRandom:
    return os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC), "w+b")


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


def _end(process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    ours.close()
    process.kill()
    process.wait()


def serve(control: socket.socket, rows: int, code: int, macs: int) -> None:
    """The child's loop: until the other end is closed."""
    with os.fdopen(code, "rb") as file:
        file.seek(0)
        function = CompiledFunction(file.read(), macs=macs)
    shared = mmap.mmap(rows, 4 * CHUNK_ROWS * (function.inputs + function.outputs))
    x = np.frombuffer(shared, dtype=np.float32, count=CHUNK_ROWS * function.inputs)
    y = np.frombuffer(shared, dtype=np.float32, offset=4 * CHUNK_ROWS * function.inputs)
    _confine()
    control.send(MESSAGE.pack(0))
    while message := control.recv(MESSAGE.size):
        count = MESSAGE.unpack(message)[0]
        reason = function.run(x[: count * function.inputs], y[: count * function.outputs])
        control.send(MESSAGE.pack(reason))


def _confine() -> None:
    """No core files, no new privileges, no more memory than the module may take."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * mmap.PAGESIZE + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """The child."""
    control, rows, code, macs, parent = map(int, arguments)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pod drains first
    with socket.socket(fileno=control) as ours:
        serve(ours, rows, code, macs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
