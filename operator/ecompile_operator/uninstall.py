"""`python -m ecompile_operator.uninstall`: bring each HybridModel's deletionPolicy about before the operator goes.

Runs in the chart's pre-delete hook, while the operator still runs: it is the operator that has pods of models to be
orphaned serve neural, and takes their owner off. `helm uninstall --no-hooks` leaves everything as it is.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

from ecompile_crds.errors import EcompileError

from .kube.client import KubeClient, Manifest, load_configuration
from .kube.errors import KubeError, NotFound
from .kube.kinds import HYBRIDMODEL
from .settings import from_environment

GONE_SECONDS = 240.0
"""Within Helm's default timeout of five minutes; a pod that does not acknowledge is waited for 90 s."""
POLL_SECONDS = 1.0


async def uninstall(
    client: KubeClient,
    namespaces: tuple[str, ...],
    *,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Delete every HybridModel in `namespaces` (all where empty) and wait until they are gone. Whether they are.

    Raises KubeError.
    """
    for model in await _models(client, namespaces):
        meta = model["metadata"]
        policy = (model.get("spec") or {}).get("deletionPolicy", "Delete")
        stays = "its pods stay, on the neural path" if policy == "Orphan" else "its pods go with it"
        say(f"deleting HybridModel {meta['namespace']}/{meta['name']} (deletionPolicy {policy}: {stays})")
        try:
            await client.delete(HYBRIDMODEL, meta["namespace"], meta["name"])
        except NotFound:
            continue
    until = clock() + GONE_SECONDS
    while left := await _models(client, namespaces):
        if clock() >= until:
            names = ", ".join(f"{m['metadata']['namespace']}/{m['metadata']['name']}" for m in left[:5])
            say(
                f"{len(left)} HybridModels are still there after {GONE_SECONDS:.0f} s, {names} among them. Is the "
                "operator running? It lets go of models with deletionPolicy Orphan. Uninstall again, or with "
                "`helm uninstall --no-hooks`, which leaves all HybridModels as they are."
            )
            return False
        await sleep(POLL_SECONDS)
    say("no HybridModels are left")
    return True


async def _models(client: KubeClient, namespaces: tuple[str, ...]) -> list[Manifest]:
    found: list[Manifest] = []
    for namespace in namespaces or (None,):
        try:
            found += (await client.list(HYBRIDMODEL, namespace))[0]
        except NotFound:
            continue  # the kind itself is gone, and its objects with it
    return found


async def _run(namespaces: tuple[str, ...]) -> bool:
    async with KubeClient(load_configuration()) as client:
        return await uninstall(client, namespaces, say=lambda text: print(text, flush=True))


def main() -> None:
    """Exit status 0 where nothing is left, 1 otherwise; the last line says why."""
    try:
        done = asyncio.run(_run(from_environment(os.environ).watch_namespaces))
    except (EcompileError, KubeError) as error:
        print(f"uninstall: {error}", file=sys.stderr)
        done = False
    raise SystemExit(0 if done else 1)


if __name__ == "__main__":
    main()
