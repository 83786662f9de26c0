"""`python -m ecompile_workers.serving.comparing`: the process that compares the two paths for a pod (see comparer.py).

It lowers its priority before it loads anything, talks to the pod through shared memory only, and ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def _stay_behind(parent: int) -> bool:
    """Run only where nobody else wants to, and end with the pod; False where it has ended already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the pod
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(19)
    with contextlib.suppress(OSError):  # not allowed in every sandbox; the niceness remains
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    return os.getppid() == parent


def main() -> int:
    """Compare until there was nothing to do for `--idle-seconds`; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, required=True, help="descriptor of the shared memory")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--plan-uri", required=True)
    parser.add_argument("--trust-dir", type=Path, required=True)
    parser.add_argument("--cpu-share", type=float, required=True)
    parser.add_argument("--idle-seconds", type=float, required=True)
    arguments = vars(parser.parse_args())
    if not _stay_behind(arguments.pop("parent")):
        return 0
    import logging

    from ecompile_crds.errors import EcompileError

    from . import logs
    from .compare_worker import work

    logs.configure()
    try:
        work(**arguments)
    except EcompileError as error:
        logging.getLogger(__name__).warning("comparison: %s", error.message)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
