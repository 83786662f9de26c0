"""`python -m ecompile_workers.serving`: the serving pod's process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

import uvicorn
from ecompile_crds.errors import EcompileError
from ecompile_crds.plan import Plan
from ecompile_crds.routing import RoutingTable
from pydantic import ValidationError

from ..data import store
from .bridge import Bridge
from .control_client import ControlClient, read_mounted
from .modules import ModuleStore
from .server import Server
from .settings import Settings, from_environment

logger = logging.getLogger("ecompile_serving")
VERSION = "0.1.0"


def make_bridge(settings: Settings) -> Bridge:
    """The bridge with its neural path loaded and, where there is one, the mounted table in force.

    Raises EcompileError where the plan or the neural path cannot be read.
    """
    plan = Plan.model_validate_json(store.read(settings.plan_uri, what="ECO_PLAN_URI"))
    base = settings.plan_uri.rsplit("/", 1)[0]
    digests = {f.path: f.digest for f in (plan.neural, *(s.neural for s in plan.segments))}
    bridge = Bridge(
        plan,
        lambda name: store.read(f"{base}/{name}", digest=digests[name], what=name),
        analysis=settings.analysis,
        modules=ModuleStore(trust=settings.trust),
    )
    text = read_mounted(settings.routing)
    if text:
        try:
            bridge.adopt(RoutingTable.model_validate_json(text))
            logger.info("routing generation %d from the mounted ConfigMap", bridge.state.generation)
        except (EcompileError, ValidationError, OSError) as error:
            logger.warning("mounted routing table not used, serving neural: %s", error)
    return bridge


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM, then drain."""
    bridge = make_bridge(settings)
    app = Server(bridge, model=settings.model, version=VERSION)
    config = uvicorn.Config(
        app,
        host="0.0.0.0",
        port=settings.port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=20,
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)

    def drain() -> None:
        app.draining = True
        server.should_exit = True

    control = None
    if settings.control_address:
        control = asyncio.create_task(ControlClient(bridge, settings).run())
    logger.info("serving %s/%s life %s on port %d", settings.namespace, settings.model, settings.life, settings.port)
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drain)
    await server.serve()
    if control is not None:
        control.cancel()


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format='{"time":"%(asctime)s","level":"%(levelname)s","message":"%(message)s"}'
    )
    try:
        asyncio.run(serve(from_environment(os.environ)))
    except EcompileError as error:
        print(f"serving: {error.message}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
