"""`python -m ecompile_workers.serving`: the serving pod's entry point."""

from __future__ import annotations

import logging
import os
import sys

import uvloop
from ecompile_crds.errors import EcompileError

from . import logs
from .pod import serve
from .settings import from_environment


def main() -> int:
    """Serve until a signal; the exit status."""
    logs.configure()
    try:
        settings = from_environment(os.environ)
    except EcompileError as error:
        logging.getLogger(__name__).error("%s", error.message)
        return error.exit_status
    return uvloop.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())
