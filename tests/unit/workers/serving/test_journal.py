"""The crash journal: what a killed process leaves behind, and what the next one makes of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ecompile_crds.errors import ResourceError
from ecompile_crds.routing import RouteMode
from ecompile_workers.serving.adoption import Adopter
from ecompile_workers.serving.breaker import AlertKind
from ecompile_workers.serving.journal import MODULES, Journal
from ecompile_workers.serving.local import LocalPod
from ecompile_workers.serving.modules import ModuleStore
from ecompile_workers.serving.routing import Identity
from ecompile_workers.serving.watchdog import Overdue

from .world import KEY, LIFE, MODEL, NAMESPACE, Rows, make_world, oracle, rows, table

DIGEST = f"sha256:{'d' * 64}"
KILLED_INSIDE = """
import os, signal, sys
from pathlib import Path
import numpy as np
from ecompile_workers.serving.journal import Journal

journal = Journal(Path(sys.argv[1]))
row = np.zeros((1, 1), dtype=np.float32)
fine = journal.watch("sha256:fine", lambda x, y: 0)
fatal = journal.watch(sys.argv[2], lambda x, y: os.kill(os.getpid(), signal.SIGSEGV))
fine(row, row)
fatal(row, row)
"""


def run_nothing(x: Rows, y: Rows) -> int:
    return 0


def test_module_in_which_a_process_died_is_quarantined_in_the_next(tmp_path: Path) -> None:
    """By its digest; the module that had come back before is not, and the verdict lasts."""
    command = [sys.executable, "-c", KILLED_INSIDE, str(tmp_path), DIGEST]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode == -signal.SIGSEGV
    for _ in range(2):
        assert set(Journal(tmp_path).quarantined) == {DIGEST}


def test_process_that_ends_between_calls_leaves_nothing(tmp_path: Path) -> None:
    """Nor does one that failed with an exception."""
    journal = Journal(tmp_path)
    row = rows(1)
    journal.watch(DIGEST, run_nothing)(row, row)

    def broken(x: Rows, y: Rows) -> int:
        raise OSError("boom")

    with pytest.raises(OSError, match="boom"):
        journal.watch(DIGEST, broken)(row, row)
    with journal.using(DIGEST):
        assert [digest for _, digest in journal.running().values()] == [DIGEST]
    assert journal.running() == {}
    assert Journal(tmp_path).quarantined == {}


def test_module_that_is_loaded_when_the_process_dies_is_quarantined(tmp_path: Path) -> None:
    """Its constructors run then; the next process finds the mark of this one, which never left."""
    with Journal(tmp_path).using(DIGEST):
        assert set(Journal(tmp_path).quarantined) == {DIGEST}


@pytest.mark.parametrize("content", [b"", b"ecojrnl1", b"x" * 100_000], ids=["empty", "short", "foreign"])
def test_journal_that_cannot_be_read_convicts_nobody(tmp_path: Path, content: bytes) -> None:
    """Half written, or of another program."""
    (tmp_path / "journal").write_bytes(content)
    (tmp_path / "quarantine.json").write_bytes(b"[1")
    assert Journal(tmp_path).quarantined == {}


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With what to look at."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="crash journal"):
        Journal(tmp_path / "file")


def test_more_modules_than_the_journal_has_places_still_run(tmp_path: Path) -> None:
    """They are not written down."""
    journal = Journal(tmp_path)
    row = rows(1)
    for number in range(MODULES + 2):
        assert journal.watch(f"sha256:{number}", run_nothing)(row, row) == 0
    assert journal.running() == {}


def test_quarantined_module_is_not_loaded_and_the_network_answers(tmp_path: Path) -> None:
    """The table is in force all the same, and the alert says why."""
    world = make_world(tmp_path)
    route = world.route(RouteMode.COMPILED)
    with Journal(tmp_path / "state").using(route.bundle_digest or ""):
        journal = Journal(tmp_path / "state")
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    store = ModuleStore(pod.bridge.network.plan, lambda: (KEY.public_key(),), journal=journal)
    why = store.kept_out(route)
    assert why is not None and "crashed" in why
    pod.bridge.adopt(table(4, route), {}, kept_out={0: why})
    (alert,) = pod.alerts()
    assert (alert.kind, alert.generation, alert.detail) == (AlertKind.BREAKER, 4, why)
    outcome = pod.infer(rows(2))
    assert outcome.path == "neural"
    np.testing.assert_allclose(outcome.y, oracle(rows(2)), atol=1e-5)
    pod.close()


async def test_adopter_keeps_a_quarantined_module_out_and_acknowledges(tmp_path: Path) -> None:
    """The operator learns of it by the alert; another bundle of the segment is taken."""
    world = make_world(tmp_path)
    bad = world.route(RouteMode.COMPILED, bundle=world.bundle(attempt=9))
    with Journal(tmp_path / "state").using(bad.bundle_digest or ""):
        journal = Journal(tmp_path / "state")
    pod = LocalPod(world.plan_uri, keys=[KEY.public_key()])
    store = ModuleStore(pod.bridge.network.plan, lambda: (KEY.public_key(),), journal=journal)
    adopter = Adopter(pod.bridge, store, Identity(namespace=NAMESPACE, model=MODEL, life=LIFE))
    adopter.offer(table(1, bad))
    await adopter.adopted.wait()
    assert (pod.bridge.state.generation, pod.bridge.modules()) == (1, ())
    assert [alert.kind for alert in pod.alerts()] == [AlertKind.BREAKER]
    adopter.adopted.clear()
    adopter.offer(table(2, world.route(RouteMode.COMPILED)))
    await adopter.adopted.wait()
    assert pod.alerts() == ()
    assert pod.infer(rows(1)).path == "compiled"
    await adopter.close()
    pod.close()


def test_call_that_does_not_end_is_overdue() -> None:
    """Many short calls of the same module are not."""
    overdue = Overdue(hang_seconds=20.0)
    assert overdue.look({0: (5, "a"), 2: (1, "b")}, now=0.0) is None
    assert overdue.look({0: (6, "a"), 2: (1, "b")}, now=19.0) is None
    assert overdue.look({0: (7, "a"), 2: (1, "b")}, now=20.0) == "b"
    assert overdue.look({0: (7, "a")}, now=21.0) is None
    assert overdue.look({}, now=39.0) is None
    assert overdue.look({0: (7, "a")}, now=40.0) is None
