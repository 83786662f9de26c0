"""Giving a command: annotate, wait for the operator's answer, say it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ecompile_crds.hybridmodel import CommandStatus
from ecompile_crds.names import ANNOTATION_COMMAND
from ecompile_operator.decide.commands import TOKEN, Verb
from ecompile_operator.kube.client import KubeClient, Manifest
from ecompile_operator.kube.errors import NotFound
from ecompile_operator.kube.kinds import COMPILEDMODULE, HYBRIDMODEL, Kind
from pydantic import ValidationError

from .problem import Problem

POLL_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is commanded: a model, or one of its modules."""

    kind: Kind
    namespace: str
    name: str


def target_of(namespace: str, model: str, module: str | None) -> Target:
    """The module where one is named, else the model."""
    if module is None:
        return Target(kind=HYBRIDMODEL, namespace=namespace, name=model)
    return Target(kind=COMPILEDMODULE, namespace=namespace, name=module)


def new_token(now: datetime, salt: str) -> str:
    """A token that sorts by time; `salt` tells two of the same moment apart."""
    return f"{now.strftime('%Y%m%dT%H%M%S')}-{salt}"


def checked_token(token: str) -> str:
    """The token, if the operator will take it.

    Raises Problem otherwise.
    """
    if not TOKEN.match(token):
        raise Problem(
            f"--token {token[:80]!r} is not 1 to 64 letters, digits, '-', '_', '.' or ':' "
            "starting and ending with a letter or digit.",
            status=2,
        )
    return token


async def _get(client: KubeClient, target: Target) -> Manifest:
    try:
        return await client.get(target.kind, target.namespace, target.name)
    except NotFound as error:
        raise Problem(f"There is no {target.kind.kind} named {target.name} in namespace {target.namespace}.") from error


def _answered(manifest: Manifest, token: str) -> CommandStatus | None:
    """The answer to that token, if there."""
    last = (manifest.get("status") or {}).get("lastCommand")
    try:
        status = CommandStatus.model_validate(last) if last else None
    except ValidationError:
        return None
    return status if status is not None and status.token == token else None


async def give(
    client: KubeClient,
    target: Target,
    verb: Verb,
    token: str,
    *,
    clock: Callable[[], float],
    wait_seconds: float,
) -> str:
    """Give one command and return the operator's answer.

    Raises Problem where the token was used before, where it is refused, or where no answer comes in time.
    """
    before = await _get(client, target)
    text = f"{verb.value} {token}"
    repeated = _answered(before, token)
    if repeated is not None or token in _earlier(before):
        said = f": {repeated.command}: {repeated.answer}" if repeated is not None else ""
        raise Problem(f"Token {token} has been used before{said}. Nothing was done; choose another token.")
    annotation = {"metadata": {"annotations": {ANNOTATION_COMMAND: text}}}
    await client.merge(target.kind, target.namespace, target.name, annotation)
    if wait_seconds <= 0:
        return f"{text}: given; see status.lastCommand for the answer"
    deadline = clock() + wait_seconds
    while clock() < deadline:
        answered = _answered(await _get(client, target), token)
        if answered is not None:
            if answered.answer.startswith("refused"):
                raise Problem(f"{text}: {answered.answer}.")
            return f"{text}: {answered.answer}"
        await asyncio.sleep(POLL_SECONDS)
    raise Problem(
        f"{text}: the operator has not answered within {wait_seconds:.0f} s. The command stands and is executed once; "
        "see whether the operator runs: kubectl get pods -A -l app.kubernetes.io/part-of=ecompile",
        status=3,
    )


def _earlier(manifest: Manifest) -> list[str]:
    last = (manifest.get("status") or {}).get("lastCommand") or {}
    return [str(token) for token in last.get("earlierTokens") or []]


async def suspend(client: KubeClient, target: Target, *, wanted: bool) -> str:
    """Set or clear `spec.suspend`; says so where it is as wanted already."""
    manifest = await _get(client, target)
    word = "paused" if wanted else "running"
    if bool(manifest.get("spec", {}).get("suspend", False)) is wanted:
        return f"{target.name} is {word} already; nothing was changed"
    await client.merge(target.kind, target.namespace, target.name, {"spec": {"suspend": wanted}})
    if wanted:
        return f"{target.name} is paused: nothing advances, what serves keeps serving, alerts still roll back"
    return f"{target.name} is {word} again"
