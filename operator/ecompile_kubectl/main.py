"""Entry point of `kubectl-ecompile`, which kubectl runs as `kubectl ecompile`.

Exit status: 0 done; 1 refused or not found; 2 not understood; 3 no answer in time; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from ecompile_operator.decide.commands import Verb
from ecompile_operator.decide.forecast import forecast
from ecompile_operator.kube.client import KubeClient
from ecompile_operator.kube.errors import KubeError
from ecompile_operator.kube.kinds import HYBRIDMODEL

from . import bundle, commands, completion, explanation, live, logs, tree
from .arguments import parse
from .cluster import Found, read
from .connection import connect
from .problem import Problem

COMPLETE = "__complete"


async def _status(client: KubeClient, found: Found, now: datetime, *, with_live: bool) -> str:
    observed = found.observed(now)
    figures = {}
    if with_live:
        figures = await live.read(client, found.namespace, [p.name for p in observed.pods if p.ready])
    return "\n".join([*tree.lines(observed, figures, now), *found.unreadable])


def _explain(found: Found, now: datetime) -> str:
    observed = found.observed(now)
    if observed.spec is None:
        return f"{observed.name} is Stalled. {observed.spec_error} Correct the field and apply the model again."
    if observed.deleting and observed.finalizer:
        waits = observed.status.message if observed.status.orphaning_since else "the operator has not seen it yet"
        return f"{observed.name} is being deleted with deletionPolicy Orphan: {waits}."
    if observed.deleting:
        return f"{observed.name} is being deleted; what belongs to it follows."
    return "\n".join([*explanation.lines(forecast(observed, now), now), *found.unreadable])


async def _logs(client: KubeClient, found: Found, options: argparse.Namespace) -> None:
    chosen = logs.pods(found, kind=options.kind, serving=options.serving)
    if not chosen:
        what = "serving pods" if options.serving else "Pods of Jobs"
        raise Problem(f"{found.name} has no {what} just now; finished Jobs are kept for a limited time.")
    async for line in logs.read(client, found, chosen, tail=options.tail):
        print(line)


async def _bundle(client: KubeClient, found: Found, options: argparse.Namespace, now: datetime) -> str:
    name = options.output or f"ecompile-{found.namespace}-{found.name}-{now.strftime('%Y%m%dT%H%M%S')}.tar.gz"
    path = Path(name)
    if not path.name.endswith(".tar.gz"):
        raise Problem(f"--output {name}: the name must end in .tar.gz.", status=2)
    files = await bundle.collect(
        client,
        found,
        explanation=_explain(found, now) + "\n",
        status=await _status(client, found, now, with_live=True) + "\n",
    )
    bundle.write(path, files, now=now)
    return f"{path} holds {len(files)} files; look through it before you pass it on"


async def run(options: argparse.Namespace) -> None:
    """Carry out one command.

    Raises Problem or KubeError.
    """
    connection = connect(kubeconfig=options.kubeconfig, context=options.context, namespace=options.namespace)
    now = datetime.now(UTC)
    async with KubeClient(connection.configuration) as client:
        command: str = options.command
        if command in set(Verb):
            target = commands.target_of(connection.namespace, options.model, options.module)
            token = commands.checked_token(options.token or commands.new_token(now, secrets.token_hex(3)))
            given = commands.give(client, target, Verb(command), token, clock=time.monotonic, wait_seconds=options.wait)
            print(await given)
            return
        if command in ("pause", "resume"):
            target = commands.target_of(connection.namespace, options.model, None)
            print(await commands.suspend(client, target, wanted=command == "pause"))
            return
        found = await read(client, connection.namespace, options.model)
        match command:
            case "status":
                print(await _status(client, found, now, with_live=not options.no_live))
            case "explain":
                print(_explain(found, now))
            case "logs":
                await _logs(client, found, options)
            case "support-bundle":
                print(await _bundle(client, found, options, now))
            case _:
                raise Problem(f"There is no command {command!r}.", status=2)


async def _names(words: list[str]) -> list[str]:
    namespace = next((words[i + 1] for i, w in enumerate(words[:-1]) if w in ("-n", "--namespace")), None)
    connection = connect(kubeconfig=None, context=None, namespace=namespace)
    async with KubeClient(connection.configuration) as client:
        models, _ = await client.list(HYBRIDMODEL, connection.namespace)
    return [str(m["metadata"]["name"]) for m in models]


def _complete(words: list[str]) -> int:
    """Candidates, one a line. A cluster that cannot be reached offers none."""

    def names() -> list[str]:
        try:
            return asyncio.run(_names(words))
        except (Problem, KubeError):
            return []

    print("\n".join(completion.candidates(words, names)))
    return 0


def main(words: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == [COMPLETE]:
        return _complete(words[1:])
    try:
        options = parse(words)
        if options.command == "completion":
            print(completion.SCRIPTS[options.shell], end="")
        else:
            asyncio.run(run(options))
    except Problem as problem:
        print(f"kubectl ecompile: {problem}", file=sys.stderr)
        return problem.status
    except KubeError as error:
        print(f"kubectl ecompile: the API server refused or did not answer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return 0
