"""The pod's side of comparing in a process of its own: jobs out, results in, and a new process where one has ended.

A request pays for copying its rows into shared memory and nothing else: no system call, no lock, no other thread.
Whatever happens to the process, comparisons are dropped and counted, and requests go on. A module that crashes or never
comes back there is a fault of the module, found without the pod being harmed.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from ecompile_crds.plan import Plan

from .comparison import CAPACITY, Compared, Comparison
from .exchange import Announced, Exchange, Job, shared_bytes

logger = logging.getLogger(__name__)

CPU_SHARE: Final = 0.25
"""Of one core, at most: processor time of the pod's limit that requests cannot use."""
IDLE_SECONDS: Final = 300.0
"""Without a job for so long, the process ends and gives its memory back."""
HANG_CPU_SECONDS: Final = 5.0
"""Processor time after which a module's call counts as one that never comes back; at the lowest priority, wall time
says nothing."""
LOOK_SECONDS: Final = 0.25
FIRST_WAIT_SECONDS: Final = 0.5
LAST_WAIT_SECONDS: Final = 30.0
"""Between an end that was not meant and the next start: doubled each time."""
CRASHES: Final = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
)
"""Signals by which a process ends through what it does itself. Any other comes from outside, and blames nobody."""


class _Link:
    """One process's life: its memory, what it was told, and what it still owes."""

    def __init__(self, plan: Plan) -> None:
        self.descriptor = os.memfd_create("ecompile-comparisons", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, shared_bytes(plan))
        self.exchange = Exchange(mmap.mmap(self.descriptor, shared_bytes(plan)), plan)
        self.pending: dict[int, Comparison] = {}
        self.fault = 0, ""
        """Number of the job in which the process ended, and a sentence."""
        self._announced: dict[tuple[int, str], int] = {}

    def send(self, number: int, job: Comparison) -> bool:
        """False where the ring is full."""
        module, segment = job.module, job.watch.segment
        known = self._announced.get((segment, module.digest))
        if known is None:
            known = len(self._announced) + 1
            if not self.exchange.announce(Announced(known, segment, module.uri, module.digest)):
                return False
            self._announced[segment, module.digest] = known
        answer = np.ascontiguousarray(job.answer, dtype=np.float32)
        x = np.ascontiguousarray(job.x, dtype=np.float32)
        if not self.exchange.send(Job(number, known, job.compiled, x, answer)):
            return False
        self.pending[number] = job
        return True

    def close(self) -> None:
        self.exchange.release()
        os.close(self.descriptor)


class ProcessComparer:
    """`submit` and `take` are for the thread that answers requests; a thread of its own looks after the process."""

    def __init__(
        self,
        plan: Plan,
        *,
        plan_uri: str,
        trust_dir: Path,
        after_end: Callable[[bool], None] = lambda meant: None,
        capacity: int = CAPACITY,
        cpu_share: float = CPU_SHARE,
        idle_seconds: float = IDLE_SECONDS,
        hang_cpu_seconds: float = HANG_CPU_SECONDS,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
    ) -> None:
        """`after_end` is called, in another thread, where the process has ended; its argument says whether it was meant
        to (there was nothing to do)."""
        self._plan = plan
        self._command = [sys.executable, "-m", "ecompile_workers.serving.comparing", "--plan-uri", plan_uri]
        self._command += ["--trust-dir", str(trust_dir), "--cpu-share", str(cpu_share)]
        self._command += ["--idle-seconds", str(idle_seconds), "--parent", str(os.getpid())]
        self._after_end = after_end
        self._capacity = capacity
        self._hang_cpu_seconds = hang_cpu_seconds
        self._first_wait_seconds = first_wait_seconds
        self._link = _Link(plan)
        self._ended: deque[_Link] = deque()
        self._number = 0
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.process_id: int | None = None
        """Of the process, while it runs."""

    def start(self) -> None:
        """Look after the process from now on; it is started at the first job."""
        self._thread = threading.Thread(target=self._look_after, name="comparer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the process; what it owes is dropped."""
        self._stopping.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def prepare(self) -> None:
        """Start the process, which takes a second or two."""
        self._wanted.set()

    def submit(self, job: Comparison) -> bool:
        """Queue a comparison; False where the queue is full."""
        link = self._link
        if len(link.pending) >= self._capacity or self._stopping.is_set():
            return False
        self._number += 1
        if not link.send(self._number, job):
            return False
        if not self._wanted.is_set():
            self.prepare()
        return True

    def take(self) -> Compared | None:
        """The oldest result that nobody took yet. What the process still owed when it ended is counted as dropped."""
        while self._ended:
            found = self._collect(self._ended[0])
            if found is not None:
                return found
            ended = self._ended.popleft()
            number, fault = ended.fault
            at_fault = ended.pending.pop(number, None)
            for job in ended.pending.values():
                job.watch.dropped()
            ended.close()
            if at_fault is not None:
                return Compared(at_fault.watch, not at_fault.compiled, fault=fault)
        return self._collect(self._link)

    @property
    def idle(self) -> bool:
        """Whether everything submitted has its result, or was dropped."""
        return not self._link.pending and not self._ended

    def _collect(self, link: _Link) -> Compared | None:
        while (result := link.exchange.collect()) is not None:
            job = link.pending.pop(result.number, None)
            if job is None:
                continue
            if result.done:
                return Compared(job.watch, not job.compiled, *result.finding, group=job.group)
            job.watch.dropped()
        return None

    def _look_after(self) -> None:
        wait = self._first_wait_seconds
        while not self._stopping.is_set():
            self._wanted.wait()
            if self._stopping.is_set():
                return
            link = self._link
            try:
                meant = self._run(link)
            except OSError as error:
                logger.warning("comparison: the process cannot be started: %s", error)
                meant = False
            self._wanted.clear()
            self._link = _Link(self._plan)
            self._ended.append(link)
            self._after_end(meant)
            if meant:
                wait = self._first_wait_seconds
            else:
                self._stopping.wait(wait)
                wait = min(2 * wait, LAST_WAIT_SECONDS)

    def _run(self, link: _Link) -> bool:
        """One life of the process; whether it ended because it should."""
        command = [*self._command, "--memory", str(link.descriptor)]
        with subprocess.Popen(command, pass_fds=[link.descriptor], stdin=subprocess.DEVNULL) as process:
            self.process_id = process.pid
            hung = False
            running, since = 0, 0.0
            while True:
                try:
                    process.wait(LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    pass
                if self._stopping.is_set():
                    process.kill()
                    continue
                used = _cpu_seconds(process.pid)
                if link.exchange.running != running or not running:
                    running, since = link.exchange.running, used
                elif used - since > self._hang_cpu_seconds and not hung:
                    hung = True
                    process.kill()
        self.process_id = None
        status = process.returncode
        if status == 0 or self._stopping.is_set():
            return True
        running = link.exchange.running
        if running and (hung or -status in CRASHES):
            how = "it did not come back" if hung else f"it ended the process by {signal.Signals(-status).name}"
            link.fault = running, f"the module failed where it was compared: {how}"
        told = "was ended because a module hung" if hung else f"ended with status {status}"
        logger.warning("comparison: the process %s; it is started again, %d jobs are dropped", told, len(link.pending))
        return False


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process; 0 where it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
